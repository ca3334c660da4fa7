"""The verdict: right about models that know nothing, right about those that know something, and said plainly."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pytest

from crycli import bootstrap
from crycli.bootstrap import Interval
from crycli.comparing import Difference
from crycli.metrics import Labels, score
from crycli.verdict import Verdict, judge, permutation_p

NAMES = ["hungry", "discomfort", "tired", "belly_pain", "burping"]
SHARES = np.array([382, 27, 24, 16, 8]) / 457  # DonateACry's


@dataclass(frozen=True)
class Answered:
    """Clips and answers to them."""

    truth: Labels
    predicted: Labels
    groups: list[str]

    def by_clip(self) -> Answered:
        """Each clip for itself."""
        return Answered(self.truth, self.predicted, [str(clip) for clip in range(len(self.truth))])

    def p(self, draws: int = 300, seed: int = 0) -> float:
        return permutation_p(NAMES, self.truth, self.predicted, self.groups, draws=draws, seed=seed)


def simulated(
    seed: int,
    *,
    largest: int = 6,
    equal: bool = False,
    several_labels: float = 0.0,
    alike: float = 0.8,
    skill: float = 0.0,
) -> Answered:
    """120 to 200 clips in groups of 1 to `largest`, all labels among them, answered by a model.

    Args:
        seed: another one gives another set.
        largest: clips of a group.
        equal: whether all groups have as many.
        several_labels: share of the groups whose clips bear labels of their own.
        alike: share of the clips that are answered with what is their group's.
        skill: share of the groups whose label is known, and of the other clips; the rest is guessed.
    """
    generator = np.random.default_rng([seed, 2026])
    while True:
        clips = generator.integers(120, 201)
        sizes = np.full(clips, largest) if equal else generator.integers(1, largest + 1, clips)
        of_group = np.repeat(np.arange(clips), sizes)[:clips]
        mixed = (generator.random(clips) < several_labels)[of_group]
        truth = np.where(mixed, generator.choice(5, clips, p=SHARES), generator.choice(5, clips, p=SHARES)[of_group])
        if len(np.unique(truth)) == 5:
            break
    shared = generator.random(clips) < alike
    guess = np.where(shared, generator.choice(5, clips, p=SHARES)[of_group], generator.choice(5, clips, p=SHARES))
    known = np.where(shared, (generator.random(clips) < skill)[of_group], generator.random(clips) < skill)
    return Answered(truth, np.where(known, truth, guess), [f"baby {group}" for group in of_group])


@pytest.mark.parametrize(("equal", "largest"), [(False, 6), (True, 4)], ids=["groups of 1 to 6", "groups of 4"])
@pytest.mark.parametrize("several_labels", [0.0, 0.4], ids=["one label a group", "several"])
def test_models_that_know_nothing_are_called_better_no_more_often_than_the_level_allows(
    equal: bool, largest: int, several_labels: float
) -> None:
    sets = [simulated(seed, several_labels=several_labels, equal=equal, largest=largest) for seed in range(500)]
    found = np.mean([one.p(200, seed) < 0.05 for seed, one in enumerate(sets)])
    assert 0.02 <= found <= 0.06
    # Exchanging the answers of single clips does not hold the level on these sets, so they can tell.
    assert np.mean([one.by_clip().p(200, seed) < 0.05 for seed, one in enumerate(sets[:250])]) > 0.07


def test_p_counts_the_answers_themselves_among_the_exchanges_and_is_never_0() -> None:
    assert simulated(0, skill=1.0).p(draws=9) == pytest.approx(0.1)


def mean_recall(truth: Labels, predicted: Labels) -> float:
    return float(np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)]))


@pytest.mark.parametrize("several_labels", [0.0, 0.4])
def test_a_model_that_knows_something_is_found(several_labels: float) -> None:
    skill = (0.5 - 0.2) / (
        1.0 - 0.2
    )  # a balanced accuracy of 0.5 on the whole; of a set with 2 burping babies 0.3 to 0.8
    sets = [simulated(seed, several_labels=several_labels, skill=skill) for seed in range(120)]
    found = np.array([one.p(200) < 0.05 for one in sets])
    reached = np.array([mean_recall(one.truth, one.predicted) for one in sets])
    assert found.mean() >= 0.9
    assert found[reached >= 0.45].mean() >= 0.99


def all_exchanges(sizes: list[int]) -> Iterator[list[int]]:
    """For each way to exchange groups, the clip whose answer each clip gets."""
    starts = [sum(sizes[:group]) for group in range(len(sizes))]
    for donors in itertools.permutations(range(len(sizes))):
        for begins in itertools.product(*(range(sizes[donor]) for donor in donors)):
            yield [
                starts[donor] + (begin + place) % sizes[donor]
                for size, donor, begin in zip(sizes, donors, begins, strict=True)
                for place in range(size)
            ]


@pytest.mark.parametrize("sizes", [[2, 2, 2, 2], [1, 2, 3, 1]])
def test_p_is_the_share_of_all_exchanges_of_whole_groups_that_do_as_well(sizes: list[int]) -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 3, sum(sizes))
    predicted = np.where(generator.random(len(truth)) < 0.6, truth, 0)
    names, groups = ["a", "b", "c"], [str(group) for group in np.repeat(np.arange(4), sizes)]
    observed = mean_recall(truth, predicted)
    weights: Counter[bool] = Counter()
    for sources in all_exchanges(sizes):
        weights[mean_recall(truth, predicted[sources]) >= observed - 1e-9] += 1
    expected = weights[True] / weights.total()
    assert 0.0 < expected < 1.0
    assert permutation_p(names, truth, predicted, groups, draws=20_000) == pytest.approx(expected, abs=0.015)


def test_what_the_size_of_a_group_gives_away_is_no_knowledge_of_the_label() -> None:
    of_group = np.concatenate([np.arange(30), np.repeat(np.arange(30, 60), 3)])
    truth = (of_group >= 30).astype(np.int64)
    groups = [str(group) for group in of_group]
    assert permutation_p(["a", "b"], truth, truth, groups, draws=100) == 1.0


def test_clips_of_a_group_need_not_stand_together() -> None:
    one = simulated(3, skill=0.2)
    groups = np.array(one.groups)
    place = np.array([(groups[:clip] == groups[clip]).sum() for clip in range(len(groups))])
    apart = np.argsort(place, kind="stable")  # the first clips of all groups, then the second ones
    moved = Answered(one.truth[apart], one.predicted[apart], [one.groups[clip] for clip in apart])
    assert moved.groups != one.groups
    assert moved.p() == one.p()


@pytest.mark.parametrize(
    ("truth", "predicted", "groups", "p"),
    [
        ((0, 1, 2), (0, 1, 2), ("x", "x", "x"), 1.0),
        ((0,), (0,), ("x",), 1.0),
        ((0, 1, 2, 0), (1, 1, 1, 1), ("w", "x", "y", "z"), 1.0),
        ((0, 0, 0), (0, 0, 0), ("x", "y", "z"), 1.0),
        ((0, 0, 1, 1), (0, 0, 1, 1), ("x", "x", "y", "y"), 0.5),  # of two exchanges of two groups
    ],
    ids=["one group", "one clip", "one answer", "one label", "two groups"],
)
def test_p_is_defined_where_there_is_little_to_exchange(
    truth: tuple[int, ...], predicted: tuple[int, ...], groups: tuple[str, ...], p: float
) -> None:
    found = permutation_p(["a", "b", "c"], np.array(truth), np.array(predicted), groups)
    assert found == pytest.approx(p, abs=0.03)


def verdict(
    truth: list[int],
    predicted: list[int],
    p: float = 0.0004,
    *,
    bounds: tuple[float, float] | None = (0.4, 0.7),
    groups: int | None = None,
    against: Mapping[str, Difference] | None = None,
) -> Verdict:
    """Judge answers to clips in as many groups as there are clips, or fewer."""
    names = [str(clip % (groups or len(truth))) for clip in range(len(truth))]
    report = score(NAMES, np.array(truth), None, names, np.array(predicted))
    intervals = {} if bounds is None else {"balanced_accuracy": Interval(*bounds)}
    found = judge(report, intervals, p, against or {})
    json.dumps(asdict(found), allow_nan=False)
    assert found.sentence.endswith(".")
    assert "p = 0.000" not in found.sentence
    return found


def by(value: float, low: float, high: float) -> Difference:
    return Difference("balanced_accuracy", value, Interval(low, high), 0.5)


EVERY = [0, 0, 0, 0, 1, 1, 2, 3]
HALF = [0, 0, 0, 1, 1, 0, 2, 0]  # recalls 3/4, 1/2, 1, 0


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (partial(verdict, [0, 0, 0], [0, 1, 0], groups=2), "one_label", "All 3 clips are 'hungry'"),
        (partial(verdict, [2], [2]), "one_label", "The only clip is 'tired'"),
        (partial(verdict, EVERY, EVERY, 1.0, groups=1, bounds=None), "too_few", "All 8 clips are of one group"),
        (
            partial(verdict, EVERY, [0] * 8, 1.0),
            "one_answer",
            "answers 'hungry' to every clip: it is no better than chance, and ",
        ),
        (partial(verdict, EVERY, [4] * 8, 1.0), "one_answer", "answers 'burping' to every clip"),
        (
            partial(verdict, EVERY, HALF, 0.3104),
            "not_better",
            "The model is not shown to be better than chance: its balanced accuracy is 0.562 (95% interval 0.400 to "
            "0.700) where chance gives 0.250, p = 0.310 over 8 groups.",
        ),
        (
            partial(verdict, EVERY, HALF, bounds=(0.3, 0.7)),
            "better",
            "The model is better than chance: its balanced accuracy",
        ),
        (partial(verdict, EVERY, HALF, 0.0), "better", "p < 0.001 over 8 groups."),
        (
            partial(verdict, EVERY, HALF, 0.012, bounds=None),
            "better",
            "0.562 (no 95% interval: 'tired' and 'belly_pain' are of one group each) where chance gives 0.250, ",
        ),
        (
            partial(verdict, [0, 0, 0, 1], [0, 0, 0, 1], 0.012, bounds=None),
            "better",
            "1.000 (no 95% interval: 'discomfort' is of one group alone) where chance gives 0.500, p = 0.012",
        ),
        (partial(verdict, [0, 0, 1, 1], [0, 0, 1, 1], 0.012, bounds=None), "better", "1.000 where chance gives 0.500"),
        (partial(verdict, EVERY, HALF, bounds=(0.62, 0.9)), "better", "better than chance"),  # halfway: 0.625
        (partial(verdict, EVERY, EVERY, bounds=(0.63, 1.0)), "far_better", "The model is far better than chance"),
        (partial(verdict, EVERY, EVERY, 0.06, bounds=(0.63, 1.0)), "not_better", "is not shown to be better"),
        (partial(verdict, [0, 0, 1, 1], [0, 1, 0, 1]), "not_better", "is 0.500"),  # where chance is
    ],
)
def test_each_verdict_has_its_sentence(call: Callable[[], Verdict], kind: str, words: str) -> None:
    found = call()
    assert found.kind == kind
    assert words in found.sentence
    testable = kind not in {"one_label", "too_few"}
    assert (found.p is not None) == testable
    assert found.better_than_chance == (kind in {"better", "far_better"} if testable else None)
    assert found.better_than_baselines is None


def test_a_model_with_one_answer_gets_no_praise_for_its_accuracy() -> None:
    found = verdict([0] * 9 + [1], [0] * 10, 1.0)
    assert "its accuracy of 0.900 is the share of that label" in found.sentence
    assert found.balanced_accuracy == found.chance == 0.5


def test_the_sentence_says_which_baselines_are_beaten() -> None:
    against = {
        "always 'hungry'": by(0.31, 0.1, 0.5),
        "guessing": by(0.3, 0.11, 0.49),
        "MFCC": by(0.01, -0.1, 0.12),
        "another": by(-0.2, -0.3, -0.1),
    }
    found = verdict(EVERY, HALF, bounds=(0.3, 0.7), against=against)
    assert found.sentence.endswith(
        "; it is better than always 'hungry' (+0.310, +0.100 to +0.500) and guessing (+0.300, +0.110 to +0.490), and "
        "not shown to be better than MFCC (+0.010, -0.100 to +0.120), "
        "and worse than another (-0.200, -0.300 to -0.100)."
    )


@pytest.mark.parametrize(
    ("p", "against", "expected"),
    [
        (0.01, {"x": by(0.2, 0.1, 0.3), "y": by(0.2, 0.01, 0.3)}, True),
        (0.01, {"x": by(0.2, 0.1, 0.3), "y": by(0.2, 0.0, 0.3)}, False),  # it includes a tie
        (0.01, {"x": by(0.0, 0.0, 0.0)}, False),
        (0.01, {"x": Difference("balanced_accuracy", 0.2, None, None)}, False),
        (0.20, {"x": by(0.2, 0.1, 0.3)}, False),  # it may be chance, so it may be no better than what hears nothing
    ],
)
def test_better_than_the_baselines_is_better_than_each_of_them_and_than_chance(
    p: float, against: Mapping[str, Difference], expected: bool
) -> None:
    found = verdict(EVERY, HALF, p, bounds=(0.3, 0.7), against=against)
    assert found.better_than_baselines is expected
    assert ("it is better than" in found.sentence) == (expected or len(against) == 2)


def test_answers_that_know_nothing_of_clustered_clips_get_the_verdict_that_they_deserve() -> None:
    kinds = []
    for skill in (0.0, 0.95):
        one = simulated(11, skill=skill)  # two groups at least of each label
        report = score(NAMES, one.truth, None, one.groups, one.predicted)
        intervals = bootstrap.intervals(NAMES, one.truth, None, one.predicted, one.groups, draws=500)
        kinds.append(judge(report, intervals, one.p(), {}).kind)
    assert kinds == ["not_better", "far_better"]
