"""Probabilities over the time of a recording: numbers for a picture, and rows of text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from crycli.predictions import Windows

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-~=+*#"
"""From probability 0 to 1, where the output's encoding lacks `BLOCKS`."""

LONGEST_NAME = 24  # letters of a label
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
"""Seconds from one mark of the time to the next."""

NOT_PRINTED = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Course:
    """How probable each label is over time.

    Attributes:
        edges: (cells + 1,) seconds from the recording's start, ascending.
        probabilities: (cells, labels), of the time from an edge to the next one; NaN where no window lies.
    """

    edges: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]


def course(windows: Windows, most: int | None = None) -> Course:
    """The mean of the windows over every moment, as events are found in it.

    Args:
        windows: at least one.
        most: of more cells than this, so many equally long ones are made, with the largest values within.
    """
    starts, ends = np.round(windows.starts, 6), np.round(windows.ends, 6)  # the same moment is the same number
    edges = np.unique(np.concatenate([starts, ends]))
    first, last = np.searchsorted(edges, starts), np.searchsorted(edges, ends)
    changes = np.zeros((len(edges), windows.probabilities.shape[1] + 1))
    values = np.column_stack([windows.probabilities, np.ones(len(starts))])
    np.add.at(changes, first, values)
    np.subtract.at(changes, last, values)
    sums = changes.cumsum(axis=0)[:-1]
    count = np.round(sums[:, -1:])
    means = np.divide(sums[:, :-1], count, out=np.full_like(sums[:, :-1], np.nan), where=count > 0)
    found = Course(edges, np.clip(means, 0.0, 1.0))  # sums are off by 1e-11 after a day
    return found if most is None or len(means) <= most else columns(found, most)


def columns(of: Course, count: int) -> Course:
    """The largest values in each of so many equally long parts of the time; see `Course`."""
    edges = np.linspace(of.edges[0], of.edges[-1], count + 1)
    first = np.clip(np.searchsorted(of.edges, edges[:-1], "right") - 1, 0, len(of.probabilities) - 1)
    last = np.maximum(np.searchsorted(of.edges, edges[1:], "left"), first + 1)
    largest = [np.fmax.reduce(of.probabilities[start:end]) for start, end in zip(first, last, strict=True)]
    return Course(edges, np.array(largest))


def sparkline(
    windows: Windows, labels: Sequence[str], width: int, *, shown: Sequence[str] | None = None, marks: str = BLOCKS
) -> list[str]:
    """A timeline as text: a line for each label, whose marks are the largest probabilities, and a line with times.

    Args:
        windows: at least one.
        labels: of the classifier, in the order of the probabilities.
        width: columns of the terminal; no line is wider, unless it has fewer than about 40.
        shown: the labels that have a line; all where None.
        marks: from probability 0 to 1; see `marks_for`.
    """
    names = {label: printable(label) for label in (labels if shown is None else shown)}
    margin = max(map(columns_of, names.values()), default=0) + 2
    found = columns(course(windows), max(width - margin - len("  1.00"), 8))
    lines = []
    for label, name in names.items():
        values = found.probabilities[:, labels.index(label)]
        drawn = "".join(" " if np.isnan(value) else _mark(value, marks) for value in values)
        lines.append(f"{name}{' ' * (margin - columns_of(name))}{drawn}  {np.nanmax(values):.2f}")
    return [*lines, " " * margin + _times(found)]


def _mark(value: float, marks: str) -> str:
    return marks[min(int(value * len(marks)), len(marks) - 1)]


def _times(found: Course) -> str:
    """The times below the columns, each beginning where it stands for."""
    start, end, count = found.edges[0], found.edges[-1], len(found.probabilities)
    line = ""
    for moment in ticks(start, end, max(count // 12, 1)):
        column = round((moment - start) / (end - start) * count)
        text = clock(moment)
        if column >= len(line) + bool(line) and column + len(text) <= count + 6:
            line = line.ljust(column) + text
    return line


def marks_for(encoding: str | None) -> str:
    """`BLOCKS`, or `ASCII` where an output's encoding cannot write them."""
    try:
        BLOCKS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def ticks(start: float, end: float, most: int) -> list[float]:
    """Round times from `start` to `end`, seconds: about as many as fit, `most` + 1 at the very most."""
    step = next((step for step in STEPS if (end - start) / step <= most), None)
    if step is None:
        step = STEPS[-1] * np.ceil((end - start) / STEPS[-1] / most)
    first, last = np.ceil(start / step - 1e-9), np.floor(end / step + 1e-9)
    return [float(number * step) for number in np.arange(first, last + 1)]


def clock(seconds: float) -> str:
    """A time as h:mm:ss, with a tenth where it has one."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    text = f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{text}.{tenth}" if tenth else text


def printable(name: str, longest: int = LONGEST_NAME) -> str:
    """A name in one line of so many letters at most, which every picture and every terminal can hold."""
    line = " ".join(NOT_PRINTED.sub("\ufffd", name).split())
    if columns_of(line) <= longest:
        return line
    while columns_of(line) >= longest:
        line = line[:-1]
    return line.rstrip() + "…"


def columns_of(line: str) -> int:
    """The width of a text in letters: a Chinese or Japanese sign is as wide as two."""
    return sum(2 if east_asian_width(letter) in "FW" else 1 for letter in line)
