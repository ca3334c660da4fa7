"""What metrics.json holds: its keys, what they mean, and their types."""

from __future__ import annotations

from crycli.config import DescribedSection


class IntervalEntry(DescribedSection):
    """A 95% interval from a bootstrap over groups."""

    low: float
    """Lower bound."""
    high: float
    """Upper bound."""


class ScoresEntry(DescribedSection):
    """Scores of answers to clips; null: not defined, or not known without probabilities.

    Labels that no clip bears do not enter the means.
    """

    clips: int
    """Scored clips."""
    groups: int
    """Distinct groups (babies, sources) among them."""
    accuracy: float
    """Share of right answers."""
    balanced_accuracy: float
    """Mean recall over the labels (unweighted average recall, UAR)."""
    macro_f1: float
    """Mean F1 over the labels."""
    weighted_f1: float
    """Mean F1 over the labels, weighted by their clips."""
    macro_auc: float | None
    """Mean over the labels of the area under the ROC curve of one against the rest."""
    macro_average_precision: float | None
    """Mean over the labels of the average precision of one against the rest."""
    matthews: float | None
    """Matthews correlation coefficient."""
    kappa: float | None
    """Cohen's kappa."""
    log_loss: float | None
    """Mean negative log probability of the true label, in nats; less is better."""
    brier: float | None
    """Mean over the clips of the squared differences between probabilities and truth, summed over the labels, from 0
    to 2; less is better."""
    calibration_error: float | None
    """Expected calibration error: mean distance of confidence and accuracy over 10 bins; less is better."""
    chance_balanced_accuracy: float
    """Balanced accuracy of any answer that ignores the recording."""
    commonest_label: str
    """The label that most of the clips bear."""
    commonest_accuracy: float
    """Accuracy of always answering it."""
    intervals: dict[str, IntervalEntry]
    """Score to its interval; without those that cannot be had: of the calibration error, from one group, of a mean over
    the labels where one of them is of one group."""


class LabelEntry(DescribedSection):
    """How one label was found."""

    support: int
    """Clips that truly bear it."""
    groups: int
    """Distinct groups (babies, sources) among them."""
    precision: float | None
    """Share of the clips so called that bear it; null where none was so called."""
    recall: float | None
    """Share of the clips bearing it that were so called; null where none bears it."""
    f1: float | None
    """Harmonic mean of precision and recall; null where no clip bears it."""
    auc: float | None
    """Area under the ROC curve against the rest; null without clips on both sides, or without probabilities."""
    average_precision: float | None
    """Average precision against the rest; null without clips on both sides, or without probabilities."""
    intervals: dict[str, IntervalEntry]
    """Score to its interval; without those that cannot be had."""


class DifferenceEntry(DescribedSection):
    """A score minus that of another method on the same clips, paired."""

    score: str
    """The score that is compared."""
    value: float
    """The first one's minus the other one's."""
    interval: IntervalEntry | None
    """From a bootstrap that draws the same groups for both; null for fewer than two groups of a label."""
    p_mcnemar: float | None
    """McNemar's test, whole groups changing sides: the probability of so different numbers of right answers if both
    were right equally often; null for fewer than two groups, and against guesses that are drawn several times."""


class RivalEntry(ScoresEntry):
    """What the model is held against on the same clips."""

    name: str
    """The baseline or the other model."""
    difference: DifferenceEntry
    """The model minus this one."""
    met: int | None
    """Scored clips that the other model has met in its training, or others of their groups; null where it does not say,
    and for baselines."""


class VerdictEntry(DescribedSection):
    """Whether the answers are better than chance, and what that rests on."""

    kind: str
    """one_label, one_answer, too_few, not_better, better or far_better."""
    sentence: str
    """The verdict in plain words."""
    p: float | None
    """Permutation test over groups: the probability of such a balanced accuracy of answers that know nothing of the
    labels; null where it cannot be tested."""
    better_than_chance: bool | None
    """Null where it cannot be said."""
    better_than_baselines: bool | None
    """Better than each of them; null where there are none or it cannot be said."""
    balanced_accuracy: float
    """What is judged."""
    interval: IntervalEntry | None
    """Of the balanced accuracy."""
    chance: float
    """Balanced accuracy of any answer that ignores the recording."""


class LeakageEntry(DescribedSection):
    """Clips that the model has met, or whose baby or source it has."""

    groups: dict[str, list[str]]
    """Part of the model's training to the groups of these clips that it shares."""
    clips: int
    """Scored clips concerned."""
    without: ScoresEntry | None
    """Scores of the other clips; null where none is concerned, or none is left."""


class SplitEntry(DescribedSection):
    """A baseline (MFCC statistics, logistic regression) trained and tested on all clips of the data, twice."""

    sentence: str
    """What a split by clip would have done to the scores, in plain words."""
    leaks: bool
    """Whether the interval of the difference lies above zero."""
    by_clip: ScoresEntry
    """Its scores where clips of one group lie in several folds."""
    by_group: ScoresEntry
    """Its scores where each group lies in one fold."""
    difference: DifferenceEntry
    """By clip minus by group."""


class SliceEntry(ScoresEntry):
    """Scores of the clips that have something in common."""

    attribute: str
    """What they have in common, such as the corpus or a column of the manifest."""
    value: str
    """Its value."""


class BinEntry(DescribedSection):
    """Clips whose answer has a confidence above low and up to high."""

    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    clips: int
    """How many there are."""
    confidence: float | None
    """Their mean confidence; null where there are none."""
    accuracy: float | None
    """Share of right answers among them; null where there are none."""


class CurveEntry(DescribedSection):
    """Errors over the share of clips that are answered: a point for each threshold of the confidence, at most 101."""

    coverage: list[float]
    """Share of the clips whose confidence is at least the threshold."""
    risk: list[float]
    """Share of wrong answers among them."""
    threshold: list[float]
    """Confidences, descending."""
    area: float
    """Area under the whole curve; less is better."""


class CalibrationEntry(DescribedSection):
    """Confidence against accuracy."""

    temperature: float | None
    """What the logits were divided by; null where that is not known."""
    reliability: list[BinEntry]
    """Bins of the confidence."""
    reliability_before: list[BinEntry]
    """The same at a temperature of 1; empty where the probabilities at it are not known."""
    risk_coverage: CurveEntry
    """What is gained by leaving the least sure clips unanswered."""


class MetricsFile(ScoresEntry):
    """The report of crycli eval: metrics.json."""

    crycli_version: str
    """Of the program that wrote the file."""
    model: str
    """The model as it was given, or the file with the predictions."""
    split: str
    """The part of the data that was scored."""
    data: str
    """The data as they were given."""
    command: str
    """What to type for the same report."""
    unreadable: int
    """Clips left out because they could not be read."""
    verdict: VerdictEntry
    """Whether the answers are better than chance."""
    labels: dict[str, LabelEntry]
    """Label to its scores, in the order of the confusion matrix."""
    confusion: list[list[int]]
    """Counts of clips: rows true labels, columns answers."""
    baselines: list[RivalEntry]
    """Simple methods on the same clips."""
    others: list[RivalEntry]
    """Other models on the same clips."""
    leakage: LeakageEntry | None
    """Clips known to the model; null where it does not say what it was trained on."""
    split_comparison: SplitEntry | None
    """How much a split by clip would have flattered; null where that was not asked for."""
    slices: list[SliceEntry]
    """Scores by slice, the weakest first within each attribute."""
    calibration: CalibrationEntry | None
    """Null without probabilities."""
