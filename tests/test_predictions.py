"""Answers as CSV rows and JSON lines."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, strategies

from crycli.predictions import Prediction, RowWriter, columns

ODD_LABELS = ("hungry, very", 'says "no"', "two\nlines", "müde 疲れ", " spaced ", "1e3")


def written(form: str, labels: tuple[str, ...], *predictions: Prediction) -> str:
    """What the writer makes of these predictions."""
    stream = io.StringIO(newline="")
    writer = RowWriter(stream, labels, form)
    for prediction in predictions:
        writer.write(prediction)
    return stream.getvalue()


def answer(labels: tuple[str, ...], path: str = "a.wav") -> Prediction:
    """An answer for the first label."""
    rest = tuple(0.25 / (len(labels) - 1) for _ in labels[1:])
    return Prediction(Path(path), 0.0, 1.23456, labels[0], 0.75, (0.75, *rest))


def test_the_fixed_columns_come_first_and_then_one_a_label() -> None:
    assert columns(("b", "a")) == ["path", "start", "end", "label", "confidence", "error", "p_b", "p_a"]
    assert written("csv", ("b", "a")) == "path,start,end,label,confidence,error,p_b,p_a\n"


def test_seconds_have_three_places_and_probabilities_six() -> None:
    (row,) = csv.DictReader(io.StringIO(written("csv", ("a", "b"), answer(("a", "b")))))
    assert (row["start"], row["end"]) == ("0.000", "1.235")
    assert (row["label"], row["confidence"], row["p_a"], row["p_b"]) == ("a", "0.750000", "0.750000", "0.250000")
    assert row["error"] == ""


def test_an_error_stands_in_its_column_and_the_others_are_empty() -> None:
    (row,) = csv.DictReader(io.StringIO(written("csv", ("a", "b"), Prediction(Path("x.wav"), error="empty, file"))))
    assert (row["path"], row["error"]) == ("x.wav", "empty, file")
    assert {row[name] for name in ("start", "end", "label", "confidence", "p_a", "p_b")} == {""}


def test_json_lines_hold_numbers_and_null() -> None:
    lines = written("jsonl", ODD_LABELS, answer(ODD_LABELS), Prediction(Path("x.wav"), error="broken")).splitlines()
    good, bad = (json.loads(line) for line in lines)
    assert list(good) == columns(ODD_LABELS)
    assert (good["start"], good["end"], good["confidence"]) == (0.0, 1.235, 0.75)
    assert good["label"] == ODD_LABELS[0]
    assert sum(good[f"p_{label}"] for label in ODD_LABELS) == pytest.approx(1.0, abs=1e-5)
    assert (bad["error"], bad["start"], bad["confidence"], bad[f"p_{ODD_LABELS[0]}"]) == ("broken", None, None, None)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_unicode_stays_readable(form: str) -> None:
    assert "p_müde 疲れ" in written(form, ODD_LABELS, answer(ODD_LABELS))


@given(
    labels=strategies.lists(
        strategies.text(strategies.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1),
        min_size=2,
        max_size=5,
        unique=True,
    ).map(tuple),
    path=strategies.text(strategies.characters(codec="utf-8", exclude_characters="\r\0/"), min_size=1),
)
def test_any_label_and_any_file_name_survive_csv_and_json(labels: tuple[str, ...], path: str) -> None:
    prediction = answer(labels, path)
    (row,) = csv.DictReader(io.StringIO(written("csv", labels, prediction), newline=""))
    entry = json.loads(written("jsonl", labels, prediction))
    assert list(row) == list(entry) == columns(labels)
    assert row["path"] == entry["path"] == str(prediction.path)
    assert row["label"] == entry["label"] == labels[0]
    assert float(row[f"p_{labels[0]}"]) == entry[f"p_{labels[0]}"] == 0.75


def test_a_file_name_that_is_no_utf8_is_written_with_its_bytes_escaped() -> None:
    path = Path(b"caf\xe9.wav".decode("utf-8", "surrogateescape"))
    for form in ("csv", "jsonl"):
        assert "caf" in written(form, ("a", "b"), Prediction(path, error="broken")).encode("utf-8").decode()


def test_each_row_is_there_before_the_next_is_written(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    with file.open("w") as stream:
        writer = RowWriter(stream, ("a", "b"), "csv")
        writer.write(answer(("a", "b")))
        assert file.read_text().count("\n") == 2
