"""What `crycli eval` found, as metrics.json, as Markdown, as pictures and as a page for a person."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from crycli import __version__, figures, pages
from crycli.appraisal import Appraisal, Rival, Scores
from crycli.bootstrap import LEVEL, Interval
from crycli.calibration import RiskCoverage
from crycli.comparing import Difference
from crycli.config import Config, flatten
from crycli.explaining import Occlusion
from crycli.manifest import Clip
from crycli.metrics import LabelScores, Report
from crycli.metricsfile import (
    BinEntry,
    CalibrationEntry,
    CurveEntry,
    DifferenceEntry,
    IntervalEntry,
    LabelEntry,
    LeakageEntry,
    MetricsFile,
    RivalEntry,
    ScoresEntry,
    SliceEntry,
    SplitEntry,
    VerdictEntry,
)
from crycli.outputs import json_text
from crycli.splitcheck import SplitComparison

SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "macro_auc": "macro AUC",
    "macro_average_precision": "average precision",
    "matthews": "Matthews correlation",
    "kappa": "Cohen's kappa",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
"""Attributes of `metrics.Report`, and what they are called in tables."""
LESS_IS_BETTER = ("log_loss", "brier", "calibration_error")
LABEL_SCORES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auc": "AUC",
    "average_precision": "average precision",
}
"""Attributes of `metrics.LabelScores`, and what they are called in tables."""
PICTURES = (
    "confusion_matrix",
    "confusion_matrix_normalised",
    "roc",
    "precision_recall",
    "reliability",
    "risk_coverage",
)
"""The files that `pictures` makes at most, without their endings."""
INTERVAL = f"{LEVEL:.0%} interval"
UNDEFINED = "-"

LEADING = ("crycli_version", "model", "split", "data", "command", "unreadable", "verdict")  # keys of metrics.json
FORMS: tuple[figures.Form, ...] = ("png", "svg")
MOST_POINTS = 101  # of the risk-coverage curve in metrics.json; predictions.csv gives all
ANSWERED = (1.0, 0.9, 0.75, 0.5, 0.25)  # shares of the clips for which the page tells the accuracy
LEAST_LOSS = 0.02  # of probability: what moves an answer less is not worth a word

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Header and rows."""


@dataclass(frozen=True)
class About:
    """What was evaluated.

    Attributes:
        title: the model as the user named it, or the file with the predictions.
        split: the part, such as "test" or "out-of-fold", or a file's name.
        data: the data as the user named them.
        command: what to type for the same report.
        unreadable: clips left out because they could not be read.
        temperature: what the logits were divided by; None where that is not known.
        config: the settings; None where they are not to be shown.
    """

    title: str
    split: str
    data: str
    command: str
    unreadable: int
    temperature: float | None
    config: Config | None = None


@dataclass(frozen=True)
class Example:
    """A clip to listen to.

    Attributes:
        kind: one of the most confident mistakes, or of the least sure right answers.
        clip: with its true label.
        answered: the label it was given.
        confidence: the probability of that label.
        thumbnail: the data URI of `pages.thumbnail`, of the first `pages.PLAYER_SECONDS`; empty where there is none.
        player: the data URI of `pages.player`; empty where there is none.
        occlusion: what the answer loses without each piece; None where it was not looked at.
    """

    kind: Literal["mistake", "hit"]
    clip: Clip
    answered: str
    confidence: float
    thumbnail: str
    player: str
    occlusion: Occlusion | None


def build_metrics(
    appraisal: Appraisal, about: About, others: Sequence[Rival] = (), split: SplitComparison | None = None
) -> dict[str, Any]:
    """What metrics.json holds; `metrics_schema` describes it.

    Args:
        appraisal: of the answers.
        about: what was evaluated.
        others: other classifiers on the same clips.
        split: how much a split by clip would have flattered; None where that was not asked for.
    """
    report = appraisal.scores.report
    intervals = appraisal.scores.intervals
    file = MetricsFile(
        crycli_version=__version__,
        model=_readable(about.title),
        split=_readable(about.split),
        data=_readable(about.data),
        command=_readable(about.command),
        unreadable=about.unreadable,
        verdict=VerdictEntry(
            **{
                **{key: getattr(appraisal.verdict, key) for key in VerdictEntry.model_fields},
                "interval": _interval(appraisal.verdict.interval),
            }
        ),
        **_scores(appraisal.scores),
        labels={name: _label(name, entry, intervals) for name, entry in report.labels.items()},
        confusion=[list(row) for row in report.confusion],
        baselines=[_rival(rival) for rival in appraisal.rivals],
        others=[_rival(other) for other in others],
        leakage=_leakage(appraisal),
        split_comparison=None if split is None else _split(split),
        slices=[
            SliceEntry(attribute=one.attribute, value=one.value, **_scores(Scores(one.report, one.intervals)))
            for one in appraisal.slices
        ],
        calibration=_calibration(appraisal, about),
    )
    found = file.model_dump(mode="json")
    return {key: found[key] for key in (*LEADING, *found)}


def metrics_schema() -> str:
    """The JSON schema of metrics.json, with a description of every key."""
    return json_text(MetricsFile.model_json_schema(mode="serialization"))


def number(value: float | None) -> str:
    """A score to three places, "-" where it is not defined."""
    return UNDEFINED if value is None else f"{round(value, 3) + 0.0:.3f}"  # + 0.0 takes the sign off -0.0


def p_value(p: float | None) -> str:
    """A probability to three places, never as 0, "-" where it is not defined."""
    return "under 0.001" if p is not None and p < 0.001 else number(p)


def summary_rows(appraisal: Appraisal, others: Sequence[Rival] = ()) -> Table:
    """The overall scores with their intervals, and those of each baseline and other classifier in a column."""
    rivals = [*appraisal.rivals, *others]
    scores = appraisal.scores
    rows = [
        (
            title,
            number(getattr(scores.report, key)),
            _bounds(scores.intervals.get(key)),
            *(number(getattr(rival.scores.report, key)) for rival in rivals),
        )
        for key, title in SCORES.items()
    ]
    return ("score", "value", INTERVAL, *(rival.name for rival in rivals)), rows


def label_rows(appraisal: Appraisal) -> Table:
    """The scores of each label, each followed by its interval."""
    report, intervals = appraisal.scores.report, appraisal.scores.intervals
    rows = [
        (
            name,
            str(entry.support),
            *(_with_bounds(getattr(entry, key), intervals.get(f"{key}/{name}")) for key in LABEL_SCORES),
        )
        for name, entry in report.labels.items()
    ]
    return ("label", "clips", *LABEL_SCORES.values()), rows


def difference_rows(appraisal: Appraisal, others: Sequence[Rival] = ()) -> Table:
    """By how much the classifier is better than each baseline and other classifier, paired over the same clips."""
    rows: list[tuple[str, ...]] = [
        (
            rival.name,
            number(rival.scores.report.balanced_accuracy),
            number(rival.difference.value),
            _bounds(rival.difference.interval),
            p_value(rival.difference.p_mcnemar),
        )
        for rival in [*appraisal.rivals, *others]
    ]
    return ("against", "balanced accuracy", "difference", INTERVAL, "McNemar's p"), rows


def slice_rows(appraisal: Appraisal) -> Table:
    """The balanced accuracy of each slice."""
    rows: list[tuple[str, ...]] = [
        (
            one.attribute,
            one.value,
            str(one.report.clips),
            str(one.report.groups),
            _borne(one.report),
            number(one.report.balanced_accuracy),
            _bounds(one.intervals.get("balanced_accuracy")),
        )
        for one in appraisal.slices
    ]
    return ("attribute", "value", "clips", "groups", "labels", "balanced accuracy", INTERVAL), rows


def leakage_rows(appraisal: Appraisal) -> Table:
    """The overall scores with and without the clips that the classifier has met; no rows where that is not known."""
    without = None if appraisal.leakage is None else appraisal.leakage.without
    if without is None:
        return (), []
    both = (appraisal.scores, without)
    return ("score", *(name for one in both for name in (f"{one.report.clips:,} clips", INTERVAL))), _beside(both)


def split_rows(split: SplitComparison | None) -> Table:
    """The overall scores of the baseline by clip and by group; no rows where there are none."""
    if split is None:
        return (), []
    both = (
        Scores(split.by_clip, dict(split.intervals_by_clip)),
        Scores(split.by_group, dict(split.intervals_by_group)),
    )
    return ("score", "split by clip", INTERVAL, "split by group", INTERVAL), _beside(both)


def to_markdown(
    appraisal: Appraisal, about: About, others: Sequence[Rival] = (), split: SplitComparison | None = None
) -> str:
    """The report as Markdown that can be read in a terminal, too; the pictures lie beside it. See `build_metrics`."""
    report = appraisal.scores.report
    text = pages.render(
        "eval.md",
        {
            **_tables(appraisal, others, split),
            "metrics": build_metrics(appraisal, about, others, split),
            "confusion": (
                ("", *report.labels),
                [(name, *map(str, row)) for name, row in zip(report.labels, report.confusion, strict=True)],
            ),
            "by_label": label_rows(appraisal),
            "slices": slice_rows(appraisal),
            "pictures": {stem: f"{stem}.png" for stem in _drawn(appraisal)},
        },
    )
    return text + "\n"


def render_page(
    appraisal: Appraisal,
    about: About,
    examples: Sequence[Example],
    drawn: Mapping[str, bytes],
    others: Sequence[Rival] = (),
    split: SplitComparison | None = None,
) -> str:
    """The report as one HTML file that needs no other.

    Args:
        appraisal: of the answers.
        about: what was evaluated.
        examples: clips to listen to.
        drawn: of `pictures`.
        others: other classifiers on the same clips.
        split: how much a split by clip would have flattered; None where that was not asked for.
    """
    return pages.render(
        "eval.html",
        {
            **_tables(appraisal, others, split),
            "metrics": build_metrics(appraisal, about, others, split),
            "label_scores": LABEL_SCORES,
            "by_attribute": _by_attribute(appraisal),
            "answering": [] if appraisal.risk_coverage is None else _answering(appraisal.risk_coverage),
            "examples": [{"item": example, "strip": _strip(example)} for example in examples],
            "pictures": {
                stem: "data:image/svg+xml;base64," + base64.b64encode(drawn[f"{stem}.svg"]).decode("ascii")
                for stem in _drawn(appraisal)
            },
            "settings": {} if about.config is None else _settings(about.config),
        },
    )


def pictures(appraisal: Appraisal) -> dict[str, bytes]:
    """File names to pictures as PNG and SVG, those that are defined: confusion matrices, curves, reliability."""
    return {f"{stem}.{form}": draw(form) for stem, draw in _drawn(appraisal).items() for form in FORMS}


class _Piece(NamedTuple):
    """A bar over a piece of a spectrogram: from `start`, in seconds, upward where silence takes from the answer."""

    start: float
    seconds: float
    top: float
    height: float
    loss: float


class _Strip(NamedTuple):
    """Bars as wide as a spectrogram of so many seconds, from 0 to 2, the zero line at 1."""

    seconds: float
    pieces: tuple[_Piece, ...]
    sentence: str


class _Answered(NamedTuple):
    """What a threshold of the confidence would do."""

    coverage: float
    accuracy: float
    threshold: float


def _readable(text: str) -> str:
    """A name that is no UTF-8 with its odd bytes escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _interval(interval: Interval | None) -> IntervalEntry | None:
    return None if interval is None else IntervalEntry(low=interval.low, high=interval.high)


def _scores(scores: Scores) -> dict[str, Any]:
    """The fields of `ScoresEntry`."""
    found = {key: getattr(scores.report, key) for key in ScoresEntry.model_fields if key != "intervals"}
    return found | {"intervals": {key: _interval(scores.intervals[key]) for key in SCORES if key in scores.intervals}}


def _label(name: str, entry: LabelScores, intervals: dict[str, Interval]) -> LabelEntry:
    found = {key: _interval(intervals.get(f"{key}/{name}")) for key in LABEL_SCORES}
    return LabelEntry(**asdict(entry), intervals={key: value for key, value in found.items() if value is not None})


def _difference(difference: Difference) -> DifferenceEntry:
    return DifferenceEntry(
        score=difference.score,
        value=difference.value,
        interval=_interval(difference.interval),
        p_mcnemar=difference.p_mcnemar,
    )


def _rival(rival: Rival) -> RivalEntry:
    difference = _difference(rival.difference)
    return RivalEntry(name=_readable(rival.name), difference=difference, met=rival.met, **_scores(rival.scores))


def _leakage(appraisal: Appraisal) -> LeakageEntry | None:
    found = appraisal.leakage
    if found is None:
        return None
    without = None if found.without is None else ScoresEntry(**_scores(found.without))
    return LeakageEntry(groups=found.groups, clips=found.clips, without=without)


def _split(split: SplitComparison) -> SplitEntry:
    return SplitEntry(
        sentence=split.sentence,
        leaks=split.leaks,
        by_clip=ScoresEntry(**_scores(Scores(split.by_clip, dict(split.intervals_by_clip)))),
        by_group=ScoresEntry(**_scores(Scores(split.by_group, dict(split.intervals_by_group)))),
        difference=_difference(split.difference),
    )


def _calibration(appraisal: Appraisal, about: About) -> CalibrationEntry | None:
    if appraisal.risk_coverage is None:
        return None
    return CalibrationEntry(
        temperature=about.temperature,
        reliability=[BinEntry(**asdict(one)) for one in appraisal.reliability],
        reliability_before=[BinEntry(**asdict(one)) for one in appraisal.reliability_before],
        risk_coverage=_curve(appraisal.risk_coverage),
    )


def _curve(curve: RiskCoverage) -> CurveEntry:
    """At most `MOST_POINTS` of the curve, evenly chosen, the first and the last among them."""
    last = len(curve.coverage) - 1
    steps = min(last, MOST_POINTS - 1)
    chosen = [round(last * step / max(steps, 1)) for step in range(steps + 1)]
    return CurveEntry(
        coverage=[curve.coverage[point] for point in chosen],
        risk=[curve.risk[point] for point in chosen],
        threshold=[curve.threshold[point] for point in chosen],
        area=curve.area,
    )


def _answering(curve: RiskCoverage) -> list[_Answered]:
    """The points of the curve nearest to some shares of clips answered, each point once."""
    found = {
        min(range(len(curve.coverage)), key=lambda point: abs(curve.coverage[point] - share)): None
        for share in ANSWERED
    }
    return [_Answered(curve.coverage[point], 1.0 - curve.risk[point], curve.threshold[point]) for point in found]


def _bounds(interval: Interval | None) -> str:
    return UNDEFINED if interval is None else f"{number(interval.low)} to {number(interval.high)}"


def _with_bounds(value: float | None, interval: Interval | None) -> str:
    return number(value) if value is None or interval is None else f"{number(value)} ({_bounds(interval)})"


def _beside(several: Sequence[Scores]) -> list[tuple[str, ...]]:
    """The overall scores of several, each with its interval."""
    return [
        (
            title,
            *(text for one in several for text in (number(getattr(one.report, key)), _bounds(one.intervals.get(key)))),
        )
        for key, title in SCORES.items()
    ]


def _borne(report: Report) -> str:
    """How many labels occur, or which one alone."""
    borne = [name for name, entry in report.labels.items() if entry.support]
    return f"only {borne[0]}" if len(borne) == 1 else str(len(borne))


def _tables(appraisal: Appraisal, others: Sequence[Rival], split: SplitComparison | None) -> dict[str, Any]:
    return {
        "summary": summary_rows(appraisal, others),
        "differences": difference_rows(appraisal, others),
        "without": leakage_rows(appraisal),
        "splits": split_rows(split),
        "less_is_better": [SCORES[key] for key in LESS_IS_BETTER],
    }


def _settings(config: Config) -> dict[str, Any]:
    """Those that an evaluation heeds."""
    others = ("data.seed", "device")
    return {key: value for key, value in flatten(config).items() if key.startswith("eval.") or key in others}


def _drawn(appraisal: Appraisal) -> dict[str, Callable[[figures.Form], bytes]]:
    """File name without its ending to what draws the picture; those that are defined."""
    answers, report = appraisal.answers, appraisal.scores.report
    found: dict[str, Callable[[figures.Form], bytes]] = {
        "confusion_matrix": lambda form: figures.draw_confusion(report, form=form),
        "confusion_matrix_normalised": lambda form: figures.draw_confusion(report, normalised=True, form=form),
    }
    probabilities = answers.probabilities
    if probabilities is not None and report.macro_auc is not None:
        found["roc"] = lambda form: figures.draw_roc(answers.names, answers.truth, probabilities, form)
        found["precision_recall"] = lambda form: figures.draw_precision_recall(
            answers.names, answers.truth, probabilities, form
        )
    before, after = appraisal.reliability_before, appraisal.reliability
    if before:
        found["reliability"] = lambda form: figures.draw_reliability(before, after, form=form)
    elif after:
        found["reliability"] = lambda form: figures.draw_reliability(after, form=form)
    curve = appraisal.risk_coverage
    if curve is not None:
        found["risk_coverage"] = lambda form: figures.draw_risk_coverage(curve, form=form)
    return found


def _by_attribute(appraisal: Appraisal) -> dict[str, list[dict[str, Any]]]:
    """Attribute to its slices with what is drawn of them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in appraisal.slices:
        found.setdefault(one.attribute, []).append(
            {
                "value": one.value,
                "report": one.report,
                "labels": _borne(one.report),
                "interval": one.intervals.get("balanced_accuracy"),
            }
        )
    return found


def _strip(example: Example) -> _Strip | None:
    """What silencing each piece took from the answer, under the spectrogram of the clip's beginning."""
    if example.occlusion is None or not example.occlusion.losses:
        return None
    seconds, losses = example.occlusion.seconds, example.occlusion.losses
    most = max(*map(abs, losses), LEAST_LOSS)
    pieces = tuple(
        _Piece(index * seconds, seconds, 1.0 - max(loss, 0.0) / most, abs(loss) / most, loss)
        for index, loss in enumerate(losses)
    )
    worst = max(pieces, key=lambda piece: piece.loss)
    if worst.loss < LEAST_LOSS:
        sentence = "No piece alone bears the answer."
    else:
        sentence = (
            f"Without {worst.start:.1f} to {worst.start + seconds:.1f} s the answer loses most: {worst.loss:.2f} "
            f"of its {example.confidence:.2f}."
        )
    return _Strip(_shown_seconds(example.clip, seconds * len(losses)), pieces, sentence)


def _shown_seconds(clip: Clip, otherwise: float) -> float:
    """How much of a clip its spectrogram shows."""
    length = clip.duration
    if clip.end is not None:
        length = clip.end - (clip.start or 0.0)
    return min(length or otherwise, pages.PLAYER_SECONDS)
