"""Folders and lists of recordings to labels and groups. Nothing is decoded, so the recordings here are empty files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import settings
from hypothesis import example, given
from hypothesis import strategies as st

from crycli.config import load_config
from crycli.errors import DataError
from crycli.manifest import write_rows
from crycli.progress import Step
from crycli.scan import Found, Root, Scan, parse_root, scan
from crycli.survey import survey

PHONES = [f"0D1AD73E-4C5E-45F3-85C4-{number:012d}" for number in range(3)]


def fill(folder: Path, names: Iterable[str]) -> Path:
    """Empty files below a folder; names are separated by spaces where they are one string."""
    for name in names.split() if isinstance(names, str) else names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def table(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return file


def look(roots: str | Path | list[str] | list[Path], *assignments: str) -> Scan:
    roots = roots if isinstance(roots, list) else [roots]
    return scan([parse_root(root) for root in roots], settings(*assignments).data)


def labels(found: Scan) -> dict[str, str]:
    return {item.relative: item.label for item in found.found}


def groups(found: Scan) -> dict[str, str]:
    return {item.relative: item.group for item in found.found}


def only(found: Scan) -> Found:
    (item,) = found.found
    return item


def refusal(roots: str | Path | list[str] | list[Path], *assignments: str) -> str:
    with pytest.raises(DataError) as caught:
        look(roots, *assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a root is


def test_a_folder_is_a_root(tmp_path: Path) -> None:
    assert parse_root(str(tmp_path)) == parse_root(tmp_path) == Root(tmp_path)
    assert not parse_root(tmp_path).is_table


def test_a_folder_may_bear_a_label(tmp_path: Path) -> None:
    assert parse_root(f"belly pain={tmp_path}") == Root(tmp_path, "belly pain")


@pytest.mark.parametrize("name", ["list.csv", "LIST.CSV", "a=b.csv"])
def test_a_csv_is_a_root_and_may_bear_a_label(name: str, tmp_path: Path) -> None:
    file = table(tmp_path / name, "path\na.wav\n")
    assert parse_root(str(file)) == Root(file)
    assert parse_root(str(file)).is_table
    assert parse_root(f"low={file}") == Root(file, "low")


def test_a_folder_whose_name_ends_in_csv_is_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, "cries.csv/low/a.wav")
    assert labels(look(tmp_path / "cries.csv")) == {"low/a.wav": "low"}


@pytest.mark.parametrize("name", ["a=b", "=b", "a=", "a=b=c"])
def test_a_folder_whose_own_name_contains_an_equals_sign_is_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, [f"{name}/low/x.wav", f"{name}/high/x.wav", "b/x.wav"])
    assert parse_root(str(tmp_path / name)).label == ""
    monkeypatch.chdir(tmp_path)
    assert parse_root(name) == Root(tmp_path / name)
    assert parse_root(f"cold={name}") == Root(tmp_path / name, "cold")
    assert set(labels(look(name)).values()) == {"low", "high"}


@pytest.mark.parametrize("text", ["nowhere", "nowhere.csv", "low=nowhere", "low=nowhere.csv", "a\0b"])
def test_a_root_that_is_missing_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(text.rpartition("=")[2])):
        parse_root(text)


def test_a_label_without_a_folder_is_refused_and_not_taken_for_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill(tmp_path, "low/a.wav"))
    with pytest.raises(DataError, match="LABEL=FOLDER"):
        parse_root("hungry=")


def test_a_folder_with_an_empty_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="LABEL=FOLDER"):
        parse_root(f"={tmp_path}")


@pytest.mark.parametrize("name", ["cry.wav", "list.tsv", "list"])
def test_a_file_that_is_no_csv_is_refused(name: str, tmp_path: Path) -> None:
    fill(tmp_path, [name])
    for text in (str(tmp_path / name), f"low={tmp_path / name}"):
        with pytest.raises(DataError, match=f"{name} is not a folder"):
            parse_root(text)


# Labels from folders and names


@pytest.mark.parametrize("around", ["", "audio/", "corpus v2/data set/audio/"])
@pytest.mark.parametrize("below", ["", "anna/", "anna/2024/05/"])
def test_the_first_folders_that_differ_are_the_labels(around: str, below: str, tmp_path: Path) -> None:
    fill(tmp_path, [f"{around}low/{below}a.wav", f"{around}high/b.wav", f"{around}high/deep/c.wav"])
    assert sorted(labels(look(tmp_path)).values()) == ["high", "high", "low"]


def test_one_folder_alone_is_a_label(tmp_path: Path) -> None:
    assert labels(look(fill(tmp_path, "low/a.wav low/b.wav"))) == {"low/a.wav": "low", "low/b.wav": "low"}


def test_what_kaggle_and_a_mac_put_into_a_zip_is_no_recording_and_no_label(tmp_path: Path) -> None:
    fill(tmp_path, "hungry/a.wav tired/b.wav hungry/.DS_Store .ipynb_checkpoints/a.wav")
    fill(tmp_path, "__MACOSX/hungry/._a.wav __MACOSX/._tired hungry/._a.wav hungry/Thumbs.db notes.txt")
    found = look(tmp_path)
    assert labels(found) == {"hungry/a.wav": "hungry", "tired/b.wav": "tired"}
    assert found.warnings == []


def test_odd_names_of_folders_and_recordings_are_kept_as_they_are(tmp_path: Path) -> None:
    names = [
        "müde 👶/A b.WAV",
        "belly pain/[x]*?.Mp3",
        " /  .wav",
        "NA/007.FLAC",
        'a,b/say "uh".wav',
        "two\nlines/%s.wav",
    ]
    assert labels(look(fill(tmp_path, names))) == {name: name.partition("/")[0] for name in names}


def test_a_recording_beside_the_label_folders_has_no_label_and_the_reason(tmp_path: Path) -> None:
    fill(tmp_path, "audio/low/a.wav audio/high/b.wav audio/loose.wav")
    problems = {item.relative: item.problem for item in look(tmp_path).found if not item.label}
    assert list(problems) == ["audio/loose.wav"]
    assert "beside the label folders" in problems["audio/loose.wav"]


def test_names_that_tell_a_label_do_so_in_a_flat_folder(tmp_path: Path) -> None:
    uploads = {
        f"{PHONES[0]}-1430742197-1.0-m-04-hu.caf": "hungry",
        f"{PHONES[1]}-1430742197123-1.7-f-26-ti.wav": "tired",
    }
    clips = {"1-100032-A-0.wav": "dog", "5-9032-B-20.wav": "crying_baby"}
    found = look(fill(tmp_path, [*uploads, *clips, "memo.wav"]))
    assert labels(found) == uploads | clips | {"memo.wav": ""}
    assert [item.relative for item in found.found if item.problem] == ["memo.wav"]


def test_a_reason_that_is_no_label_is_told_of_a_flat_upload(tmp_path: Path) -> None:
    fill(tmp_path, [f"{PHONES[0]}-1430742197-1.0-m-04-{reason}.caf" for reason in ("hu", "dk")])
    (unknown,) = [item for item in look(tmp_path).found if not item.label]
    assert "'dk'" in unknown.problem
    assert unknown.group == PHONES[0].lower()


def test_folders_beat_names_and_the_names_still_tell_the_rest(tmp_path: Path) -> None:
    upload = f"{PHONES[0]}-1430742197-1.0-m-04-hu.caf"
    fill(tmp_path, [f"belly_pain/{upload}", "dog/3-100032-A-20.wav"])
    dog, pain = sorted(look(tmp_path).found, key=lambda item: item.label, reverse=True)
    assert (pain.label, pain.group, pain.fold) == ("belly_pain", PHONES[0].lower(), None)
    assert pain.extra == {"gender": "male", "age": "0-4 weeks", "system": "ios"}
    assert (dog.label, dog.group, dog.fold, dog.extra) == ("dog", "esc-100032", 3, {})


def test_folders_alone_count_where_the_configuration_says_so(tmp_path: Path) -> None:
    fill(tmp_path, ["low/a.wav", "high/b.wav", "1-100032-A-0.wav"])
    assert labels(look(tmp_path, "data.label_by=folder")) == {
        "low/a.wav": "low",
        "high/b.wav": "high",
        "1-100032-A-0.wav": "",
    }
    assert labels(look(tmp_path))["1-100032-A-0.wav"] == "dog"


@pytest.mark.parametrize("rule", ["donateacry", "esc"])
def test_names_alone_count_where_the_configuration_says_so(rule: str, tmp_path: Path) -> None:
    fill(tmp_path, [f"ios/{PHONES[0]}-1430742197-1.0-m-04-hu.caf", "android/1-100032-A-0.wav", "android/x.wav"])
    found = labels(look(tmp_path, f"data.label_by={rule}"))
    assert [label for label in found.values() if label] == [{"donateacry": "hungry", "esc": "dog"}[rule]]


def test_an_expression_tells_label_group_corpus_fold_and_columns(tmp_path: Path) -> None:
    fill(tmp_path, "s1/anna_hungry_3_w14.wav s2/bert_tired_1_.wav s2/notes.wav")
    rule = r"(?P<corpus>\w+)/(?P<group>[a-z]+)_(?P<label>[a-z]+)_(?P<fold>\d)_(?P<age>\w*)\."
    found = look(tmp_path, f"data.label_by='{rule}'")
    anna, bert, notes = found.found
    assert (anna.label, anna.group, anna.corpus, anna.fold, anna.extra) == ("hungry", "anna", "s1", 3, {"age": "w14"})
    assert (bert.label, bert.group, bert.corpus, bert.fold, bert.extra) == ("tired", "bert", "s2", 1, {"age": ""})
    assert (notes.label, notes.group, notes.corpus) == ("", "s2/notes.wav", tmp_path.name)
    assert "label_by" in notes.problem


def test_an_expression_that_fits_no_recording_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "low/a.wav high/b.wav")
    assert "label_by" in refusal(tmp_path, "data.label_by=(?P<label>[A-Z]+)-")


def test_flat_recordings_without_a_label_are_refused_with_the_way_out(tmp_path: Path) -> None:
    assert "subfolder" in refusal(fill(tmp_path, "a.wav b.wav"))


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "low/notes.txt low/._a.wav")
    assert f"no recordings in {tmp_path}" in refusal(tmp_path)
    assert "no recordings in" in refusal([fill(tmp_path / "full", "low/a.wav"), fill(tmp_path / "empty", "low/a.txt")])


def test_a_name_that_is_no_utf_8_has_a_problem_and_not_a_traceback(tmp_path: Path) -> None:
    fill(tmp_path, "low/a.wav high/b.wav")
    os.rename(tmp_path / "low" / "a.wav", os.fsencode(tmp_path / "low") + b"/b\xe4by.wav")
    assert [("UTF-8" in item.problem, item.label) for item in look(tmp_path).found] == [(False, "high"), (True, "low")]


# Parts


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("training", "validation", "testing"), ("Train", "Test"), ("dev", "eval")]
)
def test_folders_that_are_parts_are_refused_with_roots_that_work(parts: tuple[str, ...], tmp_path: Path) -> None:
    fill(tmp_path, [f"{part}/{label}/{part}-{label}.wav" for part in parts for label in ("low", "high")])
    message = refusal(tmp_path)
    assert all(part in message for part in parts)
    (example_of_a_root,) = [path for part in parts if str(path := tmp_path / part) in message]
    assert example_of_a_root.is_dir()
    assert set(labels(look([tmp_path / part for part in parts])).values()) == {"low", "high"}


def test_flat_roots_that_are_parts_are_refused_without_naming_a_folder_that_is_not_there(tmp_path: Path) -> None:
    message = refusal([fill(tmp_path / "train", "a.wav"), fill(tmp_path / "test", "b.wav")])
    assert "parts" in message
    assert all(Path(word.strip(",.:;")).exists() for word in message.split() if word.startswith(str(tmp_path)))


def test_a_label_that_is_called_like_a_part_is_no_hindrance_among_others(tmp_path: Path) -> None:
    fill(tmp_path, "test/a.wav dev/b.wav hungry/c.wav")
    assert set(labels(look(tmp_path)).values()) == {"test", "dev", "hungry"}


# Several roots


def test_flat_roots_are_labels_and_the_folder_around_them_is_the_corpus(tmp_path: Path) -> None:
    roots = [fill(tmp_path / "ward 3" / label, "1.wav 2.wav") for label in ("low", "high")]
    found = look(roots)
    assert Counter((item.label, item.corpus) for item in found.found) == {("low", "ward 3"): 2, ("high", "ward 3"): 2}


def test_a_flat_root_that_is_the_working_folder_is_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "low/x.wav high/x.wav")
    monkeypatch.chdir(tmp_path / "low")
    found = look([".", "../high"])
    assert {item.label for item in found.found} == {"low", "high"}
    assert len({item.group for item in found.found}) == 2


def test_a_flat_root_that_is_a_link_bears_the_name_of_the_link(tmp_path: Path) -> None:
    for name, target in (("low", "batch-1"), ("high", "batch-2")):
        fill(tmp_path / target, [f"{name}.wav"])
        (tmp_path / name).symlink_to(target)
    assert set(labels(look([tmp_path / "low", tmp_path / "high"])).values()) == {"low", "high"}


@pytest.mark.parametrize("rule", ["auto", "folder"])
def test_all_below_a_root_with_a_label_bears_it_whatever_the_folders(rule: str, tmp_path: Path) -> None:
    fill(tmp_path, "a/anna/1.wav a/bert/deep/2.wav a/3.wav b/anna/4.wav")
    found = look([f"hungry={tmp_path / 'a'}", f"tired={tmp_path / 'b'}"], f"data.label_by={rule}")
    assert labels(found) == {
        "3.wav": "hungry",
        "anna/1.wav": "hungry",
        "bert/deep/2.wav": "hungry",
        "anna/4.wav": "tired",
    }
    assert {item.corpus for item in found.found} == {tmp_path.name}


def test_a_label_of_a_root_beats_the_names_which_still_tell_the_group(tmp_path: Path) -> None:
    fill(tmp_path / "a", [f"{PHONES[0]}-1430742197-1.0-m-04-hu.caf"])
    item = only(look(f"colic={tmp_path / 'a'}"))
    assert (item.label, item.group, item.told) == ("colic", PHONES[0].lower(), True)


def test_two_roots_may_bear_the_same_label(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.wav b/1.wav")
    found = look([f"cry={tmp_path / 'a'}", f"cry={tmp_path / 'b'}"])
    assert [item.label for item in found.found] == ["cry", "cry"]
    assert len({item.group for item in found.found}) == 2


def test_a_root_with_a_label_may_stand_beside_roots_with_label_folders(tmp_path: Path) -> None:
    fill(tmp_path, "noise/anna/1.wav corpus/low/2.wav corpus/high/3.wav")
    found = look([f"no cry={tmp_path / 'noise'}", str(tmp_path / "corpus")])
    assert labels(found) == {"anna/1.wav": "no cry", "high/3.wav": "high", "low/2.wav": "low"}
    assert {item.label: item.corpus for item in found.found} == {
        "no cry": tmp_path.name,
        "high": "corpus",
        "low": "corpus",
    }


def test_corpora_bear_the_names_of_their_folders(tmp_path: Path) -> None:
    fill(tmp_path, "donateacry/low/1.wav esc/high/2.wav lists/x")
    listed = table(tmp_path / "lists" / "all.csv", "path,label\n3.wav,low\n")
    found = look([tmp_path / "donateacry", tmp_path / "esc", listed])
    assert [item.corpus for item in found.found] == ["donateacry", "esc", "lists"]


@pytest.mark.parametrize(
    "roots",
    [
        ["a/audio", "b/audio"],
        ["a/audio", "b/audio", "c/audio"],
        ["a/audio", "b/audio", "other"],
        ["x/a/audio", "y/a/audio"],
        ["a/audio", "x/a/audio"],
        ["audio", "x/audio"],
        ["x/a/audio", "y/a/audio", "z/a/audio"],
    ],
)
def test_corpora_whose_folders_bear_one_name_are_told_apart_in_any_order(roots: list[str], tmp_path: Path) -> None:
    for number, root in enumerate(roots):
        fill(tmp_path / root, [f"low/{number}.wav", f"high/{number}.wav"])
    named = {}
    for order in (roots, roots[::-1]):
        found = look([tmp_path / root for root in order])
        named[tuple(order)] = {item.path: item.corpus for item in found.found if item.path.parent.name == "low"}
        assert len(set(named[tuple(order)].values())) == len(roots)
    assert named[tuple(roots)] == named[tuple(roots[::-1])]


def test_labels_of_two_corpora_in_one_call_have_the_corpora_around_them(tmp_path: Path) -> None:
    paths = [fill(tmp_path / corpus / label, "1.wav") for corpus in ("s1", "s2") for label in ("low", "high")]
    found = look(paths)
    assert [(item.corpus, item.label) for item in found.found] == [
        ("s1", "low"),
        ("s1", "high"),
        ("s2", "low"),
        ("s2", "high"),
    ]


@pytest.mark.parametrize("rule", ["auto", "file", "folder", "baby-[0-9]"])
@pytest.mark.parametrize("names", [("s1", "s2"), ("s1/audio", "s2/audio"), ("x/s1/audio", "y/s1/audio")])
def test_the_same_path_below_two_roots_is_two_groups(rule: str, names: tuple[str, str], tmp_path: Path) -> None:
    roots = [fill(tmp_path / name, "low/1.wav high/2.wav") for name in names]
    found = look(roots, f"data.group_by={rule}")
    assert len({item.group for item in found.found}) == 4


@pytest.mark.parametrize("names", [("s1", "s2"), ("s1/audio", "s2/audio")])
def test_the_same_path_in_two_lists_is_two_groups(names: tuple[str, str], tmp_path: Path) -> None:
    files = [table(tmp_path / name / "list.csv", "path,label\n1.wav,low\n") for name in names]
    assert len({item.group for item in look(files).found}) == 2


def test_a_phone_is_one_group_below_any_root(tmp_path: Path) -> None:
    for root, epoch in (("raw", 1), ("cleaned", 2)):
        fill(tmp_path / root, [f"hungry/{PHONES[0]}-143074219{epoch}-1.0-m-04-hu.caf", "tired/x.wav"])
    found = look([tmp_path / "raw", tmp_path / "cleaned"])
    assert [item.group for item in found.found if item.told] == [PHONES[0].lower()] * 2


def test_a_recording_below_two_roots_is_taken_once_with_what_the_first_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, "corpus/low/a.wav corpus/high/b.wav")
    (tmp_path / "link").symlink_to("corpus")
    for again in (tmp_path / "corpus", tmp_path / "corpus" / ".." / "corpus", tmp_path / "link"):
        caplog.clear()
        assert labels(look([tmp_path / "corpus", again])) == {"high/b.wav": "high", "low/a.wav": "low"}
        assert os.path.abspath(again) in caplog.text
    found = look([f"cold={tmp_path / 'corpus' / 'low'}", str(tmp_path / "corpus")])
    assert labels(found) == {"a.wav": "cold", "high/b.wav": "high"}


def test_a_recording_and_a_link_to_it_are_taken_once(tmp_path: Path) -> None:
    fill(tmp_path, "low/a.wav high/b.wav")
    (tmp_path / "low" / "z.wav").symlink_to("a.wav")
    (tmp_path / "low" / "loop").symlink_to("..")
    assert labels(look(tmp_path)) == {"high/b.wav": "high", "low/a.wav": "low"}


def test_a_recording_in_a_folder_and_in_a_list_is_taken_once(tmp_path: Path) -> None:
    fill(tmp_path, "low/a.wav high/b.wav")
    listed = table(tmp_path / "meta" / "list.csv", f"path,label\n../low/a.wav,colic\n{tmp_path}/high/b.wav,cold\n")
    assert sorted(labels(look([listed, tmp_path])).values()) == ["cold", "colic"]
    assert sorted(labels(look([tmp_path, listed])).values()) == ["high", "low"]


def test_excerpts_of_one_recording_are_taken_each_and_each_once(tmp_path: Path) -> None:
    listed = table(
        tmp_path / "list.csv", "path,label,start,end\na.wav,low,0,1\na.wav,high,1,2\na.wav,low,0.0,1.000\na.wav,low,,\n"
    )
    found = look(listed)
    assert [(item.label, item.start, item.end) for item in found.found] == [
        ("low", 0.0, 1.0),
        ("high", 1.0, 2.0),
        ("low", None, None),
    ]
    assert len({item.group for item in found.found}) == 1


@pytest.mark.parametrize("other", ["./a.wav", "../data/a.wav", "b/../a.wav", "link.wav", "{folder}/a.wav"])
def test_excerpts_of_one_recording_are_one_group_however_its_path_is_written(other: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", "a.wav b/c.wav")
    (folder / "link.wav").symlink_to("a.wav")
    rows = f"a.wav,low,0,1\n{other.format(folder=folder)},high,1,2\n"
    found = look(table(folder / "list.csv", f"path,label,start,end\n{rows}")).found
    # It decodes nothing of an empty file, and still says which excerpts stay together.
    assert len(set(survey(found, settings("workers=1", "cache=none")).groups)) == 1


# Lists


def test_a_list_tells_path_label_and_group_and_keeps_the_rest(tmp_path: Path) -> None:
    listed = table(tmp_path / "list.csv", "age,path,label,group,town\n3,sub/a.wav,low,anna,\n,b.wav,high,,Ulm\n")
    low, high = look(listed).found
    assert (low.path, low.label, low.group, low.told) == (tmp_path / "sub" / "a.wav", "low", "anna", True)
    assert (high.path, high.label, high.group, high.told) == (tmp_path / "b.wav", "high", "b.wav", False)
    assert [low.extra, high.extra] == [{"age": "3"}, {"town": "Ulm"}]
    assert low.corpus == high.corpus == tmp_path.name


@pytest.mark.parametrize("column", ["path", "file_name", "filename", "file"])
def test_the_recordings_of_a_list_may_stand_in_several_columns(column: str, tmp_path: Path) -> None:
    item = only(look(table(tmp_path / "list.csv", f"label,{column}\nlow,a.wav\n")))
    assert (item.path, item.label, item.extra) == (tmp_path / "a.wav", "low", {})


def test_the_paths_of_a_list_are_relative_to_it_or_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "meta" / "list.csv", f"path,label\n../audio/a.wav,low\n{tmp_path}/b.wav,low\n")
    monkeypatch.chdir(tmp_path / "meta")
    for root in ("list.csv", "../meta/list.csv", str(tmp_path / "meta" / "list.csv")):
        paths = [os.path.abspath(item.path) for item in look(root).found]
        assert paths == [str(tmp_path / "audio" / "a.wav"), str(tmp_path / "b.wav")]


def test_a_recording_of_a_list_that_is_missing_is_not_the_scans_business(tmp_path: Path) -> None:
    assert only(look(table(tmp_path / "list.csv", "path,label\ngone/a.wav,low\n"))).problem == ""


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath,label\nm\xc3\xbcde/a b.wav,m\xc3\xbcde\n",
        b"path,label\r\nm\xc3\xbcde/a b.wav,m\xc3\xbcde\r\n",
        b'"path","label"\r\n"m\xc3\xbcde/a b.wav","m\xc3\xbcde"',
        b"path,label\n\nm\xc3\xbcde/a b.wav,m\xc3\xbcde\n\n",
    ],
)
def test_a_list_as_a_spreadsheet_saves_it_is_read(content: bytes, tmp_path: Path) -> None:
    assert labels(look(table(tmp_path / "LIST.CSV", content))) == {"müde/a b.wav": "müde"}


def test_quoted_line_feeds_and_commas_in_a_list_are_part_of_the_cell(tmp_path: Path) -> None:
    listed = table(tmp_path / "list.csv", 'path,label,note\n"a\nb.wav","low, and angry","two\r\nlines"\nc.wav,low,\n')
    found = look(listed)
    assert labels(found) == {"a\nb.wav": "low, and angry", "c.wav": "low"}
    assert found.found[0].extra == {"note": "two\r\nlines"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("path,name\na.wav,low\n", "no column label"),
        ("name,label\na.wav,low\n", "no column path"),
        ("path,label\na.wav,low,x\n", "cannot read"),
        ("", "cannot read"),
        (b"path,label\n\xe4.wav,low\n", "cannot read"),
        ("path,label\na.wav,low\n,high\n", "row 3: the path is empty"),
        ("path,label,start,end\na.wav,low,1,\n", "row 2: start and end"),
        ("path,label,start,end\na.wav,low,2,1\n", "row 2: start and end"),
        ("path,label,start,end\na.wav,low,soon,later\n", "row 2: start must be a number"),
        ("path,label,start,end\na.wav,low,-1,1\n", "row 2: start must be a number"),
        ("path,label,fold\na.wav,low,first\n", "row 2: fold must be a number"),
        ("path,label,fold\na.wav,low,0\n", "fold"),
        ("path,label,fold\na.wav,low,1.5\n", "fold"),
        ("path,label\na.wav,\n", "no labels"),
        ("path,label\n", "no recordings"),
    ],
)
def test_a_list_that_cannot_be_used_is_named_with_the_reason(content: str | bytes, named: str, tmp_path: Path) -> None:
    message = refusal(table(tmp_path / "list.csv", content))
    assert "list.csv" in message
    assert named in message


def test_an_empty_label_in_a_list_is_a_problem_of_that_recording_alone(tmp_path: Path) -> None:
    found = look(table(tmp_path / "list.csv", "path,label\na.wav,\nb.wav,low\n"))
    assert [(item.label, bool(item.problem)) for item in found.found] == [("", True), ("low", False)]


def test_columns_of_any_name_may_give_the_labels_and_the_groups(tmp_path: Path) -> None:
    listed = table(
        tmp_path / "list.csv", "path,reason,baby id,label,group,age\na.wav,hungry,anna,x,y,3\nb.wav,tired,,x,y,4\n"
    )
    first, second = look(listed, "data.label_by=column:reason", "data.group_by='column:baby id'").found
    assert (first.label, first.group, first.extra) == ("hungry", "anna", {"age": "3"})
    assert (second.label, second.group, second.told) == ("tired", "b.wav", False)


@pytest.mark.parametrize("rule", ["label_by", "group_by"])
def test_a_column_that_a_list_does_not_have_is_named_with_those_that_it_has(rule: str, tmp_path: Path) -> None:
    message = refusal(table(tmp_path / "list.csv", "path,label\na.wav,low\n"), f"data.{rule}=column:baby")
    assert "no column baby" in message
    assert "path, label" in message


@pytest.mark.parametrize("rule", ["label_by", "group_by"])
def test_a_column_rule_without_a_list_is_refused(rule: str, tmp_path: Path) -> None:
    message = refusal(fill(tmp_path, "low/a.wav high/b.wav"), f"data.{rule}=column:baby")
    assert f"data.{rule}" in message
    assert "CSV" in message


def test_a_column_rule_is_for_the_lists_and_folders_go_by_their_folders(tmp_path: Path) -> None:
    listed = table(tmp_path / "lists" / "list.csv", "path,reason,baby\na.wav,hungry,anna\n")
    fill(tmp_path / "corpus", [f"low/{PHONES[0]}-1430742197-1.0-m-04-hu.caf", "high/b.wav"])
    found = look([listed, tmp_path / "corpus"], "data.label_by=column:reason", "data.group_by=column:baby")
    assert {item.label: item.group for item in found.found} == {
        "hungry": "anna",
        "low": PHONES[0].lower(),
        "high": "corpus/high/b.wav",
    }


def test_a_list_needs_no_labels_where_its_root_names_one(tmp_path: Path) -> None:
    bare = table(tmp_path / "bare.csv", "path\na.wav\n")
    full = table(tmp_path / "full.csv", "path,label,group\nb.wav,low,anna\n")
    found = look([f"cold={bare}", f"colic={full}"])
    assert labels(found) == {"a.wav": "cold", "b.wav": "colic"}
    assert groups(found)["b.wav"] == "anna"


def test_the_paths_of_a_list_may_tell_the_labels_by_an_expression(tmp_path: Path) -> None:
    listed = table(tmp_path / "list.csv", "path,age\nanna/low-1.wav,3\n/data/bert/high-2.wav,4\n")
    low, high = look(listed, r"data.label_by='(?P<group>\w+)/(?P<label>\w+)-(?P<take>\d)'").found
    assert (low.label, low.group, low.extra) == ("low", "anna", {"take": "1", "age": "3"})
    assert (high.label, high.group, high.extra) == ("high", "bert", {"take": "2", "age": "4"})


def test_the_paths_of_a_list_may_tell_the_labels_by_known_names(tmp_path: Path) -> None:
    listed = table(tmp_path / "esc50.csv", "filename,target,fold\n1-100032-A-0.wav,0,4\n2-9-B-20.wav,20,\n")
    dog, baby = look(listed, "data.label_by=esc").found
    assert (dog.label, dog.group, dog.fold, dog.extra) == ("dog", "esc-100032", 4, {"target": "0"})
    assert (baby.label, baby.group, baby.fold) == ("crying_baby", "esc-9", 2)


def test_the_folders_of_a_list_may_be_the_labels(tmp_path: Path) -> None:
    listed = table(tmp_path / "list.csv", "path\nlow/a.wav\nlow/b.wav\nhigh/c.wav\n")
    assert labels(look(listed, "data.label_by=folder")) == {
        "low/a.wav": "low",
        "low/b.wav": "low",
        "high/c.wav": "high",
    }


def test_the_corpora_that_a_list_names_are_kept(tmp_path: Path) -> None:
    listed = table(tmp_path / "data" / "train.csv", "path,label,corpus\na.wav,low,ward\nb.wav,high,\n")
    assert [item.corpus for item in look(listed).found] == ["ward", "data"]


def test_what_a_list_says_of_the_sound_is_measured_anew_and_not_kept(tmp_path: Path) -> None:
    listed = table(
        tmp_path / "train.csv",
        "path,label,duration,sample_rate,channels,codec,loudness_db,flags,note\na.wav,low,long,,,x,loud,quiet,mine\n",
    )
    assert only(look(listed)).extra == {"note": "mine"}


def test_start_end_and_fold_of_a_list_are_kept(tmp_path: Path) -> None:
    item = only(look(table(tmp_path / "list.csv", "path,label,start,end,fold\na.wav,low,1.5,2.25,3\n")))
    assert (item.start, item.end, item.fold, item.extra) == (1.5, 2.25, 3, {})


# Groups


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("auto", ["high/anna-1.wav", "low/anna-2.wav", "low/bert/3.wav"]),
        ("file", ["high/anna-1.wav", "low/anna-2.wav", "low/bert/3.wav"]),
        ("folder", ["high", "low", "low/bert"]),
        ("[a-z]+-", ["anna-", "anna-", "low/bert/3.wav"]),
        (r"/(?P<group>\w+)[-/]", ["anna", "anna", "bert"]),
        (r"(\w+)-\d", ["anna", "anna", "low/bert/3.wav"]),
    ],
)
def test_a_rule_tells_the_groups_of_a_folder(rule: str, expected: list[str], tmp_path: Path) -> None:
    fill(tmp_path, "low/anna-2.wav low/bert/3.wav high/anna-1.wav")
    found = look(tmp_path, f"data.group_by='{rule}'")
    assert [item.group for item in found.found] == expected
    assert [item.told for item in found.found] == [item.group != item.relative for item in found.found]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("auto", ["anna", "esc-100032", "low/b.wav"]),
        ("column:group", ["anna", "esc-100032", "low/b.wav"]),
        ("column:ward", ["1", "2", "2"]),
        ("file", ["low/a.wav", "low/1-100032-A.wav", "low/b.wav"]),
        ("folder", ["low", "low", "low"]),
        ("esc", ["low/a.wav", "esc-100032", "low/b.wav"]),
        (r"(\w)\.wav", ["a", "A", "b"]),
    ],
)
def test_a_rule_tells_the_groups_of_a_list(rule: str, expected: list[str], tmp_path: Path) -> None:
    listed = table(
        tmp_path / "list.csv",
        "path,label,group,ward\nlow/a.wav,low,anna,1\nlow/1-100032-A.wav,low,,2\nlow/b.wav,low,,2\n",
    )
    assert [item.group for item in look(listed, f"data.group_by='{rule}'").found] == expected


def test_the_group_of_the_expression_for_labels_counts_unless_another_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path, "anna/low.wav anna/high.wav")
    rule = r"data.label_by='(?P<group>\w+)/(?P<label>\w+)\.'"
    assert set(groups(look(tmp_path, rule)).values()) == {"anna"}
    assert groups(look(tmp_path, rule, "data.group_by=file")) == {
        "anna/high.wav": "anna/high.wav",
        "anna/low.wav": "anna/low.wav",
    }
    assert set(groups(look(tmp_path, rule, "data.group_by=[hl]")).values()) == {"h", "l"}


def test_an_expression_for_labels_without_a_group_leaves_the_names_to_tell_it(tmp_path: Path) -> None:
    fill(tmp_path, [f"x/{PHONES[0]}-1430742197-1.0-m-04-hu.caf", "y/b.wav"])
    found = look(tmp_path, r"data.label_by='(?P<label>\w+)/'")
    assert [item.group for item in found.found] == [PHONES[0].lower(), "y/b.wav"]


# Mapping labels


def test_labels_are_renamed_merged_and_dropped(tmp_path: Path) -> None:
    fill(tmp_path, "hungry/1.wav tired/2.wav lonely/3.wav lonely/4.wav cold/5.wav")
    found = look(tmp_path, "data.label_map={hungry: need, tired: need, lonely: null}")
    assert labels(found) == {"cold/5.wav": "cold", "hungry/1.wav": "need", "tired/2.wav": "need"}
    assert (found.dropped, found.warnings) == (2, [])


def test_two_labels_can_be_swapped(tmp_path: Path) -> None:
    fill(tmp_path, "low/1.wav high/2.wav")
    assert labels(look(tmp_path, "data.label_map={low: high, high: low}")) == {"high/2.wav": "low", "low/1.wav": "high"}


@pytest.mark.parametrize(
    ("entry", "expected", "dropped"), [("other", {"cry": 1, "other": 2}, 0), ("null", {"cry": 1}, 2)]
)
def test_a_star_stands_for_all_labels_that_are_not_named(
    entry: str, expected: dict[str, int], dropped: int, tmp_path: Path
) -> None:
    fill(tmp_path, "dog/1.wav cat/2.wav crying_baby/3.wav")
    found = look(tmp_path, f"data.label_map={{crying_baby: cry, '*': {entry}}}")
    assert Counter(labels(found).values()) == expected
    assert (found.dropped, found.warnings) == (dropped, [])


def test_a_star_gives_no_label_to_a_recording_that_has_none(tmp_path: Path) -> None:
    fill(tmp_path, "dog/1.wav cat/2.wav loose.wav")
    for entry in ("other", "null"):
        found = look(tmp_path, f"data.label_map={{cat: cat, '*': {entry}}}")
        (loose,) = [item for item in found.found if item.relative == "loose.wav"]
        assert (loose.label, bool(loose.problem)) == ("", True)


def test_labels_of_the_map_that_no_recording_bears_are_warned_of(tmp_path: Path) -> None:
    fill(tmp_path, "low/1.wav high/2.wav")
    (warning,) = look(tmp_path, "data.label_map={hihg: x, low: y, aloud: null}").warnings
    assert "data.label_map" in warning
    assert "aloud, hihg" in warning
    assert "low" not in warning.partition("labelled:")[2]


@pytest.mark.parametrize("entries", ["'*': null", "low: null, high: null", "low: null, '*': null"])
@pytest.mark.parametrize("loose", [False, True])
def test_a_map_that_drops_every_label_is_refused(entries: str, loose: bool, tmp_path: Path) -> None:
    fill(tmp_path, "low/1.wav high/2.wav" + " loose.wav" * loose)
    assert "data.label_map" in refusal(tmp_path, f"data.label_map={{{entries}}}")


def test_the_map_applies_to_all_roots_and_to_their_own_labels(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.wav corpus/Hungry/2.wav corpus/tired/3.wav")
    listed = table(tmp_path / "list.csv", "path,label\n4.wav,HUNGRY\n")
    roots = [f"hunger={tmp_path / 'a'}", str(tmp_path / "corpus"), str(listed)]
    found = look(roots, "data.label_map={hunger: hungry, Hungry: hungry, HUNGRY: hungry}")
    assert Counter(labels(found).values()) == {"hungry": 3, "tired": 1}


LABELS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0* \t"), min_size=1, max_size=3)


@given(
    stored=st.lists(LABELS | st.just(""), min_size=1, max_size=8),
    label_map=st.dictionaries(LABELS | st.just("*"), st.none() | LABELS, max_size=4),
)
@example(stored=["a", "b", "", "c"], label_map={"a": "b", "b": None, "*": "x"})
@example(stored=["a", ""], label_map={"*": None})
def test_no_recording_is_lost_or_mislabelled_by_a_map(
    stored: list[str], label_map: dict[str, str | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "mapped.csv"
    write_rows(file, ("path", "label"), [{"path": f"{row}.wav", "label": label} for row, label in enumerate(stored)])
    expected = {
        f"{row}.wav": (label_map[label] if label in label_map else label_map.get("*", label)) if label else ""
        for row, label in enumerate(stored)
    }
    data = load_config(None, flags={"data.label_map": label_map}).data
    if not any(expected.values()):
        with pytest.raises(DataError):
            scan([parse_root(file)], data)
        return
    found = scan([parse_root(file)], data)
    assert labels(found) == {path: label for path, label in expected.items() if label is not None}
    assert found.dropped == sum(label is None for label in expected.values())
    assert all(bool(item.label) != bool(item.problem) for item in found.found)


# Order


def test_the_order_is_that_of_the_roots_and_of_the_names_whatever_the_disk_says(tmp_path: Path) -> None:
    names = ["low/b.wav", "low/a.wav", "high/ä.wav", "high/z/1.wav", "high/B.wav", "Low/c.wav"]
    first, second = fill(tmp_path / "1" / "c", names), fill(tmp_path / "2" / "c", reversed(names))
    orders = [[item.relative for item in look(folder).found] for folder in (first, second, first)]
    assert orders[0] == orders[1] == orders[2]
    assert orders[0].index("low/a.wav") < orders[0].index("low/b.wav")
    both = [item.path for item in look([second, first]).found]
    assert both == [*(second / name for name in orders[0]), *(first / name for name in orders[0])]


def test_the_rows_of_a_list_stay_in_their_order(tmp_path: Path) -> None:
    listed = table(tmp_path / "list.csv", "path,label\nb.wav,low\na.wav,low\nc.wav,high\n")
    assert list(labels(look(listed))) == ["b.wav", "a.wav", "c.wav"]


def test_progress_counts_the_recordings_of_all_roots(tmp_path: Path) -> None:
    roots = [fill(tmp_path / "a", "low/1.wav high/2.wav"), fill(tmp_path / "b", "low/3.wav")]
    steps: list[Step] = []
    scan([parse_root(root) for root in roots], settings().data, steps.append)
    assert [(step.name, step.done) for step in steps] == [("scan", 1), ("scan", 2), ("scan", 3)]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_label_is_one_in_whichever_unicode_form_its_folder_is_written(form: str, tmp_path: Path) -> None:
    name = unicodedata.normalize(form, "müde")
    item = only(look(fill(tmp_path, [f"{name}/a.wav"])))
    assert (item.label, item.path) == ("müde", tmp_path / name / "a.wav")


def test_a_group_is_one_in_both_unicode_forms_of_its_name(tmp_path: Path) -> None:
    both = [unicodedata.normalize(form, "zoë") for form in ("NFC", "NFD")]
    fill(tmp_path, [f"low/{name}-{take}.wav" for take, name in enumerate(both)])
    assert set(groups(look(tmp_path, r"data.group_by=/(?P<group>[^/]+)-\d+")).values()) == {"zoë"}
    rows = [f"{number}.wav,low,{name}" for number, name in enumerate(both)]
    listed = table(tmp_path / "list.csv", "\n".join(["path,label,group", *rows]))
    assert set(groups(look(listed)).values()) == {"zoë"}
    alone = fill(tmp_path / "alone", [f"low/{both[1]}.wav"])
    assert not only(look(alone)).told


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_list_with_semicolons_or_tabs_is_read_as_well(separator: str, tmp_path: Path) -> None:
    rows = ["path,label", '"a, b.wav",low', "c.wav, high "]
    text = "\n".join(row.replace(",", separator, 1) if '"' not in row else f'"a, b.wav"{separator}low' for row in rows)
    found = look(table(tmp_path / "list.csv", text + "\n")).found
    assert [(item.path.name, item.label) for item in found] == [("a, b.wav", "low"), ("c.wav", "high")]


def test_a_link_within_a_root_moves_no_recording_to_another_label(tmp_path: Path) -> None:
    fill(tmp_path, "hungry/a.wav tired/b.wav")
    (tmp_path / "hungry" / "link").symlink_to(Path("..") / "tired")
    (tmp_path / "hungry" / "file.wav").symlink_to(Path("..") / "tired" / "b.wav")
    found = look(tmp_path)
    assert labels(found) == {"hungry/a.wav": "hungry", "tired/b.wav": "tired"}
    assert any("reached twice" in warning for warning in found.warnings)


def test_labels_that_differ_in_case_alone_are_warned_of(tmp_path: Path) -> None:
    (warning,) = look(fill(tmp_path, "Hungry/a.wav hungry/b.wav tired/c.wav")).warnings
    assert "'Hungry', 'hungry'" in warning
