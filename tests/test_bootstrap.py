"""Intervals: the draws are those of a plain loop, and the intervals hold the truth as often as they say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies
from scipy.stats import binomtest, norm, t
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from crycli.bootstrap import Interval, intervals, percentiles, score_draws
from crycli.metrics import Labels, Probabilities, Report, score

OVERALL = (
    *("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "matthews", "kappa", "macro_auc"),
    *("macro_average_precision", "log_loss", "brier"),
)
OF_LABEL = ("recall", "precision", "f1", "auc", "average_precision")
RANGES = {"matthews": (-1.0, 1.0), "kappa": (-1.0, 1.0), "brier": (0.0, 2.0), "log_loss": (0.0, math.inf)}
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


def groups_behind(problem: Problem, name: str) -> int:
    """The number of groups that a score rests on."""

    def count(chosen: npt.NDArray[np.bool_]) -> int:
        return len({problem.groups[clip] for clip in np.flatnonzero(chosen)})

    kind, _, label = name.partition("/")
    if kind in (*MEANS, "matthews", "kappa"):
        return min(count(problem.truth == index) for index in set(problem.truth))
    if not label:
        return len(set(problem.groups))
    index = problem.names.index(label)
    if kind == "precision":
        return count(problem.predicted == index)
    bearing = count(problem.truth == index)
    return bearing if kind in {"recall", "f1"} else min(bearing, count(problem.truth != index))


def widened(values: npt.NDArray[np.float64], of_all: float, groups: int, name: str = "") -> npt.NDArray[np.float64]:
    """Draws of a score stretched as Hesterberg does it, within the range of the score."""
    factor = math.sqrt(groups / (groups - 1)) * t.ppf(0.975, groups - 1) / norm.ppf(0.975) if groups > 1 else math.nan
    return np.clip(of_all + factor * (values - of_all), *RANGES.get(name, (0.0, 1.0)))


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
def test_the_draws_are_those_of_a_loop_that_repeats_the_clips_of_drawn_groups_widened(
    problem: Problem, seed: int
) -> None:
    def scored(rows: npt.NDArray[np.intp]) -> dict[str, float]:
        assert problem.probabilities is not None
        given = (problem.truth[rows], problem.probabilities[rows])
        return values_of(score(problem.names, *given, predicted=problem.predicted[rows]))

    of_all = scored(np.arange(len(problem.truth)))
    looped = [scored(rows) for rows in drawn_rows(problem.groups, 3, seed)]
    found = score_draws(*problem, draws=3, seed=seed)
    assert set(found) == set(of_all)
    for name, value in of_all.items():
        raw, groups = np.array([values[name] for values in looped]), groups_behind(problem, name)
        varies = (np.abs(raw - value) > 1e-6).any()
        if name not in MEANS and (varies or groups < 2):
            np.testing.assert_allclose(found[name], widened(raw, value, groups, name), rtol=1e-6, atol=1e-9)
    for mean, name in zip(MEANS, ("recall", "f1", "auc", "average_precision"), strict=True):
        keys = [f"{name}/{label}" for label in problem.names if not math.isnan(of_all[f"{name}/{label}"])]
        lacking = [np.isnan([values[key] for values in looped]) for key in keys]
        filled = [np.where(lacks, of_all[key], found[key]) for lacks, key in zip(lacking, keys, strict=True)]
        if groups_behind(problem, mean) < 2:
            assert np.isnan(found[mean]).all() or len(set(problem.predicted)) == 1
        elif np.ptp(problem.predicted) and keys and not np.isnan(found[mean]).any():
            np.testing.assert_allclose(found[mean], np.mean(filled, axis=0), rtol=1e-6)


def test_one_answer_to_everything_is_at_chance_in_every_draw() -> None:
    truth = np.array([0] * 60 + [1] * 4 + [2] * 2)
    problem = Problem(["a", "b", "c"], truth, None, np.zeros(66, np.int64), [str(clip // 2) for clip in range(66)])
    assert set(score_draws(*problem)["balanced_accuracy"].round(12)) == {round(1 / 3, 12)}


def test_the_draws_of_a_large_problem_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    truth = np.arange(3000) % 3
    parts = generator.integers(1, 50, size=(3000, 3)) + 20.0 * np.eye(3)[truth]
    table = np.round(parts / parts.sum(axis=1, keepdims=True), 2)
    groups = [str(clip // 3 % 200) for clip in range(3000)]
    predicted = table.argmax(axis=1)
    found = score_draws(["a", "b", "c"], truth, table, predicted, groups, draws=400)

    def scored(rows: npt.NDArray[np.intp]) -> dict[str, float]:
        positive, scores = truth[rows] == 1, table[rows, 1]
        return {
            "auc/b": roc_auc_score(positive, scores),
            "average_precision/b": average_precision_score(positive, scores),
            "balanced_accuracy": balanced_accuracy_score(truth[rows], predicted[rows]),
            "macro_f1": f1_score(truth[rows], predicted[rows], average="macro"),
        }

    of_all = scored(np.arange(3000))
    for draw, rows in enumerate(drawn_rows(groups, 400, 0)):
        if draw % 133 == 0:
            for name, value in scored(rows).items():
                expected = widened(np.array([value]), of_all[name], 200)  # each label is borne in every group
                assert found[name][draw] == pytest.approx(expected[0], rel=1e-9), name


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
    found = intervals(*problem, draws=200, seed=4)
    assert set(found) == set(draws)
    for name, interval in found.items():
        assert (interval.low, interval.high) == pytest.approx(tuple(np.nanquantile(draws[name], [0.025, 0.975]))), name


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
    found = intervals(["a", "b"], truth, np.eye(2)[truth], truth, names_of)
    expected = binomtest(groups, groups).proportion_ci(method="exact")
    shares = {"accuracy", "weighted_f1", *(f"{score}/{label}" for score in OF_LABEL for label in "ab")}
    assert set(found) == shares | set(MEANS)
    for name in shares:
        assert (found[name].low, found[name].high) == (pytest.approx(expected.low, rel=0.02), 1.0), name
    for name in MEANS:  # a mean of two shares, each as unsure
        assert expected.low < found[name].low < (1.0 + expected.low) / 2, name
        assert found[name].high == 1.0


def test_a_score_of_0_is_not_said_to_be_sure_either() -> None:
    truth, groups = np.tile([0, 1], 5), [str(group) for group in np.repeat(np.arange(5), 2)]
    found = intervals(["a", "b"], truth, None, 1 - truth, groups)
    expected = binomtest(0, 5).proportion_ci(method="exact")
    assert found["accuracy"] == Interval(0.0, pytest.approx(expected.high, rel=0.02))
    assert "matthews" not in found


def test_a_share_that_all_groups_have_is_not_said_to_be_sure() -> None:
    truth, predicted = np.array([0] * 40 + [1, 1] * 2), np.array([0] * 40 + [0, 1] * 2)
    found = intervals(["common", "rare"], truth, None, predicted, [str(clip // 2) for clip in range(44)])
    expected = binomtest(1, 2).proportion_ci(method="exact")
    assert found["recall/rare"] == Interval(
        pytest.approx(expected.low, abs=0.001), pytest.approx(expected.high, abs=0.001)
    )


def test_a_perfect_score_is_as_unsure_as_the_label_that_fewest_groups_bear() -> None:
    truth = np.array([0] * 40 + [1] * 2)
    groups = [str(clip) for clip in range(42)]
    found = intervals(["common", "rare"], truth, None, truth, groups)
    common, rare, all_groups = (binomtest(n, n).proportion_ci(method="exact").low for n in (40, 2, 42))
    assert found["recall/common"].low == pytest.approx(common, rel=0.01)
    assert found["recall/rare"].low == pytest.approx(rare, rel=0.02)
    assert found["accuracy"].low == pytest.approx(all_groups, rel=0.01)
    assert (rare + common) / 2 < found["balanced_accuracy"].low < (rare + 1.0) / 2


def test_a_mean_over_labels_of_which_one_is_of_one_group_has_no_interval() -> None:
    truth = np.array([0] * 48 + [1] * 6)
    predicted = np.where(np.arange(54) % 16 == 0, 1, truth)
    groups = [str(clip // 2) for clip in range(48)] + ["the only one in pain"] * 6
    found = intervals(["hungry", "pain"], truth, np.eye(2)[predicted] * 0.6 + 0.2, predicted, groups)
    assert {"accuracy", "weighted_f1", "recall/hungry"} <= set(found)
    assert {*MEANS, "matthews", "kappa", "recall/pain"}.isdisjoint(found)


def rarely_heard(generator: np.random.Generator, rare: int, recall: float) -> Problem:
    """Twenty babies with three clips each of a common label, and some of another one; each is understood or not."""
    truth = np.repeat([0] * 20 + [1] * rare, 3)
    chance = np.repeat(generator.beta(2.5 * recall, 2.5 * (1.0 - recall), 20 + rare), 3)
    predicted = np.where(generator.random(len(truth)) < chance, truth, 1 - truth)
    return Problem(["common", "rare"], truth, None, predicted, [str(clip // 3) for clip in range(len(truth))])


@pytest.mark.parametrize("rare", [2, 3, 5])
@pytest.mark.parametrize("recall", [0.6, 0.9])
def test_the_interval_of_a_mean_over_labels_holds_it_where_a_label_is_of_few_groups(rare: int, recall: float) -> None:
    generator = np.random.default_rng(0)
    found = [
        intervals(*rarely_heard(generator, rare, recall), draws=400)["balanced_accuracy"] for _ in range(60)
    ]  # without widening 60% to 88% of them hold it
    assert np.mean([interval.low <= recall <= interval.high for interval in found]) >= 0.95


def test_many_groups_are_hardly_widened() -> None:
    problem = clustered(np.random.default_rng(0), groups=300, clips=3)
    generator = np.random.default_rng(0)
    right = (problem.predicted == problem.truth).reshape(300, 3).mean(axis=1)
    plain = np.quantile(right[generator.integers(300, size=(2000, 300))].mean(axis=1), [0.025, 0.975])
    found = intervals(*problem)["accuracy"]
    assert found.high - found.low == pytest.approx(np.ptp(plain), rel=0.01)


def test_the_calibration_error_has_no_interval_because_chance_alone_makes_it_greater() -> None:
    problem = clustered(np.random.default_rng(0), groups=30, clips=3)
    sure = problem._replace(probabilities=np.eye(2)[problem.predicted] * 0.4 + 0.3)
    assert "brier" in intervals(*sure, draws=100)
    assert "calibration_error" not in intervals(*sure, draws=100)


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
    assert percentiles(np.array([0.1, 0.2, math.nan])) is not None
    assert percentiles(np.array([0.1, math.nan, math.nan])) is None


def test_a_single_clip_says_nothing_of_others() -> None:
    problem = Problem(["a", "b"], np.array([1]), np.array([[0.2, 0.8]]), np.array([1]), ["x"])
    assert all(np.isnan(values).all() for values in score_draws(*problem, draws=5).values())
    assert intervals(*problem) == {}


def test_babies_that_bear_every_label_make_the_mean_over_labels_no_surer_than_the_accuracy() -> None:
    names, groups = ["a", "b", "c"], [f"baby {baby}" for baby in range(3) for _ in range(6)]
    truth = np.tile([0, 0, 1, 1, 2, 2], 3)
    found = intervals(names, truth, None, truth, groups)
    assert found["balanced_accuracy"] == found["accuracy"]
    apart = [f"baby {label} {baby}" for baby in range(3) for label in truth[:6]]
    assert intervals(names, truth, None, truth, apart)["balanced_accuracy"].low > found["accuracy"].low + 0.1
