"""The answer for a recording, and how answers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crycli.audio import Excerpt, Location

COLUMNS = ("path", "start", "end", "label", "confidence", "error")
TIME_COLUMNS = frozenset({"start", "end", "peak_at"})  # s

Row = dict[str, str | float | None]
"""Column to value; None where there is none."""

UNSURE = "unsure"
"""The answer where the confidence is below the threshold that the configuration asks for."""


@dataclass(frozen=True)
class Windows:
    """The answers for the windows of a recording, in the order of their starts.

    Attributes:
        starts: (windows,) seconds from the recording's start.
        ends: (windows,) seconds.
        probabilities: (windows, labels).
    """

    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording.

    Attributes:
        path: the recording, a file or a URL.
        start: seconds, where the answer begins to apply; None where the recording could not be read.
        end: seconds, where it ends; None where the recording could not be read.
        label: the likeliest label, or `UNSURE`; empty where the recording could not be read.
        confidence: the probability of the likeliest label; None where the recording could not be read.
        probabilities: one for each of the classifier's labels, summing to 1; empty where there is no answer.
        error: why there is no answer; empty where there is one.
        uncalibrated: the probabilities at a temperature of 1.
        digest: of the samples at the classifier's rate, where asked for; the same sound has the same one.
        windows: the answers that the probabilities are made of; None where the recording could not be read.
        embedding: (hidden,), the mean of the windows' pooled vectors, where asked for.
    """

    path: Location
    start: float | None = None
    end: float | None = None
    label: str = ""
    confidence: float | None = None
    probabilities: tuple[float, ...] = ()
    error: str = ""
    uncalibrated: tuple[float, ...] = ()
    digest: str = ""
    windows: Windows | None = field(default=None, compare=False, repr=False)
    embedding: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


def columns(labels: Sequence[str]) -> list[str]:
    """The column names: the fixed ones, and p_LABEL for each label."""
    return [*COLUMNS, *(f"p_{label}" for label in labels)]


def path_text(path: Location) -> str:
    """A path or URL as text; what is no UTF-8 in a file's name is escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def times_text(excerpt: Excerpt) -> str:
    """START-END in seconds to the millisecond, without END where it is that of the recording; empty for the whole."""
    if excerpt.start is None and excerpt.end is None:
        return ""
    end = "" if excerpt.end is None else f"{excerpt.end:.3f}"
    return f"{excerpt.start or 0.0:.3f}-{end}"


def to_row(prediction: Prediction, labels: Sequence[str]) -> dict[str, str]:
    """A prediction as text: seconds to the millisecond, probabilities to six places, empty where there is no answer."""
    probabilities = prediction.probabilities or [None] * len(labels)
    row: Row = {
        "path": path_text(prediction.path),
        "start": prediction.start,
        "end": prediction.end,
        "label": prediction.label,
        "confidence": prediction.confidence,
        "error": prediction.error,
        **{f"p_{label}": value for label, value in zip(labels, probabilities, strict=True)},
    }
    return {name: cell_text(name, value) for name, value in row.items()}


def places(column: str) -> int:
    """The decimal places that a column's numbers are written with: seconds to the millisecond, all else to six."""
    return 3 if column in TIME_COLUMNS else 6


def cell_text(column: str, value: str | float | None) -> str:
    """A cell as text; empty where there is no value."""
    if value is None:
        return ""
    return f"{value:.{places(column)}f}" if isinstance(value, float) else str(value)
