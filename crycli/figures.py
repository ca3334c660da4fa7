"""Figures as PNG and SVG: the module that uses matplotlib.

The pictures of an evaluation are for a page that is read on a phone too: `WIDTH` inches, which a phone shows 360 pixels
wide, so that a point of text is a pixel. Their SVG keeps text as text, holds nothing that is fetched or run, and is the
same bytes every time.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crycli.metrics import Labels, Probabilities, Report
from crycli.timeline import clock, columns_of, course, printable, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from crycli.calibration import Bin, RiskCoverage
    from crycli.events import Event, EventPolicy
    from crycli.predictions import Windows

Form = Literal["png", "svg"]

WIDTH = 5.0  # inches
ROW = 0.24  # inches: of a legend
DPI, MOST_PIXELS = 200, 2_400  # of the PNG: 1,000 pixels wide for most
STYLE: dict[Any, Any] = {
    "font.size": 11.0,
    "legend.fontsize": 10.0,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,  # inches
    "text.parse_math": False,  # a label may hold a dollar sign
    "svg.fonttype": "none",  # text as text, in the fonts of whoever looks at it
    "svg.hashsalt": "crycli",  # without one, the ids differ each time
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colours that the colour-blind tell apart (Okabe and Ito 2008), less yellow, which is pale on white."""
DASHES = ("-", "--", "-.")
GREY = "0.55"
MOST_CURVES = 8  # that have a colour and a line of the legend each; further labels are grey
MOST_SIDE = 20.0  # inches of a confusion matrix
MOST_ZEROS = 12  # labels of one that shows its zeros: of 50 labels they take 9 s to draw
LONG_WIDTH = 10.0  # inches of a timeline: 2,000 pixels
MOST_POINTS = 2_000  # in time
MOST_STRIPS = 12  # labels of a timeline that are drawn
STRIP = 0.7  # inches a label
MOST_MARKS = 10  # of the time
LONGEST_TITLE = 90  # letters

NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

CURVES = {
    "loss": {"train_loss": ("training", "C0-"), "validation_loss": ("validation", "C1-")},
    "validation score": {
        "validation_macro_f1": ("macro F1", "C2-"),
        "validation_balanced_accuracy": ("balanced accuracy", "C3-"),
        "validation_macro_auc": ("macro AUC", "C4--"),
    },
    "learning rate": {"learning_rate": ("learning rate", "C5-")},
}
"""Panel to column to its name and style."""


def draw_curves(rows: Sequence[Mapping[str, Any]], best: int) -> bytes:
    """The course of a training: losses, scores and learning rate over the epochs.

    Args:
        rows: of `trainer.history`; values that are None are left out.
        best: the epoch whose weights were kept.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.0, 7.5), dpi=120, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.5))
    for axes, (title, lines) in zip(panels, CURVES.items(), strict=True):
        for column, (name, style) in lines.items():
            points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=name, marker="." if len(points) < 30 else "")
        axes.axvline(best, color="grey", linestyle=":", label=f"kept: epoch {best}" if axes is panels[0] else None)
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize="small")
    panels[1].set_ylim(-0.02, 1.02)
    panels[2].set_xlabel("epoch")
    panels[2].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return _save(figure, "png")


def draw_confusion(report: Report, normalised: bool = False, form: Form = "png") -> bytes:
    """The confusion matrix, coloured by the share of the true label's clips.

    Args:
        report: its labels and its confusion are drawn.
        normalised: write that share into the cells rather than the count of clips.
        form: of the picture.
    """
    counts = np.array(report.confusion)
    support = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(support, 1)
    cells = np.where(support > 0, np.char.mod("%.0f%%", 100 * shares), "-") if normalised else counts.astype(str)
    names = [printable(name) for name in report.labels]
    longest = max(map(columns_of, names))
    width = min(max(1.0 + 0.085 * longest + 0.65 * len(names), WIDTH), MOST_SIDE)
    cell = (width - 1.0 - 0.085 * longest) / len(names)  # inches, about: a name is 0.085 a character
    with _drawing(width, 1.2 + 0.06 * longest + cell * len(names)) as figure:
        axes = figure.subplots()
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.5)
        middles = np.arange(len(names)) + 0.5
        axes.set_xticks(middles, names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, names)
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.set_xlabel("answered")
        axes.set_ylabel("true")
        clips = f"{report.clips} clips of {report.groups} groups; colour: share of the row"
        figure.suptitle("share of each true label's clips" if normalised else clips, fontsize="medium")
        size = min(13.0, 72 * cell / 3)  # points: four characters fit
        for (row, column), text in np.ndenumerate(cells):
            if len(names) > MOST_ZEROS and not counts[row, column]:
                continue
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=size)
        return _save(figure, form)


def draw_roc(names: Sequence[str], truth: Labels, probabilities: Probabilities, form: Form = "png") -> bytes:
    """The ROC curve of each label against the rest, with the area below it; the diagonal is chance.

    Args:
        names: label names, in the order of the probabilities. One without clips on both sides has no curve.
        truth: (clips,) true labels.
        probabilities: (clips, labels).
        form: of the picture.
    """
    from sklearn.metrics import auc, roc_curve

    shown = _shown(names, truth)
    with _drawing(WIDTH, _height(shown)) as figure:
        axes = _square(figure, "false alarms (share of the other clips)", "found (share of the label's clips)")
        axes.plot([0, 1], [0, 1], ":", color=GREY, label="AUC 0.50  chance")
        for index, style in shown:
            wrongly, rightly, _ = roc_curve(truth == index, probabilities[:, index])
            label = f"AUC {auc(wrongly, rightly):.2f}  {printable(names[index])} ({_clips(truth == index)})"
            axes.plot(wrongly, rightly, **{"label": label} | style)
        _legend(figure, axes, len(shown))
        return _save(figure, form)


def draw_precision_recall(
    names: Sequence[str], truth: Labels, probabilities: Probabilities, form: Form = "png"
) -> bytes:
    """The precision-recall curve of each label against the rest, with its average precision.

    Chance is the label's share of the clips: a dotted line of the same colour.

    Args:
        names: label names, in the order of the probabilities. One without clips on both sides has no curve.
        truth: (clips,) true labels.
        probabilities: (clips, labels).
        form: of the picture.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    shown = _shown(names, truth)
    with _drawing(WIDTH, _height(shown)) as figure:
        axes = _square(figure, "recall (share of the label's clips found)", "precision (share of such answers right)")
        axes.plot([], [], ":", color=GREY, label="chance: the label's share of the clips")
        for index, style in shown:
            positive = truth == index
            precision, recall, _ = precision_recall_curve(positive, probabilities[:, index], drop_intermediate=True)
            average, share = average_precision_score(positive, probabilities[:, index]), positive.mean()
            label = f"AP {average:.2f}  {printable(names[index])} (chance {share:.2f})"
            axes.plot(recall, precision, **{"label": label, "drawstyle": "steps-post"} | style)
            axes.axhline(share, color=style["color"], linestyle=":", linewidth=1.2)
        _legend(figure, axes, len(shown))
        return _save(figure, form)


def draw_reliability(before: Sequence[Bin], after: Sequence[Bin] | None = None, form: Form = "png") -> bytes:
    """How often answers of a confidence are right, and below it how many clips have that confidence.

    Args:
        before: of `calibration.reliability`.
        after: those after the temperature scaling, drawn beside them.
        form: of the picture.
    """
    series = [("before temperature scaling", before, COLOURS[1], "o--")] if after is not None else []
    series.append(("after it" if series else "answers", before if after is None else after, COLOURS[0], "s-"))
    with _drawing(WIDTH, 6.2 + ROW * len(series)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], ":", color=GREY, label="as often right as sure")
        for number, (name, bins, colour, style) in enumerate(series):
            filled = [entry for entry in bins if entry.confidence is not None and entry.accuracy is not None]
            clips = sum(entry.clips for entry in bins)
            label = f"{name}: ECE {_calibration_error(bins):.3f}"
            upper.plot(
                [entry.confidence for entry in filled],
                [entry.accuracy for entry in filled],
                style,
                color=colour,
                label=label,
                clip_on=False,
            )
            width = (bins[0].high - bins[0].low) * 0.9 / len(series)
            lower.bar(
                [entry.low + (entry.high - entry.low) * 0.05 + number * width for entry in bins],
                [entry.clips / max(clips, 1) for entry in bins],
                width,
                align="edge",
                color=colour,
            )
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share answered right")
        lower.set(ylim=(0, None), xlabel="confidence of the answer", ylabel="share of\nclips")
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
            axes.set_axisbelow(True)
        _legend(figure, upper)
        return _save(figure, form)


def draw_risk_coverage(curve: RiskCoverage, chosen: float | None = None, form: Form = "png") -> bytes:
    """The share of wrong answers over the share of clips that are answered, the surest ones first.

    Args:
        curve: of `calibration.risk_coverage`.
        chosen: the confidence below which the model is unsure; marked.
        form: of the picture.
    """
    with _drawing(WIDTH, 4.6) as figure:
        axes = figure.subplots()
        if curve.risk:
            few = "." if len(curve.risk) < 30 else ""
            axes.axhline(curve.risk[-1], color=GREY, linestyle=":", label=f"all answered: {curve.risk[-1]:.1%} wrong")
            axes.plot(
                curve.coverage,
                curve.risk,
                few + "-",
                color=COLOURS[0],
                label=f"surest answers first: area {curve.area:.3f}",
            )
        answered = zip(curve.threshold, curve.coverage, curve.risk, strict=True)
        reached = [point for point in answered if chosen is not None and point[0] >= chosen]
        if reached:
            _, coverage, risk = reached[-1]
            label = f"threshold {chosen:.2f}: {coverage:.0%} answered, {risk:.1%} wrong"
            axes.plot([coverage], [risk], "o", color=COLOURS[1], label=label, clip_on=False)
        elif chosen is not None:
            axes.plot([], [], " ", label=f"threshold {chosen:.2f}: nothing answered")
        axes.set(xlim=(0, 1), ylim=(0, max((*curve.risk, 0.05)) * 1.05))
        axes.set(xlabel="share of clips answered", ylabel="share of wrong answers")
        axes.locator_params(axis="y", nbins=6)
        axes.grid(alpha=0.3)
        _legend(figure, axes)
        return _save(figure, form)


def draw_timeline(
    title: str,
    windows: Windows,
    labels: Sequence[str],
    policy: EventPolicy,
    events: Sequence[Event],
    form: Form = "png",
) -> bytes:
    """The probability of each event label over the time of a recording, and its events.

    A label has a strip of its own: its probability, the onset as a line, and its events as bars above it. Where there
    are more than `MOST_POINTS` windows, each point is the largest value of its time. Of many labels, the `MOST_STRIPS`
    with the highest peaks are drawn, and what the others reach is said.

    Args:
        title: such as the recording's name.
        windows: at least one.
        labels: of the classifier, in the order of the probabilities.
        policy: its labels are drawn, with its onset.
        events: what `events.find_events` found in the windows.
        form: of the picture.
    """
    of = course(windows, MOST_POINTS)
    peaks = {label: float(np.nanmax(of.probabilities[:, labels.index(label)])) for label in policy.labels}
    ranked = sorted(peaks, key=lambda label: -peaks[label])
    chosen, others = set(ranked[:MOST_STRIPS]), ranked[MOST_STRIPS:]
    drawn = [label for label in policy.labels if label in chosen]
    with _drawing(LONG_WIDTH, 1.1 + STRIP * len(drawn)) as figure:
        strips = figure.subplots(len(drawn), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for place, (axes, label) in enumerate(zip(strips, drawn, strict=True)):
            colour = COLOURS[place % len(COLOURS)]
            axes.stairs(of.probabilities[:, labels.index(label)], of.edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(of.probabilities[:, labels.index(label)], of.edges, color=colour, linewidth=0.8, baseline=None)
            axes.axhline(policy.onset, color=GREY, linestyle="--", linewidth=0.8)
            bars = [(event.start, event.end - event.start) for event in events if event.label == label]
            axes.broken_barh(bars, (1.06, 0.18), color=colour, edgecolor=colour, linewidth=0.8)  # seen in a night too
            axes.set_ylabel(printable(label), rotation=0, ha="right", va="center")
            axes.spines[["top", "right"]].set_visible(False)
        start, end = float(of.edges[0]), float(of.edges[-1])
        marks = ticks(start, end, MOST_MARKS)
        strips[-1].set_xticks(marks, map(clock, marks))
        strips[-1].set(xlim=(start, end), ylim=(0, 1.3), yticks=(0, 0.5, 1))
        strips[-1].set_xlabel(f"time (h:mm:ss); bars: events; dashed: onset {policy.onset:g}{_others(others, peaks)}")
        figure.suptitle(printable(title, LONGEST_TITLE), fontsize="medium")
        return _save(figure, form)


def _others(labels: Sequence[str], peaks: Mapping[str, float]) -> str:
    """What is said of the labels that have no strip."""
    if not labels:
        return ""
    highest = math.ceil(100 * max(peaks[label] for label in labels)) / 100
    return f"; not drawn: {len(labels)} label{'s' if len(labels) > 1 else ''}, {highest:.2f} at most"


def _calibration_error(bins: Sequence[Bin]) -> float:
    clips = max(sum(entry.clips for entry in bins), 1)
    gaps = [entry.clips * abs((entry.accuracy or 0.0) - (entry.confidence or 0.0)) for entry in bins]
    return sum(gaps) / clips


def _shown(names: Sequence[str], truth: Labels) -> list[tuple[int, dict[str, Any]]]:
    """The labels that have a curve, the commonest first, each with its style; what is drawn last lies on top."""
    support = np.bincount(truth, minlength=len(names))
    drawn = [index for index in np.argsort(-support, kind="stable").tolist() if 0 < support[index] < len(truth)]
    rest = len(drawn) - MOST_CURVES
    styles: list[dict[str, Any]] = []
    for place in range(len(drawn)):
        if place < MOST_CURVES:
            dashes = DASHES[place % len(DASHES)]
            styles.append({"color": COLOURS[place % len(COLOURS)], "linestyle": dashes, "zorder": 3})
        else:
            label = f"{rest} further label{'s' if rest > 1 else ''}" if place == MOST_CURVES else None
            styles.append({"color": "0.8", "linewidth": 0.8, "label": label})
    return list(zip(drawn, styles, strict=True))


def _clips(which: npt.NDArray[np.bool_]) -> str:
    count = int(which.sum())
    return f"{count} clip{'' if count == 1 else 's'}"


def _height(shown: Sequence[object]) -> float:
    return WIDTH - 0.1 + ROW * (min(len(shown), MOST_CURVES + 1) + 1)


def _square(figure: Figure, across: str, up: str) -> Axes:
    """Axes from 0 to 1 both ways."""
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=across, ylabel=up, box_aspect=1)
    axes.grid(alpha=0.3)
    return axes


def _legend(figure: Figure, axes: Axes, curves: int = 1) -> None:
    """The names below the axes, where they hide nothing."""
    if not curves:
        axes.text(0.5, 0.5, "no label has clips\nand others beside it", ha="center", va="center")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left")


@contextmanager
def _drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of a size in inches; what is drawn and saved inside has the style of an evaluation's pictures."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    with rc_context(STYLE):
        yield Figure(figsize=(width, height), dpi=min(DPI, MOST_PIXELS / width), layout="constrained")


def _save(figure: Figure, form: Form) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a script that the font lacks is drawn as boxes
        figure.savefig(buffer, format=form, metadata=NO_METADATA if form == "svg" else None)
    return _inlined(buffer.getvalue().decode()).encode() if form == "svg" else buffer.getvalue()


def _inlined(svg: str) -> str:
    """A file's SVG as it may stand in a page with others: no header, no ids of groups, no rules for other elements."""
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    return svg.replace("<svg ", '<svg style="stroke-linejoin: round" ', 1)  # as the rules said
