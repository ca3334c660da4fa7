"""Answers that any classifier must beat: the commonest label, guesses, and MFCC statistics with logistic regression."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from crycli import audio
from crycli.audio import Excerpt, Samples
from crycli.cache import Cache, cache_folder
from crycli.config import Config
from crycli.errors import AudioError
from crycli.manifest import Clip
from crycli.metrics import Labels, Probabilities
from crycli.parallel import map_ordered
from crycli.progress import OnStep, Step, silent

Array = npt.NDArray[np.float64]

COEFFICIENTS = 20
STATISTICS = 7
FEATURES = COEFFICIENTS * STATISTICS
"""Of a clip."""

FRAME_SECONDS, HOP_SECONDS = 0.064, 0.016
BANDS = 40
"""Of frames of 25 to 128 ms and 40 to 128 bands the best on ESC-10's folds, by 0.002 to 0.023 of accuracy."""
HIGHEST_HZ = 8_000.0
RANGE_DB = 80.0  # below the clip's strongest band all is alike, also what a recording of 8 kHz lacks above 4 kHz
LEAST_POWER = 1e-10  # digital silence
DELTA_FRAMES = 4  # to either side
FRAMES_AT_ONCE = 4096  # 66 s: bounds the memory that a long clip takes

MFCC_NAME = "MFCC + logistic regression"
GUESSING_NAME = "guessing as often as in training"
GUESSES = 5_000
"""Drawn in all: a single draw for 68 clips of five labels had a balanced accuracy of 0.37, where 0.20 is expected."""
PENALTY = 0.1  # C: accuracy on ESC-10's folds of 0.855; 1.0 gave 0.835, 0.01 gave 0.818

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baseline:
    """The answers of a baseline to the test clips.

    Attributes:
        name: what it does.
        predicted: (times * clips,) its answers; those that are drawn are drawn several times, clip after clip.
        probabilities: (clips, labels).
        times: how often all clips are answered.
    """

    name: str
    predicted: Labels
    probabilities: Probabilities
    times: int = 1


def baselines(
    train: Sequence[Clip], test: Sequence[Clip], names: Sequence[str], config: Config, on_step: OnStep = silent
) -> list[Baseline]:
    """The commonest label, guesses, and MFCC statistics with logistic regression, learnt from a training part.

    The first two answer without hearing anything; their probabilities are the labels' shares in training, the best
    there are without hearing. The guesses are drawn by these shares, the same in every run.

    Args:
        train: what the baselines learn from; labels that are not in `names` and recordings that cannot be read are left
            out.
        test: what they answer to; where a recording cannot be read, the third answers as the first.
        names: label names.
        config: `workers`, `cache`.
        on_step: told of the progress.

    Returns:
        The three, in this order; without the third where no recording of the training part can be read; none where
        there is no training part.
    """
    train = [clip for clip in train if clip.label in names]
    if not train:
        return []
    truth = np.array([names.index(clip.label) for clip in train])
    shares = np.bincount(truth, minlength=len(names)) / len(truth)
    commonest = int(shares.argmax())
    blind = np.tile(shares, (len(test), 1))
    times = max(1, GUESSES // max(len(test), 1))
    guesses = np.random.default_rng(0).choice(len(names), size=times * len(test), p=shares)
    found = [
        Baseline(f"always {names[commonest]!r}", np.full(len(test), commonest), blind),
        Baseline(GUESSING_NAME, guesses, blind, times),
    ]
    vectors, readable = features([*train, *test], config, on_step)
    learnt, asked = np.split(readable, [len(train)])
    if not learnt.all():
        logger.warning("the baseline learns without %d recordings that cannot be read", np.count_nonzero(~learnt))
    if learnt.any():
        known, new = np.split(vectors, [len(train)])
        probabilities = blind.copy()
        probabilities[asked] = classify(known[learnt], truth[learnt], new[asked], len(names))
        found.append(Baseline(MFCC_NAME, probabilities.argmax(axis=1), probabilities))
    return found


def classify(known: Array, truth: Labels, asked: Array, labels: int) -> Probabilities:
    """Logistic regression on standardised features, every label weighted alike: (clips, labels).

    Args:
        known: (clips, features) to learn from; at least one clip.
        truth: (clips,) their labels.
        asked: (clips, features) to answer to.
        labels: how many there are; those that `truth` lacks get a probability of 0.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities = np.zeros((len(asked), labels))
    borne = np.unique(truth)
    if len(borne) == 1 or not len(asked):
        probabilities[:, borne[0]] = 1.0
        return probabilities
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=5000))
    probabilities[:, borne] = model.fit(known, truth).predict_proba(asked)
    return probabilities


def features(clips: Sequence[Clip], config: Config, on_step: OnStep = silent) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The MFCC statistics of clips; those in the cache whose recordings did not change since are not decoded again.

    Args:
        clips: what to decode.
        config: `workers`, `cache`.
        on_step: told of the progress.

    Returns:
        (clips, features), zeros where a recording cannot be read; (clips,) whether it can.
    """
    excerpts = [Excerpt(clip.path, clip.start, clip.end) for clip in clips]
    vectors = np.zeros((len(clips), FEATURES))
    readable = np.zeros(len(clips), np.bool_)
    with Cache(cache_folder(config.cache), (audio.__file__, __file__)) as kept:
        missing = []
        for row, content in enumerate(kept.find(excerpts)):
            if _is_vector(content):
                vectors[row], readable[row] = content, True
            else:
                missing.append(row)
        results = map_ordered(_read, [excerpts[row] for row in missing], config.workers)
        known = len(clips) - len(missing)
        for done, (row, vector) in enumerate(zip(missing, results, strict=True), start=known + 1):
            if vector is not None:  # a permission or a mount may be all that is missing: not kept
                vectors[row], readable[row] = vector, True
                kept.add(excerpts[row], vector.tolist())
            on_step(Step("baseline", done, len(clips)))
    return vectors, readable


def _is_vector(content: object) -> bool:
    """Whether the cache holds what was put there, and no damaged or foreign content."""
    return isinstance(content, list) and len(content) == FEATURES and all(isinstance(value, float) for value in content)


def _read(excerpt: Excerpt) -> Array | None:
    try:
        samples = audio.load(excerpt.path, audio.SAMPLE_RATE, excerpt.start, excerpt.end)
    except AudioError as error:
        logger.debug("%s: %s", excerpt.path, error)
        return None
    return mfcc_statistics(samples, audio.SAMPLE_RATE)


def mfcc_statistics(samples: Samples, sample_rate: int) -> Array:
    """Statistics over time of the mel-frequency cepstral coefficients of a clip, and of their differences.

    MFCCs after Davis and Mermelstein 1980 (https://doi.org/10.1109/TASSP.1980.1163420): the cosine transform of the
    levels in bands that lie evenly on the mel scale. Their differences are the slopes over nine frames. They are
    librosa's with the same settings (`htk=True`), which is no core dependency.

    Args:
        samples: (samples,).
        sample_rate: Hz.

    Returns:
        (140,): of 20 coefficients the mean, the standard deviation, the least, the largest and the middle value, and
        of their differences the standard deviation and the largest value.
    """
    from scipy.ndimage import correlate1d

    mfcc = _mfcc(samples, sample_rate)
    offsets = np.arange(-DELTA_FRAMES, DELTA_FRAMES + 1)
    deltas = correlate1d(mfcc, offsets / np.sum(offsets**2), axis=0, mode="nearest")
    over_time = [mfcc.mean(axis=0), mfcc.std(axis=0), mfcc.min(axis=0), mfcc.max(axis=0), np.median(mfcc, axis=0)]
    return np.concatenate([*over_time, deltas.std(axis=0), deltas.max(axis=0)])


def _mfcc(samples: Samples, sample_rate: int) -> Array:
    """(frames, 20); the frames' middles lie a hop apart, the first at the start of the clip."""
    from scipy.fft import dct

    power = np.concatenate(list(_band_powers(samples, sample_rate)))
    floor = max(float(power.max()) * 10 ** (-RANGE_DB / 10), LEAST_POWER)
    level = 10.0 * np.log10(np.maximum(power, floor))
    return np.asarray(dct(level, axis=1, norm="ortho")[:, :COEFFICIENTS])


def _band_powers(samples: Samples, sample_rate: int) -> Iterator[Array]:
    """(frames, bands), block by block."""
    from scipy.fft import rfft  # in float32, unlike numpy's

    size, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    padded = np.pad(samples, (size // 2, size - size // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    bands = _mel_bands(size, sample_rate)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        spectrum = rfft(frames[first : first + FRAMES_AT_ONCE] * window, axis=1)
        # In float64: the squares of loud float recordings overflow in float32.
        yield (spectrum.real.astype(np.float64) ** 2 + spectrum.imag.astype(np.float64) ** 2) @ bands


@cache
def _mel_bands(size: int, sample_rate: int) -> Array:
    """(frequencies, bands): triangles evenly placed on the mel scale, of equal area."""
    highest = min(HIGHEST_HZ, sample_rate / 2)
    mel = np.linspace(0.0, 2595.0 * np.log10(1.0 + highest / 700.0), BANDS + 2)
    edges = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.fft.rfftfreq(size, 1.0 / sample_rate)[:, np.newaxis]
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low))
