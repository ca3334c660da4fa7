"""Builds the recordings that the shipped detector is trained on.

    python recipes/corpora.py OUT --donateacry DIR --donateacry-raw DIR --esc10 DIR [--packages DIR]

Written are OUT/clips/*.flac and labels.csv; OUT/background/*.flac, to be mixed in while training; OUT/cries/*.flac,
synthesised ones, to be learnt from and never measured; heldout.csv, which is for a last look alone; doubtful.csv; and
SOURCES.md.

Cries are DonateACry's (cleaned, and as the phones sent them) and ESC-10's. Some of DonateACry's hold none: speech, a
television, nearly nothing. Those in which neither of two readers of the spectrograms saw a cry (readings.py) are in
doubtful.csv and not learnt from.

What is no cry comes from ESC-10, from the Debian packages of packages.yaml, from speech synthesisers and from
sounds.py. Two things would tell the classes apart without listening, so both are made alike: the length of not_cry
clips is drawn from the cries' lengths, and half of the clips of each class end at 4 kHz, as all of the cleaned
DonateACry does.

The same input gives the same files: every choice hangs on SEED and the name of what it is made for.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import io
import re
import shutil
import subprocess
import tempfile
import wave
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import instruments
import numpy as np
import numpy.typing as npt
import readings
import soundfile
import sounds
import yaml
from scipy import signal

from crycli import audio
from crycli.audio import Samples
from crycli.errors import AudioError

SEED = 0
RATE = audio.SAMPLE_RATE
COLUMNS = ("path", "label", "group", "fold", "corpus", "kind", "source", "licence")
SUFFIXES = audio.SUFFIXES | {".g722", ".wv"}  # WavPack, and the raw G.722 of telephone exchanges
ARCHIVES = (".pk3", ".wz", ".zip")  # zip files, the first two by another name

DONATEACRY_LICENCE = "ODbL-1.0 / DbCL-1.0"
ESC_LICENCE = "CC-BY-3.0"
SYNTHESISED_LICENCE = "made by this recipe"
UUID_LENGTH = 36  # of the phone, at the start of a DonateACry name
ESC_KINDS = {
    "Dog bark": "animal",
    "Rooster": "animal",
    "Rain": "nature",
    "Sea waves": "nature",
    "Fire crackling": "nature",
    "Person sneeze": "voice",
    "Clock tick": "household",
    "Chainsaw": "noise",
    "Helicopter": "noise",
}
CRYING = re.compile(
    r"(?<![a-z])(baby|babies|cry|cries|crying|weep\w*|sob|sobs|sobbing|waa\w*|infants?|newborn|toddler|whimper\w*)(?![a-z])"
)
"""Names of sounds that may be a crying baby."""

SHORTEST_SECONDS = 4.0
LONG_FACTOR = 1.25  # a sound this much longer than a clip is cut into clips, a shorter one is laid beside others
PAUSE_SECONDS = (0.1, 0.6)
DECODED_SECONDS = 90.0  # of a long recording; it gives few clips anyway
PIECES = 4  # clips of one recording
MINUTES = 6.0  # of one rule of packages.yaml
SILENT = 1e-3  # of full scale, -60 dB
SILENT_SHARE = 0.95  # of a cry's time; five uploads of DonateACry hold no sound
FADE = RATE // 50
FRAME = RATE // 40

NATURAL = (1.0, 1.0)
PASSES = {
    "speech": (NATURAL, (1.2, 1.6)),
    "voice": (NATURAL, (1.2, 1.6), (0.8, 0.95), (1.05, 1.2)),
    "laughter": (NATURAL, (1.2, 1.6), (0.8, 0.95), (1.05, 1.2), (1.3, 1.7)),
    "animal": (NATURAL, (1.1, 1.5), (0.75, 0.95)),
    "household": (NATURAL, (0.8, 1.25)),
    "nature": (NATURAL, (0.8, 1.25)),
    "noise": (NATURAL, (0.8, 1.25)),
    "game": (NATURAL, (0.8, 1.25)),
}
"""By how much the sounds of a kind are sped up, each time that they are used; 1.2 to 1.6 makes high voices."""
NATURAL_SHARE = 0.7  # of the clips of such a kind, at most

REVERBERATED_SHARE = 0.25
NARROW_HZ = (3200.0, 3900.0)
FLOOR_DB = (30.0, 70.0)  # below the sound: recordings have a noise floor, and laid or synthesised clips had none
HARMONICS_DB = (10.0, 25.0)  # below the cry: the upper half of ESC-10's and of the iPhones' cries lies there

SYNTHESISED_MINUTES = {
    "laughter": 18.0,
    "voice": 18.0,
    "singing": 6.0,
    "animal": 14.0,
    "household": 10.0,
    "nature": 6.0,
    "noise": 6.0,
    "music": 5.0,
    "game": 6.0,
    "silence": 4.0,
}
SYNTHESISED_GROUPS = 8
SHORT_SHARE = 5  # of so many clips one more is made, as short as a single cough
SHORT_SECONDS = (0.6, 3.5)
SOUND_FONT = ("fluid-soundfont-gm", "usr/share/sounds/sf2/FluidR3_GM.sf2", "MIT")  # package, file, licence
SONG_SECONDS = 26.0  # of each instrument
BACKGROUND_KINDS = ("household", "noise", "nature", "music")
BACKGROUND_SEED = 1_000_000  # on: none of the clips has these
BACKGROUND_SECONDS = 10.0
BACKGROUNDS = 6  # of each generator
SYNTHESISED_CRIES = 400
SPOKEN_MINUTES = 25.0
LAUGHED_MINUTES = 5.0
BABBLE_MINUTES = 15.0
CHILD_SHARE = 0.4
CHILD_SPEED = (1.2, 1.5)
SPEAKERS = tuple(
    ("espeak-ng", variant)
    for variant in "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 Alicia Andrea Annie Denis Diogo Gene Henrique Lee Marco "
    "Michael anika aunty belinda benjamin boris caleb ed edward grandma grandpa iven john klatt klatt4 linda max "
    "michel miguel pablo quincy rob shelby steph travis victor whisper whisperf zac".split()
) + tuple(("flite", voice) for voice in ("kal", "awb", "rms", "slt"))
LAUGHS = ("ha ha ha ha ha!", "hi hi hi hi!", "he he he he he!", "ho ho ho!", "hahaha, ha ha!", "hee hee hee hee!")
SENTENCES = {
    "en": (
        "Have you seen where I put the keys?",
        "The kettle is boiling, would you like some tea?",
        "Come here, little one, it is time for your bath.",
        "Tomorrow it will rain in the north and be sunny by the sea.",
        "No, no, that is not what I meant at all!",
        "Twenty four, twenty five, twenty six, here I come!",
        "Once upon a time a fox lived at the edge of the forest.",
        "Please close the door, she has only just gone to sleep.",
    ),
    "de": (
        "Hast du schon die Zeitung gelesen?",
        "Komm, wir gehen noch eine Runde um den See.",
        "Das Wasser ist zu heiß, lass es etwas abkühlen.",
        "Wo ist denn mein kleiner Schatz?",
        "Morgen früh fährt der Zug um zehn nach sieben.",
        "Nein, das darfst du nicht in den Mund nehmen!",
    ),
    "fr": (
        "Où est passé mon petit chapeau rouge ?",
        "Le repas sera prêt dans dix minutes.",
        "Il était une fois une petite fille qui aimait la mer.",
        "Attention, le four est encore chaud !",
        "On ira au marché demain matin, si tu veux.",
        "Chut, elle vient de s'endormir.",
    ),
    "es": (
        "¿Quién quiere un poco de sopa?",
        "Mañana vamos a la playa con los abuelos.",
        "No toques eso, que está muy caliente.",
        "El gato duerme encima de la mesa.",
        "¡Ven aquí, que te voy a contar un cuento!",
        "Son las ocho y todavía no has desayunado.",
    ),
    "it": (
        "Dove hai messo le mie scarpe?",
        "La pasta è pronta, venite a tavola!",
        "C'era una volta un pezzo di legno.",
        "Domani andiamo a trovare la nonna.",
        "Guarda che bella luna stasera.",
    ),
    "nl": (
        "Heb je de sleutels ergens gezien?",
        "Morgen gaan we samen naar de markt.",
        "Kijk eens, daar vliegt een grote vogel!",
        "Het eten staat over vijf minuten op tafel.",
    ),
    "pt": (
        "Onde está o meu livro azul?",
        "Amanhã vai chover o dia inteiro.",
        "O cachorro está correndo no jardim.",
        "Vem cá, vamos brincar com a bola!",
    ),
    "pl": (
        "Gdzie są moje klucze?",
        "Jutro pojedziemy nad morze.",
        "Kot śpi na starym krześle.",
        "Zupa jest jeszcze za gorąca.",
    ),
    "sv": (
        "Var har du lagt min tröja?",
        "I morgon åker vi till landet.",
        "Det var en gång en liten björn.",
        "Vill du ha en kopp kaffe till?",
    ),
    "ru": (
        "Где лежит моя книга?",
        "Завтра мы пойдём гулять в парк.",
        "Кошка спит на окне.",
        "Осторожно, чай очень горячий!",
    ),
}


@dataclass(frozen=True)
class Clip:
    """A row of labels.csv or heldout.csv, but for its path."""

    label: str
    group: str
    corpus: str
    kind: str
    source: str
    licence: str
    fold: str = ""


@dataclass(frozen=True)
class Rule:
    """What is done with the files of a package that match a glob; see packages.yaml."""

    glob: str
    kind: str
    group: str = ""
    minutes: float = MINUTES


@dataclass(frozen=True)
class Package:
    """An entry of packages.yaml."""

    name: str
    licence: str
    rules: tuple[Rule, ...]
    group: str
    held_out: bool = False


def generator(*words: object) -> np.random.Generator:
    """Random numbers that hang on SEED and on what they are for."""
    return np.random.default_rng([SEED, zlib.crc32("/".join(map(str, words)).encode())])


def level(samples: npt.NDArray[np.floating[Any]]) -> float:
    """The RMS of (samples,)."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)) + 1e-20))


def silent_share(samples: Samples) -> float:
    """The share of (samples,)'s time that lies below -60 dB of full scale, in frames of 25 ms."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    return float(np.mean(np.sqrt(np.mean(np.square(frames), axis=1)) < SILENT))


def sped_up(samples: Samples, factor: float) -> Samples:
    """(samples,) played faster, and higher, by a factor."""
    return samples if factor == 1.0 else audio.resample(samples, round(RATE * factor), RATE)


def faded(samples: Samples) -> Samples:
    """(samples,) with 20 ms of fade at both ends, so that a cut does not click."""
    ramp = np.minimum(1.0, np.arange(len(samples)) / FADE)
    return (samples * ramp * ramp[::-1]).astype(np.float32)


def trimmed(samples: Samples) -> Samples:
    """(samples,) without what lies 45 dB below the peak at both ends."""
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max(initial=0.0) * 10 ** (-45 / 20))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def narrowed(samples: Samples, rng: np.random.Generator) -> Samples:
    """(samples,) without what lies above 4 kHz: by a rate of 8 kHz, by a steep low pass, or by the AMR of phones."""
    way = rng.random()
    if way < 0.3:
        return _through_amr(samples)
    if way < 0.7:
        return audio.resample(audio.resample(samples, RATE, 8000), 8000, RATE)[: len(samples)]
    sections = signal.butter(12, rng.uniform(*NARROW_HZ), fs=RATE, output="sos")
    return np.asarray(signal.sosfiltfilt(sections, samples), np.float32)


def _through_amr(samples: Samples) -> Samples:
    """(samples,) encoded as Android phones record them, AMR narrow-band at 12.2 kbit/s, and decoded."""
    narrow = audio.resample(samples / max(1.0, float(np.abs(samples).max())), RATE, 8000)
    file = io.BytesIO()
    with av.open(file, "w", format="amr") as container:
        stream = container.add_stream("libopencore_amrnb", rate=8000)
        stream.layout, stream.bit_rate = "mono", 12200
        for start in range(0, len(narrow), 160):
            block = np.zeros((1, 160), np.int16)
            part = narrow[start : start + 160]
            block[0, : len(part)] = np.round(part * 32767)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    return audio.resample(_decoded(file, "amr", 8000), 8000, RATE)[: len(samples)]


def _decoded(file: io.BytesIO | str, container_format: str, rate: int) -> Samples:
    """Mono samples of what PyAV must be told the format of, (samples,) at its own rate."""
    with av.open(file, "r", format=container_format) as container:
        resampler = av.AudioResampler("flt", "mono", rate)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


def widened(samples: Samples, rng: np.random.Generator) -> Samples:
    """A cry that ended at 4 kHz, (samples,), with harmonics and noise above.

    They are made of its own by a rectifier and a limiter, at twice the rate so that nothing is mirrored.
    """
    twice = signal.resample_poly(samples / max(1e-6, float(np.abs(samples).max())), 2, 1)
    bent = signal.resample_poly(np.abs(twice) + np.tanh(4.0 * twice), 1, 2)[: len(samples)]
    slope = signal.butter(1, rng.uniform(4000.0, 7500.0), fs=RATE, output="sos")
    upper = signal.butter(8, rng.uniform(3750.0, 3950.0), "highpass", fs=RATE, output="sos")
    harmonics = signal.sosfilt(upper, signal.sosfilt(slope, bent))
    harmonics *= level(samples) / level(harmonics) * 10 ** (-rng.uniform(*HARMONICS_DB) / 20)
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    quiet = float(np.percentile(np.sqrt(np.mean(np.square(frames), axis=1)), 10))
    noise = signal.sosfilt(upper, rng.standard_normal(len(samples)))
    noise *= quiet / level(noise) * 10 ** (-rng.uniform(12.0, 30.0) / 20)
    return np.asarray(samples + harmonics + noise, np.float32)


def in_a_room(samples: Samples, rng: np.random.Generator) -> Samples:
    """(samples,), of which a share is heard from some way off in a room."""
    if rng.random() >= REVERBERATED_SHARE:
        return samples
    return sounds.reverberate(samples, int(rng.integers(2**31)))[: len(samples)]


def with_floor(samples: Samples, rng: np.random.Generator) -> Samples:
    """(samples,) with a faint noise, whose spectrum falls by 0 to 6 dB an octave."""
    noise = rng.standard_normal(len(samples))
    fallen = signal.lfilter([1.0], [1.0, -0.95], noise)
    share = rng.random()
    noise = share * noise / level(noise) + (1.0 - share) * fallen / level(fallen)
    noise *= level(samples) / level(noise) * 10 ** (-rng.uniform(*FLOOR_DB) / 20)
    return np.asarray(samples + noise, np.float32)


class Corpus:
    """The clips that are written to a folder, and their rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, str]] = []
        self.held_out: list[dict[str, str]] = []
        self.doubtful: list[dict[str, str]] = []
        self.seconds: dict[str, float] = {}  # by path
        self.lengths: list[float] = []  # of the cries, seconds
        self._known: set[str] = set()
        self._written: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        (folder / "clips").mkdir(parents=True)

    def length(self, rng: np.random.Generator) -> int:
        """Samples of a clip, as long as some cry."""
        return round(RATE * float(rng.choice(self.lengths)))

    def add(self, clip: Clip, samples: Samples, rows: list[dict[str, str]] | None = None) -> None:
        """Write (samples,) as a clip, with a row in `rows` or in this one's own; what 16 bit cannot hold is quieter."""
        samples = samples * min(1.0, 0.99 / max(1e-9, float(np.abs(samples).max())))
        name = f"{clip.corpus}-{clip.kind}"
        self._written[name] += 1
        path = f"clips/{name}-{self._written[name]:04d}.flac"
        soundfile.write(self.folder / path, samples, RATE, subtype="PCM_16")
        (self.rows if rows is None else rows).append({"path": path, **vars(clip)})
        self.seconds[path] = len(samples) / RATE

    def add_negative(self, clip: Clip, samples: Samples, *, recorded: bool = False) -> None:
        """Write (samples,) as a clip that is no cry, unless it is silent or known.

        A share is put into a room, all get a noise floor; what was `recorded` as it stands keeps its own. Every second
        one of a kind ends at 4 kHz, and every fourth is widened again, as most of the wide cries are.
        """
        silent = np.abs(samples).max(initial=0.0) < SILENT and clip.kind != "silence"
        if silent or self.is_known(samples):
            return
        rng = generator(clip.corpus, zlib.crc32(samples.tobytes()))
        if not recorded:
            if clip.kind != "silence":
                samples = in_a_room(samples, rng)
            samples = with_floor(samples, rng)
        self._kinds[clip.kind] += 1
        turn = self._kinds[clip.kind] % 4
        if turn:
            samples = narrowed(samples, rng)
        self.add(clip, widened(samples, rng) if turn == 2 else samples)

    def is_known(self, samples: Samples) -> bool:
        """Whether the same (samples,) came before."""
        found = audio.digest(samples)
        known = found in self._known
        self._known.add(found)
        return known


def add_cries(corpus: Corpus, donateacry: Path, raw: Path, esc10: Path) -> None:
    """The cries of the three corpora; half of them end at 4 kHz."""
    unseen = readings.unseen()
    for root, name in ((donateacry, "donateacry"), (raw, "donateacry-raw")):
        for path in _recordings(root):
            source = path.relative_to(root).as_posix()
            clip = Clip("cry", path.name[:UUID_LENGTH], name, "cry", source, DONATEACRY_LICENCE)
            samples = audio.load(path, RATE)
            if silent_share(samples) > SILENT_SHARE:
                print(f"{name}/{source}: left out, it is silent")
                continue
            corpus.lengths.append(len(samples) / RATE)
            if path.name in unseen:
                corpus.add(clip, samples, corpus.doubtful)
                continue
            corpus.add(clip, samples)
            if root == donateacry:  # the raw ones are half wide (iPhones), half narrow
                rng = generator(name, source)
                wide = in_a_room(widened(samples, rng), rng)
                corpus.add(replace(clip, source=f"{source}, widened"), wide)
    for path, clip in _esc_clips(esc10):
        if clip.label == "cry":
            samples = audio.load(path, RATE)
            corpus.lengths.append(len(samples) / RATE)
            corpus.add(clip, samples)
            rng = generator("esc10", clip.source)
            narrow = narrowed(in_a_room(samples, rng), rng)
            corpus.add(replace(clip, source=f"{clip.source}, narrowed"), narrow)


def add_esc_negatives(corpus: Corpus, root: Path) -> None:
    """The nine classes of ESC-10 that are no cry."""
    for path, clip in _esc_clips(root):
        if clip.label != "cry":
            samples = audio.load(path, RATE)
            if len(samples) < SHORTEST_SECONDS * RATE:
                samples = laid([samples], round(SHORTEST_SECONDS * RATE), generator(clip.source))
            corpus.add_negative(clip, samples, recorded=True)


def _esc_clips(root: Path) -> Iterator[tuple[Path, Clip]]:
    """The files of ESC-10, NNN - Class/FOLD-CLIPID-TAKE.ogg."""
    for path in _recordings(root):
        name = path.parent.name.partition(" - ")[2]
        fold, clip_id = path.stem.split("-")[:2]
        label, kind = ("cry", "cry") if name == "Baby cry" else ("not_cry", ESC_KINDS[name])
        source = path.relative_to(root).as_posix()
        yield path, Clip(label, f"esc-{clip_id}", "esc10", kind, source, ESC_LICENCE, fold)


def _recordings(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def read_packages(file: Path) -> list[Package]:
    """The entries of a packages.yaml."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    packages = []
    for name, entry in entries.items():
        rules = tuple(Rule(**rule) for rule in entry.pop("rules"))
        packages.append(Package(name, rules=rules, **{"group": name, **entry}))
    return packages


def unpacked(name: str, cache: Path) -> Path | None:
    """The folder of a Debian package's files, fetched and unpacked where the cache lacks it; None if it cannot be."""
    folder = cache / "x" / name
    if not folder.is_dir():
        found = sorted(cache.glob(f"{name}_*.deb"))
        if not found and shutil.which("apt-get"):
            subprocess.run(["apt-get", "download", name], cwd=cache, check=False, capture_output=True)
            found = sorted(cache.glob(f"{name}_*.deb"))
        if not found:
            print(f"{name}: left out, apt-get download {name} gives no package; put {name}_*.deb into {cache}")
            return None
        folder.parent.mkdir(parents=True, exist_ok=True)  # dpkg-deb makes the last folder of a path alone
        subprocess.run(["dpkg-deb", "-x", found[-1], folder], check=True)
    for archive in sorted(path for path in folder.rglob("*") if path.suffix in (*ARCHIVES, ".wad")):
        target = archive.with_suffix(".d")
        if not target.is_dir():
            (_unpack_wad if archive.suffix == ".wad" else _unpack_zip)(archive, target)
    return folder


def _unpack_zip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as held:
        held.extractall(target, [name for name in held.namelist() if Path(name).suffix.lower() in SUFFIXES])


def _unpack_wad(archive: Path, target: Path) -> None:
    """The sounds DS* of a Doom WAD: an 8-byte header with the rate at offset 2, then 8-bit samples."""
    target.mkdir()
    data = archive.read_bytes()
    count, start = np.frombuffer(data, "<i4", 2, 4)
    for entry in range(start, start + 16 * count, 16):
        offset, size = np.frombuffer(data, "<i4", 2, entry)
        name = data[entry + 8 : entry + 16].rstrip(b"\0").decode("ascii")
        if name.startswith("DS") and size > 1000:
            with wave.open(str(target / f"{name}.wav"), "wb") as file:
                file.setparams((1, 1, int(np.frombuffer(data, "<u2", 1, offset + 2)[0]), 0, "NONE", ""))
                file.writeframes(data[offset + 8 : offset + size])


def add_packages(corpus: Corpus, packages: Sequence[Package], cache: Path) -> None:
    """The sounds of Debian packages; those that may be a crying baby are dropped."""
    dropped: list[str] = []
    for package in packages:
        folder = unpacked(package.name, cache)
        if folder is None:
            continue
        if package.held_out:
            _hold_out(corpus, package, folder)
            continue
        for rule, files in _by_rule(package, folder, dropped).items():
            groups: dict[str, list[Path]] = defaultdict(list)
            for file in files:
                groups[_group(package, rule, file.relative_to(folder).as_posix())].append(file)
            for group, members in groups.items():
                clip = Clip("not_cry", group, package.name, rule.kind, "", package.licence)
                _add_files(corpus, clip, members, folder, 60.0 * rule.minutes / len(groups))
    print(f"dropped, may be a crying baby: {', '.join(dropped) or 'none'}")


def _hold_out(corpus: Corpus, package: Package, folder: Path) -> None:
    """Each sound of a package as it is, in heldout.csv."""
    for rule, files in _by_rule(package, folder, None).items():
        label = "cry" if rule.kind == "cry" else "not_cry"
        for file in files:
            source = file.relative_to(folder).as_posix()
            clip = Clip(label, package.group, package.name, rule.kind, source, package.licence)
            samples = _read(file)
            if len(samples):
                corpus.add(clip, samples, corpus.held_out)


def _by_rule(package: Package, folder: Path, dropped: list[str] | None) -> dict[Rule, list[Path]]:
    """The files of a package by the first rule that matches, without copies and without cries."""
    taken: dict[Rule, list[Path]] = {rule: [] for rule in package.rules}
    known: set[int] = set()
    for path in _recordings(folder):
        relative = path.relative_to(folder).as_posix()
        rule = next((rule for rule in package.rules if fnmatch.fnmatchcase(relative, rule.glob)), None)
        if rule is None or rule.kind == "drop":
            continue
        spelt = re.sub(r"([a-z])([A-Z])", r"\1-\2", path.stem).lower().replace("_", "-")
        if dropped is not None and CRYING.search(spelt):
            dropped.append(f"{package.name}:{path.name}")
            continue
        check = zlib.crc32(path.read_bytes())
        if check not in known:
            taken[rule].append(path)
        known.add(check)
    return {rule: files for rule, files in taken.items() if files}


def _group(package: Package, rule: Rule, relative: str) -> str:
    """What keeps a file of a package on one side of a split."""
    found = re.search(rule.group, relative) if rule.group else None
    return f"{package.group}-{found[1]}" if found and found[1] else package.group


def _add_files(corpus: Corpus, clip: Clip, files: Sequence[Path], folder: Path, seconds: float) -> None:
    """Clips of one kind and group, at most so many seconds: long recordings cut, short ones laid together."""
    rng = generator(clip.corpus, clip.kind, clip.group, files[0].name)
    done = 0.0
    passes = PASSES.get(clip.kind, (NATURAL,))
    for number, speeds in enumerate(passes):
        wanted = seconds * NATURAL_SHARE if number == 0 and len(passes) > 1 else seconds
        pile: list[Samples] = []
        sources: list[str] = []
        target = corpus.length(rng)
        for index in rng.permutation(len(files)):
            if done >= wanted:
                break
            samples = _load(files[index], float(rng.uniform(*speeds)))
            source = files[index].relative_to(folder).as_posix()
            if len(samples) > LONG_FACTOR * target:
                for piece in _pieces(samples, corpus, rng):
                    corpus.add_negative(replace(clip, source=source), piece)
                    done += len(piece) / RATE
            elif len(samples):
                pile.append(samples)
                sources.append(source)
                if sum(map(len, pile)) >= target:
                    corpus.add_negative(replace(clip, source=";".join(sources)), laid(pile, target, rng))
                    done += target / RATE
                    pile, sources, target = [], [], corpus.length(rng)
        if pile and done < wanted:
            corpus.add_negative(replace(clip, source=";".join(sources)), laid(pile, target, rng))
            done += target / RATE


def _load(file: Path, speed: float) -> Samples:
    """A sound of a package, without silence at its ends; nothing where it is silent or cannot be read."""
    samples = _read(file)
    if np.abs(samples).max(initial=0.0) < SILENT:
        return samples[:0]
    return sped_up(trimmed(samples), speed)


def _read(file: Path) -> Samples:
    """The start of a sound of a package; nothing where it cannot be read."""
    try:
        if file.suffix == ".g722":
            return _decoded(str(file), "g722", RATE)
        return audio.load(file, RATE, None, DECODED_SECONDS)
    except AudioError as error:
        print(f"{file.name}: left out, {error}")
        return np.zeros(0, np.float32)


def _pieces(samples: Samples, corpus: Corpus, rng: np.random.Generator) -> Iterator[Samples]:
    """Clips from all over a long recording, (samples,)."""
    count = min(PIECES, max(1, len(samples) // (8 * RATE)))
    for part in np.array_split(samples, count):
        length = min(corpus.length(rng), len(part))
        start = int(rng.integers(len(part) - length + 1))
        yield faded(part[start : start + length])


def laid(pile: Sequence[Samples], length: int, rng: np.random.Generator) -> Samples:
    """Short sounds one after the other with pauses, again from the first where they are too few: (length,)."""
    parts: list[Samples] = []
    total = 0
    while total < length:
        sound = faded(pile[len(parts) // 2 % len(pile)])
        pause = np.zeros(round(RATE * rng.uniform(*PAUSE_SECONDS)), np.float32)
        parts += [sound, pause]
        total += len(sound) + len(pause)
    return faded(np.concatenate(parts)[:length])


def add_speech(corpus: Corpus) -> None:
    """Sentences and laughing words of speech synthesisers, a share as high and fast as children's."""
    speakers = [speaker for speaker in SPEAKERS if shutil.which(speaker[0])]
    for program in sorted({program for program, _ in SPEAKERS} - {program for program, _ in speakers}):
        print(f"{program} is not installed, its speech is left out: apt-get install {program}")
    if not speakers:
        return
    for kind, minutes in (("speech", SPOKEN_MINUTES), ("laughter", LAUGHED_MINUTES)):
        done, number = 0.0, 0
        while done < 60.0 * minutes:
            rng = generator("spoken", kind, number)
            speaker = speakers[int(rng.integers(len(speakers)))]
            length = corpus.length(rng)
            parts, described = _spoken(speaker, kind, length, rng)
            group = f"synthetic-speech-{SPEAKERS.index(speaker) % SYNTHESISED_GROUPS}"  # of a voice, whatever it says
            clip = Clip("not_cry", group, "synthetic", kind, f"{described}, seed {number}", SYNTHESISED_LICENCE)
            corpus.add_negative(clip, laid(parts, length, rng))
            done, number = done + length / RATE, number + 1


def _spoken(speaker: tuple[str, str], kind: str, length: int, rng: np.random.Generator) -> tuple[list[Samples], str]:
    """Sentences of a synthesiser that fill (length,) together, and in words how they were made."""
    program, voice = speaker
    language = str(rng.choice(sorted(SENTENCES))) if program == "espeak-ng" else "en"
    texts = list(rng.permutation(LAUGHS if kind == "laughter" else SENTENCES[language]))
    pitch, speed = int(rng.integers(30, 100)), int(rng.integers(120, 221))
    factor = float(rng.uniform(*CHILD_SPEED)) if rng.random() < CHILD_SHARE else 1.0
    parts: list[Samples] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spoken.wav"
        while sum(map(len, parts)) < length and texts:
            text = str(texts.pop())
            command = (
                ["espeak-ng", "-v", f"{language}+{voice}", "-p", str(pitch), "-s", str(speed), "-w", str(file), text]
                if program == "espeak-ng"
                else ["flite", "-voice", voice, "-t", text, "-o", str(file)]
            )
            subprocess.run(command, check=True, capture_output=True)
            parts.append(sped_up(trimmed(audio.load(file, RATE)), factor))
    return parts, f"{program} {language}+{voice} pitch {pitch} speed {speed} x{factor:.2f}"


def add_synthesised(corpus: Corpus) -> None:
    """The sounds of sounds.py; a generator's are on one side of a split."""
    for kind, minutes in SYNTHESISED_MINUTES.items():
        names = sounds.KINDS[kind]
        done, seed = 0.0, 0
        while done < 60.0 * minutes:
            index = seed % len(names)
            length = corpus.length(generator("synthesised", kind, seed))
            group = f"synthetic-{kind}-{index % SYNTHESISED_GROUPS}"
            clip = Clip("not_cry", group, "synthetic", kind, f"{names[index]}, seed {seed}", SYNTHESISED_LICENCE)
            corpus.add_negative(clip, sounds.make(names[index], seed, length / RATE))
            done, seed = done + length / RATE, seed + 1


def add_babble(corpus: Corpus) -> None:
    """Three to eight clips of speech at once; of one group, so that no recording is on two sides of a split."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in corpus.rows:
        if row["kind"] == "speech":
            groups[row["group"]].append(row)
    many = [rows for rows in groups.values() if len(rows) >= 3]
    done, number = 0.0, 0
    while many and done < 60.0 * BABBLE_MINUTES:
        rows = many[number % len(many)]
        rng = generator("babble", number)
        length = corpus.length(rng)
        chosen = rng.choice(len(rows), min(len(rows), int(rng.integers(3, 9))), replace=False)
        mix = np.zeros(length, np.float32)
        for index in chosen:
            voice, _ = soundfile.read(corpus.folder / rows[index]["path"], dtype="float32")
            voice = np.resize(sped_up(voice, float(rng.uniform(0.85, 1.4))), length)  # one voice becomes several
            mix += np.roll(voice, int(rng.integers(length))) / level(voice) * 10 ** (-rng.uniform(0.0, 9.0) / 20)
        source = "babble of " + ";".join(rows[index]["path"] for index in chosen)
        clip = Clip(**{name: rows[0][name] for name in COLUMNS[1:]})
        corpus.add_negative(replace(clip, source=source, fold=""), mix * (0.1 / level(mix)))
        done, number = done + length / RATE, number + 1


def add_instruments(corpus: Corpus, cache: Path) -> None:
    """Melodies on each instrument of a sound font; a family of eight is on one side of a split."""
    package, file, licence = SOUND_FONT
    folder = unpacked(package, cache)
    if folder is None:
        return
    if not shutil.which("fluidsynth"):
        print("fluidsynth is not installed, its instruments are left out: apt-get install fluidsynth")
        return
    for program in range(instruments.INSTRUMENTS):
        rng = generator("instrument", program)
        song = instruments.play(folder / file, program, SEED, SONG_SECONDS)
        clip = Clip("not_cry", f"{package}-{program // 8}", package, "music", f"instrument {program}", licence)
        for piece in _pieces(song, corpus, rng):
            corpus.add_negative(clip, piece)


def add_short_clips(corpus: Corpus) -> None:
    """The loudest moment of every fifth clip by itself, of both classes: recordings may be as short as a cough."""
    counted: Counter[str] = Counter()
    for row in list(corpus.rows):
        counted[row["kind"]] += 1
        if counted[row["kind"]] % SHORT_SHARE:
            continue
        samples, _ = soundfile.read(corpus.folder / row["path"], dtype="float32")
        rng = generator("short", row["path"])
        length = min(len(samples), round(RATE * rng.uniform(*SHORT_SECONDS)))
        power = np.convolve(np.square(samples, dtype=np.float64), np.ones(RATE // 4), "same")
        start = int(np.clip(np.argmax(power) - rng.uniform(0.2, 0.8) * length, 0, len(samples) - length))
        clip = Clip(**{name: row[name] for name in COLUMNS[1:]})
        corpus.add(replace(clip, source=f"{clip.source}, shortened"), samples[start : start + length])


def write_background(folder: Path) -> None:
    """Sounds of a home to be mixed into clips while training: of sounds.py alone, so that no split is crossed."""
    folder.mkdir()
    for kind in BACKGROUND_KINDS:
        for name in sounds.KINDS[kind]:
            for number in range(BACKGROUNDS):
                samples = sounds.make(name, BACKGROUND_SEED + number, BACKGROUND_SECONDS)
                if number % 2:
                    samples = sounds.reverberate(samples, number)
                soundfile.write(folder / f"{kind}-{name}-{number}.flac", samples, RATE, subtype="PCM_16")


def write_cries(corpus: Corpus, folder: Path) -> None:
    """Synthesised cries, as long as real ones and every fifth short: in no table, so that only real ones are measured.

    DonateACry and ESC-10 have the cries of some 250 babies through a few kinds of microphones; these have other babies
    and none of their phones.
    """
    folder.mkdir()
    for number in range(SYNTHESISED_CRIES):
        rng = generator("cry", number)
        length = corpus.length(rng) if number % SHORT_SHARE else round(RATE * rng.uniform(*SHORT_SECONDS))
        samples = with_floor(in_a_room(sounds.make("infant_cry", number, length / RATE), rng), rng)
        if number % 2:
            samples = narrowed(samples, rng)
        soundfile.write(folder / f"cry-{number:04d}.flac", np.clip(samples, -1.0, 1.0), RATE, subtype="PCM_16")


def write_tables(corpus: Corpus) -> None:
    """labels.csv, heldout.csv, doubtful.csv and SOURCES.md."""
    tables = {"labels.csv": corpus.rows, "heldout.csv": corpus.held_out, "doubtful.csv": corpus.doubtful}
    for name, rows in tables.items():
        with (corpus.folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    totals: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in [row for rows in tables.values() for row in rows]:
        totals[row["corpus"], row["licence"], row["kind"]].append(corpus.seconds[row["path"]])
    lines = ["| source | licence | kind | clips | minutes |", "|---|---|---|---:|---:|"]
    lines += [f"| {' | '.join(key)} | {len(times)} | {sum(times) / 60:.1f} |" for key, times in sorted(totals.items())]
    head = ["# Sources", "", "synthetic: speech synthesisers and sounds.py; scratch is held out.", ""]
    (corpus.folder / "SOURCES.md").write_text("\n".join([*head, *lines, ""]), encoding="utf-8")


def print_kinds(corpus: Corpus) -> None:
    """A table of what was written."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in corpus.rows:
        times[row["label"], row["kind"]].append(corpus.seconds[row["path"]])
        times[row["label"], "all"].append(corpus.seconds[row["path"]])
    for (label, kind), found in sorted(times.items()):
        print(f"{label:8} {kind:10} {len(found):5} clips {sum(found) / 60:7.1f} min")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build everything into a new folder."""
    parser = argparse.ArgumentParser(description="Build the recordings that the detector is trained on.")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--donateacry", type=Path, required=True, help="the cleaned corpus: LABEL/*.wav")
    parser.add_argument("--donateacry-raw", type=Path, required=True, help="the uploads as they came: .3gp, .caf")
    parser.add_argument("--esc10", type=Path, required=True, help="NNN - Class/FOLD-CLIPID-TAKE.ogg")
    parser.add_argument("--packages", type=Path, help="a cache of Debian packages; without it none are used")
    given = parser.parse_args(arguments)
    for folder in (given.donateacry, given.donateacry_raw, given.esc10):
        if not folder.is_dir():
            parser.error(f"{folder} is no folder")
    if given.out.exists():
        parser.error(f"{given.out} exists: name a new folder")
    corpus = Corpus(given.out)
    add_cries(corpus, given.donateacry, given.donateacry_raw, given.esc10)
    add_esc_negatives(corpus, given.esc10)
    if given.packages:
        given.packages.mkdir(parents=True, exist_ok=True)
        add_packages(corpus, read_packages(Path(__file__).with_name("packages.yaml")), given.packages)
    add_speech(corpus)
    add_babble(corpus)
    add_synthesised(corpus)
    if given.packages:
        add_instruments(corpus, given.packages)
    add_short_clips(corpus)
    write_background(given.out / "background")
    write_cries(corpus, given.out / "cries")
    write_tables(corpus)
    print_kinds(corpus)


if __name__ == "__main__":
    main()
