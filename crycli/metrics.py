"""Labels and probabilities to scores: numpy and scikit-learn alone. Their intervals are in `bootstrap`."""

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
"""(..., labels) numbers of clips."""

UPPER_EDGES = np.linspace(0.0, 1.0, 11)[1:-1]
"""Of the ten bins of the confidence but the last; an edge belongs to the bin below it, as in Guo et al. (2017)."""


@dataclass(frozen=True)
class LabelScores:
    """How one label was found.

    Attributes:
        support: clips that truly bear the label.
        groups: distinct groups among them.
        precision: share of the clips so called that bear it; None where none was so called.
        recall: share of the clips bearing it that were so called; None where none bears it.
        f1: their harmonic mean, 0 where nothing was found; None where no clip bears it.
        auc: area under the ROC curve against the rest; None without clips on both sides, or without probabilities.
        average_precision: the mean of the precision over the recall, the label against the rest (not interpolated);
            None without clips on both sides, or without probabilities.
    """

    support: int
    groups: int
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Report:
    """The scores of a classifier on a set of clips. Labels that no clip bears do not enter the means.

    What rests on probabilities is None where there are answers alone.

    Attributes:
        clips: scored clips.
        groups: distinct groups among them.
        accuracy: share of right answers.
        balanced_accuracy: mean recall over the labels (UAR).
        macro_f1: mean F1 over the labels.
        weighted_f1: mean F1 weighted by support.
        matthews: Matthews' correlation of labels and answers (Gorodkin 2004 for more than two labels), 0 where all
            answers are the same; None where one label alone is borne.
        kappa: Cohen's kappa, the agreement beyond that of answers drawn by chance; None where one label alone is borne.
        macro_auc: mean one-against-rest AUC; None where one label alone is borne.
        macro_average_precision: mean average precision; None where one label alone is borne.
        log_loss: mean negative log probability of the true label, in nats.
        brier: mean over the clips of the squared differences between the probabilities and 0 or 1, summed over the
            labels (Brier 1950): 0 is best, 2 worst.
        calibration_error: the expected one (Naeini et al. 2015): the mean over the clips of how far confidence and
            accuracy lie apart in the clip's bin, of ten equally wide bins of the confidence. The confidence is the
            probability of the answer.
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
    matthews: float | None
    kappa: float | None
    macro_auc: float | None
    macro_average_precision: float | None
    log_loss: float | None
    brier: float | None
    calibration_error: float | None
    chance_balanced_accuracy: float
    commonest_label: str
    commonest_accuracy: float
    labels: dict[str, LabelScores]
    confusion: tuple[tuple[int, ...], ...]


def score(
    names: Sequence[str],
    truth: Labels,
    probabilities: Probabilities | None,
    groups: Sequence[str] | None = None,
    predicted: Labels | None = None,
) -> Report:
    """Score predictions.

    Args:
        names: label names, in the order of the probabilities.
        truth: (clips,) true labels; at least one.
        probabilities: (clips, labels); None where only the answers are known.
        groups: the clips' groups; each clip is one by itself where None.
        predicted: (clips,) the answers; the likeliest labels where None.

    Raises:
        ValueError: neither probabilities nor answers are given.
    """
    from sklearn.metrics import cohen_kappa_score, confusion_matrix, matthews_corrcoef

    if predicted is None:
        if probabilities is None:
            raise ValueError("neither probabilities nor answers are given")
        predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, labels=np.arange(len(names)))
    support = confusion.sum(axis=1)
    called = confusion.sum(axis=0)
    hits = confusion.diagonal()
    auc, average_precision = _ranked(truth, probabilities, support)
    names_of = np.arange(len(truth)) if groups is None else np.asarray(groups)
    labels = {
        name: LabelScores(
            support=int(support[index]),
            groups=len(np.unique(names_of[truth == index])),
            precision=_ratio(hits[index], called[index]),
            recall=_ratio(hits[index], support[index]),
            f1=_ratio(2 * hits[index], support[index] + called[index]) if support[index] else None,
            auc=auc[index],
            average_precision=average_precision[index],
        )
        for index, name in enumerate(names)
    }
    borne = [entry for entry in labels.values() if entry.support]
    f1 = np.array([entry.f1 or 0.0 for entry in borne])
    several = len(borne) > 1
    return Report(
        clips=len(truth),
        groups=len(np.unique(names_of)),
        accuracy=float(hits.sum() / len(truth)),
        balanced_accuracy=float(np.mean([entry.recall or 0.0 for entry in borne])),
        macro_f1=float(f1.mean()),
        weighted_f1=float(np.average(f1, weights=[entry.support for entry in borne])),
        matthews=float(matthews_corrcoef(truth, predicted)) if several else None,
        kappa=float(cohen_kappa_score(truth, predicted)) if several else None,
        macro_auc=_mean([entry.auc for entry in borne]),
        macro_average_precision=_mean([entry.average_precision for entry in borne]),
        log_loss=None if probabilities is None else float(log_losses(truth, probabilities).mean()),
        brier=None if probabilities is None else float(brier_scores(truth, probabilities).mean()),
        calibration_error=None if probabilities is None else _calibration_error(truth, predicted, probabilities),
        chance_balanced_accuracy=1.0 / len(borne),
        commonest_label=names[int(support.argmax())],
        commonest_accuracy=float(support.max() / len(truth)),
        labels=labels,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def log_losses(truth: Labels, probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """(clips,) negative log probabilities of the true labels, in nats; finite, for a probability of 0 too."""
    of_truth = probabilities[np.arange(len(truth)), truth]
    return np.asarray(np.abs(np.log(np.clip(of_truth, np.finfo(np.float64).tiny, 1.0))), dtype=np.float64)


def brier_scores(truth: Labels, probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """(clips,) squared differences between the probabilities and 0 or 1, summed over the labels."""
    differences = probabilities - np.eye(probabilities.shape[1])[truth]
    return np.asarray((differences**2).sum(axis=1), dtype=np.float64)


def _calibration_error(truth: Labels, predicted: Labels, probabilities: Probabilities) -> float:
    confidence = probabilities[np.arange(len(truth)), predicted]
    gaps = np.bincount(np.digitize(confidence, UPPER_EDGES, right=True), weights=confidence - (truth == predicted))
    return float(np.abs(gaps).sum() / len(truth))


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _ranked(
    truth: Labels, probabilities: Probabilities | None, support: Labels
) -> tuple[list[float | None], list[float | None]]:
    """AUC and average precision of each label against the rest."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    auc: list[float | None] = [None] * len(support)
    average_precision: list[float | None] = [None] * len(support)
    borne = np.flatnonzero(support)
    if probabilities is not None and len(borne) > 1:
        positive, scores = np.eye(len(support))[truth][:, borne], probabilities[:, borne]
        of_borne = zip(
            roc_auc_score(positive, scores, average=None),
            average_precision_score(positive, scores, average=None),
            strict=True,
        )
        for label, (area, precision) in zip(borne, of_borne, strict=True):
            auc[label], average_precision[label] = float(area), float(precision)
    return auc, average_precision


def of_one_group(report: Report) -> str:
    """Which labels' clips are of one group each, so that a mean over the labels has no interval; "" where none are."""
    lone = [repr(name) for name, entry in report.labels.items() if entry.groups == 1]
    if len(lone) < 2:
        return "".join(f"{name} is of one group alone" for name in lone)
    return f"{', '.join(lone[:-1])} and {lone[-1]} are of one group each"


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
