"""Decodes every recording once: its measurements, by clip or by window, and what tells it from its copies."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crycli import audio, fingerprint, measures
from crycli.audio import Excerpt, Samples
from crycli.cache import Cache
from crycli.errors import AudioError
from crycli.fingerprint import Fingerprint
from crycli.limits import Limits
from crycli.measures import Measures, Meter
from crycli.parallel import map_processes
from crycli.progress import OnStep, Step, silent

SILENT_PEAK = 1e-4  # -80 dB of full scale: there is nothing to compare with other recordings


@dataclass(frozen=True)
class Windowing:
    """How recordings become clips.

    Attributes:
        window: seconds; None where a recording is a clip.
        hop: seconds from one window's start to the next one's.
        min_seconds: what is shorter is no clip.
        limits: what decoding accepts.
    """

    window: float | None
    hop: float | None
    min_seconds: float
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Window:
    """A clip of a recording: its measurements, and its start in seconds where it is not the whole."""

    start: float | None
    measures: Measures


@dataclass(frozen=True)
class Probe:
    """What decoding a recording told.

    Attributes:
        windows: its clips; none where there is an error.
        seconds: the duration of all that could be decoded.
        audio_hash: the same for recordings whose samples and rate are the same; empty for silence.
        fingerprint: alike for recordings of the same sound.
        cut_short: it is damaged and ends early.
        error: why it cannot be used.
    """

    windows: tuple[Window, ...] = ()
    seconds: float = 0.0
    audio_hash: str = ""
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    cut_short: bool = False
    error: str = ""


def probe(excerpt: Excerpt, windowing: Windowing) -> Probe:
    """Decode a recording or an excerpt, block by block, and measure its clips."""
    reader = audio.Reader(excerpt.path, excerpt.start, excerpt.end, windowing.limits)
    collector = _Windows(windowing, start=excerpt.start)
    identity = _Identity()
    try:
        for block in reader:
            collector.add(block, reader.sample_rate)
            identity.add(block, reader.sample_rate)
        audio.refuse_short(identity.seconds, windowing.min_seconds)
    except AudioError as error:
        return Probe(error=str(error))
    windows = collector.finish(reader.channels, reader.codec)
    return Probe(windows, identity.seconds, identity.audio_hash(), identity.fingerprint(), reader.cut_short)


class _Windows:
    """Collects blocks into windows and measures each."""

    def __init__(self, windowing: Windowing, start: float | None) -> None:
        self._windowing = windowing
        self._whole = windowing.window is None
        self._excerpt_start = start
        self._meter: Meter | None = None
        self._pending = np.zeros(0, np.float32)  # what the next window begins with
        self._first = 0  # sample at which it begins
        self._covered = 0
        self._meters: list[tuple[int, Meter]] = []
        self._rate = 0

    def add(self, block: Samples, rate: int) -> None:
        self._rate = rate
        if self._whole:
            self._meter = self._meter or Meter(rate)
            self._meter.add(block)
            return
        window, hop = self._sizes()
        self._pending = np.concatenate((self._pending, block))
        while len(self._pending) >= window:
            self._measure(self._pending[:window])
            self._pending = self._pending[hop:]
            self._first += hop

    def finish(self, channels: int, codec: str) -> tuple[Window, ...]:
        if self._meter is not None:
            return (Window(self._excerpt_start, self._meter.result(channels, codec)),)
        rest = self._first + len(self._pending) - self._covered  # samples in no window yet
        if not self._meters or rest >= self._windowing.min_seconds * self._rate:
            self._measure(self._pending)
        begin = self._excerpt_start or 0.0
        return tuple(Window(begin + first / self._rate, meter.result(channels, codec)) for first, meter in self._meters)

    def _sizes(self) -> tuple[int, int]:
        window = self._windowing.window or 0.0
        return round(window * self._rate), round((self._windowing.hop or window) * self._rate)

    def _measure(self, samples: Samples) -> None:
        meter = Meter(self._rate)
        meter.add(samples)
        self._meters.append((self._first, meter))
        self._covered = self._first + len(samples)


class _Identity:
    """What tells a recording from others: a hash of its samples, and its fingerprint."""

    def __init__(self) -> None:
        import xxhash

        self._hash = xxhash.xxh3_128()
        self._fingerprints: list[tuple[float, Fingerprint]] = []
        self._highest = self._lowest = 0.0
        self.seconds = 0.0

    def add(self, block: Samples, rate: int) -> None:
        if not self._fingerprints:
            self._hash.update(rate.to_bytes(4, "little"))
        self._hash.update(np.ascontiguousarray(block).data)
        self._fingerprints.append((self.seconds, fingerprint.fingerprint(block, rate)))
        first = self.seconds == 0.0
        self._highest = float(block.max()) if first else max(self._highest, float(block.max()))
        self._lowest = float(block.min()) if first else min(self._lowest, float(block.min()))
        self.seconds += len(block) / rate

    def audio_hash(self) -> str:
        # A-law and 8-bit silence is a constant, and no zero.
        return self._hash.hexdigest() if (self._highest - self._lowest) / 2 >= SILENT_PEAK else ""

    def fingerprint(self) -> Fingerprint:
        return fingerprint.join(self._fingerprints)


def probe_all(
    excerpts: Sequence[Excerpt],
    windowing: Windowing,
    *,
    workers: int = 0,
    cache: Path | None = None,
    on_step: OnStep = silent,
) -> list[Probe]:
    """Probe recordings on all cores, in order; those in the cache that did not change since are not decoded again.

    Args:
        excerpts: the recordings.
        windowing: how they become clips.
        workers: processes; 0 for one a core.
        cache: the folder in which the results are kept; None for none.
        on_step: told of the progress.
    """
    code = (audio.__file__, measures.__file__, fingerprint.__file__, __file__)
    total = len(excerpts)
    with Cache(cache, code, asdict(windowing)) as kept:
        probes = [_from_json(content) for content in kept.find(excerpts)]
        missing = [number for number, found in enumerate(probes) if found is None]
        function = partial(probe, windowing=windowing)
        results = map_processes(function, [excerpts[number] for number in missing], workers, _crashed)
        known = total - len(missing)
        on_step(Step("check", known, total, "recordings"))
        for done, (number, result) in enumerate(zip(missing, results, strict=True), start=known + 1):
            probes[number] = result
            if not result.error:  # a permission or a mount may be all that is missing
                kept.add(excerpts[number], _to_json(result))
            on_step(Step("check", done, total, "recordings"))
    return [found for found in probes if found is not None]


def _crashed(excerpt: Excerpt) -> Probe:
    return Probe(error="damaged: the decoder crashes on it")


def _to_json(result: Probe) -> list[Any]:
    windows = [[window.start, *vars(window.measures).values()] for window in result.windows]
    sound = base64.b64encode(result.fingerprint.to_bytes()).decode()
    return [windows, result.seconds, result.audio_hash, sound, result.cut_short]


def _from_json(content: Any) -> Probe | None:
    if content is None:
        return None
    try:
        windows, seconds, audio_hash, sound, cut_short = content
        parts = tuple(Window(start, Measures(*values)) for start, *values in windows)
        return Probe(parts, seconds, audio_hash, Fingerprint.from_bytes(base64.b64decode(sound)), cut_short)
    except (TypeError, ValueError):  # damaged
        return None
