"""Recordings of the same sound: found in any container, kept together, flagged, and named where their labels differ."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import cry, settings, write_cries
from hypothesis import given
from hypothesis import strategies as st

from crycli.duplicates import join_groups
from crycli.manifest import Clip
from crycli.prepare import PrepareResult, prepare_dataset_csv

BY_BABY = r"data.group_by=baby-\d+"
RATE = 16_000


def prepare(cries: Path, *assignments: str) -> PrepareResult:
    output = cries.parent / "data"
    shutil.rmtree(output, ignore_errors=True)
    return prepare_dataset_csv([cries], output, settings(BY_BABY, *assignments))


def clip_of(result: PrepareResult, name: str) -> Clip:
    (clip,) = [clip for clips in result.parts.values() for clip in clips if clip.path.name == name]
    return clip


def part_of(result: PrepareResult, name: str) -> str:
    return next(part for part, clips in result.parts.items() for clip in clips if clip.path.name == name)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A recording of three seconds among others of six babies."""
    write_cries(tmp_path / "cries", babies=6)
    path = tmp_path / "cries" / "low" / "baby-70-0.wav"
    soundfile.write(path, cry(320.0, 3.0, seed=70), RATE)
    return path


def alac(path: Path, samples: np.ndarray) -> None:
    import av

    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("alac", rate=RATE, layout="mono")
        stream.format = "s16p"
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16p", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def stereo(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, np.stack([samples, samples], axis=1), RATE)


EXACT: dict[str, Callable[[Path, Path], object]] = {
    "baby-71-renamed.wav": lambda source, copy: shutil.copy(source, copy),
    "baby-71-linked.wav": lambda source, copy: os.link(source, copy),
    "baby-71.flac": lambda source, copy: soundfile.write(copy, read16(source), RATE),
    "baby-71.aiff": lambda source, copy: soundfile.write(copy, read16(source), RATE),
    "baby-71.w64": lambda source, copy: soundfile.write(copy, read16(source), RATE),
    "baby-71-24bit.wav": lambda source, copy: soundfile.write(copy, read16(source), RATE, "PCM_24"),
    "baby-71-float.wav": lambda source, copy: soundfile.write(copy, soundfile.read(source)[0], RATE, "FLOAT"),
    "baby-71-stereo.wav": lambda source, copy: stereo(copy, read16(source)),
    "baby-71.m4a": lambda source, copy: alac(copy, read16(source)),
}


def read16(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]


@pytest.mark.parametrize("name", EXACT)
def test_the_same_samples_in_any_container_are_a_copy(name: str, original: Path) -> None:
    copy = original.with_name(name)
    EXACT[name](original, copy)
    result = prepare(original.parents[1])
    assert "copy" in clip_of(result, name).flags
    assert "copy" not in clip_of(result, original.name).flags
    assert clip_of(result, name).group == clip_of(result, original.name).group == "baby-70"
    assert part_of(result, name) == part_of(result, original.name)
    (entry,) = result.report["duplicates"]
    assert (Path(entry["first"]).name, Path(entry["second"]).name) == (original.name, name)
    assert (entry["kind"], entry["offset"], entry["seconds"], entry["contradiction"]) == ("copy", 0.0, 3.0, False)


NEAR: dict[str, Callable[[np.ndarray, Path], object]] = {
    "baby-71-quieter.wav": lambda samples, copy: soundfile.write(copy, samples * 0.2, RATE),
    "baby-71.mp3": lambda samples, copy: soundfile.write(copy, samples, RATE),
    "baby-71.ogg": lambda samples, copy: soundfile.write(copy, samples, RATE),
    "baby-71-part.wav": lambda samples, copy: soundfile.write(copy, samples[8_000:40_000], RATE),
    "baby-71-8bit.wav": lambda samples, copy: soundfile.write(copy, samples, RATE, "PCM_U8"),
    "baby-71-upside-down.wav": lambda samples, copy: soundfile.write(copy, -samples, RATE),
}


@pytest.mark.parametrize("name", NEAR)
def test_the_same_sound_otherwise_stored_overlaps(name: str, original: Path) -> None:
    NEAR[name](soundfile.read(original)[0], original.with_name(name))
    result = prepare(original.parents[1])
    assert "overlap" in clip_of(result, name).flags
    assert "overlap" not in clip_of(result, original.name).flags
    assert clip_of(result, name).group == clip_of(result, original.name).group
    (entry,) = result.report["duplicates"]
    assert entry["kind"] == "overlap"
    assert entry["offset"] == pytest.approx(0.5 if "part" in name else 0.0, abs=0.1)


def test_different_cries_at_one_pitch_are_no_duplicates(original: Path) -> None:
    soundfile.write(original.with_name("baby-71-0.wav"), cry(320.0, 3.0, seed=71), RATE)
    result = prepare(original.parents[1])
    assert result.report["duplicates"] == []
    assert clip_of(result, "baby-71-0.wav").group == "baby-71"


def test_a_chain_of_duplicates_is_one_group(original: Path) -> None:
    sound = cry(300.0, 9.0, seed=5)
    for number in range(3):  # the first and the last share nothing
        soundfile.write(original.with_name(f"baby-8{number}-0.wav"), sound[number * 40_000 :][:64_000], RATE)
    result = prepare(original.parents[1])
    assert {clip_of(result, f"baby-8{number}-0.wav").group for number in range(3)} == {"baby-80"}
    assert len(result.report["duplicates"]) == 2


def test_duplicates_bring_the_other_recordings_of_their_babies_together(original: Path) -> None:
    soundfile.write(original.with_name("baby-71-other.wav"), cry(400.0, 1.0, seed=6), RATE)
    shutil.copy(original, original.with_name("baby-71-copy.wav"))
    result = prepare(original.parents[1])
    assert clip_of(result, "baby-71-other.wav").group == "baby-70"
    assert part_of(result, "baby-71-other.wav") == part_of(result, original.name)
    assert clip_of(result, "baby-71-other.wav").flags == clip_of(result, original.name).flags


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_contradicting_labels_are_flagged_and_named(gain: float, original: Path) -> None:
    against = original.parents[1] / "high" / "baby-71-0.wav"
    soundfile.write(against, soundfile.read(original)[0] * gain, RATE)
    result = prepare(original.parents[1])
    assert "contradiction" in clip_of(result, against.name).flags
    assert "contradiction" in clip_of(result, original.name).flags
    assert clip_of(result, against.name).group == clip_of(result, original.name).group
    (warning,) = [warning for warning in result.warnings if "different labels" in warning]
    assert all(text in warning for text in (against.name, original.name, "(high)", "(low)", "1 pair"))
    (entry,) = result.report["duplicates"]
    assert (entry["labels"], entry["contradiction"]) == (["high", "low"], True)
    assert sum("contradiction" in clip.flags for clips in result.parts.values() for clip in clips) == 2


def test_a_link_to_a_recording_of_another_label_is_named_too(original: Path) -> None:
    (original.parents[1] / "high" / "baby-71-0.wav").symlink_to(original)
    result = prepare(original.parents[1])
    assert any("another label" in warning and "baby-71-0.wav" in warning for warning in result.warnings)


def test_labels_that_the_map_merges_contradict_nothing(original: Path) -> None:
    shutil.copy(original, original.parents[1] / "high" / "baby-71-0.wav")
    (original.parents[1] / "noise").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).standard_normal(RATE) * 0.1
        soundfile.write(original.parents[1] / "noise" / f"baby-9{number}-0.wav", noise, RATE)
    result = prepare(original.parents[1], "data.label_map={high: cry, low: cry}")
    assert not any("different labels" in warning for warning in result.warnings)
    assert not any(entry["contradiction"] for entry in result.report["duplicates"])


def test_a_group_of_several_labels_is_kept_whole(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=6)  # each baby bears both labels
    for seed in range(3):
        result = prepare(tmp_path / "cries", f"data.seed={seed}")
        parts = {clip.group: set() for clips in result.parts.values() for clip in clips}
        for part, clips in result.parts.items():
            for clip in clips:
                parts[clip.group].add(part)
        assert all(len(found) == 1 for found in parts.values())


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW", "ALAW"])
def test_silent_recordings_of_two_babies_are_no_duplicates(subtype: str, original: Path) -> None:
    for baby in (81, 82):
        path = original.with_name(f"baby-{baby}-0.wav")
        soundfile.write(path, np.zeros(RATE), RATE, subtype=subtype)
    result = prepare(original.parents[1])
    assert clip_of(result, "baby-81-0.wav").group == "baby-81"
    assert clip_of(result, "baby-82-0.wav").group == "baby-82"
    assert result.report["duplicates"] == []


def test_a_flag_is_on_the_windows_that_hold_the_shared_sound_alone(tmp_path: Path) -> None:
    for label in ("high", "low"):
        for number in range(4):
            path = tmp_path / "cries" / label / f"baby-{label}{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, cry(300.0, 3.0, seed=number + 10 * len(label)), RATE)
    shared = cry(340.0, 2.0, seed=77)
    for name, before, after in (("x.wav", 0.0, 0.0), ("y.wav", 4.0, 2.0)):
        pieces = [cry(500.0, before, seed=len(name) + round(before)), shared, cry(600.0, after, seed=9)]
        soundfile.write(tmp_path / "cries" / "low" / name, np.concatenate(pieces), RATE)
    result = prepare_dataset_csv([tmp_path / "cries"], tmp_path / "data", settings("data.window=2"))
    flagged = {
        (clip.path.name, clip.start) for clips in result.parts.values() for clip in clips if "overlap" in clip.flags
    }
    assert flagged == {("y.wav", 4.0)}
    assert (
        len({clip.group for clips in result.parts.values() for clip in clips if clip.path.name in ("x.wav", "y.wav")})
        == 1
    )


def test_excerpts_of_a_recording_under_two_names_are_one_group(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "night.wav", cry(300.0, 12.0, seed=3), RATE)
    (tmp_path / "alias.wav").symlink_to(tmp_path / "night.wav")
    rows = [f"{('night', 'alias')[number % 2]}.wav,{'ab'[number % 2]},{number},{number + 1}" for number in range(8)]
    for number in range(8):
        soundfile.write(tmp_path / f"{number}.wav", cry(300.0, 0.7, seed=10 + number), RATE)
        rows.append(f"{number}.wav,{'ab'[number % 2]},,")
    (tmp_path / "list.csv").write_text("\n".join(["path,label,start,end", *rows]) + "\n")
    result = prepare_dataset_csv([tmp_path / "list.csv"], tmp_path / "data", settings())
    groups = {clip.group for clips in result.parts.values() for clip in clips if clip.start is not None}
    assert len(groups) == 1


PAIRS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=12, max_size=12), PAIRS)
def test_groups_are_joined_as_the_pairs_demand_and_no_further(groups: list[str], pairs: list[tuple[int, int]]) -> None:
    joined = join_groups(groups, pairs)
    around: list[Any] = [{number} for number in range(12)]
    links = [*pairs, *((a, b) for a in range(12) for b in range(12) if groups[a] == groups[b])]
    for first, second in links:
        if around[first] is not around[second]:
            around[first] |= around[second]
            for number in around[second]:
                around[number] = around[first]
    for first in range(12):
        for second in range(12):
            assert (joined[first] == joined[second]) == (second in around[first])
        assert joined[first] == min(groups[number] for number in around[first])
