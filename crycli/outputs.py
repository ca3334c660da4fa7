"""Output files and folders: claimed before the work starts, written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from crycli.errors import OutputError


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise `OutputError` where an output exists and may not be replaced.

    A folder that is there but empty is no hindrance. With `force`, a file in a folder's place still is.
    """
    if path.is_dir():
        # What an interrupted `write_together` has not finished is no hindrance.
        if not force and any(entry.name != f"{COMMIT}.partial" for entry in path.iterdir()):
            raise OutputError(f"{path} exists and is not empty: name another output, or replace it with --force")
    elif (path.exists() or path.is_symlink()) and not force:
        raise OutputError(f"{path} exists: name another output, or replace it with --force")


def claim_folder(path: Path, *, force: bool, owned: Iterable[str] = ()) -> Path:
    """Create an output folder.

    Args:
        path: the folder.
        force: replace what an earlier run left there.
        owned: the names inside that are removed then; other people's files stay.

    Raises:
        OutputError: it holds something and `force` is false, or it cannot be created or written.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file and the output is a folder: name another output")
    refuse_existing(path, force=force)
    make_folder(path)
    for name in owned:
        target = path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    return path


def make_folder(path: Path) -> None:
    """Create a folder and its parents, and make sure that it can be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {path}: {error.strerror}: name an output that can be written") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {path}: permission denied: name another output")


def check_file(path: Path, *, force: bool) -> None:
    """Raise `OutputError` where an output file exists and may not be replaced, or cannot be written."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder and the output is a file: name another output")
    refuse_existing(path, force=force)
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: permission denied: name another output")


def open_output(path: Path) -> TextIO:
    """Open a file for rows that are written as they come."""
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}: name another output") from error


def csv_line(cells: Sequence[str]) -> str:
    """A row of CSV with its line feed."""
    buffer = io.StringIO()
    # The csv module leaves a bare carriage return unquoted where it is not the line's end; readers then see two rows.
    odd = any("\r" in cell for cell in cells)
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL).writerow(cells)
    return buffer.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file so that an interruption leaves the old one or the new one, never half of one."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that an interruption leaves the old one or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write indented JSON; see `write_text` and `json_text`."""
    write_text(path, json_text(content))


def json_text(content: dict[str, Any] | list[Any]) -> str:
    """Indented JSON; NaN, which JSON does not have, is refused."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


COMMIT = ".crycli-commit"
"""A folder of finished files that only have to be moved one level up."""


def write_together(folder: Path, files: Mapping[str, str]) -> None:
    """Write text files into a folder so that an interruption leaves all the old ones or all the new ones.

    The files are written into a folder of their own, whose renaming is the moment at which they become the new ones;
    `settle` moves them into place, now or, after an interruption, when the folder is next used.
    """
    settle(folder)
    for name in files:
        if (folder / name).is_dir():
            raise OutputError(f"{folder / name} is a folder, and a file of that name is to be written: move it away")
    unfinished = folder / f"{COMMIT}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        for name, text in files.items():
            (unfinished / name).write_bytes(text.encode("utf-8"))
        unfinished.rename(folder / COMMIT)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    settle(folder)


def settle(folder: Path) -> None:
    """Finish what an interrupted `write_together` had decided; most often there is nothing to do.

    Two processes may do it at once.
    """
    committed = folder / COMMIT
    if not committed.is_dir():
        return
    with suppress(FileNotFoundError):
        for file in sorted(committed.iterdir()):
            with suppress(FileNotFoundError):
                file.replace(folder / file.name)
        committed.rmdir()
