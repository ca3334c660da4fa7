"""Figures as PNG: the module that uses matplotlib."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crycli.metrics import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    return _to_png(figure)


def draw_confusion(report: Report) -> bytes:
    """The confusion matrix as PNG: counts, coloured by the share of the true label's clips."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a display
    from matplotlib.text import Text

    counts = np.array(report.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [textwrap.shorten(name, 30, placeholder="…") for name in report.labels]
    side = min(2.5 + 0.6 * len(names), 20.0)  # inches
    figure = Figure(figsize=(side + 1, side), dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    axes.set_title(f"{report.clips} clips of {report.groups} groups", fontsize="medium")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column, row, str(count), ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black"
        )
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a label may hold a dollar sign
    figure.colorbar(image, label="share of the true label's clips", fraction=0.046)
    return _to_png(figure)


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a script that the font lacks is drawn as boxes
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
