"""Figures: any label and any history can be drawn."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crycli.figures import draw_confusion, draw_curves
from crycli.metrics import score


@pytest.mark.parametrize(
    "label", ["$\\bad{$", "a$b$c", "疲れた", "two\nlines", "very long " * 20], ids=lambda label: ascii(label[:12])
)
def test_any_label_can_be_drawn_without_a_warning(label: str) -> None:
    table = np.array([[0.9, 0.1], [0.2, 0.8]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = draw_confusion(score([label, "other"], np.array([0, 1]), table))
    assert picture.startswith(b"\x89PNG")


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
