"""An answer as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from crycli.predictions import Prediction, cell_text, columns, path_text, to_row

LABELS = ("a", "b")


def test_the_fixed_columns_come_first_and_then_one_a_label() -> None:
    assert columns(("b", "a")) == ["path", "start", "end", "label", "confidence", "error", "p_b", "p_a"]
    assert list(to_row(Prediction(Path("x.wav")), ("b", "a"))) == columns(("b", "a"))


def test_seconds_have_three_places_and_probabilities_six() -> None:
    row = to_row(Prediction(Path("a.wav"), 0.0, 1.23456, "a", 0.75, (0.75, 0.25)), LABELS)
    assert (row["start"], row["end"]) == ("0.000", "1.235")
    assert (row["label"], row["confidence"], row["p_a"], row["p_b"]) == ("a", "0.750000", "0.750000", "0.250000")
    assert row["error"] == ""


def test_an_error_stands_in_its_column_and_the_others_are_empty() -> None:
    row = to_row(Prediction(Path("x.wav"), error="empty, file"), LABELS)
    assert (row["path"], row["error"]) == ("x.wav", "empty, file")
    assert {row[name] for name in ("start", "end", "label", "confidence", "p_a", "p_b")} == {""}


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [("peak_at", 1.0, "1.000"), ("peak", 0.5, "0.500000"), ("rank", 2, "2"), ("label", "x", "x"), ("end", None, "")],
)
def test_a_cell_is_written_by_its_column(column: str, value: str | float | None, text: str) -> None:
    assert cell_text(column, value) == text


def test_a_url_stays_as_it_is_and_a_name_that_is_no_utf8_is_escaped() -> None:
    assert path_text("s3://night/a.wav") == "s3://night/a.wav"
    assert path_text(Path(b"caf\xe9.wav".decode("utf-8", "surrogateescape"))) == "caf\\udce9.wav"
