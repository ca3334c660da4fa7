"""How far a confidence can be trusted: temperature scaling, reliability, and when to answer `unsure`.

Light where it is only read: scipy is imported where something is fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from crycli.errors import CheckpointError, TrainingError
from crycli.metrics import Labels, Probabilities

CALIBRATION_FILE = "calibration.json"
"""Of a model folder; see `Calibration`."""

COLDEST, HOTTEST = 0.05, 20.0  # temperatures: where all clips are answered right, the best one would be 0
GRID = 49  # temperatures, 1.13 times apart: over the windows of a clip the loss may have several valleys

Logits = npt.NDArray[np.floating[Any]]
"""(windows, labels)"""
Confidences = npt.NDArray[np.float64]
"""(clips,) the probabilities of the answers."""


@dataclass(frozen=True)
class Calibration:
    """What the validation clips say about a model's confidence.

    Attributes:
        temperature: what the logits are divided by before the softmax.
        confidence: (clips,) the validation clips' confidences under that temperature, ascending.
        correct: (clips,) whether each of them was answered right.
    """

    temperature: float
    confidence: tuple[float, ...]
    correct: tuple[bool, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of `CALIBRATION_FILE`."""
        return {"temperature": self.temperature, "confidence": list(self.confidence), "correct": list(self.correct)}

    @classmethod
    def from_json(cls, content: dict[str, Any], file: Path) -> Calibration:
        """The calibration that `to_json` gave.

        Args:
            content: what the file holds.
            file: its name, for the message.

        Raises:
            CheckpointError: it is damaged.
        """
        temperature, confidence, correct = (content.get(key) for key in ("temperature", "confidence", "correct"))
        if not _is_number(temperature) or not COLDEST <= temperature <= HOTTEST:
            raise _damaged(file, f"its temperature is {temperature!r}")
        if not isinstance(confidence, list) or not all(map(_is_number, confidence)):
            raise _damaged(file, "its confidence is no list of numbers")
        if confidence != sorted(confidence) or not all(0.0 <= value <= 1.0 for value in confidence):
            raise _damaged(file, "its confidence does not ascend between 0 and 1")
        if not isinstance(correct, list) or not all(isinstance(value, bool) for value in correct):
            raise _damaged(file, "its correct is no list of true and false")
        if len(correct) != len(confidence):
            raise _damaged(file, f"it has {len(confidence)} confidences and {len(correct)} of correct")
        return cls(float(temperature), tuple(map(float, confidence)), tuple(correct))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{file} is damaged: {reason}; train the model anew, or take the file from its source again")


def calibrate(window_logits: Logits, clip_of_window: Labels, truth: Labels) -> Calibration:
    """Fit the temperature on validation clips, and keep how sure and how right the answers are under it.

    Args:
        window_logits: (windows, labels).
        clip_of_window: (windows,) the clip of each window, an index into `truth`; each clip has at least one.
        truth: (clips,) true labels; at least one.

    Raises:
        TrainingError: a logit is not a number.
    """
    temperature = fit_temperature(window_logits, clip_of_window, truth)
    probabilities = clip_probabilities(window_logits, clip_of_window, len(truth), temperature)
    confidence = probabilities.max(axis=1)
    order = confidence.argsort(kind="stable")
    correct = probabilities.argmax(axis=1) == truth
    return Calibration(temperature, tuple(confidence[order].tolist()), tuple(correct[order].tolist()))


def fit_temperature(window_logits: Logits, clip_of_window: Labels, truth: Labels) -> float:
    """The temperature at which the clips' log loss is least (temperature scaling, Guo et al. 2017).

    A clip's probabilities are the mean over its windows, as in prediction with `predict.combine: mean`; max gives a
    clip of one window the same. The temperature is between `COLDEST` and `HOTTEST`; 1 is kept where no other one is
    better. The loss is the one of `smoothed_loss`: a few clips that are all answered right would ask for a temperature
    of 0, and the next wrong answer would have the confidence 1.

    Args:
        window_logits: (windows, labels).
        clip_of_window: (windows,) the clip of each window, an index into `truth`; each clip has at least one.
        truth: (clips,) true labels; at least one.

    Raises:
        TrainingError: a logit is not a number.
    """
    from scipy.optimize import minimize_scalar

    if not np.isfinite(window_logits).all():
        raise TrainingError("the model's answers to the validation clips are not numbers: no temperature can be fitted")

    def loss(logarithm: float) -> float:
        probabilities = clip_probabilities(window_logits, clip_of_window, len(truth), math.exp(logarithm))
        return smoothed_loss(probabilities, truth)

    # Over its logarithm, in which half and double are as far from 1.
    grid = np.linspace(math.log(COLDEST), math.log(HOTTEST), GRID).tolist()
    losses = [loss(logarithm) for logarithm in grid]
    best = min(range(GRID), key=lambda number: (losses[number], abs(grid[number])))
    valley = (grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)])
    found = minimize_scalar(loss, bounds=valley, method="bounded", options={"xatol": 1e-4})
    least = min(0.0, grid[best], float(found.x), key=loss)
    return min(max(math.exp(least), COLDEST), HOTTEST)


def smoothed_loss(probabilities: Probabilities, truth: Labels) -> float:
    """The mean log loss where the truth of each of n clips is sure to (n + 1) / (n + 2), after Platt 1999, section 2.2.

    Args:
        probabilities: (clips, labels).
        truth: (clips,) true labels; at least one.
    """
    losses = -np.log(np.clip(probabilities, np.finfo(np.float64).tiny, None))
    labels = probabilities.shape[1]
    if labels == 1:
        return 0.0
    doubt = 1.0 / (len(truth) + 2)
    of_truth = losses[np.arange(len(truth)), truth]
    of_others = (losses.sum(axis=1) - of_truth) / (labels - 1)
    return float(((1.0 - doubt) * of_truth + doubt * of_others).mean())


def clip_probabilities(
    window_logits: Logits, clip_of_window: Labels, clips: int, temperature: float = 1.0
) -> Probabilities:
    """The mean over each clip's windows of softmax(logits / temperature).

    Args:
        window_logits: (windows, labels).
        clip_of_window: (windows,) the clip of each window, below `clips`; each clip has at least one.
        clips: how many there are.
        temperature: above 0; above 1 makes the answers less sure.

    Returns:
        (clips, labels), each row summing to 1.
    """
    from scipy.special import softmax

    of_windows = softmax(np.asarray(window_logits, np.float64) / temperature, axis=1)
    sums = np.zeros((clips, of_windows.shape[1]))
    np.add.at(sums, clip_of_window, of_windows)
    means = sums / np.bincount(clip_of_window, minlength=clips)[:, None]
    return np.minimum(means, 1.0)  # rounding may have gone above


@dataclass(frozen=True)
class Bin:
    """The clips whose answer has a confidence above `low` and up to `high`; the first bin holds 0 too.

    Attributes:
        low: lower bound.
        high: upper bound.
        clips: how many there are.
        confidence: their mean confidence; None where there are none.
        accuracy: the share of right answers among them; None where there are none.
    """

    low: float
    high: float
    clips: int
    confidence: float | None
    accuracy: float | None


def reliability(probabilities: Probabilities, predicted: Labels, truth: Labels, bins: int = 10) -> list[Bin]:
    """A reliability diagram: how often answers of a confidence are right (Guo et al. 2017).

    Args:
        probabilities: (clips, labels).
        predicted: (clips,) answers, whose probability is the confidence.
        truth: (clips,) true labels.
        bins: how many, of equal width.

    Returns:
        All bins from 0 to 1, those without clips too.
    """
    confidence = probabilities[np.arange(len(truth)), predicted]
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of_clip = np.digitize(confidence, edges[1:-1], right=True)
    found = []
    for number in range(bins):
        inside = bin_of_clip == number
        some = bool(inside.any())
        found.append(
            Bin(
                low=float(edges[number]),
                high=float(edges[number + 1]),
                clips=int(inside.sum()),
                confidence=float(confidence[inside].mean()) if some else None,
                accuracy=float((predicted == truth)[inside].mean()) if some else None,
            )
        )
    return found


@dataclass(frozen=True)
class RiskCoverage:
    """What is gained by leaving the least sure clips unanswered: a point for each threshold, the highest first.

    Attributes:
        coverage: share of the clips whose confidence is at least the threshold: they are answered.
        risk: share of wrong answers among those.
        threshold: the confidences that occur, descending.
        area: the risk's mean over the coverage, from 0 to 1; the lower, the better the confidence tells right from
            wrong. A confidence that tells nothing has the share of wrong answers among all clips.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    threshold: tuple[float, ...]
    area: float


def risk_coverage(confidence: Confidences, correct: npt.NDArray[np.bool_]) -> RiskCoverage:
    """The risk-coverage curve (El-Yaniv and Wiener 2010) and the area below it (Geifman et al. 2019).

    Clips of equal confidence are answered together or not at all.

    Args:
        confidence: (clips,) in any order; at least one.
        correct: (clips,) whether each was answered right.
    """
    threshold, answered, right = _answered(confidence, correct)
    coverage = answered / len(confidence)
    risk = (answered - right) / answered
    return RiskCoverage(
        coverage=tuple(coverage.tolist()),
        risk=tuple(risk.tolist()),
        threshold=tuple(threshold.tolist()),
        area=float((np.diff(coverage, prepend=0.0) * risk).sum()),
    )


def threshold_for(
    confidence: Confidences, correct: npt.NDArray[np.bool_], *, precision: float | None, coverage: float | None
) -> float | None:
    """The confidence from which on a model should answer; below it, it is unsure.

    Give one of the two aims. Both hold on these clips; on others they hold as far as those are alike, and the fewer
    clips are answered here, the less.

    Args:
        confidence: (clips,) in any order.
        correct: (clips,) whether each was answered right.
        precision: the least share of right answers among the answered clips. Of the confidences that occur, the least
            one that reaches it is the threshold, so as many clips as possible are answered.
        coverage: the least share of clips to answer. The greatest confidence that keeps it is the threshold.

    Returns:
        One of the confidences; None where no threshold reaches the aim.

    Raises:
        ValueError: both or neither are given.
    """
    threshold, answered, right = _answered(confidence, correct)
    if precision is not None and coverage is None:
        reached = threshold[right / answered >= precision]  # 9 / 10 is 0.9 to the bit; 1 - 1 / 10 need not be
        return float(reached[-1]) if len(reached) else None
    if coverage is not None and precision is None:
        kept = threshold[answered / max(len(confidence), 1) >= coverage]
        return float(kept[0]) if len(kept) else None
    raise ValueError("give a precision or a coverage")


def _answered(
    confidence: Confidences, correct: npt.NDArray[np.bool_]
) -> tuple[Confidences, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(thresholds,) the distinct confidences, descending; how many clips reach each; how many of them are right."""
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.bool_)
    ascending, place, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    right = np.bincount(place, weights=correct, minlength=len(ascending)).astype(np.int64)
    return ascending[::-1], counts[::-1].cumsum(), right[::-1].cumsum()
