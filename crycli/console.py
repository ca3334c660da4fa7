"""What a person sees: the one module that uses rich.

Results go to standard output; progress, notes, warnings and errors to standard error. Where standard error is no
terminal, progress is plain lines.
"""

from __future__ import annotations

import io
import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from crycli.progress import OnStep, Step, silent

if TYPE_CHECKING:
    from crycli.predictions import Windows

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WORTH_A_LINE = 5.0
NARROWEST_CELL = 7  # characters
PIPE_WIDTH = 10_000  # columns: no table in a pipe is folded or cut


class _Console(Console):
    """A console that leaves a broken pipe to the command line; rich would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


_errors = _Console(stderr=True, highlight=False, soft_wrap=True)
_quiet = False
_verbose = False

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


class _StyledHandler(logging.Handler):
    """Log records as lines on standard error, the level before warnings and errors."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelno
        prefix = f"{record.levelname.lower()}: " if level != logging.INFO else ""
        _errors.print(escape(f"{prefix}{record.getMessage()}"), style=_STYLES.get(level, ""))


def setup(*, verbose: bool = False, quiet: bool = False) -> None:
    """Choose what is shown: with `quiet` warnings, errors and results alone, with `verbose` more."""
    global _quiet, _verbose
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold bytes that are no text
    _quiet, _verbose = quiet, verbose
    logger = logging.getLogger("crycli")
    logger.handlers = [_StyledHandler()]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def is_quiet() -> bool:
    """Whether summaries are to be left out."""
    return _quiet


def global_flags() -> list[str]:
    """The flags before the command that `setup` was called for."""
    return [*(["-v"] if _verbose else []), *(["-q"] if _quiet else [])]


def trace() -> None:
    """The traceback of the exception being handled, where what helps to find faults is asked for."""
    if _verbose:
        _errors.print(escape(traceback.format_exc()), style="dim")


def error(message: str) -> None:
    """One red line on standard error."""
    _errors.print(escape(f"error: {' '.join(message.split())}"), style="red")


def warning(message: str) -> None:
    """One yellow line on standard error."""
    _errors.print(escape(f"warning: {message}"), style="yellow")


def note(message: str, style: str = "") -> None:
    """A line on standard error, unless quiet."""
    if not _quiet:
        _errors.print(escape(message), style=style)


def result(text: str) -> None:
    """Text on standard output as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[str] = ()) -> None:
    """A table on standard output: drawn on a terminal, plain aligned columns in a pipe.

    Args:
        title: a line above it.
        header: column names.
        rows: cells.
        numeric: the columns that are aligned to the right.
    """
    terminal = sys.stdout.isatty()
    console = _Console(file=sys.stdout, highlight=False, width=None if terminal else PIPE_WIDTH)
    drawn = Table(
        box=SIMPLE_HEAD if terminal else None,
        pad_edge=False,
        header_style="bold",
        show_header=any(header),
    )
    console.print(escape(title), style="bold")
    for name in header:
        drawn.add_column(escape(name), justify="right" if name in numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(escape, row))
    console.print(drawn)


def timeline(windows: Windows, labels: Sequence[str], shown: Sequence[str]) -> list[str]:
    """The lines of a timeline as wide as the terminal; see `timeline.sparkline`."""
    from crycli.timeline import marks_for, sparkline

    width = _Console(file=sys.stdout).width
    return sparkline(windows, labels, width, shown=shown, marks=marks_for(sys.stdout.encoding))


@contextmanager
def progress() -> Iterator[OnStep]:
    """Show progress while the block runs: bars on a terminal, plain lines elsewhere, nothing when quiet."""
    if _quiet:
        yield silent
    elif _errors.is_terminal:
        with _Bars() as bars:
            yield bars.show
    else:
        yield _Lines().show


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s" if speed < 100 else f"{speed:,.0f}/s", style="dim")


class _Bars:
    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Rate(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[detail]}", style="dim"),
            console=_errors,
            transient=True,
        )
        self._tasks: dict[str, tuple[TaskID, int]] = {}
        self._rows = _Rows()

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, step: Step) -> None:
        if step.row is not None:
            self._rows.show(step.row)
            return
        task, done = self._tasks.get(step.name, (None, 0))
        if task is not None and step.done < done:  # the step begins anew
            self._progress.remove_task(task)
            task = None
        if task is None:
            task = self._progress.add_task(step.name, total=step.total, unit=step.unit, detail="")
        self._tasks[step.name] = (task, step.done)
        self._progress.update(task, completed=step.done, total=step.total, detail=escape(step.detail))


class _Lines:
    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._shown: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._rows = _Rows()

    def show(self, step: Step) -> None:
        if step.row is not None:
            self._rows.show(step.row)
            return
        now = time.monotonic()
        if step.name not in self._started or step.done < self._done[step.name]:
            self._started[step.name] = self._shown[step.name] = now
        self._done[step.name] = step.done
        elapsed = now - self._started[step.name]
        finished = step.done == step.total
        if (finished and elapsed > SECONDS_WORTH_A_LINE) or now - self._shown[step.name] > SECONDS_BETWEEN_LINES:
            self._shown[step.name] = now
            _errors.print(escape(_line(step, elapsed)))


class _Rows:
    """A table that grows: its header once, then a line for each row, above the live bars where there are any."""

    def __init__(self) -> None:
        self._header: tuple[str, ...] = ()

    def show(self, row: Mapping[str, str]) -> None:
        if tuple(row) != self._header:
            self._header = tuple(row)
            self._print({name: name for name in row}, "bold")
        self._print(row, "")

    def _print(self, row: Mapping[str, str], style: str) -> None:
        cells = [f"{cell:>{max(len(name), NARROWEST_CELL)}}" if name else cell for name, cell in row.items()]
        _errors.print(escape("  ".join(cells).rstrip()), style=style)


def _line(step: Step, seconds: float) -> str:
    count = f"{step.done:,}/{step.total:,}" if step.total is not None else f"{step.done:,}"
    parts = [f"{step.name}: {count} {step.unit}", f"{step.done / seconds:,.1f}/s"]
    if step.total is not None and 0 < step.done < step.total:
        parts.append(f"{seconds * (step.total - step.done) / step.done:,.0f} s left")
    return ", ".join([*parts, step.detail] if step.detail else parts)
