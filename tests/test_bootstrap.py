"""Intervals: the draws are those of a plain loop, and the intervals hold the truth as often as they say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from crycli.bootstrap import Interval, intervals, score_draws
from crycli.metrics import Labels, Probabilities, Report, score

OVERALL = (
    *("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "matthews", "kappa", "macro_auc"),
    *("macro_average_precision", "log_loss", "brier", "calibration_error"),
)
OF_LABEL = ("recall", "precision", "f1", "auc", "average_precision")
ANSWERS_ALONE = {"accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "matthews", "kappa"}


MEANS = ("balanced_accuracy", "macro_f1", "macro_auc", "macro_average_precision")


class Problem(NamedTuple):
    """What scores are made of."""

    names: list[str]
    truth: Labels
    probabilities: Probabilities | None
    predicted: Labels
    groups: list[str]


@strategies.composite
def problems(draw: strategies.DrawFn) -> Problem:
    """Up to four labels, some of which nobody bears, few groups, few values of the probabilities, any answers."""
    count, clips = draw(strategies.integers(2, 4)), draw(strategies.integers(1, 20))
    generator = np.random.default_rng(draw(strategies.integers(0, 2**20)))
    borne = generator.permutation(count)[: draw(strategies.integers(1, count))]
    parts = generator.integers(1, draw(strategies.sampled_from([3, 1000])), size=(clips, count)).astype(np.float64)
    return Problem(
        names=[f"la/bel {index}" for index in range(count)],
        truth=generator.choice(borne, clips),
        probabilities=parts / parts.sum(axis=1, keepdims=True),
        predicted=generator.integers(count, size=clips),
        groups=[f"baby {group}" for group in generator.integers(draw(strategies.integers(1, 8)), size=clips)],
    )


def drawn_rows(groups: Sequence[str], draws: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """The clips of each draw, those of a group as often as it was drawn."""
    names = sorted(set(groups))
    clips_of = [np.flatnonzero(np.array(groups) == name) for name in names]
    for drawn in np.random.default_rng(seed).integers(len(names), size=(draws, len(names))):
        yield np.concatenate([clips_of[group] for group in drawn])


def values_of(report: Report) -> dict[str, float]:
    """All scores by the names of the draws, NaN for None."""
    values = {name: getattr(report, name) for name in OVERALL}
    for label, entry in report.labels.items():
        values |= {f"{name}/{label}": getattr(entry, name) for name in OF_LABEL}
    return {name: math.nan if value is None else value for name, value in values.items()}


def with_lacking_labels(values: dict[str, float], of_all: dict[str, float], labels: Sequence[str]) -> dict[str, float]:
    """The same, with means over labels in which one that the draw lacks has its value over all clips."""
    means = {}
    for mean, name in zip(MEANS, ("recall", "f1", "auc", "average_precision"), strict=True):
        drawn = [values[f"{name}/{label}"] for label in labels]
        known = [of_all[f"{name}/{label}"] for label in labels]
        filled = [b if math.isnan(a) else a for a, b in zip(drawn, known, strict=True) if not math.isnan(b)]
        means[mean] = math.nan if all(map(math.isnan, drawn)) else float(np.mean(filled))
    return values | means


def clustered(
    generator: np.random.Generator, groups: int, clips: int, concentration: float = 1.0, labels: int = 2
) -> Problem:
    """Answers that are right with a probability that each group has of its own, 0.7 in the mean."""
    of_group = np.repeat(np.arange(groups), clips)
    chance = generator.beta(0.7 * concentration, 0.3 * concentration, groups)[of_group]
    truth = generator.integers(labels, size=len(of_group))
    right = generator.random(len(of_group)) < chance
    wrong = (truth + generator.integers(1, labels, size=len(of_group))) % labels
    names = [f"label {index}" for index in range(labels)]
    return Problem(names, truth, None, np.where(right, truth, wrong), [str(group) for group in of_group])


@given(problem=problems(), seed=strategies.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_the_draws_are_those_of_a_loop_that_repeats_the_clips_of_drawn_groups(problem: Problem, seed: int) -> None:
    assert problem.probabilities is not None
    found = score_draws(*problem, draws=3, seed=seed)
    of_all = values_of(score(problem.names, problem.truth, problem.probabilities, predicted=problem.predicted))
    for draw, rows in enumerate(drawn_rows(problem.groups, 3, seed)):
        report = score(
            problem.names, problem.truth[rows], problem.probabilities[rows], predicted=problem.predicted[rows]
        )
        expected = with_lacking_labels(values_of(report), of_all, problem.names)
        assert {name: values[draw] for name, values in found.items()} == pytest.approx(expected, nan_ok=True)


def test_one_answer_to_everything_is_at_chance_in_every_draw() -> None:
    truth = np.array([0] * 60 + [1] * 4 + [2] * 2)
    problem = Problem(["a", "b", "c"], truth, None, np.zeros(66, np.int64), [str(clip // 2) for clip in range(66)])
    assert set(score_draws(*problem)["balanced_accuracy"].round(12)) == {round(1 / 3, 12)}


def test_the_draws_of_a_large_problem_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(3, size=3000)
    parts = generator.integers(1, 50, size=(3000, 3)) + 20.0 * np.eye(3)[truth]
    table = np.round(parts / parts.sum(axis=1, keepdims=True), 2)
    groups = [str(group) for group in generator.integers(200, size=3000)]
    predicted = table.argmax(axis=1)
    found = score_draws(["a", "b", "c"], truth, table, predicted, groups, draws=400)
    for draw, rows in enumerate(drawn_rows(groups, 400, 0)):
        if draw % 133:
            continue
        positive, scores = truth[rows] == 1, table[rows, 1]
        assert found["auc/b"][draw] == pytest.approx(roc_auc_score(positive, scores), rel=1e-12)
        assert found["average_precision/b"][draw] == pytest.approx(average_precision_score(positive, scores), rel=1e-12)
        assert found["balanced_accuracy"][draw] == pytest.approx(balanced_accuracy_score(truth[rows], predicted[rows]))
        assert found["macro_f1"][draw] == pytest.approx(f1_score(truth[rows], predicted[rows], average="macro"))


def test_answers_alone_have_the_draws_that_they_have_with_probabilities() -> None:
    problem = Problem(["a", "b"], np.array([0, 1, 1]), np.full((3, 2), 0.5), np.array([0, 1, 0]), ["x", "y", "z"])
    full, alone = score_draws(*problem, draws=20), score_draws(*problem._replace(probabilities=None), draws=20)
    of_label = {f"{score}/{label}" for score in OF_LABEL[:3] for label in "ab"}
    assert set(alone) == ANSWERS_ALONE | of_label
    for name, values in alone.items():
        np.testing.assert_array_equal(values, full[name])


def test_the_same_groups_are_drawn_whatever_was_answered_and_however_many_draws_are_wanted() -> None:
    problem = clustered(np.random.default_rng(0), groups=600, clips=10)
    opposite = problem._replace(probabilities=np.full((6000, 2), 0.5), predicted=1 - problem.predicted)
    first, second = score_draws(*problem, draws=300)["accuracy"], score_draws(*opposite, draws=200)["accuracy"]
    np.testing.assert_allclose(first[:200], 1.0 - second)
    assert not np.array_equal(first, score_draws(*problem, draws=300, seed=1)["accuracy"])


def test_intervals_are_percentiles_of_the_draws_that_define_the_score() -> None:
    problem = clustered(np.random.default_rng(0), groups=12, clips=9, labels=3)
    draws = score_draws(*problem, draws=200, seed=4)
    found = intervals(*problem, draws=200, level=0.8, seed=4)
    assert set(found) == set(draws)
    for name, interval in found.items():
        assert (interval.low, interval.high) == pytest.approx(tuple(np.nanquantile(draws[name], [0.1, 0.9]))), name


def coverage(*, by_clip: bool) -> float:
    """How often the interval of the balanced accuracy holds 0.7 in 300 sets of 60 babies with 5 clips each."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        problem = clustered(generator, groups=60, clips=5)
        groups = [str(clip) for clip in range(300)] if by_clip else problem.groups
        interval = intervals(*problem._replace(groups=groups), draws=600)["balanced_accuracy"]
        held += interval.low <= 0.7 <= interval.high
    return held / 300


def test_the_interval_holds_the_true_balanced_accuracy_as_often_as_it_says_where_the_clips_of_a_baby_are_alike() -> (
    None
):
    assert 0.92 <= coverage(by_clip=False) <= 0.98
    assert coverage(by_clip=True) < 0.92


@pytest.mark.parametrize("groups", [2, 5, 30])
def test_a_perfect_score_of_few_groups_is_not_said_to_be_sure(groups: int) -> None:
    truth = np.tile([0, 1], groups)
    names_of = [str(group) for group in np.repeat(np.arange(groups), 2)]
    found = intervals(["a", "b"], truth, np.eye(2)[truth], truth, names_of, draws=100)
    expected = binomtest(groups, groups).proportion_ci(method="exact")
    shares = {"accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "macro_auc", "macro_average_precision"}
    shares |= {f"{score}/{label}" for score in OF_LABEL for label in "ab"}
    assert set(found) == shares | {"calibration_error"}
    for name in shares:
        assert (found[name].low, found[name].high) == pytest.approx((expected.low, 1.0)), name
    error = found["calibration_error"]  # of answers that are certain it is the share of wrong ones
    assert (error.low, error.high) == pytest.approx((0.0, 1.0 - expected.low))


def test_a_score_of_0_is_not_said_to_be_sure_either() -> None:
    truth, groups = np.tile([0, 1], 5), [str(group) for group in np.repeat(np.arange(5), 2)]
    found = intervals(["a", "b"], truth, None, 1 - truth, groups, draws=100, level=0.9)
    expected = binomtest(0, 5).proportion_ci(0.9, method="exact")
    assert found["accuracy"] == Interval(0.0, pytest.approx(expected.high))
    assert "matthews" not in found


def test_a_perfect_score_is_as_unsure_as_the_label_that_fewest_groups_bear() -> None:
    truth = np.array([0] * 40 + [1] * 2)
    groups = [str(clip) for clip in range(42)]
    found = intervals(["common", "rare"], truth, None, truth, groups, draws=300)
    common, rare, all_groups = (binomtest(n, n).proportion_ci(method="exact").low for n in (40, 2, 42))
    assert found["recall/common"].low == pytest.approx(common)
    assert found["recall/rare"].low == pytest.approx(rare)
    assert found["accuracy"].low == pytest.approx(all_groups)
    assert rare < found["balanced_accuracy"].low < common


def test_answers_that_are_all_the_same_have_the_balanced_accuracy_of_chance_for_sure() -> None:
    truth = np.tile([0, 1], 20)
    found = intervals(["a", "b"], truth, None, truth * 0, [str(clip // 2) for clip in range(40)], draws=100)
    assert found["balanced_accuracy"] == Interval(0.5, 0.5)
    assert found["matthews"] == found["kappa"] == Interval(0.0, 0.0)


def test_fewer_than_two_groups_say_nothing_of_others() -> None:
    truth = np.array([0, 0, 1, 1, 1, 1])
    assert intervals(["a", "b"], truth, None, 1 - truth, ["x"] * 6) == {}
    found = intervals(["a", "b"], truth, np.full((6, 2), 0.5), np.array([0, 1, 1, 0, 1, 1]), [*"xxyzzz"], draws=200)
    assert {"accuracy", "recall/b"} <= set(found)
    assert {"recall/a", "f1/a", "auc/a", "auc/b"}.isdisjoint(found)


def test_a_label_without_clips_or_answers_has_no_interval_and_a_rare_one_has() -> None:
    truth = np.array([0] * 40 + [2] * 2)
    predicted = np.array([0] * 40 + [0, 2])
    found = intervals(["a", "b", "c"], truth, None, predicted, [str(clip) for clip in range(42)])
    assert "recall/c" in found  # 87% of the draws hold one of the two
    assert {"recall/b", "precision/b", "precision/c"}.isdisjoint(found)


def test_a_score_that_most_draws_leave_undefined_has_no_interval() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    seen = set()
    for seed in range(6):  # of two babies with a label each, half of the draws hold both
        arguments = (["a", "b"], truth, None, predicted, ["x", "x", "y", "y"])
        defined = ~np.isnan(score_draws(*arguments, draws=51, seed=seed)["matthews"])
        found = intervals(*arguments, draws=51, seed=seed)
        assert ("kappa" in found) == (defined.mean() >= 0.5)
        seen.add("kappa" in found)
    assert seen == {True, False}


def test_a_single_clip_has_draws_and_no_intervals() -> None:
    problem = Problem(["a", "b"], np.array([1]), np.array([[0.2, 0.8]]), np.array([1]), ["x"])
    draws = score_draws(*problem, draws=5)
    assert draws["accuracy"].tolist() == draws["recall/b"].tolist() == [1.0] * 5
    assert np.isnan([*draws["macro_auc"], *draws["matthews"], *draws["recall/a"]]).all()
    assert intervals(*problem) == {}
