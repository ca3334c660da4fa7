"""Manifests: the CSVs that say which clips make up a part of the data. No audio is read here."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crycli.errors import DataError
from crycli.outputs import csv_line, settle, write_text

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "validation", "test")
PART_OF = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
"""What other people call the parts."""
PATH_COLUMNS = ("path", "file_name", "filename", "file")
"""The column with the recordings: crycli's own name for it, and what other tools and corpora call it."""
FLAG_SEPARATOR = "+"
SEPARATORS = (",", ";", "\t")  # that of the header; spreadsheets of some countries write semicolons


@dataclass(frozen=True, slots=True)
class Clip:
    """A labelled recording, or a window of one.

    What the manifest does not say is None, or empty.

    Attributes:
        path: where the recording is.
        label: what is heard in it.
        group: what it shares with other clips and must not share across parts: the baby, the phone, the source.
        corpus: the collection it comes from.
        start: seconds into the recording; None for a whole recording.
        end: seconds into the recording.
        fold: of a cross-validation, from 1.
        duration: seconds.
        sample_rate: Hz, as stored.
        channels: as stored.
        codec: as FFmpeg calls it, such as pcm_s16le or amrnb.
        loudness_db: RMS in dB of full scale.
        clipped_share: of the samples.
        silent_share: of the time.
        bandwidth_hz: the highest frequency at which something is heard.
        dc_offset: the mean of the samples; full scale is 1.
        flags: what is wrong with it, such as "quiet".
        extra: other columns, such as the age of the baby.
    """

    path: Path
    label: str
    group: str
    corpus: str = ""
    start: float | None = None
    end: float | None = None
    fold: int | None = None
    duration: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    codec: str = ""
    loudness_db: float | None = None
    clipped_share: float | None = None
    silent_share: float | None = None
    bandwidth_hz: float | None = None
    dc_offset: float | None = None
    flags: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def seconds(self) -> float | None:
        """How long it is, by its duration or else by its times; None where the manifest says neither."""
        if self.duration is None and self.start is not None and self.end is not None:
            return self.end - self.start
        return self.duration


COLUMNS = tuple(item.name for item in fields(Clip) if item.name != "extra")
DECIMALS = {
    "start": 3,
    "end": 3,
    "duration": 3,
    "loudness_db": 2,
    "clipped_share": 6,
    "silent_share": 4,
    "bandwidth_hz": 0,
    "dc_offset": 5,
}
NUMBERS = (
    "duration",
    "sample_rate",
    "channels",
    "loudness_db",
    "clipped_share",
    "silent_share",
    "bandwidth_hz",
    "dc_offset",
)
SIGNED = ("loudness_db", "dc_offset")


def write_manifest(file: Path, clips: Iterable[Clip]) -> None:
    """Write clips as CSV, whole or not at all; see `manifest_text`."""
    write_text(file, manifest_text(clips, file.parent))


def write_rows(file: Path, columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write rows of text as CSV, whole or not at all."""
    write_text(file, rows_text(columns, rows))


def manifest_text(clips: Iterable[Clip], folder: Path) -> str:
    """Clips as CSV for a file in `folder`; paths below it become relative, so that a moved dataset works."""
    clips = list(clips)
    extra = list(dict.fromkeys(name for clip in clips for name in clip.extra))
    return rows_text((*COLUMNS, *extra), (_to_row(clip, extra, folder) for clip in clips))


def _to_row(clip: Clip, extra: Iterable[str], folder: Path) -> dict[str, str]:
    row = {name: _cell(name, getattr(clip, name)) for name in COLUMNS}
    row["path"] = stored_path(clip.path, folder)
    return row | {name: clip.extra.get(name, "") for name in extra}


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "flags":
        return FLAG_SEPARATOR.join(value)
    return f"{value:.{DECIMALS[name]}f}" if name in DECIMALS else str(value)


def rows_text(columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Rows of text as CSV with a header."""
    names = list(columns)
    return "".join([csv_line(names), *(csv_line([row[name] for name in names]) for row in rows)])


def read_manifest(file: Path) -> list[Clip]:
    """Read the clips of a CSV. Only `path` and `label` are required; a clip without a group is one by itself.

    The paths may also stand in a column that is called file_name, filename or file. Columns that crycli does not
    know are kept in `extra`.

    Raises:
        DataError: the file is missing, is no CSV, lacks a column, or has an empty or malformed cell.
    """
    settle(file.parent)
    frame = read_table(file)
    column = path_column(file, frame)
    clips = []
    for line, row in enumerate(frame.to_dict("records"), start=2):
        cells = {str(name): str(cell) for name, cell in row.items()}
        clips.append(_to_clip(cells, column, file.parent, f"{file}, row {line}"))
    return clips


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV in which every cell is text.

    Raises:
        DataError: the file is missing or is no CSV.
    """
    import pandas as pd

    try:
        with file.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        with warnings.catch_warnings():
            # A row longer than the header would only be warned about, and its cells shifted or dropped.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Every cell is text: a label may be "NA" or "007".
            frame = pd.read_csv(
                file, sep=separator_of(header), dtype=str, keep_default_na=False, encoding="utf-8", index_col=False
            )
            return frame.rename(
                columns=lambda name: name.strip() if name.strip() in (*COLUMNS, *PATH_COLUMNS) else name
            )
    except FileNotFoundError:
        raise DataError(f"no {file}: make it with `crycli prepare`") from None
    except (
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        OSError,
    ) as error:
        hint = ": save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        if isinstance(error, pd.errors.ParserWarning):
            hint = ": a row has more cells than the header"
        raise DataError(f"cannot read {file} as CSV: {str(error).splitlines()[0]}{hint}") from None


def separator_of(header: str) -> str:
    """What stands between the cells of a CSV, by its first line."""
    return max(SEPARATORS, key=header.count)


def path_column(file: Path, frame: pd.DataFrame, others: Iterable[str] = ("label",)) -> str:
    """The name of the column with the paths.

    Raises:
        DataError: there is none, or one of the others is missing.
    """
    column = next((name for name in PATH_COLUMNS if name in frame.columns), None)
    missing = [*([] if column else ["path"]), *(name for name in others if name not in frame.columns)]
    if column is None or missing:
        raise DataError(f"{file} has no column {' and no column '.join(missing)}; it has {', '.join(frame.columns)}")
    return column


def read_times(row: Mapping[str, str], where: str) -> tuple[float | None, float | None, int | None]:
    """The start, the end and the fold in a row of a CSV.

    Raises:
        DataError: a cell is malformed; `where` names it.
    """
    start, end, fold = (_number(row.get(name, ""), f"{where}: {name}") for name in ("start", "end", "fold"))
    if (start is None) != (end is None) or (start is not None and end is not None and start >= end):
        raise DataError(f"{where}: start and end must both be empty, or the start come first")
    if fold is not None and (fold < 1 or fold != int(fold)):
        raise DataError(f"{where}: fold must be a whole number from 1, not {row['fold']!r}")
    return start, end, None if fold is None else int(fold)


def _to_clip(row: Mapping[str, str], column: str, folder: Path, where: str) -> Clip:
    for name in (column, "label"):
        if not row[name]:
            raise DataError(f"{where}: the {name} is empty")
    start, end, fold = read_times(row, where)
    numbers: dict[str, Any] = {
        name: _number(row.get(name, ""), f"{where}: {name}", signed=name in SIGNED) for name in NUMBERS
    }
    numbers |= {name: int(numbers[name]) for name in ("sample_rate", "channels") if numbers[name] is not None}
    return Clip(
        path=resolve_path(row[column], folder),
        label=row["label"],
        group=row.get("group") or row[column],
        corpus=row.get("corpus", ""),
        start=start,
        end=end,
        fold=fold,
        codec=row.get("codec", ""),
        flags=tuple(filter(None, row.get("flags", "").split(FLAG_SEPARATOR))),
        extra={name: cell for name, cell in row.items() if name not in COLUMNS and name != column},
        **numbers,
    )


def stored_path(path: Path, folder: Path) -> str:
    """A recording's path as a manifest in `folder` stores it: relative below it, absolute otherwise."""
    text = os.path.abspath(path)
    above = os.path.join(os.path.abspath(folder), "")  # as text: pathlib takes ten times as long
    return text[len(above) :].replace(os.sep, "/") if text.startswith(above) else text


def resolve_path(stored: str, folder: Path) -> Path:
    """The inverse of `stored_path`."""
    return folder / stored


def _number(text: str, where: str, *, signed: bool = False) -> float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (value < 0 and not signed):
        raise DataError(f"{where} must be a number, not {text!r}")
    return value
