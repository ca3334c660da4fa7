"""Slices: what sets clips apart, and the scores of those that have it in common, the weakest first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from crycli.bootstrap import intervals
from crycli.manifest import Clip
from crycli.metrics import score
from crycli.slices import Slice, slices

NAMES = ("hungry", "tired")


def clip(number: int, label: str = "hungry", **stated: Any) -> Clip:
    return Clip(path=Path(f"{number}.wav"), label=label, **{"group": f"baby {number}"} | stated)


def sliced(clips: Sequence[Clip], predicted: Sequence[int] | None = None) -> dict[str, dict[str, Slice]]:
    """Attribute to value to slice; every answer is right where none are given."""
    truth = np.array([NAMES.index(one.label) for one in clips])
    found = slices(clips, NAMES, truth, None, truth if predicted is None else np.array(predicted), draws=50)
    by_attribute: dict[str, dict[str, Slice]] = {}
    for one in found:
        by_attribute.setdefault(one.attribute, {})[one.value] = one
    return by_attribute


def test_each_attribute_that_sets_clips_apart_has_its_slices() -> None:
    clips = [
        clip(0, corpus="homes", sample_rate=8000, codec="amrnb", channels=1, extra={"gender": "f", "phone": "x"}),
        clip(1, corpus="homes", sample_rate=8000, codec="amrnb", channels=2, extra={"gender": "m", "phone": "x"}),
        clip(2, corpus="ward", sample_rate=44100, codec="amrnb", channels=2, extra={"gender": "", "phone": "x"}),
    ]
    found = {
        attribute: {value: one.report.clips for value, one in of.items()} for attribute, of in sliced(clips).items()
    }
    assert found == {
        "corpus": {"homes": 2, "ward": 1},
        "sample rate": {"8000 Hz": 2, "44100 Hz": 1},
        "gender": {"f": 1, "m": 1, "not stated": 1},
    }


def test_the_scores_and_intervals_of_a_slice_are_those_of_its_clips_alone() -> None:
    generator = np.random.default_rng(0)
    clips = [
        clip(number, NAMES[number % 2], group=f"baby {number // 4}", corpus="ab"[number % 3 == 0])
        for number in range(48)
    ]
    truth = np.arange(48) % 2
    table = generator.dirichlet([1.0, 1.0], 48)
    predicted = generator.integers(2, size=48)  # not the likeliest labels
    rows = np.flatnonzero(np.arange(48) % 3 == 0)
    groups = [clips[row].group for row in rows]
    found = {one.value: one for one in slices(clips, NAMES, truth, table, predicted, draws=50, seed=3)}
    assert found["b"].report == score(NAMES, truth[rows], table[rows], groups, predicted[rows])
    expected = intervals(NAMES, truth[rows], table[rows], predicted[rows], groups, draws=50, seed=3)
    assert found["b"].intervals == expected
    assert {"balanced_accuracy", "macro_auc", "recall/tired"} <= set(expected)


def test_the_weakest_slice_comes_first() -> None:
    clips = [clip(number, NAMES[number % 2], corpus="abc"[number // 4]) for number in range(12)]
    right, wrong = [0, 1, 0, 1], [1, 0, 1, 0]
    found = sliced(clips, [*right, *wrong, 0, 1, 1, 0])["corpus"]
    assert [(value, one.report.balanced_accuracy) for value, one in found.items()] == [
        ("b", 0.0),
        ("c", 0.5),
        ("a", 1.0),
    ]


def test_a_slice_of_one_label_shows_its_recall() -> None:
    clips = [clip(number, NAMES[number // 4], corpus="ab"[number // 4]) for number in range(8)]
    found = sliced(clips, [0, 0, 0, 1, 1, 1, 1, 1])["corpus"]
    assert found["a"].report.balanced_accuracy == found["a"].report.accuracy == 0.75
    assert found["a"].report.matthews is None
    assert "balanced_accuracy" in found["a"].intervals


def test_a_slice_of_one_group_has_no_intervals() -> None:
    clips = [
        clip(number, group="anna" if number < 3 else f"baby {number}", corpus="ab"[number // 3]) for number in range(6)
    ]
    found = sliced(clips, [0, 1, 0, 0, 1, 0])["corpus"]
    assert found["a"].intervals == {}
    assert found["b"].intervals


@pytest.mark.parametrize(("values", "shown"), [(1, False), (2, True), (12, True), (13, False)])
def test_a_column_of_the_manifest_counts_where_it_has_few_values(values: int, shown: bool) -> None:
    clips = [clip(number, extra={"age": str(number % values)} if number < 13 else {}) for number in range(20)]
    assert ("age" in sliced(clips)) is shown


def test_a_column_that_is_called_as_an_attribute_does_not_displace_it() -> None:
    clips = [clip(number, loudness_db=-30.0 - number, extra={"loudness": "ab"[number % 2]}) for number in range(6)]
    assert {"loudness", "loudness (column)"} == set(sliced(clips))


def test_lengths_and_loudness_fall_into_thirds() -> None:
    clips = [clip(number, duration=1.0 + number, loudness_db=-40.0 + number) for number in range(9)]
    found = {
        attribute: {value: one.report.clips for value, one in of.items()} for attribute, of in sliced(clips).items()
    }
    assert found == {
        "duration": {"up to 3.67 s": 3, "over 3.67 s to 6.34 s": 3, "over 6.34 s": 3},
        "loudness": {"up to -37.3 dB": 3, "over -37.3 dB to -34.6 dB": 3, "over -34.6 dB": 3},
    }


def test_a_window_is_as_long_as_its_times_say() -> None:
    clips = [clip(number, start=10.0, end=11.0 + number) for number in range(3)] + [clip(3)]
    assert {value: one.report.clips for value, one in sliced(clips)["duration"].items()} == {
        "up to 1.67 s": 1,
        "over 1.67 s to 2.00 s": 1,
        "over 2.00 s": 1,
        "not stated": 1,
    }


def test_clips_of_the_same_length_are_not_set_apart_by_it() -> None:
    assert sliced([clip(number, duration=5.0) for number in range(6)]) == {}


def test_a_few_short_clips_are_set_apart_where_most_are_of_one_length() -> None:
    found = sliced([clip(number, duration=5.0 if number else 2.0) for number in range(6)])
    assert {value: one.report.clips for value, one in found["duration"].items()} == {
        "up to 2.00 s": 1,
        "over 2.00 s": 5,
    }


@given(
    seconds=strategies.lists(
        strategies.sampled_from([0.5, 0.501, 1.0, 1.25, 2.0, 7.004, 30.0]), min_size=1, max_size=12
    )
)
@settings(max_examples=30, deadline=None)
def test_every_clip_lies_in_the_third_that_its_name_says(seconds: list[float]) -> None:
    found = sliced([clip(number, duration=value) for number, value in enumerate(seconds)]).get("duration", {})
    assert sum(one.report.clips for one in found.values()) in (0, len(seconds))
    for value, one in found.items():
        bounds = [float(word) for word in value.split() if word[0].isdigit()]
        low, high = (bounds[0], np.inf) if len(bounds) == 1 else bounds
        low, high = (0.0, bounds[0]) if value.startswith("up to") else (low, high)
        assert one.report.clips == sum(low < length <= high for length in seconds)
