"""The answer for a recording, and how answers are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from crycli.outputs import csv_line

COLUMNS = ("path", "start", "end", "label", "confidence", "error")

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
        path: the recording.
        start: seconds, where the answer begins to apply; None where the recording could not be read.
        end: seconds, where it ends; None where the recording could not be read.
        label: the likeliest label, or `UNSURE`; empty where the recording could not be read.
        confidence: the probability of the likeliest label; None where the recording could not be read.
        probabilities: one for each of the classifier's labels, summing to 1; empty where there is no answer.
        error: why there is no answer; empty where there is one.
        uncalibrated: the probabilities at a temperature of 1.
        digest: of the samples at the classifier's rate, where asked for; the same sound has the same one.
        windows: the answers that the probabilities are the mean of; None where the recording could not be read.
        embedding: (hidden,), the mean of the windows' pooled vectors, where asked for.
    """

    path: Path
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


def to_row(prediction: Prediction, labels: Sequence[str]) -> dict[str, str]:
    """A prediction as text: seconds to the millisecond, probabilities to six places, empty where there is no answer."""
    row = {
        "path": str(prediction.path).encode("utf-8", "backslashreplace").decode(),
        "start": _format(prediction.start, 3),
        "end": _format(prediction.end, 3),
        "label": prediction.label,
        "confidence": _format(prediction.confidence, 6),
        "error": prediction.error,
    }
    probabilities = prediction.probabilities or [None] * len(labels)
    row.update({f"p_{label}": _format(value, 6) for label, value in zip(labels, probabilities, strict=True)})
    return row


def _format(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


class RowWriter:
    """Writes predictions to a stream as they come, each row flushed, as "csv" or "jsonl"."""

    def __init__(self, stream: TextIO, labels: Sequence[str], form: str) -> None:
        self._stream = stream
        self._labels = labels
        self._columns = columns(labels)
        self._as_csv = form == "csv"
        if self._as_csv:
            stream.write(csv_line(self._columns))

    def write(self, prediction: Prediction) -> None:
        """Write one row."""
        row = to_row(prediction, self._labels)
        if self._as_csv:
            self._stream.write(csv_line([row[name] for name in self._columns]))
        else:
            numeric = {"start", "end", "confidence", *(f"p_{label}" for label in self._labels)}
            values = {key: (float(text) if text else None) if key in numeric else text for key, text in row.items()}
            self._stream.write(json.dumps(values, ensure_ascii=False) + "\n")
        self._stream.flush()
