"""Windows become events: against a plain reference, and at known places."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies

from crycli.config import Combine
from crycli.events import TINY, Event, EventFinder, EventPolicy, combine, event_labels, find_events
from crycli.networks import softmax
from crycli.predictions import Windows

LABELS = ("cry", "laugh", "noise")


def windows_of(starts: list[float], window: float, probabilities: list[list[float]]) -> Windows:
    """Windows of one length."""
    begins = np.array(starts, dtype=np.float64)
    return Windows(begins, begins + window, np.array(probabilities, dtype=np.float64).reshape(len(starts), -1))


def regular(seconds: float, window: float, hop: float, truth: tuple[float, float]) -> Windows:
    """Windows over a recording; the first label's probability is the share of the window that lies in `truth`."""
    starts = np.arange(0, seconds - window + TINY, hop)
    shares = np.clip(np.minimum(starts + window, truth[1]) - np.maximum(starts, truth[0]), 0, None) / window
    return windows_of(starts.tolist(), window, np.stack([shares, 1 - shares], axis=1).tolist())


def reference(windows: Windows, labels: tuple[str, ...], policy: EventPolicy) -> list[Event]:
    """The definition, word for word, with all windows at hand."""
    times = sorted({*windows.starts.tolist(), *windows.ends.tolist()})
    times = [time for number, time in enumerate(times) if number == 0 or time - times[number - 1] > TINY]
    cells: list[tuple[float, float, Any]] = []
    for start, end in pairwise(times):
        middle = (start + end) / 2
        covering = windows.probabilities[(windows.starts <= middle) & (middle < windows.ends)]
        cells.append((start, end, covering.mean(axis=0) if len(covering) else None))
    found = []
    for label in policy.labels:
        column = labels.index(label)
        runs: list[list[tuple[float, float, float]]] = [[]]
        for start, end, mean in cells:
            if mean is not None and mean[column] >= policy.offset:
                runs[-1].append((start, end, float(mean[column])))
            else:
                runs.append([])
        runs = [run for run in runs if any(value >= policy.onset for _, _, value in run)]
        joined: list[list[tuple[float, float, float]]] = []
        for run in runs:
            if joined and run[0][0] - joined[-1][-1][1] <= policy.gap_seconds + TINY:
                joined[-1] += run
            else:
                joined.append(run)
        for run in joined:
            if run[-1][1] - run[0][0] < policy.min_seconds - TINY:
                continue
            peak = max(value for _, _, value in run)
            first = next(cell for cell in run if cell[2] == peak)
            covered = sum(end - start for start, end, _ in run)
            mean = sum((end - start) * value for start, end, value in run) / covered
            found.append(Event(run[0][0], run[-1][1], label, peak, (first[0] + first[1]) / 2, mean))
    return sorted(found, key=lambda event: (event.start, labels.index(event.label)))


@strategies.composite
def cases(draw: strategies.DrawFn) -> tuple[Windows, EventPolicy]:
    """Windows on a grid of tenths of a second, from a start, the last one off the grid; and a policy."""
    window, hop = draw(strategies.integers(1, 30)) / 10, draw(strategies.integers(1, 40)) / 10
    count = draw(strategies.integers(1, 25))
    start = draw(strategies.sampled_from([0.0, 7.3]))
    starts = [start + number * hop for number in range(count)]
    starts.append(starts[-1] + draw(strategies.floats(0.001, 1.0)) * hop)
    # Eighths, and thresholds that no mean of them hits: what lies on a threshold is up to the last bit.
    values = strategies.integers(0, 8).map(lambda eighths: eighths / 8)
    probabilities = draw(strategies.lists(strategies.lists(values, min_size=3, max_size=3), min_size=count + 1))
    onset = draw(strategies.sampled_from([0.301, 0.503, 0.811]))
    policy = EventPolicy(
        labels=draw(strategies.sampled_from([("cry",), ("laugh", "cry"), LABELS])),
        onset=onset,
        offset=onset * draw(strategies.sampled_from([0.31, 0.7001, 1.0])),
        min_seconds=draw(strategies.sampled_from([0.0, 0.5003, 2.0007])),
        gap_seconds=draw(strategies.sampled_from([0.0, 0.2503, 1.0007])),
    )
    return windows_of(starts, window, probabilities[: count + 1]), policy


def numbers(event: Event) -> tuple[float, ...]:
    """All of an event but its label."""
    return event.start, event.end, event.peak, event.peak_at, event.confidence


@given(cases())
def test_events_are_what_the_definition_says(case: tuple[Windows, EventPolicy]) -> None:
    windows, policy = case
    found, expected = find_events(windows, LABELS, policy), reference(windows, LABELS, policy)
    assert [event.label for event in found] == [event.label for event in expected]
    for event, other in zip(found, expected, strict=True):
        assert numbers(event) == pytest.approx(numbers(other), abs=1e-5)


@given(cases())
def test_events_lie_within_the_recording_and_apart_from_each_other(case: tuple[Windows, EventPolicy]) -> None:
    windows, policy = case
    found = find_events(windows, LABELS, policy)
    for event in found:
        assert windows.starts[0] <= event.start < event.end <= windows.ends.max()
        assert event.end - event.start >= policy.min_seconds - TINY
        assert event.start < event.peak_at < event.end
        assert policy.offset <= event.confidence <= event.peak
        assert event.peak >= policy.onset
    for label in policy.labels:
        own = [event for event in found if event.label == label]
        assert all(b.start - a.end > policy.gap_seconds for a, b in pairwise(own))


@given(cases())
def test_what_push_gives_while_listening_is_final_and_is_not_given_twice(case: tuple[Windows, EventPolicy]) -> None:
    windows, policy = case
    finder = EventFinder(LABELS, policy)
    found = []
    for start, end, probabilities in zip(windows.starts, windows.ends, windows.probabilities, strict=True):
        events = finder.push(float(start), float(end), probabilities)
        assert all(event.end <= start + TINY for event in events)
        found += events
    found += finder.close()
    assert sorted(found, key=finder.order) == find_events(windows, LABELS, policy)


ROWS = strategies.lists(
    strategies.lists(strategies.floats(-60.0, 60.0), min_size=3, max_size=3).map(
        lambda row: softmax(np.array([row]))[0]
    ),
    min_size=1,
    max_size=9,
).map(np.array)
CHOICES = strategies.sampled_from([(), ("cry",), ("noise", "cry"), LABELS])


@given(ROWS, CHOICES, strategies.sampled_from(["mean", "max"]))
def test_combined_probabilities_sum_to_one_whatever_the_windows_order(
    each: np.ndarray, events: tuple[str, ...], how: Combine
) -> None:
    found = combine(each, LABELS, events, how)
    assert found.sum() == pytest.approx(1.0)
    assert ((found >= 0.0) & (found <= 1.0 + 1e-9)).all()
    np.testing.assert_allclose(combine(each[::-1], LABELS, events, how), found, atol=1e-12)
    np.testing.assert_allclose(combine(each[:1], LABELS, events, how), each[0], atol=1e-12)
    if how == "mean":
        np.testing.assert_allclose(found, each.mean(axis=0))


@given(ROWS)
def test_the_highest_of_any_window_is_the_probability_of_an_event(each: np.ndarray) -> None:
    found = combine(each, LABELS, ("cry",), "max")
    assert found[0] == pytest.approx(each[:, 0].max())
    mean = each.mean(axis=0)  # the others stand to each other as they do there
    assert found[1] * mean[2] == pytest.approx(found[2] * mean[1], abs=1e-9)


def test_maxima_that_exceed_one_together_are_scaled() -> None:
    each = np.array([[0.9, 0.1, 0.0], [0.2, 0.6, 0.2]])
    np.testing.assert_allclose(combine(each, LABELS, ("cry", "laugh"), "max"), [0.6, 0.4, 0.0])
    np.testing.assert_allclose(combine(each, LABELS, ("cry",), "max"), [0.9, 0.1 * 0.35 / 0.45, 0.1 * 0.1 / 0.45])


@pytest.mark.parametrize("hop", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("truth", [(10.0, 14.0), (3.3, 9.1), (31.7, 57.2)])
def test_with_overlap_an_event_begins_and_ends_within_a_hop_of_the_truth(
    hop: float, truth: tuple[float, float]
) -> None:
    windows = regular(60.0, 3.0, hop, truth)
    (event,) = find_events(windows, ("cry", "noise"), EventPolicy(("cry",), onset=0.5, offset=0.5))
    assert event.start == pytest.approx(truth[0], abs=hop)
    assert event.end == pytest.approx(truth[1], abs=hop)
    assert truth[0] < event.peak_at < truth[1]


def test_an_event_goes_on_below_the_onset_and_ends_below_the_offset() -> None:
    windows = windows_of([0, 1, 2, 3, 4, 5], 1.0, [[p, 1 - p] for p in (0.4, 0.6, 0.4, 0.3, 0.4, 0.4)])
    (event,) = find_events(windows, ("cry", "noise"), EventPolicy(("cry",), onset=0.5, offset=0.35))
    assert numbers(event) == pytest.approx((0.0, 3.0, 0.6, 1.5, 1.4 / 3))


def test_a_gap_is_closed_before_short_events_are_dropped() -> None:
    windows = windows_of([0, 1, 2, 3], 1.0, [[p, 1 - p] for p in (0.9, 0.1, 0.6, 0.1)])
    policy = EventPolicy(("cry",), onset=0.5, offset=0.35, min_seconds=1.5)
    assert find_events(windows, ("cry", "noise"), policy) == []
    closing = EventPolicy(("cry",), onset=0.5, offset=0.35, min_seconds=1.5, gap_seconds=1.0)
    (event,) = find_events(windows, ("cry", "noise"), closing)
    assert numbers(event) == pytest.approx((0.0, 3.0, 0.9, 0.5, 0.75))


def test_an_event_ends_where_no_window_lies() -> None:
    windows = windows_of([0.0, 2.0], 1.0, [[0.9, 0.1]] * 2)
    found = find_events(windows, ("cry", "noise"), EventPolicy(("cry",)))
    assert [(event.start, event.end) for event in found] == [(0.0, 1.0), (2.0, 3.0)]


def test_an_event_is_known_as_soon_as_the_window_after_it_begins() -> None:
    finder = EventFinder(("cry", "noise"), EventPolicy(("cry",)))
    assert finder.push(0.0, 1.0, np.array([0.9, 0.1])) == []
    assert finder.push(1.0, 2.0, np.array([0.1, 0.9])) == []
    (event,) = finder.push(2.0, 3.0, np.array([0.1, 0.9]))
    assert (event.start, event.end) == (0.0, 1.0)
    assert finder.push(3.0, 4.0, np.array([0.9, 0.1])) == []
    (event,) = finder.close()
    assert (event.start, event.end) == (3.0, 4.0)


def test_a_day_of_windows_needs_no_more_memory_than_a_minute() -> None:
    finder = EventFinder(("cry", "noise"), EventPolicy(("cry",), min_seconds=1e9))
    cry, noise = np.array([0.9, 0.1]), np.array([0.1, 0.9])

    def listen(first: int, last: int) -> int:
        tracemalloc.start()
        for second in range(first, last):
            finder.push(second, second + 3.0, noise if second % 100 < 10 else cry)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert listen(60, 20_000) < listen(0, 60) + 10_000  # bytes


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (("cry", "noise"), ("cry",)),
        (("Crying", "Not_crying", "SILENCE", "no cry", "non-cry"), ("Crying",)),
        (("hungry", "tired", "other", "Background", "unknown"), ("hungry", "tired")),
        (("nothing", "notable", "nonna", "noise_of_teeth"), ("nothing", "notable", "nonna", "noise_of_teeth")),
        (("noise", "silence"), ("noise", "silence")),
    ],
)
def test_auto_leaves_out_the_labels_that_stand_for_nothing(labels: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    assert event_labels(labels) == wanted
