"""A split that tears groups apart is seen to flatter, and one that could not is not accused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import settings

from crycli.audio import SAMPLE_RATE, Samples
from crycli.errors import DataError
from crycli.manifest import Clip
from crycli.splitcheck import SplitComparison, compare_split

GROUPS, TAKES, BANDS = 20, 6, 40


def voice(rng: np.random.Generator, timbre: np.ndarray) -> Samples:
    """Half a second of noise with these strengths in bands that lie evenly up to 8 kHz."""
    spectrum = np.fft.rfft(rng.standard_normal(SAMPLE_RATE // 2))
    spectrum *= np.interp(np.linspace(0.0, 1.0, len(spectrum)), np.linspace(0.0, 1.0, len(timbre)), timbre)
    return (0.05 * np.fft.irfft(spectrum)).astype(np.float32)


def record(folder: Path, timbre_of: Callable[[int, str], np.ndarray]) -> list[Clip]:
    """Clips of groups that bear a label each, drawn by lot, in which the timbre is what the function says."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(["hungry", "tired"] * (GROUPS // 2))
    clips = []
    for group, label in enumerate(labels.tolist()):
        for take in range(TAKES):
            path = folder / f"{group}-{take}.wav"
            soundfile.write(path, voice(rng, timbre_of(group, label)), SAMPLE_RATE)
            clips.append(Clip(path, label, f"baby {group}"))
    return clips


@pytest.fixture(scope="module")
def by_baby(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Each baby has a voice; the labels cannot be heard."""
    timbres = 10 ** np.random.default_rng(2).uniform(-1.5, 0.0, (GROUPS, BANDS))  # 30 dB
    return record(tmp_path_factory.mktemp("by_baby"), lambda group, _: timbres[group])


@pytest.fixture(scope="module")
def by_label(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """The labels can be heard; the babies cannot."""
    timbres = {"hungry": np.array([1.0, 0.5, 0.2, 0.1, 0.1, 0.1]), "tired": np.array([0.3, 1.0, 0.1, 0.5, 0.1, 0.4])}
    return record(tmp_path_factory.mktemp("by_label"), lambda _, label: timbres[label])


def compare(clips: list[Clip]) -> SplitComparison:
    return compare_split(clips, settings("workers=1", "eval.draws=400"))


def test_labels_that_only_the_voice_tells_are_found_by_clip_and_not_by_group(by_baby: list[Clip]) -> None:
    found = compare(by_baby)
    assert found.by_clip.balanced_accuracy > 0.9
    assert found.by_group.balanced_accuracy < 0.65
    assert found.by_group.chance_balanced_accuracy == 0.5
    assert found.difference.value == pytest.approx(found.by_clip.balanced_accuracy - found.by_group.balanced_accuracy)
    low = found.intervals_by_group["balanced_accuracy"].low
    assert low < 0.5 < found.intervals_by_clip["balanced_accuracy"].low
    assert found.leaks
    assert "A split by clip leaks" in found.sentence
    assert f"{found.by_clip.balanced_accuracy:.3f}" in found.sentence


def test_labels_that_can_be_heard_are_found_in_either_split(by_label: list[Clip]) -> None:
    found = compare(by_label)
    assert found.by_clip.balanced_accuracy > 0.95
    assert found.by_group.balanced_accuracy > 0.95
    assert not found.leaks
    assert "leaks" not in found.sentence


def test_a_label_of_one_group_leaves_open_whether_a_split_by_clip_would_flatter(by_baby: list[Clip]) -> None:
    first = next(clip.group for clip in by_baby if clip.label == "tired")
    found = compare([clip for clip in by_baby if clip.label == "hungry" or clip.group == first])
    assert found.difference.interval is None
    assert not found.leaks
    assert found.sentence.endswith(", and has no interval, because 'tired' is of one group alone.")


def test_where_each_clip_is_a_group_there_is_nothing_to_compare(by_baby: list[Clip]) -> None:
    found = compare([replace(clip, group=str(clip.path)) for clip in by_baby])
    assert found.by_clip == found.by_group
    assert not found.leaks
    assert "group of its own" in found.sentence


def test_recordings_that_cannot_be_read_change_nothing(by_baby: list[Clip], tmp_path: Path) -> None:
    gone = Clip(tmp_path / "gone.wav", "hungry", "gone")
    first, second = compare(by_baby), compare([*by_baby, gone])
    assert (first.by_clip, first.by_group, first.difference) == (second.by_clip, second.by_group, second.difference)


@pytest.mark.parametrize("groups", [2, 3])
def test_with_few_groups_there_are_as_many_folds(by_label: list[Clip], groups: int) -> None:
    clips = [replace(clip, group=str(number % groups)) for number, clip in enumerate(by_label)]
    assert compare(clips).by_group.groups == groups


@pytest.mark.parametrize("kind", ["one label", "one group", "unreadable", "none"])
def test_too_few_clips_are_refused_in_one_line(by_baby: list[Clip], tmp_path: Path, kind: str) -> None:
    clips = {
        "one label": [replace(clip, label="hungry") for clip in by_baby],
        "one group": [replace(clip, group="one") for clip in by_baby],
        "unreadable": [replace(clip, path=tmp_path / "gone.wav") for clip in by_baby],
        "none": [],
    }[kind]
    with pytest.raises(DataError, match="too few to compare splits") as caught:
        compare(clips)
    assert "\n" not in str(caught.value)
