"""Timelines: what is drawn is what events are found in, and no moment of a recording is lost."""

from __future__ import annotations

from unicodedata import category

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crycli.events import EventPolicy, find_events
from crycli.predictions import Windows
from crycli.timeline import ASCII, BLOCKS, clock, columns, columns_of, course, marks_for, printable, sparkline, ticks

LABELS = ("hungry", "tired", "noise")


def windows(probabilities: list[float], window: float = 2.0, hop: float = 1.0, start: float = 0.0) -> Windows:
    """Windows of which the first label has these probabilities, and the others the rest."""
    starts = start + hop * np.arange(len(probabilities))
    first = np.array(probabilities)
    return Windows(starts, starts + window, np.column_stack([first, (1 - first) / 2, (1 - first) / 2]))


@st.composite
def recordings(draw: st.DrawFn) -> Windows:
    """Windows as prediction makes them, at samples of 16 kHz."""
    window = draw(st.integers(4_000, 160_000))
    hop = draw(st.integers(1_000, window))
    probabilities = draw(st.lists(st.floats(0, 1), min_size=1, max_size=30))
    found = windows(probabilities, window, hop, draw(st.sampled_from([0, 12_345, 1_000_003])))
    return Windows(found.starts / 16_000, found.ends / 16_000, found.probabilities)


@given(recordings(), st.floats(0, 1, exclude_max=True))
def test_at_any_moment_a_course_is_the_mean_over_the_windows_that_cover_it(of: Windows, share: float) -> None:
    found = course(of)
    cell = int(share * len(found.probabilities))
    moment = found.edges[cell : cell + 2].mean()
    covering = of.probabilities[(of.starts <= moment) & (moment < of.ends)]
    assert found.probabilities[cell] == pytest.approx(covering.mean(axis=0), abs=1e-9)
    assert (found.edges[0], found.edges[-1]) == pytest.approx((of.starts[0], of.ends[-1]), abs=1e-6)


@given(recordings(), st.integers(1, 50))
def test_however_few_columns_there_are_they_show_the_highest_peak_where_it_is(of: Windows, count: int) -> None:
    whole = course(of)
    found = columns(whole, count)
    assert found.probabilities.shape == (count, len(LABELS))
    assert found.probabilities.max(axis=0) == pytest.approx(whole.probabilities.max(axis=0))
    peak = whole.probabilities[:, 0].argmax()
    column = np.searchsorted(found.edges, whole.edges[peak : peak + 2].mean(), "right") - 1
    assert found.probabilities[min(column, count - 1), 0] == pytest.approx(whole.probabilities[peak, 0])


@given(recordings(), st.floats(0.05, 1))
def test_the_course_reaches_the_onset_where_there_are_events_and_nowhere_else(of: Windows, onset: float) -> None:
    highest = course(of).probabilities[:, 0].max()
    events = find_events(of, LABELS, EventPolicy(("hungry",), onset, onset))
    if abs(highest - onset) > 1e-9:
        assert bool(events) == (highest > onset)
    assert max((event.peak for event in events), default=highest) == pytest.approx(highest)


def test_time_without_a_window_has_no_probability_and_no_mark() -> None:
    of = windows([1.0, 0.5], window=1.0, hop=3.0)
    assert course(of).edges.tolist() == [0, 1, 3, 4]
    assert np.isnan(course(of).probabilities).all(axis=1).tolist() == [False, True, False]
    assert sparkline(of, LABELS, len("hungry") + 2 + 8 + 6)[0] == "hungry  ██    ▅▅  1.00"


def test_more_cells_than_wanted_become_so_many_equal_parts() -> None:
    of = windows([0.1] * 70 + [0.9] + [0.1] * 29, window=1.0)
    found = course(of, most=10)
    assert found.edges.tolist() == list(range(0, 101, 10))
    assert found.probabilities[:, 0].tolist() == pytest.approx([0.1] * 7 + [0.9] + [0.1] * 2)
    assert len(course(of, most=100).probabilities) == 100


def test_a_terminal_gets_a_line_for_each_label_and_one_with_times() -> None:
    of = windows([0.0] * 30 + [1.0] * 30, window=1.0)
    assert sparkline(of, LABELS, 38, shown=["tired", "hungry"]) == [
        "tired   " + "▅" * 12 + "▁" * 12 + "  0.50",
        "hungry  " + "▁" * 12 + "█" * 12 + "  1.00",
        "        0:00:00     0:00:30",
    ]
    ascii_only = sparkline(of, LABELS, 38, shown=["hungry"], marks=ASCII)
    assert ascii_only[0] == "hungry  " + "_" * 12 + "#" * 12 + "  1.00"


@given(recordings(), st.integers(40, 200), st.text(min_size=1))
def test_no_line_is_wider_than_the_terminal_and_none_moves_its_cursor(of: Windows, width: int, name: str) -> None:
    lines = sparkline(of, [name, "b", "c"], width)
    assert len(lines) == 4
    assert all(columns_of(line) <= width for line in lines)
    assert all(line == " ".join(line.splitlines()) and "\x1b" not in line and "\x9b" not in line for line in lines)


@pytest.mark.parametrize(
    ("encoding", "marks"),
    [("utf-8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII), ("cp437", ASCII), ("no such", ASCII), (None, ASCII)],
)
def test_blocks_are_drawn_where_the_encoding_has_them(encoding: str | None, marks: str) -> None:
    assert marks_for(encoding) == marks


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.96, "0:01:00"), (3599.5, "0:59:59.5"), (90_061, "25:01:01"), (0.2, "0:00:00.2")],
)
def test_a_time_is_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@given(st.floats(0, 1e6), st.floats(0.25, 1e6), st.integers(1, 20))
def test_marks_of_the_time_are_round_evenly_spaced_and_not_too_many(start: float, length: float, most: int) -> None:
    found = ticks(start, start + length, most)
    assert len(found) <= most + 1
    assert all(start - 1e-6 <= moment <= start + length + 1e-6 for moment in found)
    assert np.diff(found) == pytest.approx(np.diff(found)[:1].repeat(max(len(found) - 1, 0)))
    assert all(moment * 10 == pytest.approx(round(moment * 10)) for moment in found)


@pytest.mark.parametrize(("minutes", "step"), [(0.1, 1), (1, 10), (60, 600), (360, 3600), (1440, 10_800)])
def test_the_step_of_the_time_is_one_that_people_use(minutes: float, step: float) -> None:
    assert np.diff(ticks(0, 60 * minutes, 10)).tolist() == pytest.approx([step] * int(60 * minutes / step))


@given(st.text(), st.integers(2, 40))
def test_any_name_becomes_one_line_of_a_bounded_width(name: str, longest: int) -> None:
    shown = printable(name, longest)
    assert columns_of(shown) <= longest
    assert not any(category(letter) in ("Cc", "Cs") for letter in shown), "neither control characters nor halves of one"
