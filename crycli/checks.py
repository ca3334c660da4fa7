"""What can be wrong with a dataset as a whole: leaks, confounds, rare labels, parts too small to tell anything."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from crycli.manifest import PARTS, Clip

TRAINING_NAMES = ("train", "training")


@dataclass(frozen=True)
class _Measure:
    """How a field of `Clip` is treated as a measure of the recording, and how it is written."""

    name: str
    category: bool = False
    scale: float = 1.0
    unit: str = ""


# Not the share of silence: it belongs to what is heard, such as a dog's bark next to rain.
MEASURES = {
    "corpus": _Measure("corpus", category=True),
    "sample_rate": _Measure("sample rate", category=True, scale=1000.0, unit=" kHz"),
    "codec": _Measure("codec", category=True),
    "channels": _Measure("number of channels", category=True, unit="-channel"),
    "bandwidth_hz": _Measure("bandwidth", scale=1000.0, unit=" kHz"),
    "duration": _Measure("duration", unit=" s"),
    "loudness_db": _Measure("loudness", unit=" dB"),
}

FOLDS = 5
DEALS = 5
"""Ways to deal groups to folds. One alone warns of chance in up to 8% of simulated datasets, the mean of five in 3%."""

BINS = 20
CLIPS_PER_BIN = 10  # 20 bins for 30 clips make 0.72 of an AUC that is 0.90, and 3 bins 0.84
CHANCE_DEVIATIONS = 3.5
"""Standard errors above 0.5 that an AUC needs: a dataset of 15 labels has 105 AUCs, and out of fold they vary 1.25
times as much as their standard error says. With 3.0 chance is warned of in up to 23% of simulated datasets.
"""

BANDWIDTH_GAP = 1.2  # encoders of one kind end within some 10% of each other
SIGNIFICANCE = 0.05  # of a two-sided test
LISTED_LABELS = 5

Indices = npt.NDArray[np.int64]
"""(clips,): the number of a fold, a bin or a label for each clip."""

Counts = npt.NDArray[np.float64]
"""(folds, bins, labels): clips."""


@dataclass(frozen=True)
class Leak:
    """A part that shares groups with another.

    Attributes:
        part: the part that is no longer independent.
        other: the part it shares groups with.
        clips: clips of `part` whose group also occurs in `other`.
        total: clips of `part`.
        groups: shared groups.
        examples: up to three shared groups, those with most clips in `part` first.
    """

    part: str
    other: str
    clips: int
    total: int
    groups: int
    examples: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the clips of `part` that leak."""
        return self.clips / self.total


@dataclass(frozen=True)
class Confound:
    """How well one measure alone tells one label.

    Attributes:
        measure: a field of `Clip`.
        label: the label it tells.
        auc: area under the ROC curve against the other labels; see `confounds`.
        chance_auc: what no measure exceeds by chance, given so few groups; may lie above 1.
        clips: clips of the label with this measure.
        detail: what tells it, in words. "The others" are the mean over the other labels; a range is the middle half.
    """

    measure: str
    label: str
    auc: float
    chance_auc: float
    clips: int
    detail: str

    def tells(self, threshold: float) -> bool:
        """Whether it tells the label with this AUC, and better than chance could."""
        return self.auc >= max(threshold, self.chance_auc)


@dataclass(frozen=True)
class Detectable:
    """The least that a part can tell from guessing; see `detectable`.

    Attributes:
        part: its name.
        clips: its clips.
        groups: distinct groups among them.
        baseline: share of the commonest label, the accuracy of always answering it.
        accuracy: detectable improvement over `baseline`; None where even a perfect model would not be significant.
        balanced_accuracy: detectable improvement over chance, one over the labels; None likewise.
    """

    part: str
    clips: int
    groups: int
    baseline: float
    accuracy: float | None
    balanced_accuracy: float | None


def leakage(parts: Mapping[str, Sequence[Clip]]) -> list[Leak]:
    """The pairs of parts that share groups; empty where there is none.

    Each pair is told from its held-out side: that which is not the training part, or else the smaller one.
    """
    counts = {name: Counter(map(_group, clips)) for name, clips in parts.items()}
    leaks = []
    for pair in combinations(parts, 2):
        other, part = sorted(pair, key=lambda name: (name not in TRAINING_NAMES, -len(parts[name])))
        shared = sorted(counts[part].keys() & counts[other].keys(), key=lambda group: (-counts[part][group], group))
        if shared:
            clips = sum(counts[part][group] for group in shared)
            leaks.append(Leak(part, other, clips, len(parts[part]), len(shared), tuple(shared[:3])))
    return leaks


def leaked_clips(parts: Mapping[str, Sequence[Clip]]) -> dict[str, int]:
    """For each part but the training part: clips whose group occurs in any other part."""
    counts = {name: Counter(map(_group, clips)) for name, clips in parts.items()}
    within = Counter(group for groups in counts.values() for group in groups)
    return {
        name: sum(clips for group, clips in groups.items() if within[group] > 1)
        for name, groups in counts.items()
        if name not in TRAINING_NAMES
    }


def _group(clip: Clip) -> str:
    return clip.group or str(clip.path)


def confounds(clips: Sequence[Clip], seed: int = 0) -> list[Confound]:
    """How well each measure of the recording alone tells each label, strongest first.

    A measure is cut into its values, or a quantity into up to 20 bins of equally many clips. How much of each label
    lies in a bin is counted in four fifths of the groups and ranks the clips of the last fifth, which are compared
    with one another only (Airola et al. 2011, Computational Statistics & Data Analysis 55:1828: an AUC pooled over
    folds is biased); the groups are dealt to the fifths in five ways. Each of the other labels weighs the same in the
    AUC, however rare it is (Hand & Till 2001, Machine Learning 45:171). So a rare label is found that shares a
    recorder with a common one.

    Clips without a measure, and measures that are the same for all clips, are left out.

    Args:
        clips: of all parts.
        seed: of the folds.
    """
    deals = [_folds(clips, seed + deal) for deal in range(DEALS)]
    found: list[Confound] = []
    for measure in MEASURES:
        known = [index for index, clip in enumerate(clips) if getattr(clip, measure) not in (None, "")]
        if known:
            found += _told_by(measure, [clips[index] for index in known], [folds[known] for folds in deals])
    return sorted(found, key=_strongest_first)


def _strongest_first(entry: Confound) -> tuple[float, int, str]:
    """By the AUC as it is written; of those that are equal the commonest label serves best as an example."""
    return -round(entry.auc, 2), -entry.clips, entry.label


def _folds(clips: Sequence[Clip], seed: int) -> Indices:
    """A fold for each clip: groups stay whole, and the groups of each label, rarest first, are dealt in turn."""
    groups: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        groups[clip.label].add(_group(clip))
    fold: dict[str, int] = {}
    draw = random.Random(seed)
    for label in sorted(groups, key=lambda label: (len(groups[label]), label)):
        undealt = sorted(groups[label] - fold.keys())
        draw.shuffle(undealt)
        for group in undealt:
            fold[group] = len(fold) % FOLDS
    return np.array([fold[_group(clip)] for clip in clips], dtype=np.int64)


def _told_by(measure: str, clips: Sequence[Clip], deals: Iterable[Indices]) -> list[Confound]:
    values = np.array([getattr(clip, measure) for clip in clips])
    bins = _bins(measure, values)
    names, labels = np.unique([clip.label for clip in clips], return_inverse=True)
    if bins.max() == 0 or len(names) < 2:
        return []
    aucs = np.mean([_out_of_fold_aucs(_count(folds, bins, labels)) for folds in deals], axis=0)
    groups = np.array([effective_groups(some) for some in _by_label(clips).values()])
    return [
        Confound(
            measure,
            str(name),
            float(auc),
            _chance_auc(groups[index], _harmonic(np.delete(groups, index))),
            int((labels == index).sum()),
            f"{name}: {_detail(measure, values, bins, labels, index)}",
        )
        for index, (name, auc) in enumerate(zip(names, aucs, strict=True))
        if not math.isnan(auc)
    ]


def _bins(measure: str, values: npt.NDArray[Any]) -> Indices:
    if MEASURES[measure].category:
        return np.unique(values, return_inverse=True)[1]
    bins = max(2, min(BINS, len(values) // CLIPS_PER_BIN))
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]


def _count(folds: Indices, bins: Indices, labels: Indices) -> Counts:
    counts = np.zeros((FOLDS, bins.max() + 1, labels.max() + 1))
    np.add.at(counts, (folds, bins, labels), 1)
    return counts


def _out_of_fold_aucs(counts: Counts) -> list[float]:
    """The AUC of each label against the others, from counts alone; NaN where no fold has both."""
    elsewhere = counts.sum(axis=0) - counts + 1.0  # add one (Laplace), lest an empty bin divide by zero
    density = elsewhere / elsewhere.sum(axis=1, keepdims=True)
    scores = density / density.sum(axis=2, keepdims=True)
    weights = counts / counts.sum(axis=(0, 1))
    aucs = []
    for label in range(counts.shape[2]):
        positives, negatives = weights[:, :, label], np.delete(weights, label, axis=2).sum(axis=2)
        score = scores[:, :, label]
        ahead = (np.sign(score[:, :, None] - score[:, None, :]) + 1.0) / 2.0  # a tie is half a win
        pairs = (positives.sum(axis=1) * negatives.sum(axis=1)).sum()
        wins = np.einsum("fi,fij,fj->", positives, ahead, negatives)
        aucs.append(float(wins / pairs) if pairs else math.nan)
    return aucs


def effective_groups(clips: Sequence[Clip]) -> float:
    """The number of equally large groups that would tell as much as these, if the clips of a group are all alike.

    The squared sum over the sum of squares of the clips per group (Kish 1965, Survey Sampling); at most the number of
    groups. It is the worst case, as the clips of a group are in truth not quite alike.
    """
    sizes = np.array(list(Counter(map(_group, clips)).values()), dtype=np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _harmonic(sizes: npt.NDArray[np.float64]) -> float:
    """The size of a single sample whose mean is as certain as the mean of the means of samples of these sizes."""
    return float(len(sizes) ** 2 / (1.0 / sizes).sum())


def _chance_auc(positives: float, negatives: float) -> float:
    """0.5 and 3.5 standard errors of an AUC that is 0.5 in truth (Hanley & McNeil 1982, Radiology 143:29)."""
    return 0.5 + CHANCE_DEVIATIONS * math.sqrt((positives + negatives + 1.0) / (12.0 * positives * negatives))


def _detail(measure: str, values: npt.NDArray[Any], bins: Indices, labels: Indices, label: int) -> str:
    weights = 1.0 / np.bincount(labels)[labels]  # each label weighs the same, as in the AUC
    own = labels == label
    if MEASURES[measure].category:
        shares, sums = (np.bincount(bins[of], weights[of], bins.max() + 1) for of in (own, ~own))
        shares_of_others = sums / labels.max()  # the highest label is the number of the others
        best = int((shares - shares_of_others).argmax())
        often = _percent(shares[best]).replace("100%", "always")
        return f"{often} {_written(measure, np.unique(values)[best])}, the others {_percent(shares_of_others[best])}"
    mostly, mostly_others = (
        _written(measure, *np.quantile(values[of], (0.25, 0.75), weights=weights[of], method="inverted_cdf"))
        for of in (own, ~own)
    )
    return f"mostly {mostly}, the others {mostly_others}"


def _percent(share: float) -> str:
    """Per cent, rounded, but never to 0% or 100% what is not."""
    return f"{share:.0%}" if min(share, 1.0 - share) < 1e-9 else f"{min(max(share, 0.01), 0.99):.0%}"


def _written(measure: str, *values: Any) -> str:
    """A value, or a range, with its unit."""
    kind = MEASURES[measure]
    digits = 5 if kind.category else 3
    texts = [value if isinstance(value, str) else f"{value / kind.scale:.{digits}g}" for value in values]
    return " to ".join(dict.fromkeys(texts)) + kind.unit


def confound_warnings(found: Sequence[Confound], threshold: float) -> list[str]:
    """One line for each measure that tells labels, strongest first; measures that tell them equally share one.

    Args:
        found: from `confounds`.
        threshold: the AUC from which a label is named, unless chance alone could reach it.
    """
    telling: dict[str, list[Confound]] = defaultdict(list)
    for entry in sorted(found, key=_strongest_first):
        if entry.tells(threshold):
            telling[entry.measure].append(entry)
    alike: dict[str, list[str]] = defaultdict(list)  # two corpora differ in the recorder, the sample rate, the codec
    for measure, entries in telling.items():
        alike[_labels_with_auc(entries)].append(measure)
    lines = []
    for labels, (measure, *others) in alike.items():
        same = _listed([f"the {MEASURES[other].name}" for other in others])
        also = f", and so do{'es' if len(others) == 1 else ''} {same}" if others else ""
        lines.append(
            f"the {MEASURES[measure].name} alone tells {labels} ({telling[measure][0].detail}){also}: "
            "a model may learn that and not the sound"
        )
    return lines


def corpus_warnings(clips: Iterable[Clip]) -> list[str]:
    """A line for each corpus that stops at a frequency which nearly all clips of the others exceed."""
    widths: dict[str, list[float]] = defaultdict(list)
    for clip in clips:
        if clip.bandwidth_hz is not None:
            widths[clip.corpus].append(clip.bandwidth_hz)
    lines = []
    for corpus, own in sorted(widths.items()):
        others = [width for other, some in widths.items() if other != corpus for width in some]
        if others and max(own) * BANDWIDTH_GAP < np.quantile(others, 0.05):
            limit, wide = (_written("bandwidth_hz", width) for width in (max(own), np.quantile(others, 0.05)))
            lines.append(
                f"every clip of {corpus} stops at {limit} and nearly all others go beyond {wide}: a model can tell the "
                f"corpora by that alone; cut the others alike, or have all labels from each corpus"
            )
    return lines


def _labels_with_auc(entries: Sequence[Confound]) -> str:
    return _listed([f"{entry.label} ({'' if place else 'AUC '}{entry.auc:.2f})" for place, entry in enumerate(entries)])


def detectable(part: str, clips: Sequence[Clip]) -> Detectable | None:
    """The smallest improvement over guessing that a part finds: two-sided test at 5%, 80% power.

    For a rate p0 of right answers by guessing, n independent answers, normal quantiles a = z(0.975) and b = z(0.8),
    it is the d that solves

        sqrt(n) d = a sqrt(p0 (1 - p0)) + b sqrt((p0 + d) (1 - p0 - d))

    (Lachin 1981, Controlled Clinical Trials 2:93). Answers to clips of one group are not independent: n is the
    effective number of groups, as if a model were right or wrong on whole groups (`effective_groups`), which is the
    worst case. For the balanced accuracy n is that of a mean over labels with so many groups each. The normal
    approximation is rough where p0 is near 1 or n below about 20.

    Returns:
        None where fewer than two labels occur, so that there is nothing to tell apart.
    """
    by_label = _by_label(clips)
    if len(by_label) < 2:
        return None
    baseline = max(map(len, by_label.values())) / len(clips)
    per_label = np.array([effective_groups(some) for some in by_label.values()])
    return Detectable(
        part=part,
        clips=len(clips),
        groups=len(set(map(_group, clips))),
        baseline=baseline,
        accuracy=_detectable_improvement(baseline, effective_groups(clips)),
        balanced_accuracy=_detectable_improvement(1.0 / len(by_label), _harmonic(per_label)),
    )


def _detectable_improvement(chance: float, count: float) -> float | None:
    """The d of `detectable`: the larger root of its equation squared, which is quadratic in d."""
    critical, power = NormalDist().inv_cdf(1.0 - SIGNIFICANCE / 2.0), NormalDist().inv_cdf(0.8)
    variance = chance * (1.0 - chance)
    least = critical * math.sqrt(variance)
    # With few answers the approximation finds what even all right could not show in an exact binomial test.
    if math.sqrt(count) * (1.0 - chance) < least or 2.0 * chance**count > SIGNIFICANCE:
        return None
    square = count + power**2
    linear = 2.0 * math.sqrt(count) * least + power**2 * (1.0 - 2.0 * chance)
    constant = least**2 - power**2 * variance
    root = (linear + math.sqrt(linear**2 - 4.0 * square * constant)) / (2.0 * square)
    return min(root, 1.0 - chance)


def label_warnings(parts: Mapping[str, Sequence[Clip]], min_groups: int) -> list[str]:
    """Labels that are missing from a part or rest on few groups there: a line each, the rarest first, at most six.

    Args:
        parts: the clips of each part.
        min_groups: groups of a label that a part other than the training part should have.
    """
    groups: dict[str, dict[str, set[str]]] = defaultdict(lambda: {part: set() for part in parts})
    for part, clips in parts.items():
        for clip in clips:
            groups[clip.label][part].add(_group(clip))
    total = {label: len(set().union(*within.values())) for label, within in groups.items()}
    lines = {}
    for label in sorted(groups, key=lambda label: (total[label], label)):
        counts = {part: len(some) for part, some in groups[label].items()}
        problem = _label_problem(counts, total[label], min_groups)
        if problem:
            lines[label] = f"label {label} {problem}"
    if len(lines) <= LISTED_LABELS + 1:
        return list(lines.values())
    rest = list(lines)[LISTED_LABELS:]
    more = f"{len(rest)} more labels have fewer than {min_groups} groups in a part: {_listed(rest)}"
    return [*list(lines.values())[:LISTED_LABELS], more]


def _label_problem(counts: Mapping[str, int], total: int, min_groups: int) -> str:
    """What is wrong with a label that has so many groups in each part and in all; empty where nothing is."""
    missing = [part for part, count in counts.items() if not count]
    few = {part: count for part, count in counts.items() if 0 < count < min_groups and part not in TRAINING_NAMES}
    has = f"has {_listed([f'{_groups(count)} in {part}' for part, count in few.items()])}"
    if missing:
        also = f" and {has}" if few else ""
        return f"is missing from {_listed(missing)}{also}: its clips come from {_groups(total)}"
    if total < len(PARTS):
        return f"has {_groups(total)} in all: too few to train, select and test on"
    return f"{has}: its scores there mean little" if few else ""


def _groups(count: int) -> str:
    return f"{count} group{'' if count == 1 else 's'}"


def _listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them, four at most: a, b and c; a, b, c and 3 more."""
    listed = list(words) if len(words) <= 4 else [*words[:3], f"{len(words) - 3} more"]
    return " and ".join(filter(None, (", ".join(listed[:-1]), *listed[-1:])))


def quantiles(clips: Iterable[Clip], measure: str) -> dict[str, tuple[float, float, float, float, float]]:
    """Least, lower quartile, median, upper quartile and greatest value of a measure, for each label that has it."""
    values = {
        label: [value for clip in some if (value := getattr(clip, measure)) is not None]
        for label, some in _by_label(clips).items()
    }
    found = {}
    for label, known in values.items():
        if known:
            least, low, median, high, greatest = map(float, np.quantile(known, (0.0, 0.25, 0.5, 0.75, 1.0)))
            found[label] = (least, low, median, high, greatest)
    return found


def summarise(clips: Iterable[Clip]) -> dict[str, Any]:
    """Clips, groups and minutes, in all and by label."""
    clips = list(clips)
    return {**_totals(clips), "labels": {label: _totals(some) for label, some in _by_label(clips).items()}}


def _by_label(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
    by_label: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_label[clip.label].append(clip)
    return dict(sorted(by_label.items()))


def _totals(clips: list[Clip]) -> dict[str, Any]:
    return {
        "clips": len(clips),
        "groups": len({clip.group for clip in clips}),
        "minutes": round(sum(clip.duration or 0.0 for clip in clips) / 60, 3),
    }
