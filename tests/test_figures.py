"""Figures: any label, any history and any answers can be drawn, as PNG and as SVG that a page may hold."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from crycli.calibration import reliability, risk_coverage, threshold_for
from crycli.events import EventPolicy, find_events
from crycli.figures import (
    MOST_STRIPS,
    draw_confusion,
    draw_curves,
    draw_precision_recall,
    draw_reliability,
    draw_risk_coverage,
    draw_roc,
    draw_timeline,
)
from crycli.metrics import Labels, Probabilities, score
from crycli.predictions import Windows

Form = Literal["png", "svg"]
Answers = tuple[list[str], Labels, Probabilities]


def answers(*support: int, names: list[str] | None = None, seed: int = 0) -> Answers:
    """So many clips of each label, and probabilities that know a little."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(support)), support)
    parts = generator.random((len(truth), len(support))) ** 2
    parts[np.arange(len(truth)), truth] += 0.3
    return names or [f"label {index}" for index in range(len(support))], truth, parts / parts.sum(axis=1, keepdims=True)


def confusion(of: Answers, form: Form) -> bytes:
    return draw_confusion(score(*of), form=form)


def shares(of: Answers, form: Form) -> bytes:
    return draw_confusion(score(*of), normalised=True, form=form)


def roc(of: Answers, form: Form) -> bytes:
    return draw_roc(*of, form=form)


def precision_recall(of: Answers, form: Form) -> bytes:
    return draw_precision_recall(*of, form=form)


def before_and_after(of: Answers, form: Form) -> bytes:
    _, truth, probabilities = of
    predicted = probabilities.argmax(axis=1)
    surer = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
    return draw_reliability(
        reliability(probabilities, predicted, truth), reliability(surer, predicted, truth), form=form
    )


def risk(of: Answers, form: Form) -> bytes:
    _, truth, probabilities = of
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    chosen = threshold_for(confidence, correct, precision=0.9, coverage=None)
    return draw_risk_coverage(risk_coverage(confidence, correct), chosen, form=form)


def timeline(of: Answers, form: Form, onset: float = 0.5) -> bytes:
    """The clips one after another, as windows of a recording that overlap by half."""
    names, _, probabilities = of
    starts = np.arange(len(probabilities)) * 1.5
    windows, policy = Windows(starts, starts + 3.0, probabilities), EventPolicy(tuple(names), onset, onset / 2)
    return draw_timeline("night.wav", windows, names, policy, find_events(windows, names, policy), form)


WITH_NAMES = (confusion, shares, roc, precision_recall, timeline)
PICTURES = (*WITH_NAMES, before_and_after, risk)
LONG = (timeline,)  # for a wide screen

drawn = pytest.mark.parametrize("draw", PICTURES, ids=lambda draw: draw.__name__)
Draw = Callable[[Answers, Form], bytes]


def strictly(draw: Draw, of: Answers, form: Form) -> bytes:
    """The picture, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return draw(of, form)


def texts(svg: bytes) -> list[str]:
    """What is written in a picture; a file that is no XML raises."""
    root = ElementTree.fromstring(svg)
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


ODD_LABELS = {
    "$\\bad{$": "$\\bad{$",
    "_hidden": "_hidden",
    "<b>&\"'": "<b>&\"'",
    "two\nlines": "two lines",
    "a\x1b\x00b": "a\ufffd\ufffdb",
    "a\udcffb": "a\ufffdb",
    "one_word_" * 20: "one_word_one_word_one_w…",
    "疲れ" * 20: "疲れ疲れ疲れ疲れ疲れ疲…",
}


@pytest.mark.parametrize("draw", WITH_NAMES, ids=lambda draw: draw.__name__)
def test_any_label_can_be_drawn_and_read_without_a_warning(draw: Draw) -> None:
    of = answers(*[3] * len(ODD_LABELS), names=list(ODD_LABELS))
    written = texts(strictly(draw, of, "svg"))
    assert [shown for shown in ODD_LABELS.values() if not any(shown in text for text in written)] == []
    assert strictly(draw, of, "png").startswith(b"\x89PNG")


@drawn
@pytest.mark.parametrize(
    "support",
    [(382, 27, 24, 16, 8), (1, 0), (0, 5, 0), (2,) + (1,) * 49],
    ids=["skewed", "one clip", "one label", "fifty labels"],
)
def test_any_answers_can_be_drawn_without_a_warning(draw: Draw, support: tuple[int, ...]) -> None:
    of = answers(*support)
    assert texts(strictly(draw, of, "svg"))
    width, height = Image.open(io.BytesIO(strictly(draw, of, "png"))).size
    assert 1_000 <= width <= 2_400
    assert (0.1 if draw in LONG else 0.7) * width < height < 1.6 * width


@drawn
def test_an_svg_is_the_same_every_time_and_holds_nothing_that_is_fetched_run_or_meant_for_its_neighbours(
    draw: Draw,
) -> None:
    of = answers(9, 5, 4)
    settings = dict(matplotlib.rcParams)
    svg = draw(of, "svg")
    assert draw(of, "svg") == svg != draw(answers(9, 5, 4, seed=1), "svg")
    assert dict(matplotlib.rcParams) == settings
    assert svg.startswith(b"<svg ")
    allowed = {"svg", "g", "path", "defs", "clipPath", "rect", "use", "text", "tspan"}
    elements = list(ElementTree.fromstring(svg).iter())
    assert {element.tag.rpartition("}")[2] for element in elements} <= allowed
    for element in elements:
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert not name.endswith("href") or value.startswith("#")
            assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", value))
    ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
    assert all(re.fullmatch("[a-z][0-9a-f]{10}", value) for value in ids), "ids are of the content, so none collides"


@pytest.mark.parametrize("draw", [roc, precision_recall], ids=["roc", "precision_recall"])
def test_the_commonest_labels_have_a_line_of_the_legend_each_and_the_others_share_one(draw: Draw) -> None:
    written = " ".join(texts(draw(answers(*range(1, 12)), "svg")))
    assert [f"label {index} " in written for index in range(11)] == [False] * 3 + [True] * 8
    assert "3 further labels" in written
    assert "further" not in " ".join(texts(draw(answers(*range(1, 9)), "svg")))


def test_a_legend_gives_the_scores_of_the_report() -> None:
    of = answers(30, 12, 1, 0)
    report = score(*of)
    curves = {text.split("  ", 1)[1]: text for text in texts(roc(of, "svg")) if text.startswith("AUC")}
    for index, clips in enumerate(("30 clips", "12 clips", "1 clip")):
        name = f"label {index} ({clips})"
        assert curves.pop(name) == f"AUC {report.labels[f'label {index}'].auc:.2f}  {name}"
    assert list(curves) == ["chance"]
    assert f"label 1 (chance {12 / 43:.2f})" in " ".join(texts(precision_recall(of, "svg")))


def test_a_label_without_clips_or_without_others_has_no_curve_and_that_is_said() -> None:
    for draw in (roc, precision_recall):
        assert "no label has clips" in texts(draw(answers(0, 5), "svg"))
        assert "no label has clips" not in texts(draw(answers(1, 5), "svg"))


def test_the_confusion_matrix_holds_counts_or_shares_of_the_rows_and_no_share_of_a_label_without_clips() -> None:
    of = (["a", "b", "c"], np.array([0, 0, 0, 0, 1]), np.eye(3)[[0, 0, 0, 1, 2]])
    assert texts(confusion(of, "svg"))[-10:-1] == ["3", "1", "0", "0", "0", "1", "0", "0", "0"]
    assert texts(shares(of, "svg"))[-10:-1] == ["75%", "25%", "0%", "0%", "0%", "100%", "-", "-", "-"]
    assert "5 clips of 5 groups; colour: share of the row" in texts(confusion(of, "svg"))


def test_a_reliability_diagram_gives_the_calibration_error_of_both() -> None:
    probabilities = np.array([[0.7, 0.3]] * 4)
    bins = reliability(probabilities, np.zeros(4, np.int64), np.array([0, 0, 1, 1]))
    assert "answers: ECE 0.200" in texts(draw_reliability(bins, form="svg"))
    right = reliability(probabilities, np.zeros(4, np.int64), np.zeros(4, np.int64))
    written = texts(draw_reliability(bins, right, form="svg"))
    assert {"before temperature scaling: ECE 0.200", "after it: ECE 0.300"} <= set(written)


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        (0.9, "threshold 0.90: 25% answered, 0.0% wrong"),
        (0.7, "threshold 0.70: 50% answered, 50.0% wrong"),
        (0.1, "threshold 0.10: 100% answered, 75.0% wrong"),
        (0.95, "threshold 0.95: nothing answered"),
        (None, ""),
    ],
)
def test_a_risk_coverage_curve_tells_what_the_threshold_costs(chosen: float | None, line: str) -> None:
    curve = risk_coverage(np.array([0.9, 0.8, 0.6, 0.5]), np.array([True, False, False, False]))
    assert [text for text in texts(draw_risk_coverage(curve, chosen, "svg")) if "threshold" in text] == [line] * bool(
        line
    )


def row(epoch: int, **values: float | None) -> dict[str, Any]:
    """A row of a history."""
    columns = ("train_loss", "learning_rate", "validation_loss", "validation_macro_f1", "validation_macro_auc")
    return {"epoch": epoch, "validation_balanced_accuracy": 0.5} | dict.fromkeys(columns, 1.0 / epoch) | values


@pytest.mark.parametrize("epochs", [1, 2, 40, 500])
def test_a_history_of_any_length_can_be_drawn(epochs: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = draw_curves([row(epoch) for epoch in range(1, epochs + 1)], best=epochs)
    width, height = Image.open(io.BytesIO(picture)).size
    assert 500 < width < height < 2_000


def test_what_a_history_lacks_is_left_out() -> None:
    rows = [row(1, train_loss=None, validation_macro_auc=None), row(2, validation_macro_auc=None)]
    assert draw_curves(rows, best=1) != draw_curves([row(1), row(2)], best=1)
    assert draw_curves(rows, best=1) != draw_curves(rows, best=2)


def test_a_timeline_has_a_strip_for_each_label_its_time_in_hours_and_a_bar_for_each_event() -> None:
    starts = np.arange(0, 7200, 60.0)
    cries = ((starts >= 600) & (starts < 900)) | (starts >= 5400)
    windows = Windows(starts, starts + 60, np.column_stack([np.where(cries, 0.9, 0.1), np.where(cries, 0.1, 0.9)]))
    policy = EventPolicy(("cry",), 0.5, 0.35)
    found = find_events(windows, ["cry", "noise"], policy)
    svg = draw_timeline("night.wav", windows, ["cry", "noise"], policy, found, "svg")
    written = texts(svg)
    assert [text for text in written if text in ("night.wav", "cry", "noise", "0:00:00", "2:00:00")] == [
        *("0:00:00", "2:00:00", "cry", "night.wav"),
    ]
    without = draw_timeline("night.wav", windows, ["cry", "noise"], policy, [], "svg")
    assert (len(found), svg.count(b"<path") - without.count(b"<path")) == (2, 2)


def test_of_many_labels_a_timeline_draws_the_likeliest_and_says_what_the_others_reach() -> None:
    labels = [f"label {index}" for index in range(20)]
    probabilities = np.linspace(0.0, 0.19, 20) / np.linspace(0.0, 0.19, 20).sum()
    windows = Windows(np.array([0.0]), np.array([3.0]), probabilities[None])
    svg = draw_timeline("", windows, labels, EventPolicy(tuple(labels)), [], "svg")
    written = texts(svg)
    assert [label for label in labels if label in written] == labels[-MOST_STRIPS:]
    highest = np.ceil(100 * probabilities[7]) / 100
    assert any(text.endswith(f"not drawn: 8 labels, {highest:.2f} at most") for text in written)


def test_a_whole_day_is_drawn_with_its_peaks_in_few_points() -> None:
    count = 100_000
    cry = np.full(count, 0.1)
    cry[70_000] = 0.95
    starts = np.arange(count) * 0.8
    windows = Windows(starts, starts + 0.8, np.column_stack([cry, 1 - cry]))
    svg = draw_timeline("", windows, ["cry", "noise"], EventPolicy(("cry",)), [], "svg")
    assert len(svg) < 200_000
    cry[70_000] = 0.1
    without = Windows(starts, starts + 0.8, np.column_stack([cry, 1 - cry]))
    assert svg != draw_timeline("", without, ["cry", "noise"], EventPolicy(("cry",)), [], "svg")
