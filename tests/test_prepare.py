"""Folders to manifests: labels, groups, rejected recordings, and a split that never tears a group apart."""

from __future__ import annotations

import csv
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import cry, settings, write_cries

from crycli.errors import DataError, OutputError
from crycli.manifest import PARTS, Clip, read_manifest
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
    for part in ("train", "test"):
        write_cries(tmp_path / "corpus" / part, babies=2)
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


def test_silent_and_damaged_recordings_are_used_with_a_warning(tmp_path: Path) -> None:
    write_cries(tmp_path / "cries", babies=3)
    soundfile.write(tmp_path / "cries" / "low" / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    flac = record(tmp_path / "cries" / "low" / "cut.flac", seconds=4.0)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    result = prepare(tmp_path / "cries", tmp_path / "data", BY_BABY)
    assert {"silent.wav", "cut.flac"} <= set(labels_in(result))
    assert any("1 recordings are silent" in warning for warning in result.warnings)
    assert any("1 recordings are damaged" in warning for warning in result.warnings)


def test_the_same_recordings_give_the_same_bytes_on_any_number_of_threads(cries: Path, tmp_path: Path) -> None:
    written = []
    for number, workers in enumerate((1, 1, 4)):
        folder = tmp_path / str(number)
        prepare(cries, folder, f"workers={workers}", BY_BABY)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1] == written[2]


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
    for root in ("s1", "s2", "s3"):
        write_cries(tmp_path / root, babies=2)
    roots = [tmp_path / "s1", tmp_path / "s2", tmp_path / "s3"]
    result = prepare_dataset_csv(roots, tmp_path / "data", settings("data.group_by=folder"))
    assert len({clip.group for part in result.parts.values() for clip in part}) == 6


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
    with pytest.raises(DataError, match="no folder"):
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


def test_the_real_corpus_is_split_by_phone_without_a_loss(real_data: Path, tmp_path: Path) -> None:
    result = prepare(real_data / "donateacry", tmp_path / "data")
    assert (len(clips_in(result)), result.rejected) == (457, [])
    groups = [{clip.group for clip in clips} for clips in result.parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 221
    phones = [{clip.path.name[:36].lower() for clip in clips} for clips in result.parts.values()]
    assert sum(map(len, phones)) == len(set.union(*phones)) == 221
    assert all(len({clip.label for clip in clips}) == 5 for clips in result.parts.values())
