"""Other people's splits: what leaks, by name, by group and by sound, and what is no split to check."""

from __future__ import annotations

import json
import random
import shutil
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import cry, settings

from crycli.checking import CheckResult, check_dataset
from crycli.config import Config
from crycli.errors import DataError

Command = Callable[..., Any]
UUIDS = tuple(f"0a1b2c3d-0000-4000-8000-{phone:012d}" for phone in range(8))


def record(path: Path, seed: int, seconds: float = 0.7, gain: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, cry(300.0 + 10 * (seed % 40), seconds, seed=seed) * gain, 16_000)
    return path


def table(file: Path, columns: str, rows: Iterable[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([columns, *rows]) + "\n")
    return file


def clean(folder: Path, names: tuple[str, str, str] = ("train", "val", "test")) -> Path:
    """Twelve recordings in three parts that share nothing."""
    for part, name in enumerate(names):
        rows = []
        for number in range(4):
            record(folder / "wav" / f"{name}{number}.wav", seed=part * 10 + number)
            rows.append(f"wav/{name}{number}.wav,{'ab'[number % 2]}")
        table(folder / f"{name}.csv", "path,label", rows)
    return folder


def check(*data: Path, **options: Any) -> CheckResult:
    return check_dataset(list(data), settings(), **options)


def test_a_clean_split_exits_0_and_says_so(crycli: Command, tmp_path: Path) -> None:
    outcome = crycli("prepare", "--check", clean(tmp_path))
    assert outcome.code == 0, outcome.err
    assert "No leakage" in outcome.out


def test_names_that_tell_the_phone_leak_without_any_column_for_groups(crycli: Command, tmp_path: Path) -> None:
    for part, phones in (("train", (0, 1, 2)), ("val", (3, 4)), ("test", (2, 5, 6))):
        rows = []
        for phone in phones:
            for take in range(2):
                name = f"{UUIDS[phone]}-14306500{take}{len(part)}-1.7-m-26-{('hu', 'ti')[take]}.wav"
                record(tmp_path / "wav" / name, seed=phone * 100 + take * 10 + len(part))
                rows.append(f"wav/{name},{('hungry', 'tired')[take]}")
        table(tmp_path / f"{part}.csv", "path,label", rows)
    result = check(tmp_path)
    assert result.leaked == {"validation": (0, 0, 0), "test": (2, 2, 0)}
    (leak,) = result.leaks
    assert (leak.part, leak.other, leak.clips, leak.total, leak.examples) == ("test", "train", 2, 6, (UUIDS[2],))
    outcome = crycli("prepare", "--check", tmp_path)
    assert outcome.code == 1
    assert UUIDS[2] in outcome.err
    assert "33.3%" in outcome.err


@pytest.mark.parametrize("change", ["bytes", "flac", "level", "part"])
def test_the_same_sound_under_another_name_leaks(change: str, tmp_path: Path) -> None:
    clean(tmp_path)
    source = record(tmp_path / "wav" / "train9.wav", seed=99, seconds=3.0)
    samples, rate = soundfile.read(source)
    copy = tmp_path / "wav" / ("copy.flac" if change == "flac" else "copy.wav")
    if change == "bytes":
        shutil.copy(source, copy)
    else:
        samples = {"flac": samples, "level": samples * 0.3, "part": samples[8_000:40_000]}[change]
        soundfile.write(copy, samples, rate)
    for part, path in (("train", source), ("test", copy)):
        with (tmp_path / f"{part}.csv").open("a") as file:
            file.write(f"wav/{path.name},a\n")
    assert check(tmp_path).leaked == {"validation": (0, 0, 0), "test": (1, 0, 1)}


def test_the_groups_of_the_csv_leak(tmp_path: Path) -> None:
    for part, babies in (("train", "AABB"), ("test", "BCCD")):
        rows = []
        for number, baby in enumerate(babies):
            record(tmp_path / f"{part}{number}.wav", seed=len(part) * 10 + number)
            rows.append(f"{part}{number}.wav,{'ab'[number % 2]},{baby}")
        table(tmp_path / f"{part}.csv", "path,label,group", rows)
    assert check(tmp_path).leaked == {"test": (1, 1, 0)}


def test_a_column_of_another_name_can_hold_the_groups(tmp_path: Path) -> None:
    for part, babies in (("train", "AABB"), ("test", "BCCD")):
        rows = [f"{part}{number}.wav,{'ab'[number % 2]},{baby}" for number, baby in enumerate(babies)]
        for number in range(4):
            record(tmp_path / f"{part}{number}.wav", seed=len(part) * 10 + number)
        table(tmp_path / f"{part}.csv", "path,label,baby", rows)
    assert check(tmp_path).leaks == []
    told = check_dataset([tmp_path], settings("data.group_by=column:baby"))
    assert told.leaked == {"test": (1, 1, 0)}


def test_an_expression_tells_the_groups_of_the_names(tmp_path: Path) -> None:
    for part, names in (("train", ("anna-1", "ben-1")), ("test", ("anna-2", "carl-1"))):
        rows = [
            f"{record(tmp_path / f'{name}.wav', len(part) * 10 + n).name},{'ab'[n]}" for n, name in enumerate(names)
        ]
        table(tmp_path / f"{part}.csv", "path,label", rows)
    assert check(tmp_path).leaks == []
    assert check_dataset([tmp_path], settings(r"data.group_by=^([a-z]+)-")).leaked == {"test": (1, 1, 0)}


@pytest.mark.parametrize("column", ["split", "part", "subset", "set"])
def test_one_csv_tells_its_parts_in_a_column(column: str, tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        record(tmp_path / f"{number}.wav", seed=number % 7)  # the last one is the first one again
        rows.append(f"{number}.wav,{'ab'[number % 2]},{('Train', 'test')[number // 4]}")
    result = check(table(tmp_path / "all.csv", f"path,label,{column}", rows))
    assert {part: len(clips) for part, clips in result.parts.items()} == {"train": 4, "test": 4}
    assert result.leaked == {"test": (1, 0, 1)}


def test_the_folds_of_one_csv_are_its_parts(tmp_path: Path) -> None:
    rows = []
    for number in range(9):
        record(tmp_path / f"{number}.wav", seed=number % 8)
        rows.append(f"{number}.wav,{'ab'[number % 2]},{number // 3 + 1}")
    result = check(table(tmp_path / "esc.csv", "filename,label,fold", rows))
    assert result.leaked == {"fold 1": (1, 0, 1), "fold 2": (0, 0, 0), "fold 3": (1, 0, 1)}


@pytest.mark.parametrize("folds", ["01", "AB"])
def test_folds_may_be_counted_from_nought_or_have_letters(folds: str, tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        record(tmp_path / f"{number}.wav", seed=number)
        rows.append(f"{number}.wav,{'ab'[number % 2]},{folds[number // 3]}")
    result = check(table(tmp_path / "all.csv", "path,label,fold", rows))
    assert list(result.parts) == [f"fold {fold}" for fold in folds]


@pytest.mark.parametrize(
    "names", [("train", "dev", "test"), ("training", "valid", "testing"), ("Train", "Val", "eval")]
)
def test_other_people_s_names_for_the_parts_are_known(names: tuple[str, str, str], tmp_path: Path) -> None:
    assert list(check(clean(tmp_path, names)).parts) == ["train", "validation", "test"]


def test_other_names_for_the_columns_are_known(tmp_path: Path) -> None:
    for part in ("train", "test"):
        record(tmp_path / f"{part}.wav", seed=len(part))
        table(tmp_path / f"{part}.csv", "filename,class", [f"{part}.wav,{part[0]}"])
    assert {clip.label for clips in check(tmp_path).parts.values() for clip in clips} == {"(no label)"}
    result = check_dataset([tmp_path], settings("data.label_by=column:class"))
    assert [clip.label for clips in result.parts.values() for clip in clips] == ["t", "t"]
    assert result.unreadable == []


def test_paths_may_be_relative_to_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean(tmp_path)
    (tmp_path / "lists").mkdir()
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.csv").rename(tmp_path / "lists" / f"{part}.csv")
    monkeypatch.chdir(tmp_path)
    assert check(Path("lists")).unreadable == []


def test_missing_recordings_are_judged_by_their_names_alone(crycli: Command, tmp_path: Path) -> None:
    clean(tmp_path)
    with (tmp_path / "test.csv").open("a") as file:
        file.write("wav/gone.wav,a\n")
    outcome = crycli("prepare", "--check", tmp_path)
    assert outcome.code == 3
    assert "No leakage" in outcome.out
    assert "by their names alone" in outcome.err
    with (tmp_path / "train.csv").open("a") as file:
        file.write("wav/gone.wav,a\n")
    outcome = crycli("prepare", "--check", tmp_path)
    assert outcome.code == 1
    assert check(tmp_path).leaked["test"] == (1, 1, 0)


@pytest.mark.parametrize("written", ["./wav/gone.wav", "wav/../wav/gone.wav", "{folder}/wav/gone.wav"])
def test_one_missing_recording_leaks_however_its_path_is_written(written: str, tmp_path: Path) -> None:
    clean(tmp_path)
    for part, path in (("train", "wav/gone.wav"), ("test", written.format(folder=tmp_path))):
        with (tmp_path / f"{part}.csv").open("a") as file:
            file.write(f"{path},a\n")
    assert check(tmp_path).leaked["test"] == (1, 1, 0)


def test_recordings_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for part in ("train", "test"):
        rows = [f"{record(tmp_path / part / f'{n}.wav', len(part) * 10 + n).name},{'ab'[n % 2]}" for n in range(4)]
        table(tmp_path / part / f"{part}.csv", "path,label", rows)
    assert check(tmp_path / "train" / "train.csv", tmp_path / "test" / "test.csv").leaks == []


def test_the_page_and_the_numbers_are_written(crycli: Command, tmp_path: Path) -> None:
    clean(tmp_path / "data")
    with (tmp_path / "data" / "test.csv").open("a") as file:
        file.write("wav/train0.wav,a\n")
    outcome = crycli("prepare", "--check", tmp_path / "data", "-o", tmp_path / "report")
    assert outcome.code == 1
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["check.html", "check.json"]
    found = json.loads((tmp_path / "report" / "check.json").read_text())
    assert found["check"] is True
    assert found["command"] == f"crycli prepare --check {tmp_path / 'data'}"
    ((leak,)) = found["leakage"]
    assert (leak["part"], leak["clips"], leak["total"], leak["share"]) == ("test", 1, 5, 0.2)
    assert {part: counts["clips"] for part, counts in found["parts"].items()} == {
        "train": 4,
        "validation": 4,
        "test": 5,
    }
    assert "20%" in (tmp_path / "report" / "check.html").read_text()
    before = (tmp_path / "report" / "check.json").read_bytes()
    assert crycli("prepare", "--check", tmp_path / "data", "-o", tmp_path / "report").code == 1  # it exists
    again = crycli("prepare", "--check", tmp_path / "data", "-o", tmp_path / "report", "--force")
    assert "leakage" in again.err
    assert (tmp_path / "report" / "check.json").read_bytes() == before


def test_without_an_output_nothing_is_written(crycli: Command, tmp_path: Path) -> None:
    clean(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    crycli("prepare", "--check", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("flags", [["--folds", "5"], ["--keep", "x"], ["--window", "2"], ["--hop", "1"]], ids=str)
def test_what_makes_a_split_is_wrong_usage_beside_check(flags: list[str], crycli: Command, tmp_path: Path) -> None:
    outcome = crycli("prepare", "--check", clean(tmp_path), *flags)
    assert (outcome.code, outcome.out) == (2, "")
    assert flags[0] in outcome.err


def test_a_window_in_the_configuration_changes_no_clip_that_is_checked(tmp_path: Path) -> None:
    clean(tmp_path)
    plain, windowed = (check_dataset([tmp_path], config).parts for config in (Config(), settings("data.window=0.5")))
    assert windowed == plain


def test_flags_that_would_be_rejected_are_checked_all_the_same(tmp_path: Path) -> None:
    clean(tmp_path)
    shutil.copy(tmp_path / "wav" / "train0.wav", tmp_path / "wav" / "test0.wav")
    assert check_dataset([tmp_path], settings("checks.reject=[copy]")).leaked["test"] == (1, 0, 1)


def test_a_recording_in_two_parts_is_flagged_in_each(tmp_path: Path) -> None:
    clean(tmp_path)
    soundfile.write(tmp_path / "wav" / "silent.wav", np.zeros(16_000), 16_000)
    for part in ("train", "test"):
        with (tmp_path / f"{part}.csv").open("a") as file:
            file.write("wav/silent.wav,a\n")
    flagged = check(tmp_path).report["flagged"]
    assert sorted(item["part"] for item in flagged if item["path"].endswith("silent.wav")) == ["test", "train"]


@pytest.mark.parametrize("sort", ["one csv", "folder of one", "one split"])
def test_one_part_alone_is_refused(sort: str, tmp_path: Path) -> None:
    record(tmp_path / "0.wav", 0)
    name, columns, row = {
        "one csv": ("all.csv", "path,label", "0.wav,a"),
        "folder of one": ("train.csv", "path,label", "0.wav,a"),
        "one split": ("all.csv", "path,label,split", "0.wav,a,train"),
    }[sort]
    file = table(tmp_path / name, columns, [row])
    with pytest.raises(DataError, match="all in one part"):
        check(tmp_path if sort == "folder of one" else file)


def test_what_is_no_list_is_refused(crycli: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    for data, word in ((tmp_path / "nowhere", "no such"), (tmp_path, "no CSV"), (tmp_path / "notes.csv", "no column")):
        outcome = crycli("prepare", "--check", data)
        assert (outcome.code, outcome.out) == (1, "")
        assert word in outcome.err


def test_an_empty_name_of_a_part_is_refused_and_spaces_do_not_matter(tmp_path: Path) -> None:
    for number in range(4):
        record(tmp_path / f"{number}.wav", number)
    rows = ["0.wav,a,train", "1.wav,b,train ", "2.wav,a,test", "3.wav,b,test"]
    assert list(check(table(tmp_path / "all.csv", "path,label,split", rows)).parts) == ["train", "test"]
    with pytest.raises(DataError, match=r"row 2.*split"):
        check(table(tmp_path / "all.csv", "path,label,split", ["0.wav,a,", *rows[1:]]))


def test_what_prepare_makes_passes_its_own_check(crycli: Command, data: Path) -> None:
    assert crycli("prepare", "--check", data, "--set", r"data.group_by=baby-\d+").code == 0


def test_a_split_of_the_real_corpus_by_clip_is_caught(real_data: Path, crycli: Command, tmp_path: Path) -> None:
    paths = sorted((real_data / "donateacry").rglob("*.wav"))
    random.Random(0).shuffle(paths)
    ends = (0, round(0.7 * len(paths)), round(0.9 * len(paths)), len(paths))
    for part, first, last in zip(("train", "val", "test"), ends[:-1], ends[1:], strict=True):
        table(tmp_path / f"{part}.csv", "path,label", [f"{path},{path.parent.name}" for path in paths[first:last]])
    result = check(tmp_path)
    leaked, by_name, by_sound = result.leaked["test"]
    assert 0.5 < leaked / len(result.parts["test"]) < 0.85
    assert by_sound <= by_name == leaked
    assert result.unreadable == []
    outcome = crycli("prepare", "--check", tmp_path)
    assert outcome.code == 1
    (row,) = [line.split() for line in outcome.out.splitlines() if line.startswith("test ")]
    assert row[:3] == ["test", str(leaked), str(len(result.parts["test"]))]
    assert outcome.err.splitlines()[-1].startswith("error: leakage: ")


def test_the_folds_of_a_split_are_checked_beside_its_parts(tmp_path: Path) -> None:
    for number in range(6):
        record(tmp_path / f"baby-{number // 2}-{number}.wav", seed=number)
    rows = [f"baby-{number // 2}-{number}.wav,low,{1 + number % 2}" for number in range(6)]
    table(tmp_path / "train.csv", "path,label,fold", rows[:4])
    table(tmp_path / "test.csv", "path,label,fold", rows[4:])
    result = check_dataset([tmp_path], settings(r"data.group_by=baby-\d"))
    assert {(leak.part, leak.other) for leak in result.leaks} == {("fold 2", "fold 1")}
    assert result.leaked["fold 2"][0] == result.sizes["fold 2"] == 3
    alone = check_dataset([tmp_path / "train.csv"], settings(r"data.group_by=baby-\d"))
    assert set(alone.parts) == {"fold 1", "fold 2"}
    assert alone.leaks


def test_a_group_in_two_folds_beside_a_column_of_parts_is_told_in_one_table(crycli: Command, tmp_path: Path) -> None:
    names = [f"baby-{number // 2}-{number}.wav" for number in range(8)]
    for number, name in enumerate(names):
        record(tmp_path / name, seed=number)
    # The usual layout: folds of the training part alone, and a test part without any.
    places = [("train", "1"), ("train", "2"), ("train", "2"), ("train", "2"), *[("test", "")] * 4]
    rows = [f"{name},low,{part},{fold}" for name, (part, fold) in zip(names, places, strict=True)]
    file = table(tmp_path / "all.csv", "path,label,split,fold", rows)
    result = check_dataset([file], settings(r"data.group_by=baby-\d"))
    assert result.sizes == {"train": 4, "test": 4, "fold 1": 1, "fold 2": 3}
    assert {(leak.part, leak.other) for leak in result.leaks} == {("fold 1", "fold 2")}
    outcome = crycli("prepare", "--check", file, "--set", r"data.group_by=baby-\d")
    assert outcome.code == 1
    (line,) = [line.split() for line in outcome.out.splitlines() if line.startswith("fold 2")]
    assert line == ["fold", "2", "1", "3", "33.3%", "1", "0"]


def test_a_name_in_two_unicode_forms_is_one_group_in_columns_and_in_paths(tmp_path: Path) -> None:
    both = [unicodedata.normalize(form, "zoë") for form in ("NFC", "NFD")]
    for part, name in zip(("train", "test"), both, strict=True):
        record(tmp_path / f"{name}-{part}.wav", seed=len(name))
        table(tmp_path / f"{part}.csv", "path,label,baby", [f"{name}-{part}.wav,müde,{name}"])
    for rule in ("column:baby", r"^([^-]+)-"):
        assert check_dataset([tmp_path], settings(f"data.group_by={rule}")).leaked == {"test": (1, 1, 0)}, rule
