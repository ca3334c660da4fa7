"""Recordings and folders that are not on this machine, by URL (s3://bucket/night.wav, gs://, https://), by fsspec.

Credentials, endpoints and proxies are found where the file system's own package looks for them, such as ~/.aws or
FSSPEC_S3_ENDPOINT_URL.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import urlsplit

from crycli.audio import SUFFIXES, Location
from crycli.errors import AudioError, ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters or more: C:// is a drive


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return URL.match(text) is not None


def find_recordings(url: str) -> list[str]:
    """The URLs of the recordings below a remote folder, by their suffix, sorted; of a file its own, whatever it is.

    Hidden files and folders are skipped. What ends in a slash is a folder; others over https are files, because it
    has no folders.

    Raises:
        ConfigError: the file system needs a package that is not installed.
        DataError: there is nothing, or no recording, or it is out of reach.
    """
    file_system, root = open_url(url)
    try:
        if not url.endswith("/") and file_system.isfile(root):
            return [url]
        below = file_system.find(root)
    except Exception as error:  # the file systems' exceptions share no base
        raise DataError(f"cannot list {url}: {_reason(error)}") from None
    folder, prefix = (name if name.endswith("/") else f"{name}/" for name in (root, url))
    names = sorted(path.removeprefix(folder) for path in below if path.startswith(folder))
    found = [prefix + name for name in names if _is_recording(PurePosixPath(name))]
    if not found:
        raise DataError(f"no recordings in {url}: it is empty, does not exist, or holds none that has a known suffix")
    return found


def _is_recording(name: PurePosixPath) -> bool:
    return name.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts)


@contextmanager
def local_copy(location: Location) -> Iterator[Path]:
    """The path of a recording; of a URL's, that of a temporary copy, which is removed afterwards.

    Raises:
        ConfigError: the file system needs a package that is not installed.
        AudioError: the recording cannot be fetched.
    """
    if isinstance(location, Path) or not is_url(location):
        yield Path(location)
        return
    file_system, path = open_url(location)
    if location.startswith("file://"):
        yield Path(path)
        return
    suffix = PurePosixPath(urlsplit(location).path).suffix  # FFmpeg takes it as a hint of the format
    with tempfile.TemporaryDirectory(prefix="crycli-") as folder:
        copy = Path(folder, "recording" + (suffix if suffix.lower() in SUFFIXES else ""))
        try:
            file_system.get_file(path, str(copy))
        except Exception as error:  # the file systems' exceptions share no base
            raise AudioError(f"cannot be fetched: {_reason(error)}") from None
        if not copy.is_file():
            raise AudioError("cannot be fetched: it is a folder")
        yield copy


class Folder:
    """A folder for output, here or at a URL; each file in it is whole or not there.

    Attributes:
        name: as it was given.

    Raises:
        ConfigError: the file system needs a package that is not installed.
        OutputError: while it is used: it cannot be read or written.
    """

    def __init__(self, name: str | Path) -> None:
        self.name = str(name)
        self._system, self._root = open_url(self.name)

    def names(self) -> set[str]:
        """The names in it, as they are now; none where it does not exist."""
        with self._told("read", self.name):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(self._root, detail=False)
            except FileNotFoundError:
                return set()
            if self._system.isfile(self._root):
                raise OutputError(f"{self.name} is a file and the output is a folder: name another output")
            return {PurePosixPath(path).name for path in found}

    def has(self, name: str) -> bool:
        """Whether a file is in it now."""
        with self._told("read", self.name):
            self._system.invalidate_cache()
            return bool(self._system.exists(self._path(name)))

    def create(self) -> None:
        """Create it and its parents."""
        with self._told("create", self.name):
            self._system.makedirs(self._root, exist_ok=True)

    def open(self, name: str) -> IO[bytes]:
        """Open a file to be read."""
        with self._told("read", self._path(name)):
            return cast("IO[bytes]", self._system.open(self._path(name), "rb"))

    def write(self, name: str, text: str) -> None:
        """Write a text file, in UTF-8."""
        with tempfile.TemporaryDirectory(prefix="crycli-") as folder:
            file = Path(folder, "file")
            file.write_text(text, encoding="utf-8")
            self.put(file, name)

    def put(self, file: Path, name: str) -> None:
        """Copy a file of this machine into it: under a temporary name, .NAME.XXXX.partial, and then renamed."""
        partial = self._path(f".{name}.{os.urandom(8).hex()}.partial")
        with self._told("write", f"{self.name}/{name}"):
            self._system.put_file(str(file), partial)
            self._system.mv(partial, self._path(name))

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._told("remove", f"{self.name}/{name}"):
            self._system.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _told(self, verb: str, what: str) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except Exception as error:  # the file systems' exceptions share no base
            raise OutputError(f"cannot {verb} {what}: {_reason(error)}") from None


def open_url(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL or of a local path, and the path within it.

    Raises:
        ConfigError: it needs a package that is not installed, or there is no such kind of file system.
    """
    scheme = url.partition("://")[0] if is_url(url) else "file"
    try:
        import fsspec
        from fsspec.core import url_to_fs

        if not is_url(url):
            return fsspec.filesystem("file"), os.path.abspath(url)
        file_system, path = url_to_fs(url)
    except ImportError as error:
        missing = error.name or getattr(error.__cause__, "name", None) or "another package"
        raise ConfigError(f"{scheme}:// needs {missing}: pip install {missing}, or crycli[remote]") from None
    except ValueError as error:  # what fsspec raises for a scheme that it does not know
        raise ConfigError(f"{url}: {_reason(error)}") from None
    return file_system, str(path)


def _reason(error: Exception) -> str:
    """One line on why a file system failed."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
