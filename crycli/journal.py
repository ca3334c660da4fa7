"""Files that are appended to as results come, and that an interrupted run can go on with."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from crycli.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` where nothing fails, and is removed where something does.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}: name another output") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_name_too_long(path: Path) -> bool:
    """Whether the file system has no room for the names that `replacing` needs."""
    try:
        os.lstat(_temporary(path))
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


class Journal:
    """Files that grow together, one recording after the other, whenever the process is killed.

    What a recording adds is appended to the files; then a line of the progress file says how long they are. What
    comes after the last whole line was not finished, and is cut off when the files are gone on with.

    The progress file holds JSON: a first line that describes the task, and a line for each recording.

    Args:
        progress: the progress file; `finish` removes it.
        files: what is appended to.
        task: what must be the same for the files to be gone on with; for JSON.
        resume: go on with what is there, from the start where nothing is.

    Attributes:
        done: recordings that are finished.
        failed: of these, those without an answer.
        state: what was handed to the last `commit`.

    Raises:
        ConfigError: what is to be resumed was begun as another task.
        OutputError: the files cannot be written, or another process is writing them.
    """

    def __init__(self, progress: Path, files: Sequence[Path], task: Mapping[str, Any], *, resume: bool) -> None:
        self.done = 0
        self.failed = 0
        self.state: Any = None
        self._progress_file = progress
        self._streams: list[BinaryIO] = []
        try:
            self._progress = _open_alone(progress)
            sizes = [0] * len(files)
            with _closing_on_error(self):
                size = self._read(files, task, sizes) if resume else 0
                _cut(self._progress, size)
                for file, length in zip(files, sizes, strict=True):
                    self._streams.append(_open(file))
                    _cut(self._streams[-1], length)
                if not size:
                    self._progress.write(_line({"task": task}))
        except OSError as error:
            name = error.filename or progress
            raise OutputError(f"cannot write {name}: {error.strerror}: name another output") from error

    def append(self, number: int, content: bytes) -> None:
        """Add to one of the files; it counts with the next `commit`."""
        view = memoryview(content)
        while view:  # an unbuffered write may take a part
            view = view[self._streams[number].write(view) :]

    def commit(self, *, failed: bool = False, state: Any = None) -> None:
        """A recording is finished.

        Args:
            failed: whether it has no answer.
            state: what going on needs to know; for JSON.
        """
        self.done += 1
        self.failed += failed
        self.state = state
        sizes = [stream.tell() for stream in self._streams]
        entry = {"done": self.done, "failed": self.failed, "sizes": sizes, "state": state}
        self._progress.write(_line(entry))

    def close(self) -> None:
        """Close the files; they can be gone on with."""
        for stream in (*self._streams, self._progress):
            stream.close()

    def finish(self) -> None:
        """Close the files and remove the progress file: nothing more is to come."""
        self.close()
        self._progress_file.unlink()

    def _read(self, files: Sequence[Path], task: Mapping[str, Any], sizes: list[int]) -> int:
        """Find the last recording that is finished, and how long the files were then.

        Returns:
            How much of the progress file holds; 0 where it says nothing.
        """
        there = [file.stat().st_size if file.is_file() else 0 for file in files]
        first = _entry(self._progress.readline())
        if first is None or "task" not in first:
            return 0
        output = str(self._progress_file).removesuffix(".progress")
        refuse_other_task(output, first["task"], json.loads(_line(task)))
        holds = self._progress.tell()
        while (entry := _entry(self._progress.readline())) is not None:
            # After a power cut a file may be shorter than was said of it.
            if any(length > size for length, size in zip(entry["sizes"], there, strict=True)):
                break
            holds = self._progress.tell()
            sizes[:] = entry["sizes"]
            self.done, self.failed, self.state = entry["done"], entry["failed"], entry["state"]
        return holds


@contextmanager
def _closing_on_error(journal: Journal) -> Iterator[None]:
    try:
        yield
    except BaseException:
        journal.close()
        raise


def _open(file: Path) -> BinaryIO:
    return file.open("r+b" if file.exists() else "w+b", buffering=0)


def _cut(stream: BinaryIO, size: int) -> None:
    """Let a file end at a size, and go on from there."""
    stream.truncate(size)
    stream.seek(size)


def _open_alone(file: Path) -> BinaryIO:
    """Open a file that no other process may have open in this way."""
    stream = _open(file)
    try:
        import fcntl
    except ImportError:  # Windows
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise OutputError(f"another process is at work on {file.with_suffix('')}: wait for its end") from None
    except OSError as error:  # some network drives have no locks
        logger.debug("%s is not locked: %s", file, error)
    return stream


def _line(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None at the end of the file, or where the line was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def refuse_other_task(output: str, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` with the differences where an output was begun as another task."""
    changed = [
        f"{name} was {_short(begun.get(name))} and is {_short(now.get(name))}"
        for name in dict.fromkeys([*begun, *now])
        if begun.get(name) != now.get(name)
    ]
    if changed:
        raise ConfigError(
            f"cannot resume {output}: {'; '.join(changed)}: resume with the same, or start anew with --force"
        )


def _short(value: Any) -> str:
    text = "not set" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:17]}...{text[-40:]}"  # paths differ at their ends
