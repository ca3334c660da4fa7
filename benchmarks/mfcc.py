"""What a detector of cries has to beat; used by detector.py.

- MFCC + logistic: the statistics and the regression that `crycli eval` shows as a baseline (`crycli.baselines`);
- loudness + pitch: of the frames of a clip the share that is loud beside its floor, and the share that is loud and has
  its pitch in a band, in the same regression. Of some bands and levels it takes those whose share alone has the best
  AUC on what it learns from.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from crycli import audio, baselines
from crycli.audio import Samples
from crycli.config import Config
from crycli.errors import AudioError
from crycli.manifest import Clip
from crycli.metrics import Labels
from crycli.parallel import map_ordered

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NAMES = ("cry", "not_cry")
METHODS = ("crycli", "MFCC + logistic", "loudness + pitch")
RATE = audio.SAMPLE_RATE
FRAME, HOP = 1024, 512  # samples, 64 and 32 ms
LOWEST_LAG, HIGHEST_LAG = RATE // 1000, RATE // 100  # pitches of 1000 to 100 Hz
VOICED = 0.5  # the height of the peak that a frame with a pitch has; noise of 64 ms has 0.2
FLOOR = 10  # percentile of the frames' levels
LOUD_DB, LOW_HZ, HIGH_HZ = (5.0, 10.0, 15.0), (200.0, 250.0, 300.0, 350.0), (500.0, 600.0, 700.0, 850.0)
BANDS = tuple(product(LOUD_DB, LOW_HZ, HIGH_HZ))


def labels_of(clips: Sequence[Clip]) -> Labels:
    """(clips,) places in `NAMES`."""
    return np.array([NAMES.index(clip.label) for clip in clips])


def load(clip: Clip) -> Samples:
    """(samples,) at 16 kHz."""
    return audio.load(clip.path, RATE, clip.start, clip.end)


def learn(known: Floats, truth: Labels, asked: Floats) -> Floats:
    """What the two methods say, having learnt: (sounds, 2) probability of a cry, NaN where the features are NaN.

    Args:
        known: (clips, features) of `hear`.
        truth: (clips,) their labels.
        asked: (sounds, features).
    """
    from sklearn.metrics import roc_auc_score

    found = np.full((len(asked), 2), np.nan)
    there = np.isfinite(asked).all(axis=1)
    shares = known[:, baselines.FEATURES :]
    best = max(range(len(BANDS)), key=lambda band: float(roc_auc_score(truth == 0, shares[:, len(LOUD_DB) + band])))
    loud = LOUD_DB.index(BANDS[best][0])
    pitched = baselines.FEATURES + np.array([loud, len(LOUD_DB) + best])
    for method, columns in enumerate((np.arange(baselines.FEATURES), pitched)):
        found[there, method] = baselines.classify(known[:, columns], truth, asked[there][:, columns], len(NAMES))[:, 0]
    return found


def hear_clips(clips: Sequence[Clip], config: Config) -> Floats:
    """(clips, features), NaN where a recording cannot be read."""

    def read(clip: Clip) -> Floats | None:
        try:
            return hear(load(clip))
        except AudioError:
            return None

    width = baselines.FEATURES + len(LOUD_DB) + len(BANDS)
    nothing = np.full(width, np.nan)
    return np.stack([nothing if row is None else row for row in map_ordered(read, clips, config.workers)])


def hear(samples: Samples) -> Floats:
    """(features,) MFCC statistics; the share of loud frames for each `LOUD_DB`; of those in a band for each `BANDS`."""
    level, hertz = pitches(samples)
    above = level - np.percentile(level, FLOOR)
    loud = [float(np.mean(above >= least)) for least in LOUD_DB]
    banded = [float(np.mean((above >= least) & (hertz >= low) & (hertz <= high))) for least, low, high in BANDS]
    return np.array([*baselines.mfcc_statistics(samples, RATE), *loud, *banded])


def pitches(samples: Samples) -> tuple[Floats, Floats]:
    """(frames,) levels in dB and pitches in Hz, 0 where there is none.

    The autocorrelation of a frame over that of its window, as in Boersma 1993 (Proc. IFA 17, 97-110): the first of its
    peaks that are nearly as high as the highest one.
    """
    from scipy.fft import irfft, rfft

    padded = np.pad(samples, (0, max(0, FRAME - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP].astype(np.float64)
    window = np.hanning(FRAME + 2)[1:-1]
    power = np.abs(rfft((frames - frames.mean(axis=1, keepdims=True)) * window, 2 * FRAME, axis=1)) ** 2
    alike = irfft(power, axis=1)[:, : HIGHEST_LAG + 2]
    of_window = irfft(np.abs(rfft(window, 2 * FRAME)) ** 2)[: HIGHEST_LAG + 2]
    alike = alike / np.maximum(alike[:, :1], 1e-12) * (of_window[0] / of_window)
    here, before, after = (alike[:, LOWEST_LAG + step : HIGHEST_LAG + step] for step in (0, -1, 1))
    peaks = np.where((here > before) & (here >= after), here, 0.0)
    highest = peaks.max(axis=1, keepdims=True)
    lags = LOWEST_LAG + (peaks >= 0.9 * np.maximum(highest, 1e-12)).argmax(axis=1)
    level = 10.0 * np.log10(np.mean(frames**2, axis=1) + 1e-10)
    return level, np.where(highest[:, 0] >= VOICED, RATE / lags, 0.0)
