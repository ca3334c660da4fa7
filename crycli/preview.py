"""What training will hear: some clips before and after their changes, as recordings and as a sheet of spectrograms."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from crycli import audio
from crycli.audio import SAMPLE_RATE, Samples
from crycli.augment import TrainingView
from crycli.config import Config
from crycli.errors import AudioError, ConfigError, DataError
from crycli.manifest import Clip, read_manifest
from crycli.outputs import claim_folder, write_bytes
from crycli.progress import OnStep, Step, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHEET = "sheet.png"
ORIGINAL = "-original.wav"
CHANGED = ".wav"
FIRST_EPOCH = 0  # as the sampler of training counts
HINT = "--set augment.shift_seconds=1 --set 'augment.noise_snr_db=[10, 40]' --set augment.pitch_semitones=1"
HIGHEST_PEAK = 0.99  # of full scale: what is louder is turned down as a whole
LONGEST_LABEL = 40  # characters of one in a file name: 160 bytes at most, of the 255 that file systems take

MOST_ROWS = 24  # of the sheet, which is 5,600 pixels high then
WINDOW = 512  # samples, 32 ms: the harmonics of a cry, 300 Hz apart and more, stay apart
MOST_FRAMES = 600  # of a spectrogram, which is 560 pixels wide
RANGE_DB = 80.0
WIDTH, ROW_HEIGHT, MARGIN, TITLE_HEIGHT = 12.0, 2.1, 0.6, 0.5  # inches
LONGEST_TITLE = 64  # characters of a line
DPI = 110
BEYOND_THE_END = "0.85"  # grey

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A clip before and after.

    Attributes:
        original: (samples,) the part of the recording that was taken.
        changed: (samples',) what training hears, before it is normalised.
        sources: the clips of which that was mixed, with their shares; its own first.
    """

    original: Samples
    changed: Samples
    sources: Sequence[tuple[Clip, float]]

    @property
    def own(self) -> Clip:
        """The clip that gives most of it, or all."""
        return self.sources[0][0]


@dataclass(frozen=True)
class Panel:
    """A spectrogram on the sheet.

    Attributes:
        title: what stands above it.
        seconds: its duration.
        levels: (bins, frames) dB of a full-scale tone, the lowest frequency first.
    """

    title: str
    seconds: float
    levels: npt.NDArray[np.float32]


def write_preview(
    data: Path, output: Path, config: Config, count: int, *, force: bool = False, on_step: OnStep = silent
) -> list[Path]:
    """Write some training clips as the first epoch will hear them, but for the masking inside the network.

    For each clip NN-LABEL.wav and NN-LABEL-original.wav, the part of the recording that it was made from, 16 bit at
    16 kHz; and sheet.png with the spectrograms of both. The same seed gives the same clips.

    Args:
        data: a folder with train.csv.
        output: the folder for the files.
        config: `data.max_seconds`, `data.min_seconds`, `augment` and `train.seed` are used.
        count: of the clips, spread evenly over the labels; all where there are fewer.
        force: replace an earlier preview.
        on_step: told of the progress.

    Returns:
        The files, the sheet last.

    Raises:
        ConfigError: see `Augmenter`; also a count below 1.
        DataError: the manifest is missing, malformed or empty, or none of its recordings can be read.
        OutputError: the output exists and `force` is false, or it cannot be written.
    """
    if count < 1:
        raise ConfigError(f"a preview of {count} clips: ask for 1 or more")
    clips = read_manifest(data / "train.csv")
    if not clips:
        raise DataError(f"{data}/train.csv is empty: there is nothing to preview")
    view = TrainingView(config, SAMPLE_RATE)
    if not view.active:
        logger.warning("augment is all off, so that clips are only cut to data.max_seconds; try %s", HINT)
    claim_folder(output, force=force, owned=_earlier(output))
    wanted = min(count, len(clips))
    digits = max(2, len(str(wanted)))
    files: list[Path] = []
    rows: list[tuple[Panel, Panel]] = []
    for done, example in enumerate(islice(_examples(clips, view, config), wanted), start=1):
        name = f"{done:0{digits}d}-{file_name(example.own.label)}"
        for ending, samples in ((CHANGED, example.changed), (ORIGINAL, example.original)):
            files.append(output / f"{name}{ending}")
            write_bytes(files[-1], _wav(samples))
        if done <= MOST_ROWS:
            rows.append(_panels(f"{done:0{digits}d}", example))
        on_step(Step("preview", done, wanted))
    _report(data, clips, count, len(files) // 2)
    write_bytes(output / SHEET, draw_sheet(rows))
    return [*files, output / SHEET]


def _examples(clips: Sequence[Clip], view: TrainingView, config: Config) -> Iterator[Example]:
    """The clips that can be read, the labels by turns."""

    def load(number: int) -> Samples:
        clip = clips[number]
        try:
            samples = audio.load(clip.path, SAMPLE_RATE, clip.start, clip.end, config.limits.to_limits())
            audio.refuse_short(len(samples) / SAMPLE_RATE, config.data.min_seconds)
        except AudioError as error:
            raise AudioError(f"{clip.path}: {error}") from None
        return samples

    for index in _by_turns([clip.label for clip in clips], config.train.seed):
        key = (config.train.seed, FIRST_EPOCH, index, 0)
        try:
            original = view.part(load(index), key)
            changed, sources = view.waveform(load, index, key, len(clips))
        except AudioError as error:
            logger.warning("left out %s; training, which numbers the clips without it, hears others changed", error)
            continue
        yield Example(original, changed, [(clips[number], share) for number, share in sources])


def _report(data: Path, clips: Sequence[Clip], asked: int, done: int) -> None:
    """Say what is not in the preview."""
    if not done:
        raise DataError(f"none of the {len(clips)} recordings of {data}/train.csv can be read")
    if done < asked:
        logger.warning("%d clips were asked for; %s/train.csv has %d that can be used", asked, data, done)
    if done > MOST_ROWS:
        logger.info("%s shows the first %d clips", SHEET, MOST_ROWS)


def _earlier(output: Path) -> list[str]:
    """The files of an earlier preview: the recordings that come in pairs, and the sheet."""
    originals = [path.name for path in output.glob(f"*{ORIGINAL}") if re.match(r"\d\d+-", path.name)]
    pairs = [(name, name.removesuffix(ORIGINAL) + CHANGED) for name in originals]
    return [SHEET, *(name for pair in pairs if (output / pair[1]).is_file() for name in pair)]


def _by_turns(labels: Sequence[str], seed: int) -> list[int]:
    """The numbers of all clips in random order, the labels by turns."""
    turns: Counter[str] = Counter()
    ranked = []
    for index in np.random.default_rng(seed).permutation(len(labels)).tolist():
        ranked.append((turns[labels[index]], labels[index], index))
        turns[labels[index]] += 1
    return [index for _, _, index in sorted(ranked)]


def file_name(label: str) -> str:
    """A label as a part of a file name: letters of any script and digits stay."""
    return re.sub(r"[^\w.-]+", "_", label)[:LONGEST_LABEL].strip("_.") or "label"


def _wav(samples: Samples) -> bytes:
    import soundfile

    peak = float(np.abs(samples).max())
    buffer = io.BytesIO()
    quiet = samples * (HIGHEST_PEAK / max(peak, HIGHEST_PEAK))
    soundfile.write(buffer, quiet, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _panels(number: str, example: Example) -> tuple[Panel, Panel]:
    own, name = example.own.label, example.own.path.name
    shares = " + ".join(f"{share:.0%} {clip.label}" for clip, share in example.sources)
    mixed = [f"mixed with {clip.path.name}" for clip, _ in example.sources[1:]]
    return (
        _panel(f"{number}, original: {own}", name, example.original),
        _panel(f"{number}, in training: {shares if mixed else own}", mixed[0] if mixed else name, example.changed),
    )


def _panel(title: str, subtitle: str, samples: Samples) -> Panel:
    return Panel(f"{_shortened(title)}\n{_shortened(subtitle)}", len(samples) / SAMPLE_RATE, _levels(samples))


def _shortened(text: str) -> str:
    """A text in one line, without its middle where it is too long: file names differ at their ends."""
    text = " ".join(text.split())
    half = LONGEST_TITLE // 2
    return text if len(text) <= LONGEST_TITLE else f"{text[:half]}…{text[-half:]}"


def _levels(samples: Samples) -> npt.NDArray[np.float32]:
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    hop = max(WINDOW // 4, -(-len(frames) // MOST_FRAMES))
    taper = np.hanning(WINDOW)
    power = np.square(np.abs(np.fft.rfft(frames[::hop] * (2 * taper / taper.sum()))))
    return np.asarray(10 * np.log10(power.T + 1e-12), dtype=np.float32)


def draw_sheet(rows: Sequence[tuple[Panel, Panel]]) -> bytes:
    """Clips as PNG: a row each, the original on the left, what training hears on the right, all with the same axes."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    height = len(rows) * ROW_HEIGHT + MARGIN
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    grid = figure.subplots(len(rows), 2, sharex=True, sharey=True, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        loudest = max(float(panel.levels.max()) for panel in row)
        for one, panel in zip(axes, row, strict=True):
            _draw(one, panel, loudest)
        axes[0].set_ylabel("kHz")
    grid[0, 0].set_xlim(0, max(panel.seconds for row in rows for panel in row))
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    gap = TITLE_HEIGHT / (ROW_HEIGHT - TITLE_HEIGHT)
    figure.subplots_adjust(0.045, MARGIN / height, 0.92, 1 - TITLE_HEIGHT / height, wspace=0.1, hspace=gap)
    place = grid[0, 1].get_position()
    bar = figure.add_axes((0.94, place.y0, 0.012, place.height))
    figure.colorbar(grid[0, 0].images[0], cax=bar, label="dB below the row's loudest")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a script that the font lacks is drawn as boxes
        figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 3})  # 6: 2% smaller, twice the time
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel, loudest: float) -> None:
    extent = (0, panel.seconds, 0, SAMPLE_RATE / 2000)  # s, kHz
    levels = panel.levels - loudest
    axes.imshow(levels, cmap="magma", vmin=-RANGE_DB, vmax=0, origin="lower", aspect="auto", extent=extent)
    axes.set_title(panel.title, fontsize="small", loc="left", parse_math=False)  # a label may hold a dollar sign
    axes.set_facecolor(BEYOND_THE_END)
