"""Folders to manifests: labels, groups, rejected recordings, and a split that never tears a group apart."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import cry, settings, write_cries

from crycli.checking import check_dataset
from crycli.errors import DataError, OutputError
from crycli.manifest import COLUMNS, PARTS, Clip, read_manifest
from crycli.prepare import PrepareResult, prepare_dataset_csv

UUID = "0A1B2C3D-0000-4000-8000-{:012d}"
BY_BABY = r"data.group_by=baby-\d+"

Command = Callable[..., Any]


def sound(path: Path, hertz: float = 300.0, seconds: float = 0.6) -> np.ndarray:
    """A sound of the file's own, by its folder and name: two files of the same sound would be one group."""
    return cry(hertz, seconds, seed=zlib.crc32("/".join(path.parts[-3:]).encode("utf-8", "surrogateescape")))


def record(path: Path, hertz: float = 300.0, seconds: float = 0.6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(path, hertz, seconds), 16_000)
    return path


def prepare(
    roots: Any, output: Path, *assignments: str, force: bool = False, keep: Path | None = None
) -> PrepareResult:
    roots = roots if isinstance(roots, list) else [roots]
    return prepare_dataset_csv(roots, output, settings(*assignments), force=force, keep=keep)


def clips_in(result: PrepareResult) -> list[Clip]:
    return [clip for clips in result.parts.values() for clip in clips]


def labels_in(result: PrepareResult) -> dict[str, str]:
    """File name to label."""
    return {clip.path.name: clip.label for clip in clips_in(result)}


def groups_in(result: PrepareResult) -> dict[str, str]:
    """File name to group."""
    return {clip.path.name: clip.group for clip in clips_in(result)}


def reasons_in(result: PrepareResult) -> dict[Path, str]:
    """Rejected recording to reason."""
    return {item.path: item.reason for item in result.rejected}


def part_of(result: PrepareResult) -> dict[Path, str]:
    """Recording to part."""
    return {clip.path: part for part, clips in result.parts.items() for clip in clips}


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def donateacry(folder: Path, extra: str = "") -> Iterator[Path]:
    """Flat uploads of six phones: hungry, tired and, from the last one, don't know."""
    for phone in range(6):
        for epoch, reason in ((1430650000, "hu"), (1430660000, "ti"), *([(1430670000, "dk")] if phone == 5 else [])):
            uuid = UUID.format(phone)
            uuid = uuid.lower() if epoch % 20000 else uuid  # Android and iOS differ in it
            yield record(folder / f"{uuid}-{epoch}-1.7-m-26-{reason}{extra}.wav")


def test_the_csvs_and_the_report_are_written(cries: Path, tmp_path: Path) -> None:
    result = prepare(cries, tmp_path / "data", BY_BABY)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["prepare.json", "rejected.csv", "report.html", "test.csv", "train.csv", "validation.csv"]
    for part in PARTS:
        assert [clip.path for clip in read_manifest(tmp_path / "data" / f"{part}.csv")] == [
            clip.path for clip in result.parts[part]
        ]
    report = json.loads((tmp_path / "data" / "prepare.json").read_text())
    assert sum(report["parts"][part]["clips"] for part in PARTS) == 32
    assert report["settings"]["data.group_by"] == r"baby-\d+"
    assert (tmp_path / "data" / "rejected.csv").read_text() == "path,start,reason\n"


def test_duration_and_sample_rate_are_those_of_the_file(cries: Path, tmp_path: Path) -> None:
    for clip in clips_in(prepare(cries, tmp_path / "data")):
        info = soundfile.info(clip.path)
        assert (clip.duration, clip.sample_rate) == (pytest.approx(info.duration, abs=1e-9), info.samplerate)


def test_the_folder_of_the_data_can_hold_the_recordings_and_be_moved(tmp_path: Path) -> None:
    write_cries(tmp_path / "old" / "recordings", babies=3)
    prepare(tmp_path / "old" / "recordings", tmp_path / "old", BY_BABY, force=True)
    (tmp_path / "old").rename(tmp_path / "new")
    assert all(clip.path.is_file() for part in PARTS for clip in read_manifest(tmp_path / "new" / f"{part}.csv"))


def test_flat_donateacry_names_give_label_and_group(tmp_path: Path) -> None:
    paths = list(donateacry(tmp_path / "raw"))
    result = prepare(tmp_path / "raw", tmp_path / "data")
    assert Counter(labels_in(result).values()) == {"hungry": 6, "tired": 6}
    groups = groups_in(result)
    assert set(groups.values()) == {UUID.format(phone).lower() for phone in range(6)}
    assert all(groups[path.name] == path.name[:36].lower() for path in paths if path.name in groups)


def test_a_reason_that_is_no_label_is_rejected_and_named(tmp_path: Path) -> None:
    *_, unknown = donateacry(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "data")
    (row,) = rows_of(tmp_path / "data" / "rejected.csv")
    assert row["path"] == str(unknown)
    assert "'dk'" in row["reason"]


def test_a_name_unlike_the_others_in_a_flat_folder_is_rejected(tmp_path: Path) -> None:
    list(donateacry(tmp_path / "raw"))
    odd = record(tmp_path / "raw" / "voice memo 3.wav")
    assert "no label" in reasons_in(prepare(tmp_path / "raw", tmp_path / "data"))[odd]


def test_a_recording_beyond_the_limits_is_rejected_whatever_was_measured_before(cries: Path, tmp_path: Path) -> None:
    assert not prepare(cries, tmp_path / "all").rejected
    reasons = set(reasons_in(prepare(cries, tmp_path / "some", "limits.max_hours=0.0002")).values())
    assert reasons == {"goes on for more than 0.0002 h (limits.max_hours)"}


def test_folders_name_the_label_even_of_donateacry_names(tmp_path: Path) -> None:
    for path in list(donateacry(tmp_path / "raw")):
        record(tmp_path / "cleaned" / ("belly_pain" if "-hu" in path.name else "burping") / path.name)
    result = prepare(tmp_path / "cleaned", tmp_path / "data")
    assert set(labels_in(result).values()) == {"belly_pain", "burping"}
    assert len(set(groups_in(result).values())) == 6


def test_the_name_decides_in_folders_where_the_configuration_says_so(tmp_path: Path) -> None:
    for path in list(donateacry(tmp_path / "raw")):
        record(tmp_path / "by-phone" / ("ios" if path.name[0].isupper() else "android") / path.name)
    result = prepare(tmp_path / "by-phone", tmp_path / "data", "data.label_by=donateacry")
    assert set(labels_in(result).values()) == {"hungry", "tired"}


def test_the_takes_of_an_esc_source_clip_stay_together(tmp_path: Path) -> None:
    for source in range(6):
        for take in "AB":
            record(tmp_path / "esc" / f"{source % 2:03d} - Class" / f"1-{9000 + source}-{take}.wav")
    result = prepare(tmp_path / "esc", tmp_path / "data")
    assert groups_in(result)["1-9003-A.wav"] == groups_in(result)["1-9003-B.wav"]
    assert len(set(groups_in(result).values())) == 6


def test_a_file_with_any_other_name_is_a_group_by_itself(cries: Path, tmp_path: Path) -> None:
    assert len({clip.group for clip in clips_in(prepare(cries, tmp_path / "data"))}) == 32


@pytest.mark.parametrize(
    "expression", [r"baby-\d+", r"/(baby-\d+)", r"(?P<take>x)?(?P<group>baby-\d+)", r"(?<=baby-)\d+"]
)
def test_an_expression_on_the_path_groups(expression: str, cries: Path, tmp_path: Path) -> None:
    result = prepare(cries, tmp_path / "data", f"data.group_by='{expression}'")
    assert len({clip.group for clip in clips_in(result)}) == 8
    babies = [{clip.path.name[:7] for clip in clips} for clips in result.parts.values()]
    assert sum(map(len, babies)) == len(set.union(*babies)) == 8


def test_a_path_in_which_the_expression_finds_nothing_is_a_group_by_itself(cries: Path, tmp_path: Path) -> None:
    result = prepare(cries, tmp_path / "data", "data.group_by=baby-0[0-3]")
    assert len({clip.group for clip in clips_in(result)}) == 4 + 16


def test_a_folder_can_be_the_group(tmp_path: Path) -> None:
    for label in ("high", "low"):
        for baby in range(4):
            for take in range(2):
                record(tmp_path / "cries" / label / f"baby{baby}" / f"{take}.wav")
    result = prepare(tmp_path / "cries", tmp_path / "data", "data.group_by=folder")
    assert Counter(clip.group for clip in clips_in(result)) == {
        f"{label}/baby{baby}": 2 for label in ("high", "low") for baby in range(4)
    }


def test_folders_around_the_label_folders_are_passed_through(tmp_path: Path) -> None:
    write_cries(tmp_path / "download" / "corpus v2" / "audio", babies=3)
    result = prepare(tmp_path / "download", tmp_path / "data", BY_BABY)
    assert Counter(clip.label for clip in clips_in(result)) == {"high": 6, "low": 6}


def test_folders_below_a_label_folder_do_not_change_the_label(tmp_path: Path) -> None:
    for number in range(4):
        record(tmp_path / "cries" / "low" / f"baby{number}" / "deep" / f"{number}.wav")
        record(tmp_path / "cries" / "high" / f"h{number}.WAV")
    assert Counter(labels_in(prepare(tmp_path / "cries", tmp_path / "data")).values()) == {"low": 4, "high": 4}


def test_several_roots_without_subfolders_are_labels(cries: Path, tmp_path: Path) -> None:
    result = prepare([cries / "high", cries / "low"], tmp_path / "data")
    assert Counter(clip.label for clip in clips_in(result)) == {"high": 16, "low": 16}
    assert len({clip.group for clip in clips_in(result)}) == 32


def test_a_recording_below_two_roots_is_taken_once(cries: Path, tmp_path: Path) -> None:
    assert len(clips_in(prepare([cries, cries], tmp_path / "data"))) == 32


def test_subfolders_that_are_parts_are_refused_with_the_way_out(tmp_path: Path) -> None:
    for part, hertz in (("train", 300.0), ("test", 310.0)):
        write_cries(tmp_path / "corpus" / part, babies=2, labels={"high": 3 * hertz, "low": hertz})
    with pytest.raises(DataError, match="give each as a root of its own") as caught:
        prepare(tmp_path / "corpus", tmp_path / "data")
    assert str(tmp_path / "corpus" / "test") in str(caught.value)
    roots = [tmp_path / "corpus" / "train", tmp_path / "corpus" / "test"]
    result = prepare(roots, tmp_path / "data", "data.group_by=file")
    assert {clip.label for clip in clips_in(result)} == {"high", "low"}
    assert len({clip.group for clip in clips_in(result)}) == 16


def test_a_recording_beside_the_label_folders_is_rejected_with_the_reason(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=3)
    loose = record(tmp_path / "cries" / "loose.wav")
    result = prepare(tmp_path / "cries", tmp_path / "data", BY_BABY)
    assert list(reasons_in(result)) == [loose]
    assert "beside the label folders" in reasons_in(result)[loose]
    assert len(clips_in(result)) == 12


def spoil(folder: Path) -> dict[str, str]:
    """Recordings that cannot be used, with a word of the reason."""
    (folder / "empty.wav").touch()
    (folder / "words.wav").write_text("words")
    record(folder / "short.wav", seconds=0.3)
    soundfile.write(folder / "header.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, "FLOAT")
    (folder / "dangling.wav").symlink_to(folder / "gone.wav")
    os.mkfifo(folder / "pipe.wav")
    return {
        "empty.wav": "empty file",
        "words.wav": "not a readable recording",
        "short.wav": "too short: 0.300 s",
        "header.wav": "no samples",
        "nan.wav": "NaN",
        "dangling.wav": "no such file",
        "pipe.wav": "not a file",
    }


def test_recordings_that_cannot_be_used_are_named_and_the_others_go_on(crycli: Command, tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=3)
    expected = spoil(tmp_path / "cries" / "low")
    outcome = crycli("prepare", tmp_path / "cries", "-o", tmp_path / "data", "--set", BY_BABY)
    assert outcome.code == 3
    rows = {Path(row["path"]).name: row["reason"] for row in rows_of(tmp_path / "data" / "rejected.csv")}
    assert set(rows) == set(expected)
    assert all(word in rows[name] for name, word in expected.items())
    assert sum(len(read_manifest(tmp_path / "data" / f"{part}.csv")) for part in PARTS) == 12
    assert "7 recordings were left out" in outcome.err


def test_a_folder_of_nothing_usable_says_why(tmp_path: Path) -> None:
    for label in ("high", "low"):
        (tmp_path / "cries" / label).mkdir(parents=True)
        (tmp_path / "cries" / label / "empty.wav").touch()
    with pytest.raises(DataError, match="none of the 2 recordings can be used: empty file"):
        prepare(tmp_path / "cries", tmp_path / "data")


def test_silent_and_damaged_recordings_are_used_and_flagged(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=3)
    soundfile.write(tmp_path / "cries" / "low" / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    flac = record(tmp_path / "cries" / "low" / "cut.flac", seconds=4.0)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    result = prepare(tmp_path / "cries", tmp_path / "data", BY_BABY)
    flags = {clip.path.name: set(clip.flags) for clip in clips_in(result) if "baby" not in clip.path.name}
    assert flags["silent.wav"] >= {"silent", "quiet"}
    assert flags["cut.flac"] == {"cut_short"}
    (warning,) = [warning for warning in result.warnings if "flagged and used all the same" in warning]
    assert "1 silent" in warning
    assert "1 cut_short" in warning
    assert result.rejected == []


def test_the_same_recordings_give_the_same_bytes_from_one_worker_and_many_and_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cries = write_cries(tmp_path / "cries", babies=4)
    spoil(cries / "low")
    (cries / "high" / "copy.wav").write_bytes((cries / "low" / "baby-00-0.wav").read_bytes())
    monkeypatch.setattr("crycli.parallel.SECONDS_TO_START", 0.0)  # start processes even for so little work
    written = []
    for number, workers in enumerate((1, 1, 2, 3)):
        cache = "none" if number in (0, 2) else tmp_path / "cache"
        folder = tmp_path / str(number)
        prepare(cries, folder, f"workers={workers}", f"cache={cache}", BY_BABY, "data.window=0.5", "data.folds=2")
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0].keys() == {
        "train.csv",
        "validation.csv",
        "test.csv",
        "rejected.csv",
        "prepare.json",
        "report.html",
    }
    assert written[0] == written[1] == written[2] == written[3]


def test_the_order_in_which_the_disk_lists_the_files_does_not_matter(tmp_path: Path) -> None:
    for folder, order in (("a", 1), ("b", -1)):
        for number in range(8)[::order]:
            for label in ("high", "low")[::order]:
                record(tmp_path / folder / "cries" / label / f"{number}.wav", hertz=300.0 + number)
        prepare(tmp_path / folder / "cries", tmp_path / folder, force=True)
    for part in PARTS:
        assert (tmp_path / "a" / f"{part}.csv").read_bytes() == (tmp_path / "b" / f"{part}.csv").read_bytes()


def test_one_label_alone_is_refused(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", labels={"low": 300.0})
    with pytest.raises(DataError, match=r"one label alone \(low\)"):
        prepare(tmp_path / "cries", tmp_path / "data")


def test_a_label_of_one_group_is_trained_on_and_warned_of(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=4)
    for take in range(3):
        record(tmp_path / "cries" / "rare" / f"baby-99-{take}.wav")
    result = prepare(tmp_path / "cries", tmp_path / "data", BY_BABY)
    assert sum(clip.label == "rare" for clip in result.parts["train"]) == 3
    assert any("label rare is missing from validation and test" in warning for warning in result.warnings)


def test_names_that_tell_no_baby_from_another_are_warned_of(cries: Path, tmp_path: Path) -> None:
    blind = prepare_dataset_csv([cries], tmp_path / "blind")
    told = prepare_dataset_csv([cries], tmp_path / "told", settings("data.group_by=baby-\\d+"))
    assert any("data.group_by" in warning for warning in blind.warnings)
    assert not any("data.group_by" in warning for warning in told.warnings)


@pytest.mark.parametrize("rule", ["(?P<group>[A-Z]+)-", "donateacry", "esc"])
def test_a_rule_for_groups_that_fits_no_recording_is_refused(rule: str, cries: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.group_by.*fits no recording"):
        prepare(cries, tmp_path / "data", f"data.group_by={rule}")


def test_a_rule_for_groups_that_misses_recordings_says_how_many(cries: Path, tmp_path: Path) -> None:
    result = prepare(cries, tmp_path / "data", "data.group_by=baby-0[0-3]")
    assert any("16 of 32 recordings do not fit" in warning for warning in result.warnings)


def test_folders_of_one_name_below_two_roots_are_two_groups(tmp_path: Path) -> None:
    for number, root in enumerate(("s1", "s2", "s3")):
        write_cries(tmp_path / root, babies=2, labels={"high": 900.0 + number, "low": 300.0 + number})
    roots = [tmp_path / "s1", tmp_path / "s2", tmp_path / "s3"]
    result = prepare(roots, tmp_path / "data", "data.group_by=folder")
    assert len({clip.group for clip in clips_in(result)}) == 6


def test_too_few_groups_are_refused(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=2)
    with pytest.raises(DataError, match=r"2 groups are too few.*data\.group_by"):
        prepare(tmp_path / "cries", tmp_path / "data", BY_BABY)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cries" / "low").mkdir(parents=True)
    (tmp_path / "cries" / "low" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no recordings in .*cries.*\.wav"):
        prepare(tmp_path / "cries", tmp_path / "data")


def test_a_missing_root_and_a_file_as_root_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        prepare(tmp_path / "nowhere", tmp_path / "data")
    with pytest.raises(DataError, match="is not a folder"):
        prepare(record(tmp_path / "cry.wav"), tmp_path / "data")


def test_flat_recordings_without_a_label_are_refused_with_the_way_out(tmp_path: Path) -> None:
    record(tmp_path / "cries" / "a.wav")
    with pytest.raises(DataError, match="in a subfolder of that name"):
        prepare(tmp_path / "cries", tmp_path / "data")


def test_nothing_is_left_behind_by_a_refusal_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "cries").mkdir()
    with pytest.raises(DataError):
        prepare(tmp_path / "cries", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_output_that_exists_is_refused_and_left_alone(cries: Path, tmp_path: Path) -> None:
    prepare(cries, tmp_path / "data")
    before = (tmp_path / "data" / "train.csv").read_bytes()
    with pytest.raises(OutputError, match="--force"):
        prepare(cries, tmp_path / "data", "data.seed=1")
    assert (tmp_path / "data" / "train.csv").read_bytes() == before


def test_force_replaces_the_manifests_and_nothing_else(cries: Path, tmp_path: Path) -> None:
    prepare(cries, tmp_path / "data")
    before = (tmp_path / "data" / "train.csv").read_bytes()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    prepare(cries, tmp_path / "data", "data.seed=1", force=True)
    assert (tmp_path / "data" / "train.csv").read_bytes() != before
    assert (tmp_path / "data" / "notes.txt").read_text() == "mine"


def test_a_failed_run_with_force_leaves_the_old_manifests(cries: Path, tmp_path: Path) -> None:
    prepare(cries, tmp_path / "data")
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    write_cries(tmp_path / "one", labels={"low": 300.0}, babies=1)
    with pytest.raises(DataError):
        prepare(tmp_path / "one", tmp_path / "data", force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


def test_an_empty_output_folder_is_no_hindrance(cries: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    prepare(cries, tmp_path / "data")
    assert (tmp_path / "data" / "train.csv").is_file()


@pytest.mark.parametrize("output", ["file", "file/below", "file/below/deeper"])
@pytest.mark.parametrize("force", [False, True])
def test_an_output_at_or_below_a_file_is_refused(output: str, force: bool, cries: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file"):
        prepare(cries, tmp_path / output, force=force)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("output", ["/proc/x", "/proc/self/x/y", "a" * 300])
def test_an_output_that_cannot_be_written_is_one_line(
    output: str, crycli: Command, cries: Path, tmp_path: Path
) -> None:
    outcome = crycli("prepare", cries, "-o", tmp_path / output)
    assert outcome.code == 1
    assert len([line for line in outcome.err.splitlines() if line.startswith("error: ")]) == 1
    assert outcome.out == ""


ODD_NAMES = [
    "two\nlines",
    "carriage\rreturn",
    "tab\there",
    "-o",
    "--force",
    "säugling 👶",
    "a,b",
    'say "uh"',
    "[bold]",
    "%s {0}",
    " ",
    "NA",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_of_a_file_a_folder_and_a_root_comes_back(name: str, crycli: Command, tmp_path: Path) -> None:
    root = tmp_path / name
    for number in range(3):
        record(root / name / f"{name}{number}.wav")
        record(root / "other" / f"{name}{number}.wav")
    outcome = crycli("prepare", root, "-o", tmp_path / "data")
    assert outcome.code == 0, outcome.err
    clips = [clip for part in PARTS for clip in read_manifest(tmp_path / "data" / f"{part}.csv")]
    assert Counter(clip.label for clip in clips) == {name: 3, "other": 3}
    assert all(clip.path.is_file() for clip in clips)


def test_a_name_that_is_no_utf_8_is_rejected_and_named(crycli: Command, tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=3)
    odd = os.fsencode(tmp_path / "cries" / "low") + b"/b\xe4by.wav"
    os.rename(record(tmp_path / "cries" / "low" / "x.wav"), odd)
    outcome = crycli("prepare", tmp_path / "cries", "-o", tmp_path / "data", "--set", BY_BABY)
    assert outcome.code == 3
    (row,) = rows_of(tmp_path / "data" / "rejected.csv")
    assert "UTF-8" in row["reason"]
    assert "by.wav" in row["path"]


def test_a_label_folder_that_is_no_utf_8_is_rejected_and_named(crycli: Command, tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=3)
    odd = os.fsencode(tmp_path / "cries") + b"/m\xfcde"
    os.mkdir(odd)
    os.rename(record(tmp_path / "x.wav"), odd + b"/x.wav")
    outcome = crycli("prepare", tmp_path / "cries", "-o", tmp_path / "data", "--set", BY_BABY)
    assert outcome.code == 3
    assert len(rows_of(tmp_path / "data" / "rejected.csv")) == 1


def test_a_root_and_an_output_that_are_no_utf_8_are_no_traceback(crycli: Command, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcde"))
    odd.mkdir()
    cries = write_cries(tmp_path / "cries", babies=3)
    assert crycli("prepare", cries, "-o", odd / "data", "--set", BY_BABY).code in (0, 1)
    cries.rename(odd / "cries")
    assert crycli("prepare", odd / "cries", "-o", tmp_path / "data").code == 1


def test_a_linked_recording_is_a_recording_under_its_own_name(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=3)
    elsewhere = record(tmp_path / "elsewhere" / "hidden-name.wav")
    link = tmp_path / "cries" / "low" / "baby-07-0.wav"
    link.symlink_to(elsewhere)
    result = prepare(tmp_path / "cries", tmp_path / "data", BY_BABY)
    (clip,) = [clip for clip in clips_in(result) if clip.group == "baby-07"]
    assert (clip.path, clip.label) == (link, "low")


def test_progress_is_told_to_the_end(cries: Path, tmp_path: Path) -> None:
    steps = []
    prepare_dataset_csv([cries], tmp_path / "data", settings(BY_BABY), on_step=steps.append)
    last = {step.name: (step.done, step.total) for step in steps}
    assert last["scan"][0] == 32
    assert last["check"] == (32, 32)


@pytest.fixture(scope="session")
def real(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareResult]:
    """DonateACry and ESC-10 in one call, with folds: a few seconds."""
    folder = tmp_path_factory.mktemp("real")
    roots = [real_data / "donateacry", real_data / "esc10"]
    return folder, prepare(roots, folder, "data.folds=5")


def test_two_real_corpora_are_split_without_a_loss(real: tuple[Path, PrepareResult]) -> None:
    folder, result = real
    assert Counter(clip.corpus for clip in clips_in(result)) == {"donateacry": 457, "esc10": 400}
    assert result.rejected == []
    assert len(labels_in_manifests(folder)) == 857
    phones = [
        {clip.path.name[:36].lower() for clip in clips if clip.corpus == "donateacry"}
        for clips in result.parts.values()
    ]
    assert sum(map(len, phones)) == len(set.union(*phones)) == 221
    sources = [
        {clip.path.name.split("-")[1] for clip in clips if clip.corpus == "esc10"} for clips in result.parts.values()
    ]
    assert sum(map(len, sources)) == len(set.union(*sources))
    assert json.loads((folder / "prepare.json").read_text())["leakage"] == []
    assert all(len({clip.label for clip in clips}) == 15 for clips in result.parts.values())


def test_what_tells_one_real_corpus_from_the_other_is_warned_of(real: tuple[Path, PrepareResult]) -> None:
    _, result = real
    assert any(warning.startswith("every clip of donateacry stops at 4 kHz") for warning in result.warnings)
    assert any("alone tells" in warning for warning in result.warnings)


def test_the_official_folds_of_the_real_esc_are_honoured(real: tuple[Path, PrepareResult]) -> None:
    _, result = real
    moved = [clip for clip in clips_in(result) if clip.corpus == "esc10" and clip.fold != int(clip.path.name[0])]
    # Two takes of one recording, which the official folds put apart: group-disjoint comes first.
    assert [clip.path.name for clip in moved] == ["5-151085-A.ogg"]
    assert "overlap" in moved[0].flags
    assert any("in several official folds" in warning for warning in result.warnings)
    assert len({(clip.group, clip.fold) for clip in clips_in(result)}) == len({clip.group for clip in clips_in(result)})
    assert {clip.fold for clip in clips_in(result) if clip.corpus == "donateacry"} == {1, 2, 3, 4, 5}


def test_the_real_corpora_pass_their_own_check(real: tuple[Path, PrepareResult]) -> None:
    result = check_dataset([real[0]])
    assert result.leaks == []
    assert result.unreadable == []


def test_labels_are_merged_and_renamed(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", labels={"high": 900.0, "mid": 600.0, "low": 300.0}, babies=4)
    result = prepare(tmp_path / "cries", tmp_path / "data", BY_BABY, "data.label_map={high: loud, mid: loud}")
    assert Counter(labels_in_manifests(tmp_path / "data")) == {"loud": 16, "low": 8}
    assert {clip.label for clip in clips_in(result) if clip.path.parent.name == "low"} == {"low"}


def test_a_dropped_label_is_no_rejection_and_is_counted(crycli: Command, tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", labels={"high": 900.0, "mid": 600.0, "low": 300.0}, babies=4)
    mapping = "data.label_map={mid: null}"
    outcome = crycli("prepare", tmp_path / "cries", "-o", tmp_path / "data", "--set", BY_BABY, "--set", mapping)
    assert outcome.code == 0, outcome.err
    assert set(labels_in_manifests(tmp_path / "data")) == {"high", "low"}
    assert rows_of(tmp_path / "data" / "rejected.csv") == []
    assert json.loads((tmp_path / "data" / "prepare.json").read_text())["dropped"] == 8


def test_a_star_stands_for_every_other_label(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", labels={"high": 900.0, "mid": 600.0, "low": 300.0}, babies=4)
    prepare(tmp_path / "cries", tmp_path / "data", BY_BABY, 'data.label_map={high: cry, "*": not_cry}')
    assert Counter(labels_in_manifests(tmp_path / "data")) == {"cry": 8, "not_cry": 16}


def test_a_label_map_that_names_no_label_is_warned_of(cries: Path, tmp_path: Path) -> None:
    result = prepare(cries, tmp_path / "data", BY_BABY, "data.label_map={hihg: loud}")
    assert any("hihg" in warning for warning in result.warnings)


def test_a_label_can_be_given_to_a_folder(tmp_path: Path) -> None:
    for number in range(4):
        record(tmp_path / "set1" / "hu" / f"{number}.wav")
        record(tmp_path / "set2" / "ti" / "deep" / f"{number}.wav")
    roots = [f"hungry={tmp_path / 'set1' / 'hu'}", f"tired={tmp_path / 'set2' / 'ti'}"]
    result = prepare(roots, tmp_path / "data")
    assert Counter(clip.label for clip in clips_in(result)) == {"hungry": 4, "tired": 4}
    assert {clip.corpus for clip in clips_in(result)} == {"set1", "set2"}


def test_several_roots_are_told_apart_by_the_column_corpus(tmp_path: Path) -> None:
    for name, hertz in (("first", 300.0), ("second", 310.0)):
        write_cries(tmp_path / name, babies=2, labels={"high": 3 * hertz, "low": hertz})
    prepare([tmp_path / "first", tmp_path / "second"], tmp_path / "data")
    rows = [row for part in PARTS for row in rows_of(tmp_path / "data" / f"{part}.csv")]
    assert Counter(row["corpus"] for row in rows) == {"first": 8, "second": 8}
    assert all(f"/{row['corpus']}/" in row["path"] for row in rows)


def labels_in_manifests(folder: Path) -> list[str]:
    return [clip.label for part in PARTS for clip in read_manifest(folder / f"{part}.csv")]


def listing(folder: Path, columns: str, *rows: str) -> Path:
    """A CSV in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list.csv").write_text("\n".join([columns, *rows]) + "\n")
    return folder / "list.csv"


def test_a_list_gives_labels_and_groups_and_its_other_columns_are_kept(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        record(tmp_path / "set" / "wav" / f"{number}.wav")
        rows.append(f"wav/{number}.wav,{'ab'[number % 2]},baby {number // 2},{number} weeks")
    result = prepare(listing(tmp_path / "set", "path,label,group,age", *rows), tmp_path / "data")
    assert len({clip.group for clip in clips_in(result)}) == 6
    found = [row for part in PARTS for row in rows_of(tmp_path / "data" / f"{part}.csv")]
    assert {(Path(row["path"]).stem, row["label"], row["group"], row["age"]) for row in found} == {
        (str(number), "ab"[number % 2], f"baby {number // 2}", f"{number} weeks") for number in range(12)
    }


def test_a_list_with_other_columns_is_told_which_they_are(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        record(tmp_path / "set" / f"{number}.wav")
        rows.append(f"{number}.wav,{'ab'[number % 2]},{number // 2}")
    csv_file = listing(tmp_path / "set", "filename,category,baby_id", *rows)
    result = prepare(csv_file, tmp_path / "data", "data.label_by=column:category", "data.group_by=column:baby_id")
    assert Counter(clip.label for clip in clips_in(result)) == {"a": 6, "b": 6}
    assert {clip.path.stem: clip.group for clip in clips_in(result)} == {str(i): str(i // 2) for i in range(12)}


def test_a_recording_that_a_list_names_and_nobody_has_is_rejected(crycli: Command, tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        record(tmp_path / "set" / f"{number}.wav")
        rows.append(f"{number}.wav,{'ab'[number % 2]}")
    csv_file = listing(tmp_path / "set", "path,label", *rows, "gone.wav,a")
    assert crycli("prepare", csv_file, "-o", tmp_path / "data").code == 3
    (row,) = rows_of(tmp_path / "data" / "rejected.csv")
    assert (Path(row["path"]).name, row["reason"]) == ("gone.wav", "no such file")


def test_excerpts_of_a_recording_are_clips_of_one_group(tmp_path: Path) -> None:
    long = record(tmp_path / "set" / "night.wav", seconds=12.0)
    rows = [f"night.wav,{'ab'[number % 2]},{number},{number + 1}" for number in range(8)]
    for number in range(8):
        record(tmp_path / "set" / f"{number}.wav")
        rows.append(f"{number}.wav,{'ab'[number % 2]},,")
    result = prepare(listing(tmp_path / "set", "path,label,start,end", *rows), tmp_path / "data")
    cut = [clip for clip in clips_in(result) if clip.path == long]
    assert sorted((clip.start, clip.end) for clip in cut) == [(float(n), float(n + 1)) for n in range(8)]
    assert len({clip.group for clip in cut}) == 1
    assert len({part_of(result)[clip.path] for clip in cut}) == 1
    assert all(clip.duration == pytest.approx(1.0) for clip in cut)
    assert not any({"copy", "overlap"} & set(clip.flags) for clip in cut)


def test_windows_are_rows_with_start_and_end_and_a_recording_is_in_one_part(tmp_path: Path) -> None:
    for label in ("high", "low"):
        for number in range(4):
            record(tmp_path / "cries" / label / f"{number}.wav", seconds=4.0)
    result = prepare(tmp_path / "cries", tmp_path / "data", "data.window=2", "data.hop=1")
    rows = [(part, row) for part in PARTS for row in rows_of(tmp_path / "data" / f"{part}.csv")]
    assert Counter((row["start"], row["end"]) for _, row in rows) == {
        (f"{start}.000", f"{start + 2}.000"): 8 for start in range(3)
    }
    assert len({(part, row["path"]) for part, row in rows}) == len({row["path"] for _, row in rows}) == 8
    assert all(len({clip.group for clip in clips_in(result) if clip.path == path}) == 1 for path in part_of(result))


def test_a_hop_without_a_window_and_one_beyond_it_are_wrong_usage(crycli: Command, cries: Path, tmp_path: Path) -> None:
    for flags in (["--hop", "1"], ["--window", "1", "--hop", "2"], ["--window", "0.1"], ["--folds", "1"]):
        outcome = crycli("prepare", cries, "-o", tmp_path / "data", *flags)
        assert (outcome.code, outcome.out) == (2, "")
    assert not (tmp_path / "data").exists()


REJECTED_FOR = {
    "quiet": "quiet.wav",
    "silent": "silent.wav",
    "clipped": "clipped.wav",
    "narrow": "narrow.wav",
    "dc_offset": "offset.wav",
    "cut_short": "cut.flac",
    "copy": "z-copy.wav",
    "overlap": "z-louder.wav",
}


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good recordings, and one for each flag. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("flawed")
    write_cries(folder, babies=5)
    low = folder / "low"
    loud = sound(Path("a/b/loud"), seconds=2.0)
    soundfile.write(low / "quiet.wav", sound(Path("a/b/quiet")) * 1e-3, 16_000, "FLOAT")
    pause = sound(Path("a/b/pause"), seconds=8.0)
    pause[9_000:] = 0.0
    soundfile.write(low / "silent.wav", pause, 16_000)
    soundfile.write(low / "clipped.wav", np.clip(sound(Path("a/b/clipped")) * 20, -1, 1), 16_000)
    time = np.arange(16_000) / 16_000
    soundfile.write(low / "narrow.wav", 0.2 * np.sin(2 * np.pi * 440 * time) * np.hanning(16_000), 16_000)
    soundfile.write(low / "offset.wav", sound(Path("a/b/offset")) * 0.5 + 0.2, 16_000)
    flac = record(low / "cut.flac", seconds=4.0)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    soundfile.write(low / "y-original.wav", loud, 16_000)
    soundfile.write(low / "z-copy.wav", loud, 16_000)
    soundfile.write(low / "z-louder.wav", loud * 0.5, 16_000)
    soundfile.write(folder / "high" / "against.wav", sound(Path("a/b/against")), 16_000)
    soundfile.write(low / "against.wav", sound(Path("a/b/against")), 16_000)
    return folder


@pytest.mark.parametrize(("flag", "name"), REJECTED_FOR.items())
def test_a_flag_that_is_to_be_rejected_leaves_the_clip_out_with_the_reason(
    flag: str, name: str, flawed: Path, crycli: Command, tmp_path: Path
) -> None:
    kept = prepare(flawed, tmp_path / "kept", BY_BABY)
    flagged = {clip.path.name for clip in clips_in(kept) if flag in clip.flags}
    assert name in flagged
    assert kept.rejected == []
    arguments = ["-o", tmp_path / "data", "--set", BY_BABY, "--set", f"checks.reject=[{flag}]"]
    assert crycli("prepare", flawed, *arguments).code == 3
    rows = rows_of(tmp_path / "data" / "rejected.csv")
    assert {Path(row["path"]).name for row in rows} == flagged
    assert all(row["reason"].startswith(f"{flag}: ") for row in rows)
    used = {clip.path.name for part in PARTS for clip in read_manifest(tmp_path / "data" / f"{part}.csv")}
    assert used.isdisjoint(flagged - {"against.wav"})
    assert len(labels_in_manifests(tmp_path / "data")) == len(clips_in(kept)) - len(rows)


def test_both_sides_of_a_contradiction_are_rejected(flawed: Path, tmp_path: Path) -> None:
    result = prepare(flawed, tmp_path / "data", BY_BABY, "checks.reject=[contradiction]")
    assert sorted(reasons_in(result)) == [flawed / "high" / "against.wav", flawed / "low" / "against.wav"]


def test_a_threshold_decides_what_is_flagged(flawed: Path, tmp_path: Path) -> None:
    strict = prepare(flawed, tmp_path / "strict", BY_BABY, "checks.quiet_db=-1", "checks.clipped_share=0")
    lax = prepare(flawed, tmp_path / "lax", BY_BABY, "checks.quiet_db=-200", "checks.clipped_share=1")
    assert all("quiet" in clip.flags for clip in clips_in(strict) if clip.loudness_db < -1)
    assert any("quiet" in clip.flags for clip in clips_in(strict))
    assert not any({"quiet", "clipped"} & set(clip.flags) for clip in clips_in(lax))


def test_one_window_of_a_recording_can_be_rejected_and_the_others_used(tmp_path: Path) -> None:
    for label in ("high", "low"):
        for number in range(4):
            record(tmp_path / "cries" / label / f"{number}.wav", seconds=3.0)
    samples = sound(Path("a/b/pause"), seconds=3.0)
    samples[16_000:32_000] = 0.0
    soundfile.write(tmp_path / "cries" / "low" / "pause.wav", samples, 16_000)
    result = prepare(tmp_path / "cries", tmp_path / "data", "data.window=1", "checks.reject=[silent]")
    (row,) = rows_of(tmp_path / "data" / "rejected.csv")
    assert (Path(row["path"]).name, row["start"]) == ("pause.wav", "1.000")
    assert sorted(clip.start for clip in clips_in(result) if clip.path.name == "pause.wav") == [0.0, 2.0]


def grown(tmp_path: Path, *assignments: str) -> tuple[Path, PrepareResult]:
    """Recordings of ten babies that are split, and to which more are to be added."""
    write_cries(tmp_path / "cries", babies=10)
    return tmp_path / "cries", prepare(tmp_path / "cries", tmp_path / "old", BY_BABY, *assignments)


@pytest.mark.parametrize("seed", range(4))
def test_added_recordings_move_no_old_one(seed: int, tmp_path: Path) -> None:
    cries, old = grown(tmp_path, "data.folds=3")
    draw = np.random.default_rng(seed)
    expected = {}
    for _ in range(12):
        label = ("high", "low", "new")[draw.integers(3)]
        baby = draw.integers(16)  # ten of them are known
        path = record(
            cries / label / f"baby-{baby:02d}-{draw.integers(10, 10**6)}.wav", hertz=float(draw.integers(200, 900))
        )
        expected[path] = f"baby-{baby:02d}"
    before = part_of(old)
    for path in draw.choice(sorted(before), 3, replace=False):  # copies of old recordings, under names of no baby
        copy = cries / "low" / f"{'aZ'[draw.integers(2)]}-copy-{draw.integers(10**6)}.wav"
        copy.write_bytes(path.read_bytes())
        expected[copy] = groups_in(old)[path.name]
    new = prepare(
        cries,
        tmp_path / "new",
        BY_BABY,
        "data.folds=3",
        f"data.seed={seed + 1}",
        "data.test_share=0.4",
        keep=tmp_path / "old",
    )
    after = part_of(new)
    assert {path: after[path] for path in before} == before
    folds = {clip.path: clip.fold for clip in clips_in(old)}
    assert {clip.path: clip.fold for clip in clips_in(new) if clip.path in folds} == folds
    part_of_group = {clip.group: part for part, clips in old.parts.items() for clip in clips}
    known = {path: part_of_group[group] for path, group in expected.items() if group in part_of_group}
    assert {path: after[path] for path in known} == known
    assert new.report["leakage"] == []
    assert len(after) == len(before) + len(expected)


def test_without_keep_another_seed_moves_recordings(tmp_path: Path) -> None:
    cries, old = grown(tmp_path)
    assert part_of(prepare(cries, tmp_path / "new", BY_BABY, "data.seed=1")) != part_of(old)


def test_a_split_can_be_kept_in_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cries, old = grown(tmp_path)
    record(cries / "low" / "baby-77-0.wav")
    monkeypatch.chdir(tmp_path)
    new = prepare(["cries"], Path("old"), BY_BABY, "data.seed=5", force=True, keep=Path("old"))
    assert {path: part for path, part in part_of(new).items() if path in part_of(old)} == part_of(old)
    assert len(clips_in(new)) == 41


def test_a_kept_split_can_have_been_moved_with_its_recordings(tmp_path: Path) -> None:
    write_cries(tmp_path / "here" / "cries", babies=10)
    old = prepare(tmp_path / "here" / "cries", tmp_path / "here" / "data", BY_BABY)
    for part in PARTS:  # beside the recordings, so that its paths are relative
        (tmp_path / "here" / f"{part}.csv").write_text(
            (tmp_path / "here" / "data" / f"{part}.csv").read_text().replace(f"{tmp_path}/here/", "")
        )
    (tmp_path / "here").rename(tmp_path / "there")
    new = prepare(tmp_path / "there" / "cries", tmp_path / "new", BY_BABY, "data.seed=5", keep=tmp_path / "there")
    names = {f"{path.parent.name}/{path.name}": part for path, part in part_of(old).items()}
    assert {f"{path.parent.name}/{path.name}": part for path, part in part_of(new).items()} == names


def test_a_split_is_kept_when_the_root_is_reached_by_a_link(tmp_path: Path) -> None:
    cries, old = grown(tmp_path)
    (tmp_path / "link").symlink_to(cries)
    new = prepare(tmp_path / "link", tmp_path / "new", BY_BABY, "data.seed=5", keep=tmp_path / "old")
    names = {f"{path.parent.name}/{path.name}": part for path, part in part_of(old).items()}
    assert {f"{path.parent.name}/{path.name}": part for path, part in part_of(new).items()} == names


def test_recordings_that_are_gone_from_a_kept_split_are_counted(tmp_path: Path) -> None:
    cries, old = grown(tmp_path)
    gone = old.parts["train"][0].path
    gone.unlink()
    new = prepare(cries, tmp_path / "new", BY_BABY, keep=tmp_path / "old")
    assert f"1 recording is in the split to keep, {tmp_path / 'old'}, and no longer among these" in new.warnings
    assert part_of(new) == {path: part for path, part in part_of(old).items() if path != gone}


def test_a_kept_split_has_its_folds_also_where_all_recordings_of_the_last_one_are_gone(tmp_path: Path) -> None:
    cries, old = grown(tmp_path, "data.folds=3")
    folds = {clip.path: clip.fold for clip in clips_in(old)}
    for path in [path for path, fold in folds.items() if fold == 3]:
        path.unlink()
    path = record(cries / "low" / "baby-77-0.wav", hertz=777.0)
    new = prepare(cries, tmp_path / "new", BY_BABY, "data.folds=3", keep=tmp_path / "old")
    expected = {path: fold for path, fold in folds.items() if fold != 3} | {path: 3}
    assert {clip.path: clip.fold for clip in clips_in(new)} == expected
    with pytest.raises(DataError, match="the split to keep has 3 folds: give --folds 3"):
        prepare(cries, tmp_path / "new", BY_BABY, "data.folds=2", keep=tmp_path / "old", force=True)


def bridge(path: Path, *pieces: Path) -> Path:
    """A recording of the sounds of others, one after the other."""
    soundfile.write(path, np.concatenate([soundfile.read(piece)[0] for piece in pieces]), 16_000)
    return path


def long_cries(folder: Path) -> Path:
    for label in ("high", "low"):
        for number in range(8):
            record(folder / label / f"m{number}.wav", hertz=300.0 + 20 * number, seconds=2.0)
    return folder


def test_a_new_recording_with_the_sound_of_two_parts_is_rejected(tmp_path: Path) -> None:
    cries = long_cries(tmp_path / "cries")
    old = prepare(cries, tmp_path / "old")
    between = bridge(cries / "low" / "z.wav", old.parts["train"][0].path, old.parts["test"][0].path)
    within = bridge(cries / "low" / "y.wav", old.parts["train"][1].path, old.parts["train"][2].path)
    new = prepare(cries, tmp_path / "new", keep=tmp_path / "old")
    assert list(reasons_in(new)) == [between]
    assert "test and train" in reasons_in(new)[between]
    assert part_of(new) == {**part_of(old), within: "train"}


def test_a_copy_of_one_old_recording_is_not_rejected_for_what_another_new_one_does(tmp_path: Path) -> None:
    cries = long_cries(tmp_path / "cries")
    old = prepare(cries, tmp_path / "old")
    trained = old.parts["train"][0].path
    between = bridge(cries / "low" / "z.wav", trained, old.parts["test"][0].path)
    copy = bridge(cries / "low" / "y.wav", trained)
    new = prepare(cries, tmp_path / "new", keep=tmp_path / "old")
    assert list(reasons_in(new)) == [between]
    assert part_of(new)[copy] == "train"


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_an_old_recording_stays_where_a_new_copy_of_it_comes_first_and_copies_are_rejected(
    gain: float, tmp_path: Path
) -> None:
    cries = long_cries(tmp_path / "cries")
    old = prepare(cries, tmp_path / "old")
    copies = []
    for part in PARTS:
        path = old.parts[part][0].path
        copies.append(path.with_name(f"a-{part}.wav"))
        soundfile.write(copies[-1], soundfile.read(path)[0] * gain, 16_000)
    new = prepare(cries, tmp_path / "new", "checks.reject=[copy, overlap]", keep=tmp_path / "old")
    assert part_of(new) == part_of(old)
    assert sorted(reasons_in(new)) == sorted(copies)


def test_a_split_that_leaks_is_not_kept(tmp_path: Path) -> None:
    cries, _ = grown(tmp_path)
    lines = (tmp_path / "old" / "train.csv").read_text().splitlines(keepends=True)
    (tmp_path / "old" / "train.csv").write_text("".join(lines[:-1]))
    with (tmp_path / "old" / "test.csv").open("a") as file:
        file.write(lines[-1])
    with pytest.raises(DataError, match=r"the split to keep has groups in two places \(1 of them.* in test and train"):
        prepare(cries, tmp_path / "new", BY_BABY, keep=tmp_path / "old")
    assert not (tmp_path / "new" / "train.csv").exists()


def test_a_recording_in_two_parts_is_no_split_to_keep(tmp_path: Path) -> None:
    cries, _ = grown(tmp_path)
    with (tmp_path / "old" / "test.csv").open("a") as file:
        file.write((tmp_path / "old" / "train.csv").read_text().splitlines()[-1] + "\n")
    with pytest.raises(DataError, match=r"is in train\.csv and in test\.csv"):
        prepare(cries, tmp_path / "new", BY_BABY, keep=tmp_path / "old")


def test_a_folder_without_a_split_is_none_to_keep(crycli: Command, cries: Path, tmp_path: Path) -> None:
    outcome = crycli("prepare", cries, "-o", tmp_path / "data", "--keep", tmp_path / "nowhere")
    assert outcome.code == 1
    assert "nowhere" in outcome.err
    assert not (tmp_path / "data").exists()


def test_the_command_in_the_report_makes_the_same_again(tmp_path: Path) -> None:
    cries, _ = grown(tmp_path)
    result = prepare(cries, tmp_path / "new", BY_BABY, "data.seed=3", keep=tmp_path / "old")
    assert f"--keep {tmp_path / 'old'}" in result.report["command"]


def test_folds_are_disjoint_by_group_and_stratified(crycli: Command, cries: Path, tmp_path: Path) -> None:
    outcome = crycli("prepare", cries, "-o", tmp_path / "data", "--folds", "4", "--set", BY_BABY)
    assert outcome.code == 0
    clips = [clip for part in PARTS for clip in read_manifest(tmp_path / "data" / f"{part}.csv")]
    assert {clip.fold for clip in clips} == {1, 2, 3, 4}
    assert len({(clip.group, clip.fold) for clip in clips}) == 8
    assert set(Counter((clip.fold, clip.label) for clip in clips).values()) == {4}
    report = json.loads((tmp_path / "data" / "prepare.json").read_text())
    assert {fold: counts["clips"] for fold, counts in report["folds"].items()} == {str(n): 8 for n in (1, 2, 3, 4)}


def test_without_folds_the_column_is_empty(cries: Path, tmp_path: Path) -> None:
    assert {clip.fold for clip in clips_in(prepare(cries, tmp_path / "data", BY_BABY))} == {None}


def esc(folder: Path) -> Path:
    """Three sources of each of two classes in each of five folds."""
    for fold in range(1, 6):
        for source in range(3):
            for number, label in enumerate(("001 - Dog", "002 - Cry")):
                record(folder / label / f"{fold}-{1000 * fold + 100 * number + source}-A.wav")
    return folder


def test_the_official_folds_of_esc_are_honoured(tmp_path: Path) -> None:
    result = prepare(esc(tmp_path / "esc"), tmp_path / "data", "data.folds=5")
    assert all(clip.fold == int(clip.path.name[0]) for clip in clips_in(result))
    assert not any("fold" in warning for warning in result.warnings)


def test_another_number_of_folds_than_the_official_one_is_warned_of(tmp_path: Path) -> None:
    result = prepare(esc(tmp_path / "esc"), tmp_path / "data", "data.folds=4")
    assert {clip.fold for clip in clips_in(result)} == {1, 2, 3, 4}
    assert any("official folds are not honoured" in warning and "--folds 5" in warning for warning in result.warnings)


def test_official_folds_that_a_copy_tears_are_named(tmp_path: Path) -> None:
    folder = esc(tmp_path / "esc") / "001 - Dog"
    (folder / "1-9999-A.wav").write_bytes((folder / "2-2000-A.wav").read_bytes())
    result = prepare(tmp_path / "esc", tmp_path / "data", "data.folds=5")
    assert any("in several official folds" in warning for warning in result.warnings)
    assert len({clip.fold for clip in clips_in(result) if clip.path.name in ("1-9999-A.wav", "2-2000-A.wav")}) == 1


def test_the_folds_of_a_list_are_honoured_where_as_many_are_asked_for(tmp_path: Path) -> None:
    rows = []
    for number in range(18):
        record(tmp_path / "set" / f"{number}.wav")
        rows.append(f"{number}.wav,{'ab'[number % 2]},{number // 2 % 3 + 1}")
    result = prepare(listing(tmp_path / "set", "path,label,fold", *rows), tmp_path / "data", "data.folds=3")
    assert not any("honoured" in warning for warning in result.warnings)
    assert all(clip.fold == int(clip.path.stem) // 2 % 3 + 1 for clip in clips_in(result))


def contents(folder: Path) -> dict[str, list[Any]]:
    """The parts as `train` would read them."""
    return {part: [(clip.path, clip.fold) for clip in read_manifest(folder / f"{part}.csv")] for part in PARTS}


def test_a_kill_leaves_the_old_csvs_or_the_new_ones(tmp_path: Path) -> None:
    cries = write_cries(tmp_path / "cries", babies=6)
    results = {}
    for seed in (0, 1):
        prepare(cries, tmp_path / str(seed), BY_BABY, f"data.seed={seed}", "data.folds=3")
        results[seed] = contents(tmp_path / str(seed))
    assert results[0] != results[1]
    data = tmp_path / "data"
    prepare(cries, data, BY_BABY, "data.folds=3")
    seen = Counter()
    for number, step in enumerate(KILL_AT):
        seed = (number + 1) % 2
        code = KILLED.format(step=step)
        flags = ["--folds", "3", "--set", BY_BABY, "--set", f"data.seed={seed}"]
        arguments = ["prepare", str(cries), "-o", str(data), "--force", *flags]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        found = contents(data)
        (which,) = [seed for seed, parts in results.items() if parts == found]
        seen[which == seed] += 1
        prepare(cries, data, BY_BABY, "data.folds=3", f"data.seed={1 - seed}", force=True)  # and it can go on
        assert contents(data) == results[1 - seed]
    assert seen[True]
    assert seen[False]


KILL_AT = (1, 4, 7, 8, 9, 12)
"""Before so many operations on files of the output: six are written, a folder is renamed, six are moved."""

KILLED = """
import os, pathlib, signal, sys
left = {step}
def before(name):
    real = getattr(pathlib.Path, name)
    def counted(self, *arguments, **options):
        global left
        if ".crycli-commit" in str(self):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *arguments, **options)
    setattr(pathlib.Path, name, counted)
for name in ("write_bytes", "rename", "replace"):
    before(name)
sys.argv[0] = "crycli"
from crycli.cli import app
app()
"""


def test_a_first_run_that_was_killed_is_no_hindrance_to_the_next(tmp_path: Path) -> None:
    cries = write_cries(tmp_path / "cries", babies=4)
    arguments = ["prepare", str(cries), "-o", str(tmp_path / "data"), "--set", BY_BABY]
    done = subprocess.run([sys.executable, "-c", KILLED.format(step=3), *arguments], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "data" / "train.csv").exists()
    prepare(cries, tmp_path / "data", BY_BABY)
    assert len(labels_in_manifests(tmp_path / "data")) == 16


def test_whatever_is_prepared_leaks_nothing(flawed: Path, tmp_path: Path) -> None:
    for number, assignments in enumerate(
        (["data.group_by=file"], [BY_BABY, "data.window=0.5"], ["data.folds=3", "checks.reject=[copy]"])
    ):
        result = prepare(flawed, tmp_path / str(number), *assignments)
        assert json.loads((tmp_path / str(number) / "prepare.json").read_text())["leakage"] == []
        groups = [{clip.group for clip in clips} for clips in result.parts.values()]
        assert sum(map(len, groups)) == len(set.union(*groups))


def test_a_root_whose_name_is_no_utf_8_beside_a_good_one_is_rejected_and_the_good_one_used(
    crycli: Command, tmp_path: Path
) -> None:
    cries = write_cries(tmp_path / "cries", babies=3)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcde"))
    write_cries(tmp_path / "x", babies=1, labels={"low": 310.0, "high": 880.0}).rename(odd)
    outcome = crycli("prepare", cries, odd, "-o", tmp_path / "data", "--set", BY_BABY)
    assert outcome.code == 3
    assert len(rows_of(tmp_path / "data" / "rejected.csv")) == 4
    assert len(labels_in_manifests(tmp_path / "data")) == 12


def test_copies_of_a_recording_that_bridges_two_parts_are_left_out_too(tmp_path: Path) -> None:
    cries = tmp_path / "cries"
    for number in range(8):  # long enough to be told by an excerpt
        for label in ("high", "low"):
            record(cries / label / f"baby-{number}-{label}.wav", seconds=4.0)
    old = prepare(cries, tmp_path / "old", BY_BABY)
    both = np.concatenate([soundfile.read(old.parts[part][0].path)[0] for part in ("train", "test")])
    for name in ("zA", "zB", "zC"):
        soundfile.write(cries / "low" / f"{name}.wav", both, 16_000)
    result = prepare(cries, tmp_path / "new", BY_BABY, keep=tmp_path / "old")
    assert {item.path.stem for item in result.rejected} == {"zA", "zB", "zC"}
    assert all("test and train" in item.reason for item in result.rejected)


def test_a_new_copy_hides_no_leak_of_the_split_to_keep(tmp_path: Path) -> None:
    cries, old = grown(tmp_path)
    leaked = old.parts["train"][0].path
    with (tmp_path / "old" / "test.csv").open("a") as file:
        file.write(f"{leaked.with_name('zz.wav')},low,zz" + "," * (len(COLUMNS) - 3) + "\n")
    leaked.with_name("zz.wav").write_bytes(leaked.read_bytes())
    leaked.with_name("aaa.wav").write_bytes(leaked.read_bytes())
    with pytest.raises(DataError, match="groups in two places"):
        prepare(cries, tmp_path / "new", BY_BABY, keep=tmp_path / "old")


def test_force_replaces_no_csv_of_the_user(cries: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("path,label\n")
    with pytest.raises(OutputError, match="not written by"):
        prepare(cries, tmp_path / "data", force=True)
    assert (tmp_path / "data" / "train.csv").read_text() == "path,label\n"


def test_clips_longer_than_training_uses_are_warned_of(cries: Path, tmp_path: Path) -> None:
    short = prepare(cries, tmp_path / "a", BY_BABY)
    long = prepare(cries, tmp_path / "b", BY_BABY, "data.max_seconds=0.65")
    assert not any("data.max_seconds" in warning for warning in short.warnings)
    assert any("24 clips are longer than data.max_seconds" in warning for warning in long.warnings)
