"""Answers as rows, and rows as csv, JSON lines, label tracks, selection tables and parquet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies

from crycli.errors import ConfigError
from crycli.events import EventPolicy
from crycli.predictions import UNSURE, Prediction, Row, Windows, to_row
from crycli.tables import Form, Layout, Sort, form_of, sort_rows, sorted_rows, text_form, write_parquet

LABELS = ("cry", "laugh", "noise")
ODD_LABELS = ("hungry, very", 'says "no"', "two\nlines", "müde 疲れ", " spaced ", "tab\there")
POLICY = EventPolicy(("cry",))
BAD = Prediction(Path("bad.wav"), error="empty, file")


def answer(path: Path | str = "a.wav", start: float = 0.0, labels: tuple[str, ...] = LABELS) -> Prediction:
    """Three windows of a second: the first label at 0.9, 0.3 and 0.6."""
    first = np.array([0.9, 0.3, 0.6])
    rest = (1 - first)[:, None] * np.array([0.6, *[0.4 / (len(labels) - 2)] * (len(labels) - 2)])
    windows = Windows(start + np.arange(3.0), start + np.arange(3.0) + 1, np.column_stack([first, rest]))
    mean = tuple(windows.probabilities.mean(axis=0).tolist())
    path = path if isinstance(path, str) and "://" in path else Path(path)
    return Prediction(path, start, start + 3.0, labels[0], mean[0], mean, windows=windows)


def text_of(form: Form, layout: Layout, *predictions: Prediction) -> str:
    """What is written of some answers."""
    text = text_form(form, layout, 16_000)
    return text.header + "".join(
        line for prediction in predictions for line in text.lines(layout.rows(prediction), prediction.end)
    )


def table(text: str) -> list[dict[str, str]]:
    """The rows of a CSV."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_row_for_a_recording_is_that_of_eval() -> None:
    layout = Layout("recordings", LABELS)
    rows = table(text_of("csv", layout, answer(), BAD))
    assert rows == [to_row(answer(), LABELS), to_row(BAD, LABELS)]
    assert list(rows[0]) == layout.columns
    assert (rows[0]["start"], rows[0]["confidence"], rows[1]["error"]) == ("0.000", "0.600000", "empty, file")


def test_a_row_for_a_window_is_unsure_below_the_threshold() -> None:
    rows = table(text_of("csv", Layout("windows", LABELS, unsure_below=0.5), answer(start=7.0), BAD))
    assert [row["label"] for row in rows] == ["cry", UNSURE, "cry", ""]
    assert [row["start"] for row in rows] == ["7.000", "8.000", "9.000", ""]
    assert [row["p_cry"] for row in rows] == ["0.900000", "0.300000", "0.600000", ""]
    assert rows[-1]["error"] == "empty, file"


def test_a_row_for_an_event_says_where_it_peaks_and_a_recording_without_one_has_no_row() -> None:
    silent = Layout("events", LABELS, events=EventPolicy(("cry",), onset=0.95, offset=0.9))
    assert table(text_of("csv", silent, answer(), answer("b.wav"))) == []
    rows = table(text_of("csv", Layout("events", LABELS, events=POLICY), answer(), BAD))
    assert [row["error"] for row in rows] == ["", "", "empty, file"]
    assert rows[0] == {
        "path": "a.wav",
        "start": "0.000",
        "end": "1.000",
        "label": "cry",
        "peak": "0.900000",
        "peak_at": "0.500",
        "confidence": "0.900000",
        "error": "",
    }


@pytest.mark.parametrize("kind", ["recordings", "windows"])
def test_top_k_gives_a_row_a_rank_and_no_column_a_label(kind: str) -> None:
    layout = Layout(kind, LABELS, top_k=2, unsure_below=0.99)  # type: ignore[arg-type]
    rows = table(text_of("csv", layout, answer(), BAD))
    assert list(rows[0]) == ["path", "start", "end", "rank", "label", "confidence", "error"]
    assert [(row["rank"], row["label"]) for row in rows[:2]] == [("1", "cry"), ("2", "laugh")]
    assert len(rows) == (3 if kind == "recordings" else 7)
    assert (rows[-1]["rank"], rows[-1]["error"]) == ("", "empty, file")
    assert len(list(Layout("recordings", LABELS, top_k=9).rows(answer()))) == len(LABELS)


def test_json_lines_hold_numbers_and_null() -> None:
    good, bad = map(json.loads, text_of("jsonl", Layout("recordings", LABELS), answer(), BAD).splitlines())
    assert (good["start"], good["end"], good["confidence"], good["p_cry"], good["error"]) == (0.0, 3.0, 0.6, 0.6, "")
    assert (bad["error"], bad["start"], bad["confidence"], bad["p_cry"]) == ("empty, file", None, None, None)
    first, *_ = text_of("jsonl", Layout("recordings", LABELS, top_k=1), answer()).splitlines()
    assert json.loads(first)["rank"] == 1


def test_audacity_reads_start_end_and_label_with_tabs_between() -> None:
    layout = Layout("events", ODD_LABELS, events=EventPolicy((ODD_LABELS[-1], ODD_LABELS[0])))
    written = text_of("audacity", layout, answer(labels=ODD_LABELS), BAD)
    assert written == "0.000000\t1.000000\thungry, very\n2.000000\t3.000000\thungry, very\n"
    windows = Layout("windows", tuple(reversed(ODD_LABELS)))
    lines = text_of("audacity", windows, answer(labels=windows.labels)).split("\n")
    assert lines[0] == "0.000000\t1.000000\ttab here"


def test_raven_finds_each_selection_in_its_own_file_and_in_the_sequence_of_all() -> None:
    layout = Layout("events", LABELS, events=POLICY)
    written = text_of("raven", layout, answer("x/a.wav"), BAD, answer("s3://night/b.wav"))
    rows = list(csv.DictReader(io.StringIO(written), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert list(rows[0])[:7] == [
        *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
    ]
    assert [row["Selection"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["File Offset (s)"]) for row in rows] == [0.0, 2.0, 0.0, 2.0]
    assert [float(row["Begin Time (s)"]) for row in rows] == [0.0, 2.0, 3.0, 5.0]
    assert [float(row["End Time (s)"]) for row in rows] == [1.0, 3.0, 4.0, 6.0]
    assert {(row["View"], row["Channel"], row["High Freq (Hz)"]) for row in rows} == {("Spectrogram 1", "1", "8000.0")}
    assert Path(rows[0]["Begin Path"]) == Path("x/a.wav").absolute()
    assert (rows[0]["Begin File"], rows[2]["Begin Path"]) == ("a.wav", "s3://night/b.wav")
    assert (rows[0]["Label"], rows[0]["Peak"]) == ("cry", "0.900000")


def test_a_selection_table_goes_on_from_its_state() -> None:
    layout = Layout("events", LABELS, events=POLICY)
    answers = [answer("a.wav"), answer("b.wav"), answer("b.wav", start=60.0), answer("c.wav")]
    whole = text_of("raven", layout, *answers)
    for stop in range(len(answers)):
        first = text_form("raven", layout, 16_000)
        parts = [first.header]
        parts += [line for item in answers[:stop] for line in first.lines(layout.rows(item), item.end)]
        second = text_form("raven", layout, 16_000, json.loads(json.dumps(first.state)))
        parts += [line for item in answers[stop:] for line in second.lines(layout.rows(item), item.end)]
        assert "".join(parts) == whole


def test_parquet_holds_strings_integers_and_doubles(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    layout = Layout("recordings", LABELS, top_k=2)
    rows = [row for item in (answer(), BAD) for row in layout.rows(item)]
    write_parquet(tmp_path / "rows.parquet", layout.columns, iter(rows))
    read = parquet.read_table(tmp_path / "rows.parquet")
    assert read.to_pylist() == rows
    assert dict(zip(read.schema.names, map(str, read.schema.types), strict=True)) == {
        "path": "string",
        "start": "double",
        "end": "double",
        "rank": "int64",
        "label": "string",
        "confidence": "double",
        "error": "string",
    }


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        write_parquet(tmp_path / "rows.parquet", ["path"], [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sort", "order"), [("input", "bcxa"), ("path", "abcx"), ("label", "bacx"), ("confidence", "acbx")]
)
def test_rows_are_sorted_in_memory_as_in_a_file(sort: Sort, order: str, tmp_path: Path) -> None:
    rows: list[Row] = [
        {"path": "b", "label": "cry", "confidence": 0.5, "error": ""},
        {"path": "c", "label": "noise", "confidence": 0.75, "error": ""},
        {"path": "x", "label": "", "confidence": None, "error": "bad"},
        {"path": "a", "label": "cry", "confidence": 0.875, "error": ""},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "".join(str(row["path"]) for row in sort_rows(rows, sort)) == order
    assert "".join(str(row["path"]) for row in sorted_rows(file, sort)) == order


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.csv", "csv"),
        ("a.JSONL", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.txt", "audacity"),
        ("a.wav.selections.txt", "raven"),
        ("answers", "csv"),
    ],
)
def test_the_ending_of_a_file_says_its_form(name: str, form: str) -> None:
    assert form_of(Path(name)) == form


@given(
    labels=strategies.lists(
        strategies.text(strategies.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1),
        min_size=3,
        max_size=5,
        unique=True,
    ).map(tuple),
    path=strategies.text(strategies.characters(codec="utf-8", exclude_characters="\r\0/"), min_size=1),
)
def test_any_label_and_any_file_name_survive_csv_and_json(labels: tuple[str, ...], path: str) -> None:
    layout, given_answer = Layout("recordings", labels), answer(Path(path), labels=labels)
    (row,) = table(text_of("csv", layout, given_answer))
    entry = json.loads(text_of("jsonl", layout, given_answer))
    assert list(row) == list(entry) == layout.columns
    assert row["path"] == entry["path"] == str(Path(path))
    assert row["label"] == entry["label"] == labels[0]
    assert float(row[f"p_{labels[0]}"]) == entry[f"p_{labels[0]}"] == 0.6


@given(strategies.text(strategies.characters(codec="utf-8"), min_size=1))
def test_any_label_is_one_line_of_three_cells_to_audacity(label: str) -> None:
    layout = Layout("windows", (label, f"{label}2", f"{label}3"))
    lines = text_of("audacity", layout, answer(labels=layout.labels)).splitlines()
    assert [len(line.split("\t")) for line in lines] == [3, 3, 3]


@pytest.mark.parametrize("form", ["csv", "jsonl", "raven"])
def test_a_file_name_that_is_no_utf8_is_written_with_its_bytes_escaped(form: Form) -> None:
    path = Path(b"caf\xe9.wav".decode("utf-8", "surrogateescape"))
    written = text_of(form, Layout("windows", LABELS), answer(path))
    assert "caf\\" in written.encode("utf-8").decode()
