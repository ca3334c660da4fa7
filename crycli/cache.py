"""What was measured in a recording, kept between runs under its path and for as long as its size and times stay."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from crycli import __version__
from crycli.audio import Excerpt

FOLDER_VARIABLE = "CRYCLI_CACHE"
FILE_NAME = "recordings.sqlite"
ROWS_AT_ONCE = 500

logger = logging.getLogger(__name__)


def cache_folder(setting: str) -> Path | None:
    """The folder that the setting `cache` means: "auto" is the user's cache folder, "none" no folder at all."""
    if setting == "none":
        return None
    if setting != "auto":
        return Path(setting)
    import platformdirs

    return Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_dir("crycli", appauthor=False))


class Cache:
    """JSON by recording, in a SQLite file. Whatever is wrong with the file costs time and never the run.

    Args:
        folder: where the file lies; None for no cache.
        code: the source files on which the content depends: another version of them finds nothing.
        settings: what else it depends on.
    """

    def __init__(self, folder: Path | None, code: Iterable[str | None], settings: object = None) -> None:
        self._settings = json.dumps([_code_version(code), settings])
        self._new: list[tuple[str, str, str]] = []
        self._connection: sqlite3.Connection | None = None
        if folder is None:
            return
        self._file = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = _open_database(self._file)
        except (OSError, sqlite3.Error) as error:
            logger.info("nothing is kept for the next run: %s: %s", self._file, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what is new, also after an interruption."""
        self._write()
        if self._connection is not None:
            self._connection.close()

    def find(self, excerpts: Sequence[Excerpt]) -> list[Any]:
        """What is known of each recording and still holds; None where nothing is."""
        found: list[Any] = []
        for first in range(0, len(excerpts), ROWS_AT_ONCE):
            found += self._find_some(excerpts[first : first + ROWS_AT_ONCE])
        return found

    def _find_some(self, excerpts: Sequence[Excerpt]) -> list[Any]:
        if self._connection is None:
            return [None] * len(excerpts)
        keys = [self._key(excerpt) for excerpt in excerpts]
        marks = ",".join("?" * len(keys))
        try:
            rows = self._connection.execute(f"SELECT key, state, content FROM kept WHERE key IN ({marks})", keys)
            known = {key: (state, content) for key, state, content in rows}
        except sqlite3.OperationalError as error:
            logger.info("the cache cannot be read: %s", error)
            known = {}
        except sqlite3.DatabaseError:
            self._connection.close()
            self._connection = _renew_database(self._file)
            known = {}
        found: list[Any] = []
        for excerpt, key in zip(excerpts, keys, strict=True):
            state, content = known.get(key, ("", ""))
            found.append(_loaded(content) if state and state == _state(Path(excerpt.path)) else None)
        return found

    def add(self, excerpt: Excerpt, content: Any) -> None:
        """Keep something of a recording."""
        if self._connection is not None:
            self._new.append((self._key(excerpt), _state(Path(excerpt.path)), json.dumps(content)))
            if len(self._new) >= ROWS_AT_ONCE:
                self._write()

    def _write(self) -> None:
        try:
            if self._connection is not None and self._new:
                with self._connection:
                    self._connection.executemany("REPLACE INTO kept VALUES (?, ?, ?)", self._new)
        except sqlite3.Error as error:
            logger.info("the cache cannot be written: %s", error)
        self._new = []

    def _key(self, excerpt: Excerpt) -> str:
        text = f"{self._settings}|{excerpt.start}|{excerpt.end}|{os.path.abspath(excerpt.path)}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _open_database(file: Path) -> sqlite3.Connection:
    try:
        return _with_table(file)
    except sqlite3.OperationalError:  # locked, or on a file system that can't lock
        raise
    except sqlite3.DatabaseError:
        return _with_table(_without(file))


def _renew_database(file: Path) -> sqlite3.Connection | None:
    try:
        return _with_table(_without(file))
    except (OSError, sqlite3.Error):
        return None


def _without(file: Path) -> Path:
    """The place of a damaged file, which holds nothing that cannot be measured again."""
    file.unlink(missing_ok=True)
    return file


def _loaded(content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _with_table(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=5.0)
    try:
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, state TEXT, content TEXT)")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _code_version(code: Iterable[str | None]) -> list[str]:
    """Changes with the code and the libraries that decode and measure."""
    content = b"".join(Path(file).read_bytes() for file in code if file)
    libraries = [version(package) for package in ("av", "soundfile", "soxr", "numpy", "scipy")]
    return [__version__, hashlib.sha256(content).hexdigest()[:16], *libraries]


def _state(path: Path) -> str:
    """The size and the times of a file; empty where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
