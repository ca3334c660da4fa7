"""How sure the scores are: a bootstrap over groups."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from crycli.metrics import Counts, Labels, Probabilities, brier_scores, log_losses

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Draws = npt.NDArray[np.float64]
"""(draws,) values of a score; NaN where a draw does not define it."""

NUMBERS_AT_ONCE = 1_000_000  # draws times clips of a step: some ten arrays of that size are held, 80 MB

OVER_LABELS = {
    "balanced_accuracy": "recall",
    "macro_f1": "f1",
    "macro_auc": "auc",
    "macro_average_precision": "average_precision",
}
"""Scores that are means over labels, in which a rare label weighs as much as a common one, and of what."""
SHARE = (0.0, 1.0)
NO_SHARES = {"matthews": (-1.0, 1.0), "kappa": (-1.0, 1.0), "brier": (0.0, 2.0), "log_loss": (0.0, np.inf)}
"""The ranges of scores: of those that are shares, and of the others."""

LEVEL = 0.95  # of all intervals
OUTSIDE = (1.0 - LEVEL) / 2.0  # of an interval, on either side
SAME = 1e-9  # scores that differ by less are the same, reckoned in another order


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a score.

    Attributes:
        low: its lower bound.
        high: its upper bound.
    """

    low: float
    high: float


class _Ranking(NamedTuple):
    """The clips by falling probability of a label, as (steps, groups) numbers of clips of each group.

    A step leads to the next value of the probability that a clip bearing the label has; the clips of the least ones,
    after the last of these, are in none.

    Attributes:
        all: clips of each step.
        tied: those of them that have the very value the step leads to.
        positive: those of them that bear the label.
    """

    all: csr_array
    tied: csr_array
    positive: csr_array


def score_draws(
    names: Sequence[str],
    truth: Labels,
    probabilities: Probabilities | None,
    predicted: Labels,
    groups: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
    tail: int = 0,
) -> dict[str, Draws]:
    """The scores of bootstrap samples of whole groups (Efron and Tibshirani 1993; Davison and Hinkley 1997, ch. 3.8).

    Clips of one baby are alike, so whole groups are drawn, as many as there are, with replacement: samples of clips
    would make the scores look too sure. A draw is a number of copies for each group. Sums over its clips are products
    of these with the groups' own sums; AUC and average precision come from running sums over the clips sorted once.

    Samples of few groups vary too little, and those of groups that are all alike do not vary at all. So the draws of a
    score are widened by the number m of groups that it rests on, before a mean over labels is taken of them:

    - Their distances from the value over all clips are stretched by sqrt(m / (m - 1)) t(m - 1) / z, with the quantiles
      at 0.975 of Student's t and of the normal distribution, within the range of the score: the small-sample correction
      of percentile intervals of Hesterberg (2015, "What teachers should know about the bootstrap", arXiv 1411.5279). It
      is 9.2 for two groups, 2.7 for three, 1.2 for ten and 1.01 for 200.
    - A share that is the same in all of them is drawn from the tails of Clopper and Pearson's interval (1934) of that
      share of m trials, half from either; from one tail alone where the share is 0 or 1. Shares of the same m groups
      are drawn from the same places of their tails: what is not known of these babies is not known for each label.
    - With fewer than two groups nothing is known of others: they are NaN.

    The m groups are, for the score of a label, those with clips that bear it (for precision: that are called so; for
    AUC and average precision: that bear it, or that do not, whichever is fewer); for Matthews' and Cohen's coefficients
    those of the label that fewest groups bear; all of them for the other scores.

    Args:
        names: label names.
        truth: (clips,) true labels; at least one.
        probabilities: (clips, labels); None where only the answers are known.
        predicted: (clips,) answers.
        groups: (clips,) groups. The same groups get the same copies whatever else is given, so that differences between
            models can be taken draw by draw.
        draws: bootstrap samples.
        seed: another one gives other draws.
        tail: another one gives other draws from the tails alone, which two models do not share.

    Returns:
        (draws,) values of each score of `metrics.Report`, by its name there, and of those of each label, as
        "recall/LABEL"; NaN in the draws for which `metrics.score` would give None. Those that rest on probabilities are
        missing where there are none; so is the calibration error, which chance alone makes greater: of a model without
        any the percentiles leave out 0 always, and the basic interval does in one case of five. In a mean over the
        labels, one that a draw happens to lack has the value that it has in all the clips: otherwise a model of one
        answer would seem to be better than chance whenever a rare label is not drawn. That model's balanced accuracy
        is chance in every draw.
    """
    distinct, of_group = np.unique(np.asarray(groups), return_inverse=True)
    rankings: list[_Ranking | None] = []
    if probabilities is not None:
        rankings = [
            _ranking(truth == label, probabilities[:, label], of_group, len(distinct)) for label in range(len(names))
        ]
    sums = np.zeros((len(distinct), 3 * len(names) + (0 if probabilities is None else 2)))
    np.add.at(sums, of_group, _summands(len(names), truth, probabilities, predicted))

    def scores_of(copies: Counts) -> dict[str, Draws]:
        hits, support, called, rest = np.split(copies @ sums, np.arange(1, 4) * len(names), axis=1)
        values = _of_answers(names, hits, support, called)
        if probabilities is not None:
            values |= _of_probabilities(rest, support.sum(axis=1)) | _of_rankings(names, rankings, copies, support)
        return values

    at_once = max(1, NUMBERS_AT_ONCE // len(truth))
    parts = [scores_of(copies) for copies in _copies(len(distinct), draws, at_once, seed)]
    of_all = {name: float(value) for name, (value,) in scores_of(np.ones((1, len(distinct)))).items()}
    resting = _resting(names, truth, predicted, of_group)
    everyone = np.arange(len(distinct))
    found = {}
    for name, value in of_all.items():
        values, rested_on = np.concatenate([part[name] for part in parts]), resting.get(name, everyone)
        generator = np.random.default_rng([seed, tail, zlib.crc32(rested_on.tobytes())])
        found[name] = _widened(values, value, len(rested_on), NO_SHARES.get(name, SHARE), generator)
    for mean, score in OVER_LABELS.items():
        keys = [f"{score}/{name}" for name in names]
        if keys[0] in found:
            values = np.stack([found[key] for key in keys], axis=1)
            of_labels = np.array([of_all[key] for key in keys])
            found[mean] = _mean_over_labels(values, of_labels) if len(resting[mean]) > 1 else np.full(draws, np.nan)
    if len(np.unique(predicted)) == 1 < min(len(distinct), len(np.unique(truth))):
        found["balanced_accuracy"][:] = 1.0 / len(np.unique(truth))
    return found


def intervals(
    names: Sequence[str],
    truth: Labels,
    probabilities: Probabilities | None,
    predicted: Labels,
    groups: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """95% confidence intervals of the scores: percentiles of `score_draws` (Efron and Tibshirani 1993, ch. 13).

    Args:
        names: label names.
        truth: (clips,) true labels; at least one.
        probabilities: (clips, labels); None where only the answers are known.
        predicted: (clips,) answers.
        groups: (clips,) groups.
        draws: bootstrap samples.
        seed: another one gives other draws.

    Returns:
        By the names of `score_draws`. Left out: scores that rest on fewer than two groups (a mean over labels does
        where one of them does), that fewer than half of the draws define, or that are perfect or worst in all of them
        and are no shares (Matthews, kappa, log loss, Brier).
    """
    found = {}
    for name, values in score_draws(names, truth, probabilities, predicted, groups, draws=draws, seed=seed).items():
        interval = percentiles(values)
        if interval is not None:
            found[name] = interval
    return found


def percentiles(values: Draws) -> Interval | None:
    """The interval that holds the middle 95% of draws; None where fewer than half of them are defined."""
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values):
        return None
    low, high = np.quantile(defined, [OUTSIDE, 1.0 - OUTSIDE])
    return Interval(float(low), float(high))


def _widened(
    values: Draws, value: float, groups: int, bounds: tuple[float, float], generator: np.random.Generator
) -> Draws:
    """The draws of a score that is `value` over all clips and rests on so many groups; see `score_draws`."""
    from scipy.special import betaincinv, ndtri, stdtrit

    if groups < 2 or np.isnan(value):
        return np.full_like(values, np.nan)
    if np.nan_to_num(np.abs(values - value)).max() > SAME:
        stretch = np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, 1.0 - OUTSIDE) / ndtri(1.0 - OUTSIDE)
        return np.asarray(np.clip(value + stretch * (values - value), *bounds))
    if bounds != SHARE:
        return np.full_like(values, np.nan) if value in bounds else values
    places = (generator.permutation(len(values)) + 0.5) / len(values)
    right, wrong = value * groups, (1.0 - value) * groups
    tails = np.where(places < 0.5, betaincinv(right, wrong + 1.0, places), betaincinv(right + 1.0, wrong, places))
    return np.where(np.isnan(tails), value, tails)  # there is no tail below 0 and above 1


def _resting(
    names: Sequence[str], truth: Labels, predicted: Labels, of_group: npt.NDArray[np.intp]
) -> dict[str, npt.NDArray[np.intp]]:
    """The groups that a score rests on, where these are not all groups."""

    def having(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        return np.unique(of_group[chosen])

    resting: dict[str, npt.NDArray[np.intp]] = {}
    for label, name in enumerate(names):
        bearing = having(truth == label)
        both = min(bearing, having(truth != label), key=len)
        resting |= {f"recall/{name}": bearing, f"f1/{name}": bearing, f"precision/{name}": having(predicted == label)}
        resting |= {f"auc/{name}": both, f"average_precision/{name}": both}
    fewest = min((having(truth == label) for label in np.unique(truth)), key=len)
    return resting | dict.fromkeys((*OVER_LABELS, "matthews", "kappa"), fewest)


def _copies(groups: int, draws: int, at_once: int, seed: int) -> Iterator[Counts]:
    """(draws, groups) how often each group is drawn, some draws at a time; their number does not change the copies."""
    generator = np.random.default_rng(seed)
    for first in range(0, draws, at_once):
        count = min(at_once, draws - first)
        drawn = generator.integers(groups, size=(count, groups)) + np.arange(count)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups).astype(np.float64)


def _summands(labels: int, truth: Labels, probabilities: Probabilities | None, predicted: Labels) -> Counts:
    """(clips, columns) whose sums make the scores: hits, clips and answers of each label, and losses."""
    one = np.eye(labels)
    columns = [one[truth] * (truth == predicted)[:, None], one[truth], one[predicted]]
    if probabilities is not None:
        columns += [
            log_losses(truth, probabilities)[:, None],
            brier_scores(truth, probabilities)[:, None],
        ]
    return np.concatenate(columns, axis=1)


def _of_answers(names: Sequence[str], hits: Counts, support: Counts, called: Counts) -> dict[str, Draws]:
    """What (draws, labels) numbers of clips say."""
    clips = support.sum(axis=1)
    recall, precision = _divide(hits, support), _divide(hits, called)
    f1 = np.where(support > 0, _divide(2.0 * hits, support + called), np.nan)
    by_chance = (support * called).sum(axis=1)  # of clips^2
    beyond = clips * hits.sum(axis=1) - by_chance
    spread = clips**2 - (support**2).sum(axis=1)  # 0 where one label alone is borne
    spread_of_answers = clips**2 - (called**2).sum(axis=1)
    matthews = np.divide(
        beyond, np.sqrt(spread * spread_of_answers), out=np.zeros_like(clips), where=spread_of_answers * spread > 0
    )
    return {
        "accuracy": hits.sum(axis=1) / clips,
        "weighted_f1": np.nansum(f1 * support, axis=1) / clips,
        "matthews": np.where(spread > 0, matthews, np.nan),
        "kappa": np.where(spread > 0, _divide(beyond, clips**2 - by_chance), np.nan),
        **_by_label("recall", names, recall),
        **_by_label("precision", names, precision),
        **_by_label("f1", names, f1),
    }


def _of_probabilities(sums: Counts, clips: Counts) -> dict[str, Draws]:
    """What (draws, 2) sums of losses say of (draws,) clips."""
    return {"log_loss": sums[:, 0] / clips, "brier": sums[:, 1] / clips}


def _of_rankings(
    names: Sequence[str], rankings: Sequence[_Ranking | None], copies: Counts, support: Counts
) -> dict[str, Draws]:
    """AUC and average precision of (draws, groups) copies with (draws, labels) clips bearing each label."""
    by_group = np.ascontiguousarray(copies.T)
    clips = support.sum(axis=1)
    auc, precision = np.full(support.shape, np.nan), np.full(support.shape, np.nan)
    for label, ranking in enumerate(rankings):
        if ranking is not None:
            auc[:, label], precision[:, label] = _area_and_precision(ranking, by_group, support[:, label], clips)
    return {
        **_by_label("auc", names, auc),
        **_by_label("average_precision", names, precision),
    }


def _ranking(
    positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], of_group: npt.NDArray[np.intp], groups: int
) -> _Ranking | None:
    """None where no draw has clips on both sides."""
    from scipy.sparse import csr_array

    if positive.all() or not positive.any():
        return None
    values, of_value = np.unique(-scores, return_inverse=True)
    aims = np.unique(of_value[positive])
    step = np.searchsorted(aims, of_value)

    def count(chosen: npt.NDArray[np.bool_]) -> csr_array:
        entries = (np.ones(int(chosen.sum())), (step[chosen], of_group[chosen]))
        return csr_array(entries, shape=(len(aims), groups))

    is_aim = np.zeros(len(values), dtype=np.bool_)
    is_aim[aims] = True
    return _Ranking(count(step < len(aims)), count(is_aim[of_value]), count(positive))


def _area_and_precision(ranking: _Ranking, by_group: Counts, positives: Counts, clips: Counts) -> tuple[Draws, Draws]:
    """(draws,) AUC and average precision from (groups, draws) copies."""
    positive, tied = ranking.positive @ by_group, ranking.tied @ by_group
    seen, found = (ranking.all @ by_group).cumsum(axis=0), positive.cumsum(axis=0)
    both = (positives > 0) & (positives < clips)
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    # The clips without the label that rank above those with it; of those with the same probability half.
    above = seen - found - (tied - positive) / 2.0
    pairs = np.where(both, positives * (clips - positives), np.nan)
    area = 1.0 - np.einsum("ij,ij->j", positive, above) / pairs
    return area, np.einsum("ij,ij->j", positive, precision) / np.where(both, positives, np.nan)


def _by_label(score: str, names: Sequence[str], values: Counts) -> dict[str, Draws]:
    return {f"{score}/{name}": values[:, label] for label, name in enumerate(names)}


def _divide(parts: Counts, wholes: Counts) -> Counts:
    """NaN where the whole is 0."""
    return np.asarray(np.divide(parts, wholes, out=np.full(wholes.shape, np.nan), where=wholes > 0), dtype=np.float64)


def _mean_over_labels(values: Counts, of_all: Draws) -> Draws:
    """(draws,) from (draws, labels), with (labels,) in place of a NaN among other values; NaN where all are."""
    lacking = np.isnan(values)
    known = ~np.isnan(of_all)
    filled = np.where(lacking, of_all, values)[:, known]
    return np.where(lacking.all(axis=1), np.nan, filled.sum(axis=1) / max(int(known.sum()), 1))
