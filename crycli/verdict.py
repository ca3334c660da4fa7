"""Whether answers are better than chance: a permutation test over groups, and a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from crycli.bootstrap import Interval
from crycli.comparing import Difference
from crycli.metrics import Labels, Report, of_one_group

Indices = npt.NDArray[np.int64]

LEVEL = 0.05
FAR = 0.5  # of the way from chance to a faultless model
LEAST_EXCHANGED = 10  # groups: 10! orders; with 10 the false positives were closest to the level, also where labels
# and answers both go with the size of the group (6% of 250 such sets; 10% with 20, 14% with all sizes exchanged)
CLIPS_AT_ONCE = 1_000_000  # draws times clips of a step: four arrays of that size are held, 32 MB
TIE = 1e-9  # sums of the same recalls in another order are the same balanced accuracy


@dataclass(frozen=True)
class Verdict:
    """Whether a model is better than chance, and what that rests on.

    Attributes:
        kind: "one_label": every clip bears the same label; "one_answer": the model answers the same to every clip;
            "too_few": there is one group alone; "not_better": than chance, as far as can be shown; "better";
            "far_better": better, and the lower bound of the interval lies beyond halfway from chance to a faultless
            model: balanced accuracy rescaled to 0 for chance and 1 for no error ("informedness", Powers 2011) is then
            surely over 0.5, more right than guessed.
        sentence: the verdict in plain words.
        p: of `permutation_p`; None where nothing can be tested ("one_label", "too_few").
        better_than_chance: p is below 0.05; None where p is.
        better_than_baselines: better than chance, and the interval of the difference from each baseline lies above 0;
            None without a baseline and where nothing can be tested.
        balanced_accuracy: what is judged.
        interval: its own; None where it cannot be had.
        chance: the balanced accuracy of any answer that ignores the recording.
    """

    kind: str
    sentence: str
    p: float | None
    better_than_chance: bool | None
    better_than_baselines: bool | None
    balanced_accuracy: float
    interval: Interval | None
    chance: float


def permutation_p(
    names: Sequence[str], truth: Labels, predicted: Labels, groups: Sequence[str], *, draws: int = 2000, seed: int = 0
) -> float:
    """Test that the answers know nothing of the labels: how often is balanced accuracy as high without a link?

    The clips of a baby are alike and so are the answers to them, so exchanging the answers of single clips would find
    far too many models better than chance. Whole groups exchange their answers instead (Winkler et al. 2015:
    whole-block exchangeability). This is exact for blocks of the same size alone, so groups are exchanged with those of
    their own size, and of the next sizes where these are fewer than ten. A group takes the answers of the other one
    from a place drawn at random on, round and round: a larger group meets some of them again, which makes the test the
    more careful; a smaller one goes without some.

    Measured at a level of 5% on 1,500 sets each without a link (120 to 200 clips in groups of 1 to 6 or of 4, that bear
    one label or several, as skewed as 382/27/24/16/8, with answers alike in a group): 4.9 to 5.5% are called better
    than chance; 9 to 12% where the answers of single clips are exchanged.

    Args:
        names: label names.
        truth: (clips,) true labels; at least one.
        predicted: (clips,) answers.
        groups: (clips,) groups.
        draws: exchanges.
        seed: another one gives other exchanges.

    Returns:
        (1 + exchanges with a balanced accuracy as high or higher) / (1 + exchanges), which is never 0 (Phipson and
        Smyth 2010); 1 for a single group, which cannot be exchanged.
    """
    _, of_group, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return 1.0
    order = np.argsort(of_group, kind="stable")
    truth, predicted, of_group = truth[order], predicted[order], of_group[order]
    worth = 1.0 / np.bincount(truth, minlength=len(names))[truth]  # of a hit
    observed = worth[truth == predicted].sum()
    reached = 0
    for sources in _exchanges(of_group, sizes, draws, np.random.default_rng(seed)):
        reached += int(((predicted[sources] == truth) @ worth >= observed - TIE).sum())
    return (1 + reached) / (1 + draws)


def _exchanges(
    of_group: Indices, sizes: Indices, draws: int, generator: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """(some draws, clips): the clip whose answer each clip gets. The clips are sorted by their groups."""
    starts = np.cumsum(sizes) - sizes
    places = np.arange(len(of_group)) - starts[of_group]
    alike = _alike(sizes)
    by_alike = np.argsort(alike, kind="stable")
    at_once = max(1, CLIPS_AT_ONCE // len(of_group))
    for first in range(0, draws, at_once):
        shape = (min(at_once, draws - first), len(sizes))
        donors = np.empty(shape, dtype=np.int64)
        donors[:, by_alike] = np.argsort(alike + generator.random(shape), axis=1)
        begins = generator.integers(sizes[donors])
        yield starts[donors][:, of_group] + (begins[:, of_group] + places) % sizes[donors][:, of_group]


def _alike(sizes: Indices) -> Indices:
    """(groups,) numbers of sets of groups of like sizes, each with LEAST_EXCHANGED groups at least, or all groups."""
    values, of_value, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    sets = np.zeros(len(values), dtype=np.int64)
    held = 0
    for number, count in enumerate(counts):
        if held >= LEAST_EXCHANGED and counts[number:].sum() >= LEAST_EXCHANGED:
            sets[number:] += 1
            held = 0
        held += count
    return np.asarray(sets[of_value])


def judge(report: Report, intervals: Mapping[str, Interval], p: float, against: Mapping[str, Difference]) -> Verdict:
    """Say what the scores of a model are worth.

    Args:
        report: its scores.
        intervals: theirs; "balanced_accuracy" is used.
        p: of `permutation_p`.
        against: baseline to the difference of the model's balanced accuracy from its own.
    """
    interval = intervals.get("balanced_accuracy")
    verdict = partial(
        Verdict,
        balanced_accuracy=report.balanced_accuracy,
        interval=interval,
        chance=report.chance_balanced_accuracy,
    )
    untestable = _untestable(report)
    if untestable is not None:
        kind, sentence = untestable
        return verdict(kind, sentence, p=None, better_than_chance=None, better_than_baselines=None)
    better = p < LEVEL and report.balanced_accuracy > report.chance_balanced_accuracy
    beaten = [name for name, difference in against.items() if better and _sign(difference) > 0]
    tested = partial(
        verdict,
        p=p,
        better_than_chance=better,
        better_than_baselines=len(beaten) == len(against) if against else None,
    )
    only = _only_answer(report)
    if only is not None:
        return tested(
            "one_answer",
            f"The model answers {only!r} to every clip: it is no better than chance, and its accuracy of "
            f"{report.accuracy:.3f} is the share of that label.",
        )
    halfway = report.chance_balanced_accuracy + FAR * (1.0 - report.chance_balanced_accuracy)
    far = better and interval is not None and interval.low > halfway
    kind = "far_better" if far else "better" if better else "not_better"
    parts = [_against_chance(report, interval, kind, p)]
    if against:
        parts.append(_against_baselines(against, beaten))
    return tested(kind, "; ".join(parts) + ".")


def _untestable(report: Report) -> tuple[str, str] | None:
    """The kind of verdict and its sentence where no answers could show anything."""
    clips = "The only clip is" if report.clips == 1 else f"All {report.clips} clips are"
    if sum(1 for entry in report.labels.values() if entry.support) == 1:
        return (
            "one_label",
            f"{clips} {report.commonest_label!r}: this cannot show whether the model tells labels apart.",
        )
    if report.groups < 2:
        return "too_few", f"{clips} of one group: this cannot show whether the model is better than chance on others."
    return None


def _only_answer(report: Report) -> str | None:
    """The one label that the model answers; None where it answers several."""
    called = [sum(column) for column in zip(*report.confusion, strict=True)]
    answered = [name for name, count in zip(report.labels, called, strict=True) if count]
    return answered[0] if len(answered) == 1 else None


def _against_chance(report: Report, interval: Interval | None, kind: str, p: float) -> str:
    claim = {
        "not_better": "is not shown to be better than chance",
        "better": "is better than chance",
        "far_better": "is far better than chance",
    }[kind]
    lone = of_one_group(report)
    bounds = f" (no 95% interval: {lone})" if lone else ""
    if interval is not None:
        bounds = f" (95% interval {interval.low:.3f} to {interval.high:.3f})"
    probability = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return (
        f"The model {claim}: its balanced accuracy is {report.balanced_accuracy:.3f}{bounds} where chance gives "
        f"{report.chance_balanced_accuracy:.3f}, {probability} over {report.groups} groups"
    )


def _against_baselines(against: Mapping[str, Difference], beaten: Sequence[str]) -> str:
    found: dict[str, list[str]] = {"better than": [], "not shown to be better than": [], "worse than": []}
    for name, difference in against.items():
        claim = "worse than" if _sign(difference) < 0 else "not shown to be better than"
        bounds = difference.interval
        figures = f"{difference.value:+.3f}" + ("" if bounds is None else f", {bounds.low:+.3f} to {bounds.high:+.3f}")
        found["better than" if name in beaten else claim].append(f"{name} ({figures})")
    return "it is " + ", and ".join(f"{claim} {_join(names)}" for claim, names in found.items() if names)


def _join(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _sign(difference: Difference) -> int:
    """On which side of 0 the interval of a difference lies; 0 where it holds 0 or there is none."""
    if difference.interval is None:
        return 0
    return int(difference.interval.low > 0.0) - int(difference.interval.high < 0.0)
