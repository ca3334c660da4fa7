"""What a classifier said about clips: asked here and now, or read from a file of anyone's predictions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crycli.audio import Excerpt
from crycli.errors import DataError
from crycli.inference import Predictor
from crycli.manifest import Clip, read_table
from crycli.metrics import Labels, Probabilities
from crycli.naming import by_known_name
from crycli.predictions import Prediction
from crycli.progress import OnStep, Step, silent

SUM_TOLERANCE = 0.01  # of rounded probabilities
NUMBERS = ("start", "end", "duration", "sample_rate", "loudness_db")
TEXTS = frozenset({"path", "label", "true_label", "predicted", "confidence", "error", "group", "corpus", "codec"})
"""Columns with a use of their own; all others are for the slices."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """What a classifier said about clips.

    Attributes:
        names: the labels.
        clips: the clips that were answered.
        truth: (clips,) indices of their labels.
        predicted: (clips,) indices of the answers.
        probabilities: (clips, labels); None where only the answers are known.
        uncalibrated: (clips, labels) at a temperature of 1; None where there was no temperature.
    """

    names: tuple[str, ...]
    clips: tuple[Clip, ...]
    truth: Labels
    predicted: Labels
    probabilities: Probabilities | None
    uncalibrated: Probabilities | None = None

    @property
    def groups(self) -> list[str]:
        """(clips,) what each clip shares with others."""
        return [clip.group for clip in self.clips]

    @property
    def confidence(self) -> npt.NDArray[np.float64] | None:
        """(clips,) the probability of each answer; None where it is not known."""
        if self.probabilities is None:
            return None
        return np.asarray(self.probabilities[np.arange(len(self.predicted)), self.predicted])

    def repeat(self, times: int) -> Answers:
        """The same answers so many times over."""
        return Answers(
            self.names,
            self.clips * times,
            np.tile(self.truth, times),
            np.tile(self.predicted, times),
            None if self.probabilities is None else np.tile(self.probabilities, (times, 1)),
        )

    def with_clips(self, clips: Sequence[Clip]) -> Answers:
        """The same answers about clips of which more is known."""
        return replace(self, clips=tuple(clips))

    def select(self, chosen: npt.NDArray[np.bool_]) -> Answers:
        """Some of the clips: those for which `chosen`, (clips,), is true."""
        return Answers(
            self.names,
            tuple(clip for clip, wanted in zip(self.clips, chosen, strict=True) if wanted),
            self.truth[chosen],
            self.predicted[chosen],
            None if self.probabilities is None else self.probabilities[chosen],
            None if self.uncalibrated is None else self.uncalibrated[chosen],
        )


def ask(
    predictor: Predictor, clips: Sequence[Clip], on_step: OnStep = silent, name: str = "evaluate"
) -> list[Prediction]:
    """A classifier's answers for clips, in order; those that it cannot read are named in a warning."""
    found = []
    for prediction in predictor.predict((Excerpt(clip.path, clip.start, clip.end) for clip in clips), digests=True):
        found.append(prediction)
        if prediction.error:
            logger.warning("left out %s: %s", prediction.path, prediction.error)
        on_step(Step(name, len(found), len(clips)))
    return found


def from_predictions(names: Sequence[str], clips: Sequence[Clip], predictions: Sequence[Prediction]) -> Answers:
    """Answers about the clips that could be read.

    Args:
        names: the labels, in the order of the probabilities.
        clips: their labels are among the names.
        predictions: one a clip.
    """
    read = [(clip, answer) for clip, answer in zip(clips, predictions, strict=True) if not answer.error]
    probabilities = np.array([answer.probabilities for _, answer in read])
    return Answers(
        names=tuple(names),
        clips=tuple(clip for clip, _ in read),
        truth=np.array([list(names).index(clip.label) for clip, _ in read], dtype=np.int64),
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        uncalibrated=np.array([answer.uncalibrated for _, answer in read]),
    )


def read_answers(file: Path) -> tuple[Answers, int]:
    """Answers from a CSV, and how many of its rows have none.

    The truth is the column `true_label`, or `label` where there is none. The answer is `predicted`; without it the
    largest of the columns `p_LABEL`, one for each label, or `label` where `true_label` holds the truth. A column
    `group` says which clips belong together; without it the file names of corpora that crycli knows do, and any other
    recording is a group by itself. Columns of manifests (`corpus`, `duration` ...) and any others are used for the
    slices. Rows whose column `error` is filled have no answer.

    Raises:
        DataError: columns are missing, or what they hold does not fit together.
    """
    table = read_table(file).rename(columns=str.strip)
    if not table.columns.is_unique:
        raise DataError(f"{file}: two columns are called {table.columns[table.columns.duplicated()][0]}: rename one")
    truth_column, answer_column = _label_columns(file, table.columns)
    rows = [
        _Row(file, line, {str(name): str(cell).strip() for name, cell in row.items()})
        for line, row in enumerate(table.to_dict("records"), start=2)
    ]
    answered = [row for row in rows if not row.cells.get("error")]
    if not answered:
        raise DataError(f"{file} holds no answers")
    truth = [row.filled(truth_column) for row in answered]
    answers = [row.filled(answer_column) for row in answered] if answer_column else []
    probable = [name for name in table.columns if name.startswith("p_")]
    labels = [name.removeprefix("p_") for name in probable] or sorted({*truth, *answers})
    for column, held in ((truth_column, truth), (answer_column, answers)):
        if unknown := sorted(set(held) - set(labels)):
            raise DataError(f"{file}: {column} holds {', '.join(unknown)}, for which there is no column p_LABEL")
    probabilities = _probabilities(answered, probable) if probable else None
    predicted = (
        np.array([labels.index(name) for name in answers], dtype=np.int64)
        if answers or probabilities is None
        else probabilities.argmax(axis=1)
    )
    clips = tuple(_clip(row, label) for row, label in zip(answered, truth, strict=True))
    _warn_of_groups(file, answered)
    indices = np.array([labels.index(name) for name in truth], dtype=np.int64)
    return Answers(tuple(labels), clips, indices, predicted, probabilities), len(rows) - len(answered)


@dataclass(frozen=True)
class _Row:
    file: Path
    line: int  # of the CSV; the header is the first
    cells: Mapping[str, str]

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.line}"

    @property
    def path(self) -> Path:
        return Path(self.cells.get("path") or f"row {self.line}")

    @property
    def told_group(self) -> str:
        """What the file or a known file name says; empty where neither does."""
        return self.cells.get("group") or by_known_name(self.path.name).group

    def filled(self, column: str) -> str:
        if not self.cells[column]:
            raise DataError(f"{self.where}: the {column} is empty")
        return self.cells[column]

    def probability(self, column: str) -> float:
        value = _number(self.cells[column])
        if value is None or value < 0:
            raise DataError(f"{self.where}: {column} must be a probability, not {self.cells[column]!r}")
        return value


def _label_columns(file: Path, columns: Iterable[str]) -> tuple[str, str | None]:
    """The columns with the truth and with the answers; None where the columns p_LABEL alone tell these."""
    names = set(columns)
    if {"label", "confidence", "error"} <= names and names.isdisjoint({"true_label", "predicted"}):
        raise DataError(
            f"{file}: label is the model's answer here, as `crycli predict` writes it: add a column true_label with "
            f"the truth"
        )
    truth = "true_label" if "true_label" in names else "label"
    probable = any(name.startswith("p_") for name in names)
    answer = "predicted" if "predicted" in names else None
    if answer is None and truth != "label" and "label" in names and not probable:
        answer = "label"
    if truth not in names or (answer is None and not probable):
        raise DataError(
            f"{file}: needs a column label (or true_label) with the truth, and p_LABEL for each label or predicted"
        )
    return truth, answer


def _probabilities(rows: Sequence[_Row], columns: Sequence[str]) -> Probabilities:
    values = np.array([[row.probability(name) for name in columns] for row in rows])
    sums = values.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)
    if wrong.size:
        raise DataError(f"{rows[wrong[0]].where}: the columns p_LABEL must sum to 1, not to {sums[wrong[0]]:.3f}")
    return np.asarray(values / sums[:, None])


def _clip(row: _Row, label: str) -> Clip:
    cells = row.cells
    numbers = {name: _number(cells.get(name, "")) for name in NUMBERS}
    used = TEXTS | {"start", "end"}
    rate = numbers["sample_rate"]
    return Clip(
        path=row.path,
        label=label,
        group=row.told_group or str(row.path),
        corpus=cells.get("corpus", ""),
        start=numbers["start"],
        end=numbers["end"],
        duration=numbers["duration"],
        sample_rate=None if rate is None else round(rate),
        codec=cells.get("codec", ""),
        loudness_db=numbers["loudness_db"],
        extra={
            name: cell
            for name, cell in cells.items()
            if name not in used and not name.startswith("p_") and numbers.get(name) is None
        },
    )


def _warn_of_groups(file: Path, rows: Sequence[_Row]) -> None:
    """Warn where neither the file nor a known file name tells the groups."""
    alone = sum(not row.told_group for row in rows)
    if alone:
        logger.warning(
            "%s: no group for %d of %d clips, so each recording of these counts as a baby or source of its own, and "
            "where it is none the intervals are too narrow: fill a column group",
            file,
            alone,
            len(rows),
        )


def _number(text: str) -> float | None:
    """A number; None where a cell holds none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
