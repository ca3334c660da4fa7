"""What rich draws: tables, styled lines, live bars. The one module that uses it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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

from crycli.progress import Step

PIPE_WIDTH = 10_000  # columns: no table in a pipe is folded or cut


class _Console(Console):
    """A console that shows text as it is, :baby: too, and leaves a broken pipe to the command line.

    rich would exit with code 1.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


_errors = _Console(stderr=True, soft_wrap=True)


def draw_line(line: str, style: str) -> None:
    """A styled line on standard error."""
    _errors.print(escape(line), style=style)


def terminal_width() -> int:
    """Columns of the terminal that standard output is."""
    return _Console(file=sys.stdout).width


def draw_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[str]) -> None:
    """See `console.table`."""
    terminal = sys.stdout.isatty()
    console = _Console(file=sys.stdout, width=None if terminal else PIPE_WIDTH)
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


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s" if speed < 100 else f"{speed:,.0f}/s", style="dim")


class Bars:
    """Live bars on standard error, and above them the rows of a growing table.

    Args:
        show_row: shows a row of the table.
    """

    def __init__(self, show_row: Callable[[Mapping[str, str]], None]) -> None:
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
        self._show_row = show_row

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, step: Step) -> None:
        """Take a report."""
        if step.row is not None:
            self._show_row(step.row)
            return
        task, done = self._tasks.get(step.name, (None, 0))
        if task is not None and step.done < done:  # the step begins anew
            self._progress.remove_task(task)
            task = None
        if task is None:
            task = self._progress.add_task(step.name, total=step.total, unit=step.unit, detail="")
        self._tasks[step.name] = (task, step.done)
        self._progress.update(task, completed=step.done, total=step.total, detail=escape(step.detail))
