"""Where answers go: a stream, a file that an interrupted run goes on with, or a file beside each recording."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, TextIO

from crycli import __version__
from crycli.audio import SAMPLE_RATE, Excerpt, Location, as_excerpt
from crycli.errors import ConfigError, OutputError
from crycli.events import EventPolicy
from crycli.journal import Journal, is_name_too_long, replacing
from crycli.outputs import check_file, refuse_existing
from crycli.predictions import Prediction, Row, path_text, times_text
from crycli.tables import (
    Form,
    Layout,
    Sort,
    path_cell,
    read_outcomes,
    refuse_other_columns,
    require_pyarrow,
    sort_rows,
    sorted_rows,
    text_form,
    write_parquet,
)
from crycli.vectors import raw_vector, read_paths, vector_form, write_vectors

BESIDE_ENDINGS: dict[Form, str] = {
    "csv": ".crycli.csv",
    "jsonl": ".crycli.jsonl",
    "parquet": ".crycli.parquet",
    "audacity": ".crycli.txt",
    "raven": ".crycli.selections.txt",
}
WITHOUT_ERRORS: tuple[Form, ...] = ("audacity", "raven")
"""Forms that have no place for why a recording has no answer."""
LINES_AT_ONCE = 1_000  # a write takes 5 us, a line 0.2

logger = logging.getLogger(__name__)


class Results(ABC):
    """Where answers go, as a context manager; what an exception interrupts can be resumed.

    Attributes:
        remaining: the recordings that want an answer yet.
        failed: recordings without an answer, those of the interrupted run among them.
        finished: an earlier run has left nothing to do.
        rows_name_errors: each recording without an answer has a row that says why; else a warning says it.
    """

    remaining: Sequence[Location | Excerpt]
    failed: int = 0
    finished: bool = False
    rows_name_errors: bool = True

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...

    @abstractmethod
    def write(self, prediction: Prediction) -> None:
        """Take the answer for the next of the remaining recordings."""


def open_results(
    recordings: Sequence[Location | Excerpt],
    layout: Layout,
    form: Form,
    output: Path | TextIO | Literal["beside"] | None,
    *,
    embeddings: Path | None = None,
    sort: Sort = "input",
    sample_rate: int = SAMPLE_RATE,
    task: Mapping[str, Any] | None = None,
    resume: bool = False,
    force: bool = False,
) -> Results:
    """Say where the answers go.

    Args:
        recordings: all that are answered for, in their order.
        layout: what the rows are.
        form: what the rows become.
        output: a file, which is appended to as answers come, or made at the end with parquet or `sort`; a stream;
            "beside": NAME.wav.crycli.csv (.jsonl ...) beside each recording that could be read; None: the vectors alone
            are written.
        embeddings: a file for the pooled vectors: .npz, .csv or .parquet.
        sort: the order of the rows: as they come, by text, or the surest first.
        sample_rate: Hz, of what the classifier hears.
        task: what must be the same for a run to be resumed, besides the recordings and the layout: the model, settings.
        resume: go on with what an interrupted run has left; the outcome is that of an uninterrupted one.
        force: replace what is there.

    Raises:
        ConfigError: this cannot be had together, pyarrow is missing, or a resumed run was begun as another task.
        OutputError: an output is there, or cannot be written.
    """
    if form in WITHOUT_ERRORS and sort != "input":
        raise ConfigError(f"predict.sort: the rows of {form} are in the order of time: leave it out")
    if form == "parquet" or (embeddings is not None and vector_form(embeddings) == "parquet"):
        require_pyarrow()
    if output == "beside":
        if embeddings is not None:
            raise ConfigError("--beside and --embeddings do not go together: give them in two runs")
        return BesideResults(recordings, layout, form, sample_rate=sample_rate, resume=resume, force=force)
    if form == "audacity" and len({str(as_excerpt(recording).path) for recording in recordings}) > 1:
        raise ConfigError(
            "predict.format: audacity labels do not name their recording, and there are several: write one file beside "
            "each with --beside"
        )
    stream = None if output is None or isinstance(output, Path) else output
    if stream is not None and form == "parquet":
        raise ConfigError("predict.format: parquet needs a file: name it with -o")
    rows = None
    if stream is not None:
        rows = StreamResults(recordings, layout, form, stream, sort=sort, sample_rate=sample_rate)
        if embeddings is None:
            return rows
    return FileResults(
        *(recordings, layout, form, output if isinstance(output, Path) else None),
        rows=rows,
        embeddings=embeddings,
        sort=sort,
        sample_rate=sample_rate,
        task=task,
        resume=resume,
        force=force,
    )


def describe_recordings(recordings: Sequence[Location | Excerpt]) -> dict[str, Any]:
    """How many recordings there are, and a digest of their paths, starts and ends in their order."""
    digest = hashlib.sha256()
    for excerpt in map(as_excerpt, recordings):
        digest.update((json.dumps([path_text(excerpt.path), excerpt.start, excerpt.end]) + "\n").encode())
    return {"recordings": len(recordings), "list of recordings": digest.hexdigest()[:16]}


def describe_layout(layout: Layout) -> dict[str, Any]:
    """What rows depend on, for JSON."""
    return {
        "rows": layout.kind,
        "labels": list(layout.labels),
        "top_k": layout.top_k,
        "threshold": layout.unsure_below,
        **(describe_events(layout.events) if layout.events is not None and layout.kind == "events" else {}),
    }


def describe_events(policy: EventPolicy) -> dict[str, Any]:
    """What events depend on, for JSON, by the names of the settings."""
    return {f"event_{name}": value for name, value in asdict(policy).items()}


def _tell(prediction: Prediction, form: Form) -> None:
    """Say what is wrong with a recording where the rows have no place for it."""
    if prediction.error and form in WITHOUT_ERRORS:
        logger.warning("%s: %s", path_text(prediction.path), prediction.error)


class StreamResults(Results):
    """Rows on a stream, each recording's as soon as it is answered; with `sort`, all in the end. See `Results`."""

    def __init__(
        self,
        recordings: Sequence[Location | Excerpt],
        layout: Layout,
        form: Form,
        stream: TextIO,
        *,
        sort: Sort = "input",
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        self.remaining = recordings
        self._layout = layout
        self._form: Form = form
        self.rows_name_errors = form not in WITHOUT_ERRORS
        self._text = text_form(form, layout, sample_rate)
        self._stream = stream
        self._sort: Sort = sort
        self._kept: list[Row] = []

    def __enter__(self) -> Self:
        self._stream.write(self._text.header)
        self._stream.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._kept:
            self._stream.writelines(self._text.lines(sort_rows(self._kept, self._sort)))
            self._stream.flush()

    def write(self, prediction: Prediction) -> None:
        """See `Results`."""
        self.failed += bool(prediction.error)
        _tell(prediction, self._form)
        self.write_rows(self._layout.rows(prediction), prediction.end)

    def write_rows(self, rows: Iterable[Row], until: float | None = None) -> None:
        """Write rows of one recording as they come; `until` is where its answer ends, in seconds."""
        if self._sort != "input":
            self._kept += rows
            return
        self._stream.writelines(self._text.lines(rows, until))
        self._stream.flush()


class FileResults(Results):
    """A file of rows, a file of pooled vectors, or both, through a `Journal`. See `Results`.

    FILE.progress stands beside an unfinished FILE. Text is appended to FILE itself; what can only be made of all rows
    grows in .FILE.partial, and is made at the end.
    """

    def __init__(
        self,
        recordings: Sequence[Location | Excerpt],
        layout: Layout,
        form: Form,
        output: Path | None,
        *,
        rows: StreamResults | None = None,
        embeddings: Path | None = None,
        sort: Sort = "input",
        sample_rate: int = SAMPLE_RATE,
        task: Mapping[str, Any] | None = None,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        targets = [path for path in (output, embeddings) if path is not None]
        self._layout = layout
        self._form: Form = form
        self.rows_name_errors = form not in WITHOUT_ERRORS
        self._output = output
        self._rows = rows  # what goes to a stream at the same time
        self._embeddings = embeddings
        self._sort: Sort = sort
        self._made_at_end = form == "parquet" or sort != "input"
        self._grows = [] if output is None else [_partial(output) if self._made_at_end else output]
        self._vector_files = [] if embeddings is None else [_partial(embeddings), _partial(embeddings, ".rows")]
        self.remaining = ()
        progress = _progress_file(targets)
        self.finished = resume and not progress.exists() and all(path.is_file() for path in targets)
        if self.finished:
            self.failed = self._check_finished([path_text(as_excerpt(recording).path) for recording in recordings])
            self._remove_partials()
            return
        refuse_taken(targets, resume=resume, force=force)
        whole_task = {**_describe(recordings, layout, form, sort, embeddings), **(task or {})}
        self._journal = Journal(progress, [*self._grows, *self._vector_files], whole_task, resume=resume)
        self.remaining = recordings[self._journal.done :]
        self.failed = self._journal.failed
        text_as: Form = "jsonl" if self._made_at_end else form
        self._text = text_form(text_as, layout, sample_rate, self._journal.state)

    def __enter__(self) -> Self:
        if self._grows and not self.finished and not self._journal.done:
            self._journal.append(0, self._text.header.encode())
        if self._rows is not None:
            self._rows.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._rows is not None:
            self._rows.__exit__(kind, *rest)
        if self.finished:
            return
        with closing(self._journal):
            if kind is not None:
                return
            if self._output is not None and self._made_at_end:
                with replacing(self._output) as temporary:
                    self._write_all(temporary)
            if self._embeddings is not None:
                with replacing(self._embeddings) as temporary:
                    write_vectors(temporary, vector_form(self._embeddings), *self._vector_files)
            self._journal.finish()
            self._remove_partials()

    def write(self, prediction: Prediction) -> None:
        """See `Results`."""
        if self._grows:
            _tell(prediction, self._form)
            for text in _chunks(self._text.lines(self._layout.rows(prediction), prediction.end)):
                self._journal.append(0, text.encode())
        if self._rows is not None:
            self._rows.write(prediction)
        if self._vector_files:
            for number, content in enumerate(raw_vector(prediction), start=len(self._grows)):
                self._journal.append(number, content)
        self._journal.commit(failed=bool(prediction.error), state=self._text.state)
        self.failed = self._journal.failed

    def _check_finished(self, paths: Sequence[str]) -> int:
        """Refuse what was made of other recordings or has other columns; gives how many have no answer."""
        failed = 0
        if self._output is not None:
            refuse_other_columns(self._output, self._form, self._layout.columns)
            there, failed = read_outcomes(self._output, self._form)
            wanted = [path_cell(self._form, path) for path in paths]
            each = self._layout.kind != "events" and self.rows_name_errors  # else there may be recordings without rows
            _refuse_others(self._output, there, wanted, each=each)
        if self._embeddings is not None:
            with_vector = read_paths(self._embeddings)
            _refuse_others(self._embeddings, set(with_vector), paths, each=False)
            failed = max(failed, len(paths) - len(with_vector))
        return failed

    def _write_all(self, file: Path) -> None:
        rows = sorted_rows(self._grows[0], self._sort)
        if self._form == "parquet":
            write_parquet(file, self._layout.columns, rows)
            return
        text = text_form(self._form, self._layout, SAMPLE_RATE)
        with file.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text.header)
            stream.writelines(text.lines(rows))

    def _remove_partials(self) -> None:
        for file in {*self._grows, *self._vector_files} - {self._output}:
            file.unlink(missing_ok=True)


def _refuse_others(file: Path, there: set[str], wanted: Sequence[str], *, each: bool) -> None:
    """Raise `ConfigError` where a finished file is of other recordings; with `each`, where it lacks one, too."""
    found = {
        "more": sorted(there.difference(wanted)),
        "missing": [path for path in wanted if path not in there] if each else [],
    }
    differences = [f"{len(paths):,} {what}, such as {paths[0]}" for what, paths in found.items() if paths]
    if differences:
        raise ConfigError(
            f"cannot resume {file}: it is finished, and of other recordings ({'; '.join(differences)}): "
            f"name another output, or start anew with --force"
        )


def _partial(file: Path, part: str = "") -> Path:
    return file.parent / f".{file.name}{part}.partial"


def _chunks(lines: Iterable[str]) -> Iterator[str]:
    """The same text in fewer pieces."""
    waiting: list[str] = []
    for line in lines:
        waiting.append(line)
        if len(waiting) == LINES_AT_ONCE:
            yield "".join(waiting)
            waiting = []
    yield "".join(waiting)


def _progress_file(targets: Sequence[Path]) -> Path:
    return targets[0].parent / f"{targets[0].name}.progress"


def refuse_taken(targets: Sequence[Path], *, resume: bool, force: bool) -> None:
    """Raise `OutputError` where an output is there and is not to be gone on with, or cannot be written."""
    progress = _progress_file(targets)
    for path in targets:
        if path.exists() and not path.is_file() and not path.is_dir():  # it could not be gone on with
            raise OutputError(f"{path} is a device or a pipe: leave -o out, and redirect standard output to it")
        going_on = resume and progress.exists()
        if progress.exists() and not going_on and not force:
            raise OutputError(f"{path} is unfinished: go on with --resume, or start anew with --force")
        check_file(path, force=force or going_on)


def _describe(
    recordings: Sequence[Location | Excerpt], layout: Layout, form: Form, sort: Sort, embeddings: Path | None
) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    return {
        "crycli": __version__,
        **describe_recordings(recordings),
        **describe_layout(layout),
        "format": form,
        "sort": sort,
        "embeddings": None if embeddings is None else os.path.abspath(embeddings),
    }


class BesideResults(Results):
    """A file beside each recording, written whole; what could not be read gets none. See `Results`."""

    rows_name_errors = False

    def __init__(
        self,
        recordings: Sequence[Location | Excerpt],
        layout: Layout,
        form: Form,
        *,
        sample_rate: int = SAMPLE_RATE,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        self._layout = layout
        self._form: Form = form
        self._sample_rate = sample_rate
        pairs: list[tuple[Location | Excerpt, Path]] = []
        for recording in recordings:
            file = _beside(recording, form)
            if is_name_too_long(file):
                self._fail(as_excerpt(recording).path, "nothing is written beside it: the name would be too long")
            elif resume and file.exists():
                refuse_other_columns(file, form, layout.columns)
            else:
                refuse_existing(file, force=force)
                pairs.append((recording, file))
        self.remaining = [recording for recording, _ in pairs]
        self.finished = resume and not pairs
        self._files = deque(file for _, file in pairs)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        pass  # each file is whole

    def write(self, prediction: Prediction) -> None:
        """See `Results`."""
        file = self._files.popleft()
        if prediction.error:
            self._fail(prediction.path, prediction.error)
            return
        rows = self._layout.rows(prediction)
        with replacing(file) as temporary:
            if self._form == "parquet":
                write_parquet(temporary, self._layout.columns, rows)
                return
            text = text_form(self._form, self._layout, self._sample_rate)
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                stream.write(text.header)
                stream.writelines(text.lines(rows, prediction.end))

    def _fail(self, path: Location, reason: str) -> None:
        self.failed += 1
        logger.warning("%s: %s", path_text(path), reason)


def _beside(recording: Location | Excerpt, form: Form) -> Path:
    """NAME.wav.crycli.csv; for an excerpt NAME.wav.1.000-2.500.crycli.csv."""
    excerpt = as_excerpt(recording)
    if "://" in str(excerpt.path):
        raise ConfigError(f"--beside: nothing can be written beside {excerpt.path}: name a file with -o")
    path = Path(excerpt.path)
    times = times_text(excerpt)
    return path.with_name(f"{path.name}{times and f'.{times}'}{BESIDE_ENDINGS[form]}")
