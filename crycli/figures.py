"""Figures as PNG: the module that uses matplotlib."""

from __future__ import annotations

import io
import textwrap
import warnings

import numpy as np

from crycli.metrics import Report


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
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a script that the font lacks is drawn as boxes
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
