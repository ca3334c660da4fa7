"""Two models side by side: differences that are paired, and a test that knows that clips of a baby are alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, strategies
from scipy.stats import binomtest

from crycli.bootstrap import Interval, intervals, score_draws
from crycli.comparing import difference, mcnemar, mcnemar_groups
from crycli.metrics import Labels, score

NAMES = ["a", "b", "c"]
Drawn = tuple[Labels, Labels, Labels, list[str]]


def answers(seed: int, clips: int = 60, groups: int = 15) -> Drawn:
    """Truth, the answers of a better and of a worse model, and groups of several sizes."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, clips)
    first = np.where(generator.random(clips) < 0.6, truth, generator.integers(0, 3, clips))
    second = np.where(generator.random(clips) < 0.3, truth, generator.integers(0, 3, clips))
    return truth, first, second, [str(group) for group in generator.integers(0, groups, clips)]


@pytest.mark.parametrize("name", ["balanced_accuracy", "accuracy", "macro_f1", "recall/b"])
def test_the_difference_is_that_of_a_loop_over_the_same_bootstrap_samples(name: str) -> None:
    truth, first, second, groups = answers(0)
    found = difference(NAMES, truth, first, second, groups, score=name, draws=200, seed=5)
    ours, others = (
        score_draws(NAMES, truth, None, predicted, groups, draws=200, seed=5)[name] for predicted in (first, second)
    )
    paired = [a - b for a, b in zip(ours, others, strict=True) if not (math.isnan(a) or math.isnan(b))]
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(np.quantile(paired, [0.025, 0.975])))
    if "/" not in name:
        one, other = (score(NAMES, truth, None, groups, predicted) for predicted in (first, second))
        assert found.value == pytest.approx(getattr(one, name) - getattr(other, name))
    assert found.p_mcnemar == mcnemar_groups(truth, first, second, groups)
    assert found.score == name


def test_a_model_without_an_error_in_few_groups_is_not_better_by_a_sure_number() -> None:
    """A percentile of draws that all agree would say +0.500 to +0.500."""
    truth, groups = np.repeat([0, 1], 8), [str(clip // 2) for clip in range(16)]
    found = difference(["a", "b"], truth, truth, np.zeros_like(truth), groups)
    own = intervals(["a", "b"], truth, None, truth, groups)["balanced_accuracy"]
    assert found.value == 0.5
    assert found.interval == Interval(pytest.approx(own.low - 0.5), 0.5)  # one answer to all is chance for sure
    assert 0.4 < own.low < 0.63  # 0.40 and 0.63: of Clopper and Pearson's with four groups and with eight


def test_two_models_without_an_error_in_few_groups_are_not_surely_the_same() -> None:
    truth, groups = np.repeat([0, 1], 8), [str(clip // 2) for clip in range(16)]
    found = difference(["a", "b"], truth, truth, truth, groups)
    assert found.interval is not None
    assert found.interval.low < -0.2 < 0.2 < found.interval.high


def test_the_difference_of_means_over_labels_of_which_one_is_of_one_group_has_no_interval() -> None:
    truth = np.array([0] * 20 + [1] * 4)
    groups = [str(clip // 2) for clip in range(20)] + ["alone"] * 4
    first, second = np.where(np.arange(24) % 7 == 0, 1 - truth, truth), np.where(np.arange(24) % 3 == 0, 1, truth)
    assert difference(["a", "b"], truth, first, second, groups).interval is None
    assert difference(["a", "b"], truth, first, second, groups, score="accuracy").interval is not None


@pytest.mark.parametrize("rare", [2, 3, 5])
def test_equally_good_models_seldom_differ_where_a_label_is_of_few_groups(rare: int) -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat([0] * 20 + [1] * rare, 3)
    groups = [str(clip // 3) for clip in range(len(truth))]

    def answered() -> Labels:
        chance = np.repeat(generator.beta(1.5, 1.0, 20 + rare), 3)
        return np.where(generator.random(len(truth)) < chance, truth, 1 - truth)

    found = [difference(["a", "b"], truth, answered(), answered(), groups, draws=400).interval for _ in range(60)]
    apart = [interval for interval in found if interval is not None and not interval.low <= 0.0 <= interval.high]
    assert len(apart) <= 4  # without widening 7 to 17


def test_the_difference_is_that_of_copies_of_whole_groups() -> None:
    """The same by hand: groups drawn, their clips put together, both models scored, the values subtracted."""
    truth, first, second, groups = answers(1, clips=200, groups=40)
    found = difference(NAMES, truth, first, second, groups)
    generator = np.random.default_rng(0)
    clips_of = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
    values = []
    for _ in range(2000):
        rows = np.concatenate([clips_of[number] for number in generator.integers(0, len(clips_of), len(clips_of))])
        one, other = (
            np.mean([np.mean(predicted[rows][truth[rows] == label] == label) for label in range(3)])
            for predicted in (first, second)
        )
        values.append(one - other)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(
        tuple(np.quantile(values, [0.025, 0.975])), abs=0.03
    )


def test_a_pair_is_compared_more_sharply_than_two_intervals_could() -> None:
    generator = np.random.default_rng(0)
    of_group = np.repeat(np.arange(40), 5)
    truth = generator.integers(0, 2, 200)
    right = (generator.random(40) < 0.6)[of_group]  # babies that both models understand
    second = np.where(right, truth, 1 - truth)
    first = np.where(generator.random(200) < 0.08, truth, second)  # a little better everywhere
    groups = [str(group) for group in of_group]
    found = difference(["a", "b"], truth, first, second, groups, score="accuracy")
    alone = score_draws(["a", "b"], truth, None, first, groups)["accuracy"]
    assert found.interval is not None
    assert found.interval.low > 0
    assert found.interval.high - found.interval.low < 0.3 * np.ptp(np.quantile(alone, [0.025, 0.975]))


def test_probabilities_may_be_compared_by_scores_that_need_them() -> None:
    truth, first, second, groups = answers(2)
    ours, others = (0.7 * np.eye(3)[predicted] + 0.1 for predicted in (first, second))
    found = difference(NAMES, truth, ours, others, groups, score="log_loss", draws=100)
    one, other = (score(NAMES, truth, probabilities, groups) for probabilities in (ours, others))
    assert one.log_loss is not None
    assert other.log_loss is not None
    assert found.value == pytest.approx(one.log_loss - other.log_loss)
    assert found.interval is not None
    by_answers = difference(NAMES, truth, first, second, groups, draws=100)
    assert difference(NAMES, truth, ours, others, groups, draws=100) == by_answers


def test_a_score_that_is_not_defined_is_an_error_and_no_number() -> None:
    truth, first, second, groups = answers(2)
    with pytest.raises(ValueError, match="macro_auc is not defined"):
        difference(NAMES, truth, first, second, groups, score="macro_auc")


def test_the_other_way_round_the_signs_turn() -> None:
    truth, first, second, groups = answers(3)
    there, back = (difference(NAMES, truth, *pair, groups) for pair in ((first, second), (second, first)))
    assert there.interval is not None
    assert back.interval is not None
    assert there.value == -back.value
    assert (there.interval.low, there.interval.high) == pytest.approx((-back.interval.high, -back.interval.low))
    assert there.p_mcnemar == back.p_mcnemar


def test_a_model_does_not_differ_from_itself() -> None:
    truth, first, _, groups = answers(4)
    found = difference(NAMES, truth, first, first, groups)
    assert found.interval is not None
    assert (found.value, found.interval.low, found.interval.high, found.p_mcnemar) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("clips", [1, 3])
def test_one_group_says_nothing_of_others(clips: int) -> None:
    truth = np.arange(clips)
    found = difference(NAMES, truth, truth, np.zeros_like(truth), ["x"] * clips)
    assert found.value == pytest.approx(1.0 - 1.0 / clips)
    assert (found.interval, found.p_mcnemar) == (None, None)


@given(strategies.lists(strategies.tuples(*[strategies.integers(0, 2)] * 3), min_size=1, max_size=40))
def test_mcnemar_is_the_binomial_test_of_the_clips_that_one_model_alone_gets_right(
    clips: list[tuple[int, int, int]],
) -> None:
    truth, first, second = (np.array(column) for column in zip(*clips, strict=True))
    ahead = sum(1 for label, one, other in clips if one == label != other)
    behind = sum(1 for label, one, other in clips if other == label != one)
    count = ahead + behind
    tail = sum(math.comb(count, k) for k in range(min(ahead, behind) + 1)) / 2**count
    assert mcnemar(truth, first, second) == pytest.approx(min(1.0, 2 * tail))
    each = [str(number) for number in range(len(clips))]
    assert mcnemar_groups(truth, first, second, each) == pytest.approx(min(1.0, 2 * tail))
    if count:
        assert mcnemar(truth, first, second) == pytest.approx(binomtest(ahead, count, 0.5).pvalue)


@given(
    strategies.lists(
        strategies.tuples(strategies.integers(0, 1), strategies.integers(0, 1), strategies.integers(0, 6)),
        min_size=1,
        max_size=40,
    )
)
def test_mcnemar_over_groups_is_the_share_of_all_choices_of_signs_with_as_large_a_sum(
    clips: list[tuple[int, int, int]],
) -> None:
    first, second, groups = (np.array(column) for column in zip(*clips, strict=True))
    truth = np.zeros_like(first)
    ahead = [int(((second - first) * (groups == group)).sum()) for group in np.unique(groups)]
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, ahead, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(ahead))
    ]
    expected = np.mean([value >= abs(sum(ahead)) for value in sums])
    assert mcnemar_groups(truth, first, second, [str(group) for group in groups]) == pytest.approx(expected)


def test_many_groups_do_not_wear_the_probabilities_out() -> None:
    truth = np.zeros(5000, dtype=np.int64)
    groups = [str(clip // 5) for clip in range(5000)]
    second = (np.arange(5000) % 2).astype(np.int64)
    assert mcnemar_groups(truth, 1 - second, second, groups) == pytest.approx(1.0)
    assert mcnemar_groups(truth, truth, second, groups) < 1e-100


def equally_good(seed: int) -> Drawn:
    """Two models that are right equally often, each about the same babies again and again."""
    generator = np.random.default_rng([seed, 77])
    of_group = np.repeat(np.arange(40), generator.integers(1, 7, 40))
    clips = len(of_group)
    truth = generator.integers(0, 3, clips)
    given = []
    for _ in range(2):
        right = np.where(
            generator.random(clips) < 0.8, (generator.random(40) < 0.6)[of_group], generator.random(clips) < 0.6
        )
        given.append(np.where(right, truth, (truth + 1) % 3))
    return truth, given[0], given[1], [str(group) for group in of_group]


def test_equally_good_models_are_told_apart_no_more_often_than_the_level_allows() -> None:
    def found(p: Callable[[Drawn], float]) -> float:
        return float(np.mean([p(equally_good(seed)) < 0.05 for seed in range(400)]))

    assert 0.02 <= found(lambda drawn: mcnemar_groups(*drawn)) <= 0.07
    assert found(lambda drawn: mcnemar(*drawn[:3])) > 0.15  # clip by clip these sets look far too different


def test_a_better_model_is_told_apart() -> None:
    drawn = [answers(seed, clips=200, groups=60) for seed in range(50)]
    assert np.mean([mcnemar_groups(*one) < 0.05 for one in drawn]) >= 0.95
