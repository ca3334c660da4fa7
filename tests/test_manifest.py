"""Manifests: what is written is read back, wherever the folder goes, and a damaged one is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import soundfile
from conftest import cry, settings
from hypothesis import example, given
from hypothesis import settings as trials
from hypothesis import strategies as st

from crycli.errors import DataError
from crycli.manifest import COLUMNS, PARTS, Clip, read_manifest, stored_path, write_manifest, write_rows

TRICKY = [
    "NA",
    "nan",
    "null",
    "None",
    "007",
    "1e3",
    "True",
    " ",
    " tired ",
    "a,b",
    'say "uh"',
    "two\nlines",
    "cr\rlf",
    "#",
]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
WORDS = st.sampled_from(TRICKY) | TEXT
NAMES = WORDS.map(lambda text: text.replace("/", "_")).filter(lambda name: name not in {".", ".."})
ROWS = st.lists(
    st.tuples(
        st.lists(NAMES, min_size=1, max_size=3),
        WORDS,
        WORDS,
        st.none() | st.integers(0, 10**8).map(lambda milliseconds: milliseconds / 1000),
        st.none() | st.integers(1, 768_000),
    ),
    max_size=5,
)


def refusal(folder: Path, content: str | bytes) -> str:
    file = folder / "train.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    with pytest.raises(DataError) as caught:
        read_manifest(file)
    assert "train.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@trials(deadline=None)
@given(rows=ROWS)
@example(rows=[([label], label, label, 0.5, 8000) for label in TRICKY])
def test_clips_come_back_as_they_were_written(
    rows: list[tuple[list[str], str, str, float | None, int | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    clips = [Clip(folder.joinpath(*names), *rest) for names, *rest in rows]
    write_manifest(folder / "round-trip.csv", clips)
    assert read_manifest(folder / "round-trip.csv") == clips


def test_the_columns_stand_in_their_order(tmp_path: Path) -> None:
    write_manifest(tmp_path / "train.csv", [Clip(tmp_path / "low" / "a.wav", "low", "anna", duration=1.23456, sample_rate=8000)])
    assert (tmp_path / "train.csv").read_bytes() == (
        b"path,label,group,duration,sample_rate\nlow/a.wav,low,anna,1.235,8000\n"
    )


def test_a_manifest_without_clips_keeps_its_header(tmp_path: Path) -> None:
    write_manifest(tmp_path / "train.csv", [])
    assert (tmp_path / "train.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert read_manifest(tmp_path / "train.csv") == []


def test_a_dataset_whose_recordings_lie_below_the_manifest_can_be_moved(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new place"
    recording = old / "low" / "a.wav"
    recording.parent.mkdir(parents=True)
    recording.touch()
    write_manifest(old / "train.csv", [Clip(recording, "low", "anna")])
    shutil.move(old, new)
    (clip,) = read_manifest(new / "train.csv")
    assert clip.path == new / "low" / "a.wav"
    assert clip.path.is_file()


def test_a_manifest_can_be_moved_away_from_recordings_that_lie_elsewhere(tmp_path: Path) -> None:
    write_manifest(tmp_path / "train.csv", [Clip(tmp_path.parent / "elsewhere" / "a.wav", "low", "anna")])
    (tmp_path / "sub").mkdir()
    shutil.move(tmp_path / "train.csv", tmp_path / "sub" / "train.csv")
    assert read_manifest(tmp_path / "sub" / "train.csv")[0].path == tmp_path.parent / "elsewhere" / "a.wav"


def test_a_path_given_relative_to_the_working_folder_is_stored_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stored_path(Path("data/low/a.wav"), Path("data")) == "low/a.wav"
    assert stored_path(Path("other/a.wav"), Path("data")) == str(tmp_path / "other" / "a.wav")
    assert stored_path(Path("data/../other/a.wav"), Path("data")) == str(tmp_path / "other" / "a.wav")
    assert stored_path(Path("database/a.wav"), Path("data")) == str(tmp_path / "database" / "a.wav")


def test_path_and_label_are_enough(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("label,path\nlow,a.wav\nlow,b.wav\n")
    clips = read_manifest(tmp_path / "train.csv")
    assert [(clip.path.name, clip.label, clip.duration, clip.sample_rate) for clip in clips] == [
        ("a.wav", "low", None, None),
        ("b.wav", "low", None, None),
    ]
    assert clips[0].group != clips[1].group


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfpath,label\na.wav,low\n", b"path,label\r\na.wav,low\r\n"])
def test_what_a_spreadsheet_saves_is_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    assert [(clip.path, clip.label) for clip in read_manifest(tmp_path / "train.csv")] == [(tmp_path / "a.wav", "low")]


def test_a_column_of_ones_own_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("age,path,label\n3,a.wav,low\n")
    assert read_manifest(tmp_path / "train.csv")[0].label == "low"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("path\na.wav\n", "no column label"),
        ("label\nlow\n", "no column path"),
        ("path;label\na.wav;low\n", "no column path and no column label"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(content: str, named: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, content)
    assert named in message
    assert content.partition("\n")[0] in message


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (",low,anna,1,8000", "path is empty"),
        ("b.wav,,anna,1,8000", "label is empty"),
        ("b.wav", "label is empty"),
        ("b.wav,low,anna,long,8000", "duration must be a number, not 'long'"),
        ("b.wav,low,anna,nan,8000", "duration must be a number, not 'nan'"),
        ("b.wav,low,anna,-1,8000", "duration must be a number, not '-1'"),
        ("b.wav,low,anna,1,fast", "sample_rate must be a number, not 'fast'"),
        ("b.wav,low,anna,1,inf", "sample_rate must be a number, not 'inf'"),
    ],
)
def test_a_bad_cell_is_named_with_its_row(row: str, named: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"{','.join(COLUMNS)}\na.wav,low,anna,1,8000\n{row}\n")
    assert "row 3" in message
    assert named in message


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na.wav,low, and angry\n",
        "path,label\na.wav,low\nb.wav,low, and angry\n",
        "age,path,label\n3,a.wav,low,x\n",
    ],
)
def test_a_row_longer_than_the_header_is_refused_and_not_shifted(content: str, tmp_path: Path) -> None:
    refusal(tmp_path, content)


@pytest.mark.parametrize(
    "content", ["", b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xfe\0", 'path,label\n"a.wav,low\n', "\n\n", b"\0"]
)
def test_a_file_that_is_no_csv_is_refused(content: str | bytes, tmp_path: Path) -> None:
    refusal(tmp_path, content)


def test_a_missing_manifest_points_to_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv.*`crycli prepare`"):
        read_manifest(tmp_path / "train.csv")


def test_a_folder_in_place_of_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_manifest(tmp_path)


def test_rows_of_text_are_written_as_they_are(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ("path", "reason"), [{"path": "NA", "reason": 'a "b", c'}])
    assert (tmp_path / "rows.csv").read_text() == 'path,reason\nNA,"a ""b"", c"\n'


def test_labels_that_look_like_missing_values_and_numbers_reach_the_dataset(tmp_path: Path) -> None:
    from crycli.dataset import load_and_prepare_datasets

    labels = ["007", "NA", "a,b", "null"]
    clips = []
    for number, label in enumerate(labels):
        soundfile.write(tmp_path / f"{number}.wav", cry(300.0, 0.5), 16_000)
        clips.append(Clip(tmp_path / f"{number}.wav", label, label))
    for part in PARTS:
        write_manifest(tmp_path / f"{part}.csv", clips)
    train, _, test, _, names, count = load_and_prepare_datasets(tmp_path, settings("model.backbone=mini"))
    assert (names, count) == (labels, 4)
    assert [names[row] for row in train["labels"]] == [names[row] for row in test["labels"]] == labels
