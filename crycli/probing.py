"""Decodes every recording once: its measurements, by clip or by window, and what tells it from its copies.

What was measured is kept between runs, under the recording's path, size and times.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import crycli
from crycli import audio, fingerprint, measures
from crycli.audio import Excerpt, Samples
from crycli.errors import AudioError
from crycli.fingerprint import Fingerprint
from crycli.measures import Measures, Meter
from crycli.parallel import map_processes
from crycli.progress import OnStep, Step, silent

SILENT_PEAK = 1e-4  # -80 dB of full scale: there is nothing to compare with other recordings
CACHE_VARIABLE = "CRYCLI_CACHE"
CACHE_FILE = "probes.sqlite"
ROWS_AT_ONCE = 500

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Windowing:
    """How recordings become clips.

    Attributes:
        window: seconds; None where a recording is a clip.
        hop: seconds from one window's start to the next one's.
        min_seconds: what is shorter is no clip.
    """

    window: float | None
    hop: float | None
    min_seconds: float


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
    """Decode a recording, block by block, and measure its clips. An excerpt is one clip, without windows."""
    reader = audio.Reader(excerpt.path, excerpt.start, excerpt.end)
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
        self._whole = windowing.window is None or start is not None
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
        return tuple(Window(first / self._rate, meter.result(channels, codec)) for first, meter in self._meters)

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
        self._peak = 0.0
        self.seconds = 0.0

    def add(self, block: Samples, rate: int) -> None:
        if not self._fingerprints:
            self._hash.update(rate.to_bytes(4, "little"))
        self._hash.update(np.ascontiguousarray(block).data)
        self._fingerprints.append((self.seconds, fingerprint.fingerprint(block, rate)))
        self._peak = max(self._peak, float(block.max()), -float(block.min()))
        self.seconds += len(block) / rate

    def audio_hash(self) -> str:
        return self._hash.hexdigest() if self._peak >= SILENT_PEAK else ""

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
    total = len(excerpts)
    with closing(_Cache(cache, windowing)) as kept:
        probes = kept.find(excerpts)
        missing = [number for number, found in enumerate(probes) if found is None]
        function = partial(probe, windowing=windowing)
        results = map_processes(function, [excerpts[number] for number in missing], workers)
        known = total - len(missing)
        on_step(Step("check", known, total, "recordings"))
        for done, (number, result) in enumerate(zip(missing, results, strict=True), start=known + 1):
            probes[number] = result
            kept.add(excerpts[number], result)
            on_step(Step("check", done, total, "recordings"))
    return [found for found in probes if found is not None]


def cache_folder(setting: str) -> Path | None:
    """The folder that the setting `cache` means: "auto" is the user's cache folder, "none" no folder at all."""
    if setting == "none":
        return None
    if setting != "auto":
        return Path(setting)
    import platformdirs

    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("crycli", appauthor=False))


class _Cache:
    """Probes in a SQLite file. Whatever is wrong with the file costs time and never the run."""

    def __init__(self, folder: Path | None, windowing: Windowing) -> None:
        self._settings = json.dumps([_version(), asdict(windowing)])
        self._new: list[tuple[object, ...]] = []
        self._connection: sqlite3.Connection | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = _open_database(folder / CACHE_FILE)
        except (OSError, sqlite3.Error) as error:
            logger.info("measuring without a cache: %s: %s", folder / CACHE_FILE, error)

    def find(self, excerpts: Sequence[Excerpt]) -> list[Probe | None]:
        """What is known of each recording and still holds."""
        if self._connection is None:
            return [None] * len(excerpts)
        found: list[Probe | None] = []
        for first in range(0, len(excerpts), ROWS_AT_ONCE):
            found += self._find_some(excerpts[first : first + ROWS_AT_ONCE])
        return found

    def _find_some(self, excerpts: Sequence[Excerpt]) -> Iterator[Probe | None]:
        keys = [self._key(excerpt) for excerpt in excerpts]
        marks = ",".join("?" * len(keys))
        try:
            assert self._connection is not None
            rows = self._connection.execute(f"SELECT * FROM probes WHERE key IN ({marks})", keys).fetchall()
        except sqlite3.Error as error:
            logger.info("the cache cannot be read: %s", error)
            rows = []
        known = {row[0]: row[1:] for row in rows}
        for excerpt, key in zip(excerpts, keys, strict=True):
            state, *content = known.get(key, ("",))
            yield _from_row(content) if state and state == _state(excerpt.path) else None

    def add(self, excerpt: Excerpt, result: Probe) -> None:
        """Keep a result; errors are not kept, because a permission or a mount may be what is missing."""
        if self._connection is None or result.error:
            return
        self._new.append((self._key(excerpt), _state(excerpt.path), *_to_row(result)))
        if len(self._new) >= ROWS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        try:
            if self._connection is not None and self._new:
                with self._connection:
                    self._connection.executemany("REPLACE INTO probes VALUES (?, ?, ?, ?, ?, ?, ?)", self._new)
        except sqlite3.Error as error:
            logger.info("the cache cannot be written: %s", error)
        self._new = []

    def _key(self, excerpt: Excerpt) -> str:
        text = f"{self._settings}|{excerpt.start}|{excerpt.end}|{os.path.abspath(excerpt.path)}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def close(self) -> None:
        """Write what is new; also after an interruption."""
        self._write()
        if self._connection is not None:
            self._connection.close()


def _open_database(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=5.0)
    try:
        return _with_table(connection)
    except sqlite3.DatabaseError:
        connection.close()
        file.unlink(missing_ok=True)  # damaged: it holds nothing that cannot be measured again
        return _with_table(sqlite3.connect(file, timeout=5.0))


def _with_table(connection: sqlite3.Connection) -> sqlite3.Connection:
    with connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS probes "
            "(key TEXT PRIMARY KEY, state TEXT, windows TEXT, seconds REAL, audio_hash TEXT, fingerprint BLOB, "
            "cut_short INTEGER)"
        )
    return connection


def _version() -> list[str]:
    """Changes with the code and the libraries that a probe depends on."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (audio, measures, fingerprint) if module.__file__)
    code += Path(__file__).read_bytes()
    libraries = [version(package) for package in ("av", "soundfile", "soxr", "numpy", "scipy")]
    return [crycli.__version__, hashlib.sha256(code).hexdigest()[:16], *libraries]


def _state(path: Path) -> str:
    """The size and the times of a file; empty where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _to_row(result: Probe) -> tuple[object, ...]:
    windows = json.dumps([[window.start, *asdict(window.measures).values()] for window in result.windows])
    return windows, result.seconds, result.audio_hash, result.fingerprint.to_bytes(), int(result.cut_short)


def _from_row(row: Iterable[Any]) -> Probe | None:
    windows, seconds, audio_hash, content, cut_short = row
    try:
        parts = tuple(Window(start, Measures(*values)) for start, *values in json.loads(windows))
        return Probe(parts, seconds, audio_hash, Fingerprint.from_bytes(content), bool(cut_short))
    except (ValueError, TypeError):
        return None
