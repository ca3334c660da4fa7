"""What a person sees.

Results go to standard output; progress, notes, warnings and errors to standard error. Where standard error is no
terminal, progress is plain lines. rich is loaded only where it draws: that takes a tenth of the time of one prediction.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crycli.progress import OnStep, Step, silent

if TYPE_CHECKING:
    from crycli.predictions import Windows

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WORTH_A_LINE = 5.0
NARROWEST_CELL = 7  # characters


_quiet = False
_verbose = False

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


class _StyledHandler(logging.Handler):
    """Log records as lines on standard error, the level before warnings and errors."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelno
        prefix = f"{record.levelname.lower()}: " if level != logging.INFO else ""
        _say(f"{prefix}{record.getMessage()}", _STYLES.get(level, ""))


def _is_terminal() -> bool:
    """Whether rich draws on standard error; FORCE_COLOR makes it, as it does rich itself."""
    return sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))


def _say(line: str, style: str = "") -> None:
    """A line on standard error."""
    if _is_terminal():
        from crycli import drawing

        drawing.draw_line(line, style)
    else:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


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


def is_verbose() -> bool:
    """Whether what helps to find faults is shown."""
    return _verbose


def global_flags() -> list[str]:
    """The flags that `setup` was called for, as they stand before a command."""
    return [*(["-v"] if _verbose else []), *(["-q"] if _quiet else [])]


def trace() -> None:
    """The traceback of the exception being handled, where what helps to find faults is asked for."""
    if _verbose:
        _say(traceback.format_exc(), "dim")


def error(message: str) -> None:
    """One red line on standard error."""
    _say(f"error: {' '.join(message.split())}", "red")


def warning(message: str) -> None:
    """One yellow line on standard error."""
    _say(f"warning: {message}", "yellow")


def note(message: str, style: str = "") -> None:
    """A line on standard error, unless quiet."""
    if not _quiet:
        _say(message, style)


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
    from crycli import drawing

    drawing.draw_table(title, header, rows, numeric)


def timeline(windows: Windows, labels: Sequence[str], shown: Sequence[str]) -> list[str]:
    """The lines of a timeline as wide as the terminal; see `timeline.sparkline`."""
    from crycli import drawing
    from crycli.timeline import marks_for, sparkline

    return sparkline(windows, labels, drawing.terminal_width(), shown=shown, marks=marks_for(sys.stdout.encoding))


@contextmanager
def progress() -> Iterator[OnStep]:
    """Show progress while the block runs: bars on a terminal, plain lines elsewhere, nothing when quiet."""
    if _quiet:
        yield silent
    elif _is_terminal():
        from crycli import drawing

        with drawing.Bars(_Rows().show) as bars:
            yield bars.show
    else:
        yield _Lines().show


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
            _say(_line(step, elapsed))


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
        _say("  ".join(cells).rstrip(), style)


def _line(step: Step, seconds: float) -> str:
    count = f"{step.done:,}/{step.total:,}" if step.total is not None else f"{step.done:,}"
    parts = [f"{step.name}: {count} {step.unit}", f"{step.done / seconds:,.1f}/s"]
    if step.total is not None and 0 < step.done < step.total:
        parts.append(f"{seconds * (step.total - step.done) / step.done:,.0f} s left")
    return ", ".join([*parts, step.detail] if step.detail else parts)
