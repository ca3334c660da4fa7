"""Labels and probabilities to scores: numpy and scikit-learn alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
"""(clips,) indices into the label list."""

Probabilities = npt.NDArray[np.float64]
"""(clips, labels), each row summing to 1."""


Counts = npt.NDArray[np.float64]

DRAWS_AT_ONCE = 500  # of a bootstrap: bounds its memory


@dataclass(frozen=True)
class LabelScores:
    """How one label was found.

    Attributes:
        support: clips that truly bear the label.
        precision: share of the clips so called that bear it; None where none was so called.
        recall: share of the clips bearing it that were so called; None where none bears it.
        f1: their harmonic mean, 0 where nothing was found; None where no clip bears it.
        auc: area under the ROC curve against the rest; None without clips on both sides.
    """

    support: int
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None


@dataclass(frozen=True)
class Report:
    """The scores of a classifier on a set of clips. Labels that no clip bears do not enter the means.

    Attributes:
        clips: scored clips.
        groups: distinct groups among them.
        accuracy: share of right answers.
        balanced_accuracy: mean recall over the labels (UAR).
        macro_f1: mean F1 over the labels.
        weighted_f1: mean F1 weighted by support.
        macro_auc: mean one-against-rest AUC; None where one label alone is borne.
        log_loss: mean negative log probability of the true label, in nats.
        chance_balanced_accuracy: the balanced accuracy of any answer that ignores the recording.
        commonest_label: the label most clips bear.
        commonest_accuracy: the accuracy of always answering it.
        labels: the scores of each label.
        confusion: (labels, labels) counts, rows true, columns predicted.
    """

    clips: int
    groups: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    weighted_f1: float
    macro_auc: float | None
    log_loss: float
    chance_balanced_accuracy: float
    commonest_label: str
    commonest_accuracy: float
    labels: dict[str, LabelScores]
    confusion: tuple[tuple[int, ...], ...]


def score(
    names: Sequence[str], truth: Labels, probabilities: Probabilities, groups: Sequence[str] | None = None
) -> Report:
    """Score predictions.

    Args:
        names: label names, in the order of the probabilities.
        truth: (clips,) true labels; at least one.
        probabilities: (clips, labels).
        groups: the clips' groups; each clip is one by itself where None.
    """
    from sklearn.metrics import confusion_matrix

    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, labels=np.arange(len(names)))
    support = confusion.sum(axis=1)
    called = confusion.sum(axis=0)
    hits = confusion.diagonal()
    labels = {
        name: LabelScores(
            support=int(support[index]),
            precision=_ratio(hits[index], called[index]),
            recall=_ratio(hits[index], support[index]),
            f1=_ratio(2 * hits[index], support[index] + called[index]) if support[index] else None,
            auc=_auc(truth == index, probabilities[:, index]),
        )
        for index, name in enumerate(names)
    }
    borne = [labels[name] for name in names if labels[name].support]
    f1 = np.array([entry.f1 or 0.0 for entry in borne])
    aucs = [entry.auc for entry in borne if entry.auc is not None]
    of_truth = probabilities[np.arange(len(truth)), truth]
    return Report(
        clips=len(truth),
        groups=len(truth) if groups is None else len(set(groups)),
        accuracy=float(hits.sum() / len(truth)),
        balanced_accuracy=float(np.mean([entry.recall or 0.0 for entry in borne])),
        macro_f1=float(f1.mean()),
        weighted_f1=float(np.average(f1, weights=[entry.support for entry in borne])),
        macro_auc=float(np.mean(aucs)) if aucs else None,
        log_loss=float(-np.log(np.clip(of_truth, np.finfo(np.float64).tiny, None)).mean()),
        chance_balanced_accuracy=1.0 / len(borne),
        commonest_label=names[int(support.argmax())],
        commonest_accuracy=float(support.max() / len(truth)),
        labels=labels,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def intervals(
    names: Sequence[str],
    truth: Labels,
    predicted: Labels,
    groups: Sequence[str],
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Confidence intervals of the scores by a percentile bootstrap over groups (Efron and Tibshirani 1993, ch. 8, 13).

    Clips of one baby are alike, so whole groups are drawn: an interval over clips would be too narrow. A draw is a
    number of copies for each group; its counts are the sums of the groups' own, so no clip is touched twice.

    Args:
        names: label names.
        truth: (clips,) true labels.
        predicted: (clips,) answers.
        groups: (clips,) groups.
        draws: bootstrap samples.
        level: the share of them that an interval holds.
        seed: another one gives other draws.

    Returns:
        Of accuracy, balanced_accuracy, macro_f1 and weighted_f1 the lower and the upper bound. Labels that no clip of a
        draw bears do not enter its means. Empty for fewer than two groups, which say nothing of others.
    """
    numbers: dict[str, int] = {}
    of_group = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    if len(numbers) < 2:
        return {}
    labels = len(names)
    counts = np.zeros((len(numbers), 3, labels))  # of hits, of clips that bear each label, of clips called so
    hit = truth == predicted
    for row, group, label in (
        (0, of_group[hit], truth[hit]),
        (1, of_group, truth),
        (2, of_group, predicted),
    ):
        np.add.at(counts[:, row], (group, label), 1.0)
    generator = np.random.default_rng(seed)
    scores: dict[str, list[npt.NDArray[np.float64]]] = {}
    for first in range(0, draws, DRAWS_AT_ONCE):
        count = min(DRAWS_AT_ONCE, draws - first)
        copies = generator.multinomial(len(numbers), np.full(len(numbers), 1.0 / len(numbers)), size=count)
        drawn = (copies @ counts.reshape(len(numbers), -1)).reshape(count, 3, labels)
        for name, values in _scores_of(*np.moveaxis(drawn, 1, 0)).items():
            scores.setdefault(name, []).append(values)
    outside = (1.0 - level) / 2.0
    found = {}
    for name, parts in scores.items():
        low, high = np.quantile(np.concatenate(parts), [outside, 1.0 - outside])
        found[name] = (float(low), float(high))
    return found


def _scores_of(hits: Counts, support: Counts, called: Counts) -> dict[str, npt.NDArray[np.float64]]:
    """(draws,) scores from (draws, labels) counts."""
    borne = support > 0
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=borne)
    f1 = np.divide(2.0 * hits, support + called, out=np.zeros_like(hits), where=borne)
    count = borne.sum(axis=1)
    return {
        "accuracy": hits.sum(axis=1) / support.sum(axis=1),
        "balanced_accuracy": recall.sum(axis=1) / count,
        "macro_f1": f1.sum(axis=1) / count,
        "weighted_f1": (f1 * support).sum(axis=1) / support.sum(axis=1),
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _auc(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float | None:
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, scores))


def remark(report: Report) -> str:
    """One plain sentence on what the scores are worth next to answers that ignore the recording."""
    answered = [
        name for name, column in zip(report.labels, zip(*report.confusion, strict=True), strict=True) if any(column)
    ]
    borne = sum(1 for entry in report.labels.values() if entry.support)
    if len(answered) == 1 and borne > 1:
        return f"The model answers {answered[0]!r} to every clip: it has learnt nothing that this part can show."
    if borne == 1:
        return f"Every clip here is {report.commonest_label!r}: this part cannot show whether labels are told apart."
    if report.balanced_accuracy <= report.chance_balanced_accuracy:
        return "Balanced accuracy is no better than chance: nothing shows that the model can tell the labels apart."
    return (
        f"Balanced accuracy is {report.balanced_accuracy:.3f} where chance gives "
        f"{report.chance_balanced_accuracy:.3f}; {report.clips} clips of {report.groups} groups are what this rests on."
    )
