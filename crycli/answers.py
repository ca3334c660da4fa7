"""What a classifier said about clips: asked here and now, or read from a file of anyone's predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crycli.audio import Excerpt
from crycli.errors import DataError
from crycli.inference import Predictor
from crycli.manifest import Clip, read_table
from crycli.metrics import Labels, Probabilities
from crycli.predictions import Prediction
from crycli.progress import OnStep, Step, silent

SUM_TOLERANCE = 0.01  # of rounded probabilities

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
        return None if self.probabilities is None else self.probabilities.max(axis=1)

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
    `group` says which clips belong together; without it each clip is by itself. Columns of manifests (`corpus`,
    `duration` ...) and any others are used for the slices. Rows whose column `error` is filled have no answer.

    Raises:
        DataError: columns are missing, or what they hold does not fit together.
    """
    table = read_table(file)
    columns = set(table.columns)
    truth_column = "true_label" if "true_label" in columns else "label"
    probable = [name for name in table.columns if name.startswith("p_")]
    answer_column = next((name for name in ("predicted", "label") if name in columns and name != truth_column), None)
    if truth_column not in columns or (answer_column is None and not probable):
        raise DataError(
            f"{file}: needs a column label (or true_label) with the truth, and p_LABEL for each label or predicted"
        )
    rows = [{str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")]
    answered = [row for row in rows if not row.get("error")]
    if not answered:
        raise DataError(f"{file} holds no answers")
    probabilities = _probabilities(file, answered, probable) if probable else None
    labels = [name.removeprefix("p_") for name in probable]
    if not probable:
        labels = sorted({row[name] for row in answered for name in (truth_column, str(answer_column))})
    unknown = sorted({row[truth_column] for row in answered} - set(labels))
    if unknown:
        raise DataError(f"{file}: {truth_column} holds {', '.join(unknown)}, for which there is no column p_LABEL")
    if probabilities is not None:
        predicted = probabilities.argmax(axis=1)
    else:
        predicted = np.array([labels.index(row[str(answer_column)]) for row in answered], dtype=np.int64)
    clips = tuple(_clip(row, number, truth_column, file) for number, row in enumerate(answered))
    truth = np.array([labels.index(clip.label) for clip in clips], dtype=np.int64)
    return Answers(tuple(labels), clips, truth, predicted, probabilities), len(rows) - len(answered)


def _probabilities(file: Path, rows: Sequence[dict[str, str]], columns: Sequence[str]) -> Probabilities:
    try:
        values = np.array([[float(row[name]) for name in columns] for row in rows])
    except ValueError as error:
        raise DataError(f"{file}: a probability is no number: {error}") from None
    sums = values.sum(axis=1)
    wrong = ~((values >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{file}: the columns p_LABEL must hold probabilities that sum to 1; those of data row {row + 1} sum to "
            f"{sums[row]:.3f}"
        )
    return np.asarray(values / sums[:, None])


def _clip(row: dict[str, str], number: int, truth_column: str, file: Path) -> Clip:
    used = {"path", "start", "end", "label", "true_label", "predicted", "confidence", "error", "group", "corpus"}
    extra = {key: value for key, value in row.items() if key not in used and not key.startswith("p_")}
    return Clip(
        path=Path(row.get("path") or f"row {number + 1}"),
        label=row[truth_column],
        group=row.get("group") or f"row {number + 1}",
        corpus=row.get("corpus", ""),
        start=_seconds(row.get("start")),
        end=_seconds(row.get("end")),
        extra=extra,
    )


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
