"""What is written of an answer: rows for recordings, windows or events, and the forms that rows take."""

from __future__ import annotations

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from crycli.audio import Location
from crycli.errors import ConfigError, OutputError
from crycli.events import Event, EventPolicy, find_events
from crycli.outputs import csv_line
from crycli.predictions import UNSURE, Prediction, Row, cell_text, columns, path_text, places

if TYPE_CHECKING:
    import pyarrow

Kind = Literal["recordings", "windows", "events"]
Form = Literal["csv", "jsonl", "audacity", "raven", "parquet"]
Sort = Literal["input", "path", "label", "confidence"]

ENDINGS: dict[str, Form] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".selections.txt": "raven",
    ".txt": "audacity",
}
"""Endings of file names; all others are csv."""

TEXT_COLUMNS = frozenset({"path", "label", "error"})
EVENT_COLUMNS = ("path", "start", "end", "label", "peak", "peak_at", "confidence", "error")
RANK_COLUMNS = ("path", "start", "end", "rank", "label", "confidence", "error")
RAVEN_COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Begin Path", "Begin File", "File Offset (s)", "Label", "Peak"),
)
NAMED_COLUMNS = 3  # of those that differ
ROWS_AT_ONCE = 10_000  # of parquet, in memory; about 5 MB with ten labels


def form_of(path: Path) -> Form:
    """The form that a file's name asks for."""
    name = path.name.lower()
    return next((form for ending, form in ENDINGS.items() if name.endswith(ending)), "csv")


@dataclass(frozen=True)
class Layout:
    """What the rows of an output are.

    Attributes:
        kind: what a row stands for.
        labels: of the classifier, in the order of the probabilities.
        top_k: a row for each of so many likeliest labels, as they are, whatever the confidence; None: one row, with a
            column for each label. Events have one label each, and take no notice.
        unsure_below: the confidence below which the label of a window is `UNSURE`; recordings have it already.
        events: what counts as an event; needed for rows of the kind "events".
    """

    kind: Kind
    labels: tuple[str, ...]
    top_k: int | None = None
    unsure_below: float = 0.0
    events: EventPolicy | None = None

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in their order."""
        if self.kind == "events":
            return list(EVENT_COLUMNS)
        return columns(self.labels) if self.top_k is None else list(RANK_COLUMNS)

    def rows(self, prediction: Prediction) -> Iterator[Row]:
        """The rows for an answer; one with its error for a recording that could not be read.

        Seconds are rounded to the millisecond, probabilities to six places.
        """
        path = prediction.path
        if prediction.error or prediction.start is None or prediction.end is None:
            yield {**_empty(self.columns), "path": path_text(path), "error": prediction.error}
        elif self.kind == "events":
            if self.events is None or prediction.windows is None:
                raise ValueError("rows for events need an EventPolicy, and windows in the prediction")
            for event in find_events(prediction.windows, self.labels, self.events):
                yield self.event_row(path, event)
        elif self.kind == "windows":
            if prediction.windows is None:
                raise ValueError("rows for windows need windows in the prediction")
            windows = prediction.windows
            for start, end, probabilities in zip(windows.starts, windows.ends, windows.probabilities, strict=True):
                yield from self.window_rows(path, float(start), float(end), probabilities)
        else:
            yield from self._answer_rows(
                path, prediction.start, prediction.end, prediction.label, np.asarray(prediction.probabilities)
            )

    def window_rows(
        self, path: Location, start: float, end: float, probabilities: npt.NDArray[np.floating]
    ) -> Iterator[Row]:
        """The rows for one window; (labels,) probabilities. One row, or `top_k`."""
        best = int(probabilities.argmax())
        label = self.labels[best] if probabilities[best] >= self.unsure_below else UNSURE
        return self._answer_rows(path, start, end, label, probabilities)

    def event_row(self, path: Location, event: Event) -> Row:
        """The row for one event."""
        return _rounded(
            {
                "path": path_text(path),
                "start": event.start,
                "end": event.end,
                "label": event.label,
                "peak": event.peak,
                "peak_at": event.peak_at,
                "confidence": event.confidence,
                "error": "",
            }
        )

    def _answer_rows(
        self, path: Location, start: float, end: float, label: str, probabilities: npt.NDArray[np.floating]
    ) -> Iterator[Row]:
        row: Row = {"path": path_text(path), "start": start, "end": end, "error": ""}
        if self.top_k is None:
            row |= {"label": label, "confidence": float(probabilities.max())}
            row |= {f"p_{name}": float(value) for name, value in zip(self.labels, probabilities, strict=True)}
            yield _rounded({name: row[name] for name in self.columns})
            return
        order = np.argsort(-probabilities, kind="stable")[: self.top_k]
        for rank, index in enumerate(order.tolist(), start=1):
            row |= {"rank": rank, "label": self.labels[index], "confidence": float(probabilities[index])}
            yield _rounded({name: row[name] for name in RANK_COLUMNS})


def _empty(names: Iterable[str]) -> Row:
    return {name: "" if name in TEXT_COLUMNS else None for name in names}


def _rounded(row: Row) -> Row:
    return {name: round(value, places(name)) if isinstance(value, float) else value for name, value in row.items()}


class TextForm(ABC):
    """Rows as text that can be appended to a file.

    Attributes:
        header: stands once, before the first row.
        state: what the next rows depend on, for JSON; given to the next one after an interruption.
    """

    header: str = ""

    def __init__(self, state: list[Any] | None = None) -> None:
        self.state = state or []

    @abstractmethod
    def lines(self, rows: Iterable[Row], until: float | None = None) -> Iterator[str]:
        """Rows of one recording, each with its line feed; `until` is where its answer ends, in seconds."""


class CsvText(TextForm):
    """CSV with a header (RFC 4180, with line feeds)."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names
        self.header = csv_line(names)

    def lines(self, rows: Iterable[Row], until: float | None = None) -> Iterator[str]:
        """See `TextForm`."""
        for row in rows:
            yield csv_line([cell_text(name, row[name]) for name in self._names])


class JsonLines(TextForm):
    """A JSON object each line."""

    def lines(self, rows: Iterable[Row], until: float | None = None) -> Iterator[str]:
        """See `TextForm`."""
        for row in rows:
            yield json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


class AudacityLabels(TextForm):
    """A label track of Audacity: start, end and label with tabs between, in seconds with six places, no header.

    What could not be read has no line.
    """

    def lines(self, rows: Iterable[Row], until: float | None = None) -> Iterator[str]:
        """See `TextForm`."""
        for row in rows:
            if row["start"] is not None:
                yield f"{row['start']:.6f}\t{row['end']:.6f}\t{_one_line(row['label'])}\n"


class RavenSelections(TextForm):
    """A selection table of Raven Pro; what could not be read has no line.

    The first seven columns are those that Raven asks for. Where a table names several files, Raven opens them as one
    sequence, in which Begin Time counts from the start of the first file and File Offset from that of its own file;
    files without a selection are not part of it. Where only excerpts of a file were answered, it is taken to end where
    the last of them does.

    Args:
        high_hertz: of every selection: half the rate of what the classifier hears.
        state: see `TextForm`: selections so far, seconds of the files before, the file, its seconds so far.
    """

    header = "\t".join(RAVEN_COLUMNS) + "\n"

    def __init__(self, high_hertz: float, state: list[Any] | None = None) -> None:
        super().__init__(state or [0, 0.0, "", 0.0])
        self._high = f"{high_hertz:.1f}"

    def lines(self, rows: Iterable[Row], until: float | None = None) -> Iterator[str]:
        """See `TextForm`."""
        for row in rows:
            if row["start"] is None or row["end"] is None:
                continue
            number, before, path, seconds = self.state
            if row["path"] != path:
                before, path, seconds = before + seconds, row["path"], 0.0
            start, end = float(row["start"]), float(row["end"])
            self.state = [number + 1, before, path, max(seconds, end, until or 0.0)]
            peak = row.get("peak", row.get("confidence"))
            cells = (
                *(str(number + 1), "Spectrogram 1", "1", f"{before + start:.6f}", f"{before + end:.6f}"),
                *("0.0", self._high, path_cell("raven", path)),
                *(_one_line(os.path.basename(path)), f"{start:.6f}", _one_line(row["label"]), cell_text("peak", peak)),
            )
            yield "\t".join(cells) + "\n"


def _one_line(text: str | float | None) -> str:
    return " ".join(str(text).split())


def text_form(form: Form, layout: Layout, sample_rate: int, state: list[Any] | None = None) -> TextForm:
    """How rows become text.

    Args:
        form: any but parquet.
        layout: what the rows are.
        sample_rate: Hz, of what the classifier hears.
        state: of the `TextForm` that is gone on from.
    """
    if form == "csv":
        return CsvText(layout.columns)
    if form == "jsonl":
        return JsonLines()
    return AudacityLabels() if form == "audacity" else RavenSelections(sample_rate / 2, state)


def require_pyarrow() -> None:
    """Raise `ConfigError` where parquet cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError("parquet needs pyarrow, which is not installed: pip install pyarrow") from None


def write_parquet(target: Path | IO[bytes], names: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows as parquet, in memory that does not grow with their number.

    Text columns are strings, rank is an integer, all others are doubles, null where there is no value.

    Args:
        target: a file, or one that is open.
        names: the columns.
        rows: each with all columns.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    require_pyarrow()
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, _parquet_type(name)) for name in names])
    waiting = iter(rows)
    with pyarrow.parquet.ParquetWriter(target, schema) as writer:
        while batch := list(islice(waiting, ROWS_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def _parquet_type(name: str) -> pyarrow.DataType:
    import pyarrow

    if name in TEXT_COLUMNS:
        return pyarrow.string()
    return pyarrow.int64() if name == "rank" else pyarrow.float64()


@contextmanager
def reading_back(file: Path) -> Iterator[None]:
    """Raise `OutputError` where a finished file turns out to be damaged, or another one."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, TypeError, csv.Error, BadZipFile) as error:
        raise OutputError(f"{file} is not what was written, and cannot be read: make it anew with --force") from error


def refuse_other_columns(file: Path, form: Form, names: Sequence[str]) -> None:
    """Raise where a finished file has other columns than rows have.

    Raises:
        ConfigError: it does; the message shows the difference.
        OutputError: it is damaged.
    """
    wanted = RAVEN_COLUMNS if form == "raven" else names
    with reading_back(file):
        there = _columns(file, form)
    if there is None or there == list(wanted):
        return
    lacks, has = set(wanted).difference(there), set(there).difference(wanted)
    named = (("lacks", lacks), ("has", has))
    differences = [f"{what} {', '.join(sorted(some)[:NAMED_COLUMNS])}" for what, some in named if some]
    raise ConfigError(
        f"cannot resume {file}: it is finished, and has other columns than this task "
        f"({' and '.join(differences) or 'another order'}): name another output, or start anew with --force"
    )


def _columns(file: Path, form: Form) -> list[str] | None:
    """The columns of a finished file; None where it does not name them."""
    if form == "parquet":
        require_pyarrow()
        import pyarrow.parquet

        return list(pyarrow.parquet.ParquetFile(file).schema_arrow.names)
    with file.open(encoding="utf-8", newline="") as stream:
        if form == "csv":
            return next(csv.reader(stream), [])
        first = stream.readline()
    if form == "raven":
        return first.rstrip("\n").split("\t")
    if form == "jsonl":
        return list(json.loads(first)) if first else None
    if first:
        start, end, _ = first.split("\t")
        float(start), float(end)
    return None


def read_outcomes(file: Path, form: Form) -> tuple[set[str], int]:
    """Of a finished file: the recordings that it has rows of, and how many rows say why there is no answer.

    The paths are as `path_cell` gives them. Audacity's rows name no recordings, and Raven's never say why.

    Raises:
        OutputError: the file is damaged.
    """
    paths: set[str] = set()
    failed = 0
    with reading_back(file):
        for path, error in _outcomes(file, form):
            paths.add(path)
            failed += bool(error)
    return paths, failed


def _outcomes(file: Path, form: Form) -> Iterator[tuple[str, str]]:
    """The path and the error of each row."""
    if form == "parquet":
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(columns=["path", "error"]):
            yield from zip(batch["path"].to_pylist(), batch["error"].to_pylist(), strict=True)
        return
    with file.open(encoding="utf-8", newline="") as stream:
        if form == "csv":
            for row in csv.DictReader(stream):
                yield row["path"], row["error"]
        elif form == "jsonl":
            for line in stream:
                row = json.loads(line)
                yield row["path"], row["error"]
        elif form == "raven":
            for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
                yield row["Begin Path"], ""


def path_cell(form: Form, path: str) -> str:
    """How the rows of a form name a recording."""
    if form != "raven":
        return path
    return _one_line(path if "://" in path else os.path.abspath(path))


def sort_rows(rows: Iterable[Row], sort: Sort) -> list[Row]:
    """Rows in the order of `sorted_rows`."""
    return list(rows) if sort == "input" else sorted(rows, key=lambda row: _sort_key(row, sort))


def sorted_rows(file: Path, sort: Sort) -> Iterator[Row]:
    """The rows of a file of JSON lines in an order: by text, the surest first; equals as they stand, errors last.

    Only what is sorted by is held in memory.
    """
    with file.open("rb") as stream:
        if sort == "input":
            for line in stream:
                yield json.loads(line)
            return
        keys: list[tuple[Any, int]] = []
        offset = 0
        for line in stream:
            keys.append((_sort_key(json.loads(line), sort), offset))
            offset += len(line)
        keys.sort()
        for _, offset in keys:
            stream.seek(offset)
            yield json.loads(stream.readline())


def _sort_key(row: Row, sort: Sort) -> Any:
    if sort == "confidence":
        confidence = row["confidence"]
        return np.inf if confidence is None else -float(confidence)
    return (bool(row["error"]) and sort == "label", row[sort])
