"""What training makes of a clip: a random part, changed, mixed with another; always the same for the same key."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from crycli import audio
from crycli.audio import Samples
from crycli.config import SHORTEST_SECONDS, AugmentConfig, Config
from crycli.errors import AudioError, ConfigError, DataError

if TYPE_CHECKING:
    from audiomentations import Compose  # type: ignore[import-untyped]

Key = Sequence[int]
"""What a random choice depends on: whole numbers from 0, such as (seed, epoch, index, draw)."""

ROLLOFF = 96  # dB an octave: half as far again above the cutoff 56 dB are gone; at the library's 24 it is 14
LONGEST_BACKGROUND = 600.0  # s of a recording are used: 38 MB at 16 kHz
LONG_BACKGROUND = 60.0  # s; of one that lasts longer a part is decoded: 6 ms where 10 minutes take 0.43 s
KEPT_SAMPLES = 32_000_000  # of decoded backgrounds, 128 MB in each process: as much as all 400 clips of ESC-10
DECODED_AHEAD = 7200.0  # s of them, 5 s of work: what loaders find out by themselves is lost after each epoch
FAINTEST = 1e-9  # RMS; a background below it is silence, which has no level to be set

# One for each random choice that is made under the same key, so that none depends on another.
PART, CHANGES, PART_OF_CHANGED, SHARE, PARTNER, PARTNER_VIEW, PARTNER_PART = range(1, 8)

logger = logging.getLogger(__name__)

_global_random_state = threading.Lock()


class TrainingView:
    """What training makes of the clips of an epoch: parts of `data.max_seconds`, augmented, mixed, repeated.

    Args:
        config: its sections `data` and `augment` are used.
        sample_rate: Hz of the clips.

    Raises:
        ConfigError, DataError: see `Augmenter`.

    Attributes:
        active: whether more is done than to take a part.
    """

    def __init__(self, config: Config, sample_rate: int) -> None:
        self._augment = Augmenter(config.augment, sample_rate)
        self._length = round(config.data.max_seconds * sample_rate)
        self._shortest = round(SHORTEST_SECONDS * sample_rate)
        self._mixup = config.augment.mixup
        self._repeats = config.augment.short_clips == "repeat"
        self.active = self._augment.active or self._mixup > 0 or self._repeats

    def part(self, samples: Samples, key: Key) -> Samples:
        """The part of a clip from which `waveform` starts: (samples',), no longer than `data.max_seconds`."""
        return crop(samples, self._length, (*key, PART))

    def waveform(
        self, load: Callable[[int], Samples], index: int, key: Key, count: int
    ) -> tuple[Samples, list[tuple[int, float]]]:
        """A clip as training sees it.

        Args:
            load: the samples of a clip by its number, (samples,) float32, not normalised.
            index: the number of the clip.
            key: (seed, epoch, index, draw); the result depends on it and on the clips alone.
            count: of the clips that `load` has.

        Returns:
            (samples',) float32, no longer than `data.max_seconds`, not normalised; and the numbers of the clips of
            which it was mixed with their shares, which add up to 1: its own first, with the larger one.
        """
        samples = self._changed(load(index), key)
        sources = [(index, 1.0)]
        if self._mixup > 0 and count > 1:
            share = mixup_share(self._mixup, (*key, SHARE))
            partner = (index + 1 + int(_generator((*key, PARTNER)).integers(count - 1))) % count
            other = self._changed(load(partner), (*key, PARTNER_VIEW))
            # Networks that do not normalise would take unit RMS for another kind of sound than validation has.
            level = _rms(samples) or _rms(other)
            samples = (mix(samples, other, share, (*key, PARTNER_PART)) * level).astype(np.float32)
            sources = [(index, share), (partner, 1.0 - share)]
        if self._repeats:
            samples = repeat(samples, max(len(samples), self._length))
        return samples, sources

    def _changed(self, samples: Samples, key: Key) -> Samples:
        """A part of a clip, augmented."""
        part = self.part(samples, key)
        changed = self._augment(part, (*key, CHANGES))
        # `speed` may have made it longer than memory was planned for, or too short for masking in training.
        changed = crop(changed, self._length, (*key, PART_OF_CHANGED))
        return np.pad(changed, (0, max(0, min(len(part), self._shortest) - len(changed))))


class Augmenter:
    """The waveform transforms of a configuration, by audiomentations (https://github.com/iver56/audiomentations).

    The result depends on the samples and the key alone, in any process and thread. The global random states, from
    which the backbone's own masking draws and which a resumed run restores, stay as they are.

    Args:
        config: which transforms, how strong and how likely.
        sample_rate: Hz of the clips.

    Raises:
        ConfigError: audiomentations is not installed, a setting cannot work at this sample rate, or the folder with
            background recordings is missing.
        DataError: that folder holds no recording that can be read.

    Attributes:
        active: whether any transform is configured.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int) -> None:
        self.active = config.probability > 0 and any(
            (
                config.gain_db,
                config.shift_seconds,
                config.noise_snr_db,
                config.background,
                config.equaliser_db,
                config.low_pass_hz,
                config.speed,
                config.pitch_semitones,
                config.polarity,
            )
        )
        self._sample_rate = sample_rate
        self._transforms = _compose(config, sample_rate) if self.active else None

    def __call__(self, samples: Samples, key: Key) -> Samples:
        """(samples,) float32 to (samples',), as long as before but for `speed`; what is handed in stays as it is."""
        if self._transforms is None:
            return np.ascontiguousarray(samples, dtype=np.float32)
        # Scaled by a power of two, which is exact: the squares of loud float recordings overflow in float32.
        exponent = int(np.frexp(np.abs(samples).max())[1])
        with _seeded(key):
            changed = self._transforms(np.ldexp(samples, -exponent), self._sample_rate)
        return np.ascontiguousarray(np.ldexp(changed, exponent), dtype=np.float32)


def _compose(config: AugmentConfig, sample_rate: int) -> Compose:
    """The configured transforms, in the order in which sound travels.

    A voice (speed, pitch) is heard from some moment on (shift), in a room (background), through a microphone
    (equaliser, noise) and a codec (low pass), at some level (gain) and polarity. So what a shift brings in is filled
    with background, and above the low pass there is nothing at all, as in recordings from phones.
    """
    try:
        import audiomentations as library
    except ImportError as error:
        raise ConfigError('augment needs audiomentations: pip install "crycli[augment]"') from error
    p = config.probability
    transforms = []
    if config.speed:
        transforms.append(library.Lambda(_play, p=p, most=config.speed))
    if config.pitch_semitones:
        # Signalsmith, the library's default method: 28 ms for 7 s where librosa's phase vocoder takes 35, with 12 dB
        # less spurious sound and onsets blurred half as long.
        transforms.append(library.PitchShift(-config.pitch_semitones, config.pitch_semitones, p=p))
    if config.shift_seconds:
        transforms.append(library.Lambda(_shift, p=p, most_seconds=config.shift_seconds))
    if config.background:
        backgrounds = Backgrounds(Path(config.background), sample_rate)
        transforms.append(library.Lambda(_add, p=p, backgrounds=backgrounds, snr_db=config.background_snr_db))
    if config.equaliser_db:
        transforms.append(library.SevenBandParametricEQ(-config.equaliser_db, config.equaliser_db, p=p))
    if config.noise_snr_db:
        transforms.append(library.AddGaussianSNR(*config.noise_snr_db, p=p))
    if config.low_pass_hz:
        cutoffs = _cutoffs(config.low_pass_hz, sample_rate)
        transforms.append(library.LowPassFilter(*cutoffs, min_rolloff=ROLLOFF, max_rolloff=ROLLOFF, p=p))
    if config.gain_db:
        transforms.append(library.Gain(-config.gain_db, config.gain_db, p=p))
    if config.polarity:
        transforms.append(library.PolarityInversion(p=p))
    return library.Compose(transforms)


def _cutoffs(low_pass_hz: Sequence[float], sample_rate: int) -> tuple[float, float]:
    """The range of cutoffs in Hz, as far as it lies below half the sample rate."""
    lowest, highest = low_pass_hz
    limit = sample_rate / 2 - 1  # at exactly half the rate there is no such filter
    if not 0 < lowest <= limit:
        raise ConfigError(
            f"augment.low_pass_hz: {low_pass_hz} must begin above 0 and below {sample_rate / 2:.0f} Hz, half the "
            "network's sample rate: there is nothing above"
        )
    return lowest, min(highest, limit)


def _play(samples: Samples, sample_rate: int, most: float) -> Samples:
    """Up to this share faster or slower, the pitch with it, as a tape is played (Ko et al. 2015, speed perturbation).

    By resampling, which the library does not offer: 1 ms for 7 s, where stretching the time alone takes 25.
    """
    factor = random.uniform(1.0 - most, 1.0 + most)
    return audio.resample(samples, round(sample_rate * factor), sample_rate, quality="MQ")


def _shift(samples: Samples, sample_rate: int, most_seconds: float) -> Samples:
    """Up to so many seconds earlier or later, but never by more than half a clip: a cry must be left in it."""
    from audiomentations import Shift

    most = round(min(most_seconds * sample_rate, len(samples) // 2))
    shifted: Samples = Shift(-most, most, "samples", rollover=False, p=1.0)(samples, sample_rate)
    return shifted


def _add(samples: Samples, sample_rate: int, backgrounds: Backgrounds, snr_db: Sequence[float]) -> Samples:
    """A clip in front of a background, whose level lies below the clip's by an SNR drawn from [lowest, highest] dB.

    As in audiomentations' AddBackgroundNoise, which takes files alone and reads them by librosa: none from phones.
    """
    background = backgrounds.draw(len(samples))
    level = _rms(background)
    if level < FAINTEST:
        return samples
    return samples + background * (_rms(samples) / level / 10 ** (random.uniform(*snr_db) / 20))


class Backgrounds:
    """The recordings of a folder. The last decoded are kept, up to `KEPT_SAMPLES`; of long ones, how long they are.

    Args:
        folder: searched for recordings in every format that crycli reads.
        sample_rate: Hz to which they are brought.

    Raises:
        ConfigError: there is no such folder.
        DataError: it holds no recording that can be read.
    """

    def __init__(self, folder: Path, sample_rate: int) -> None:
        if not folder.is_dir():
            raise ConfigError(f"augment.background: no folder {folder}: name one with recordings")
        self._folder = folder
        self._sample_rate = sample_rate
        self._paths = list(audio.find_recordings(folder))
        if not self._paths:
            raise DataError(f"augment.background: {audio.no_recordings(folder)}")
        self._kept: dict[Path, Samples] = {}
        self._lengths: dict[Path, int] = {}
        self._unreadable: dict[Path, str] = {}
        self._decode_ahead()

    def draw(self, length: int) -> Samples:
        """A random part of a random recording, repeated where that is shorter: (length,). Draws from `random`."""
        path = self._from(random.randrange(len(self._paths)))
        first = random.randint(0, max(0, self._lengths[path] - length))
        if self._is_long(path):
            start, end = first / self._sample_rate, (first + length) / self._sample_rate
            return repeat(audio.load(path, self._sample_rate, start=start, end=end), length)
        return repeat(self._read(path)[first:], length)

    def _decode_ahead(self) -> None:
        """A folder in which nothing can be read is thereby refused before the training starts."""
        decoded = 0
        for number in range(len(self._paths)):
            if decoded > DECODED_AHEAD * self._sample_rate:
                break
            decoded += self._lengths[self._from(number)]

    def _is_long(self, path: Path) -> bool:
        return self._lengths[path] > LONG_BACKGROUND * self._sample_rate

    def _from(self, number: int) -> Path:
        """The recording of this number, or the next one that can be read; its length is then known."""
        for step in range(len(self._paths)):
            path = self._paths[(number + step) % len(self._paths)]
            if path not in self._unreadable:
                try:
                    if path not in self._lengths:
                        self._read(path)
                    return path
                except AudioError as error:
                    logger.warning("left out as a background: %s: %s", path, error)
                    self._unreadable[path] = str(error)
        reason = next(iter(self._unreadable.values()))
        raise DataError(
            f"augment.background: none of the {len(self._paths)} recordings in {self._folder} can be read: {reason}"
        )

    def _read(self, path: Path) -> Samples:
        """The recording's first `LONGEST_BACKGROUND` seconds."""
        if path not in self._kept:
            recording = audio.load(path, self._sample_rate, end=LONGEST_BACKGROUND)
            if len(recording) >= LONGEST_BACKGROUND * self._sample_rate and path not in self._lengths:
                logger.info("of the background %s the first %.0f minutes are used", path, LONGEST_BACKGROUND / 60)
            self._lengths[path] = len(recording)
            if self._is_long(path):
                return recording
            self._kept[path] = recording
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT_SAMPLES:
                self._kept.pop(next(iter(self._kept)))  # the oldest: all are as likely to be drawn again
        return self._kept[path]


def crop(samples: Samples, length: int, key: Key) -> Samples:
    """A random part of `length` samples, each as likely; all of a clip that is no longer: (samples',)."""
    if len(samples) <= length:
        return samples
    first = int(_generator(key).integers(len(samples) - length + 1))
    return samples[first : first + length]


def repeat(samples: Samples, length: int) -> Samples:
    """A clip over and over until there are `length` samples, or its first ones where it is longer: (length,)."""
    return samples[:length] if len(samples) >= length else np.resize(samples, length)


def mix(first: Samples, second: Samples, share: float, key: Key) -> Samples:
    """Mixup (Zhang et al. 2018): `share` of one clip and the rest of another, both brought to unit RMS.

    Args:
        first: (samples,); its length is the result's.
        second: of any length; repeated where it is shorter, a random part where it is longer.
        share: of the first, 0 to 1.
        key: chooses the part of the second.

    Returns:
        (samples,) float32. A silent clip stays silent.
    """
    fitted = crop(repeat(second, max(len(first), len(second))), len(first), key)
    return (share * _unit(first) + (1 - share) * _unit(fitted)).astype(np.float32)


def mixup_share(alpha: float, key: Key) -> float:
    """The first clip's share in a mix, 0.5 to 1: from Beta(alpha, alpha), folded so that the first clip dominates."""
    share = float(_generator(key).beta(alpha, alpha))
    return max(share, 1 - share)


def _unit(samples: Samples) -> npt.NDArray[np.float64]:
    return samples.astype(np.float64) / (_rms(samples) or 1.0)


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _generator(key: Key) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))


@contextmanager
def _seeded(key: Key) -> Iterator[None]:
    """Seed `random` and `numpy.random`, from which audiomentations draws, and put their states back afterwards."""
    words = np.random.SeedSequence(key).generate_state(8)
    with _global_random_state:  # one thread at a time: they share these states, and the transforms their parameters
        states = random.getstate(), np.random.get_state()
        random.seed(words[:4].tobytes())
        np.random.seed(words[4:])
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
