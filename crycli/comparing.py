"""Two models on the same clips: the difference of a score, and McNemar's test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crycli import metrics
from crycli.bootstrap import Draws, Interval, percentiles, score_draws
from crycli.metrics import Labels, Probabilities, Report


@dataclass(frozen=True)
class Difference:
    """What a model is worth more than another one on the same clips.

    Attributes:
        score: the name of the score that is compared, as in `bootstrap.score_draws`.
        value: that of the model minus that of the other one.
        interval: 95%, from bootstrap samples of whole groups that are the same for both models; None where the score
            rests on fewer than two groups, or fewer than half of the samples define it.
        p_mcnemar: how probable it is that the numbers of right answers differ as much or more if it is of no matter
            which model gave an answer (`mcnemar_groups`); None for fewer than two groups, and where it cannot be asked.
    """

    score: str
    value: float
    interval: Interval | None
    p_mcnemar: float | None


def difference(
    names: Sequence[str],
    truth: Labels,
    first: Labels | Probabilities,
    second: Labels | Probabilities,
    groups: Sequence[str],
    *,
    score: str = "balanced_accuracy",
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two models by a paired bootstrap over groups (Efron and Tibshirani 1993, ch. 8, 13).

    The difference is taken in each bootstrap sample, so what makes a sample easy for both models cancels. What widens
    the draws of few groups (`bootstrap.score_draws`) does so for it: of 150 sets of labels as skewed as 382/27/24/16/8,
    in 60 and in 200 groups, two equally good models were told apart in none and in 2%; unwidened in 28% and in 16%.

    Args:
        names: label names.
        truth: (clips,) true labels; at least one.
        first: the model's (clips,) answers, or its (clips, labels) probabilities, whose largest is the answer.
        second: those of the other one.
        groups: (clips,) groups.
        score: one of `bootstrap.score_draws`, such as "recall/LABEL"; with answers alone one that needs no more.
        draws: bootstrap samples.
        seed: another one gives other samples.

    Raises:
        ValueError: the score is not defined on all these clips for both models.
    """
    answers: list[Labels] = []
    values: list[float] = []
    drawn: list[Draws] = []
    for tail, given in enumerate((first, second)):
        probabilities = given.astype(np.float64) if given.ndim == 2 else None
        predicted = (given.argmax(axis=1) if given.ndim == 2 else given).astype(np.int64)
        answers.append(predicted)
        values.append(_value(metrics.score(names, truth, probabilities, groups, predicted), score))
        made = score_draws(names, truth, probabilities, predicted, groups, draws=draws, seed=seed, tail=tail)
        drawn.append(made[score])
    p = mcnemar_groups(truth, answers[0], answers[1], groups) if len(set(groups)) > 1 else None
    return Difference(score, values[0] - values[1], percentiles(drawn[0] - drawn[1]), p)


def mcnemar(truth: Labels, first: Labels, second: Labels) -> float:
    """The exact test of McNemar (1947): of the clips that one model alone gets right, does each get about half?

    It takes every clip for independent of all others; `mcnemar_groups` does not.

    Args:
        truth: (clips,) true labels.
        first: (clips,) answers of a model.
        second: (clips,) answers of another one.

    Returns:
        The two-sided p; 1 where the models are right on the same clips.
    """
    from scipy.stats import binomtest

    ahead = (first == truth).astype(np.int64) - (second == truth)
    apart = int(np.abs(ahead).sum())
    return float(binomtest(int((ahead > 0).sum()), apart).pvalue) if apart else 1.0


def mcnemar_groups(truth: Labels, first: Labels, second: Labels, groups: Sequence[str]) -> float:
    """McNemar's test where the clips of a group are alike: whole groups change sides.

    If it is of no matter which model gave an answer, both may exchange their answers to all clips of a group, which
    turns the sign of the number of clips by which the first is ahead there. The sum of these numbers is held against
    its distribution over all choices of signs: sign flipping of whole blocks (Winkler et al. 2015), here not drawn but
    exact. Groups of one clip each give the exact test of McNemar. The tests for clustered pairs of Obuchowski (1998)
    and Durkalski et al. (2003) are approximations for many groups.

    Args:
        truth: (clips,) true labels.
        first: (clips,) answers of a model.
        second: (clips,) answers of another one.
        groups: (clips,) groups.

    Returns:
        The two-sided p; 1 where no model is ahead.
    """
    _, of_group = np.unique(np.asarray(groups), return_inverse=True)
    ahead = np.bincount(of_group[first == truth], minlength=of_group.max() + 1)
    ahead = ahead - np.bincount(of_group[second == truth], minlength=of_group.max() + 1)
    furthest = int(np.abs(ahead).sum())
    # The chance that the groups so far with the signs of choice sum up to `index - furthest`.
    chances = np.zeros(2 * furthest + 1)
    chances[furthest] = 1.0
    for step in np.abs(ahead[ahead != 0]):
        chances = (np.roll(chances, step) + np.roll(chances, -step)) / 2.0  # what is rolled over the ends is 0
    sums = np.arange(-furthest, furthest + 1)
    return float(min(1.0, chances[np.abs(sums) >= abs(int(ahead.sum()))].sum()))


def _value(report: Report, score: str) -> float:
    """A score by its name in `bootstrap.score_draws`."""
    kind, _, label = score.partition("/")
    value = getattr(report.labels[label] if label else report, kind)
    if value is None:
        raise ValueError(f"{score} is not defined on these clips")
    return float(value)
