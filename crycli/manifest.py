"""Manifests: the CSVs that say which recordings make up a part of the data. No audio is read here."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crycli.errors import DataError
from crycli.outputs import csv_line, write_text

PARTS = ("train", "validation", "test")
COLUMNS = ("path", "label", "group", "duration", "sample_rate")


@dataclass(frozen=True)
class Clip:
    """A labelled recording.

    Attributes:
        path: where it is.
        label: what is heard in it.
        group: what it shares with other clips and must not share across parts: the baby, the phone, the source.
        duration: seconds; None where the manifest does not say.
        sample_rate: Hz; None where the manifest does not say.
    """

    path: Path
    label: str
    group: str
    duration: float | None = None
    sample_rate: int | None = None


def write_manifest(file: Path, clips: Iterable[Clip]) -> None:
    """Write clips as CSV; paths below the CSV's folder become relative, so that a moved dataset works."""
    rows = [
        {
            "path": stored_path(clip.path, file.parent),
            "label": clip.label,
            "group": clip.group,
            "duration": "" if clip.duration is None else f"{clip.duration:.3f}",
            "sample_rate": "" if clip.sample_rate is None else str(clip.sample_rate),
        }
        for clip in clips
    ]
    write_rows(file, COLUMNS, rows)


def write_rows(file: Path, columns: Iterable[str], rows: list[dict[str, str]]) -> None:
    """Write rows of text as CSV, whole or not at all."""
    names = list(columns)
    write_text(file, "".join([csv_line(names), *(csv_line([row[name] for name in names]) for row in rows)]))


def read_manifest(file: Path) -> list[Clip]:
    """Read the clips of a CSV. Only `path` and `label` are required; a clip without a group is one by itself.

    Raises:
        DataError: the file is missing, is no CSV, lacks a column, or has an empty or malformed cell.
    """
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # A row longer than the header would only be warned about, and its cells shifted or dropped.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Every cell is text: a label may be "NA" or "007".
            frame = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8", index_col=False)
    except FileNotFoundError:
        raise DataError(f"no {file}: make it with `crycli prepare`") from None
    except (
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        OSError,
    ) as error:
        raise DataError(f"cannot read {file} as CSV: {str(error).splitlines()[0]}") from None
    hint = ": save it with commas" if len(frame.columns) == 1 and ";" in frame.columns[0] else ""
    missing = [column for column in ("path", "label") if column not in frame.columns]
    if missing:
        raise DataError(
            f"{file} has no column {' and no column '.join(missing)}; it has {', '.join(frame.columns)}{hint}"
        )
    clips = []
    for line, row in enumerate(frame.to_dict("records"), start=2):
        where = f"{file}, row {line}"
        if not row["path"] or not row["label"]:
            raise DataError(f"{where}: the {'path' if not row['path'] else 'label'} is empty")
        clips.append(
            Clip(
                path=resolve_path(row["path"], file.parent),
                label=row["label"],
                group=row.get("group") or row["path"],
                duration=_number(row.get("duration", ""), f"{where}: duration"),
                sample_rate=_whole(_number(row.get("sample_rate", ""), f"{where}: sample_rate")),
            )
        )
    return clips


def stored_path(path: Path, folder: Path) -> str:
    """A recording's path as a manifest in `folder` stores it: relative below it, absolute otherwise."""
    path = Path(os.path.abspath(path))
    folder = Path(os.path.abspath(folder))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def resolve_path(stored: str, folder: Path) -> Path:
    """The inverse of `stored_path`."""
    return folder / stored


def _number(text: str, where: str) -> float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise DataError(f"{where} must be a number, not {text!r}")
    return value


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
