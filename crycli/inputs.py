"""What `crycli predict` is to answer for: files, folders, lists of recordings, addresses of remote ones."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from crycli import audio, remote
from crycli.audio import Excerpt, Location
from crycli.errors import DataError
from crycli.manifest import PATH_COLUMNS, read_times, separator_of

STANDARD_INPUT = "-"


def find_inputs(names: Iterable[str | Path]) -> list[Excerpt]:
    """The recordings that are meant.

    A file is taken as it is, whatever it is called. Of a folder, here or at a URL (s3://bucket/nights), the recordings
    below it are taken. A CSV lists recordings in a column path, and the part of each in start and end (seconds).

    Raises:
        DataError: a path does not exist, a folder holds no recordings, or a CSV is damaged.
    """
    found: list[Excerpt] = []
    for name in names:
        if isinstance(name, str) and remote.is_url(name):
            found += map(Excerpt, remote.find_recordings(name))
            continue
        path = Path(name)
        if path.is_dir():
            below = list(audio.find_recordings(path))
            if not below:
                raise audio.no_recordings(path)
            found += map(Excerpt, below)
        elif not path.exists():
            raise DataError(f"no such file or folder: {path}")
        elif path.suffix.lower() == ".csv":
            found += _read_list(path)
        else:
            found.append(Excerpt(path))
    return found


def _read_list(file: Path) -> list[Excerpt]:
    """The recordings that a CSV lists; read without pandas, which a machine that only predicts need not have."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            rows = csv.DictReader(chain([header], stream), delimiter=separator_of(header))
            column = next((name for name in PATH_COLUMNS if name in (rows.fieldnames or ())), None)
            if column is None:
                raise DataError(f"{file} has no column path; it has {', '.join(rows.fieldnames or ()) or 'nothing'}")
            found = [_excerpt(row, column, file, line) for line, row in enumerate(rows, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file} as CSV: {str(error).splitlines()[0]}") from None
    if not found:
        raise DataError(f"{file} lists no recordings")
    return found


def _excerpt(row: dict[str, str], column: str, file: Path, line: int) -> Excerpt:
    where = f"{file}, row {line}"
    if not row[column]:
        raise DataError(f"{where}: the {column} is empty")
    start, end, _ = read_times({name: cell or "" for name, cell in row.items() if name}, where)
    location: Location = row[column] if remote.is_url(row[column]) else file.parent / row[column]
    return Excerpt(location, start, end)
