"""Manifests: what is written is read back, wherever the folder goes, and a damaged one is named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest
import soundfile
from conftest import cry, settings
from hypothesis import example, given
from hypothesis import strategies as st

from crycli.config import Flag
from crycli.errors import DataError
from crycli.manifest import (
    COLUMNS,
    DECIMALS,
    PARTS,
    PATH_COLUMNS,
    Clip,
    manifest_text,
    read_manifest,
    read_table,
    read_times,
    stored_path,
    write_manifest,
    write_rows,
)
from crycli.outputs import write_together

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


def rounded(name: str, lowest: float, highest: float) -> st.SearchStrategy[float]:
    """Numbers with as many decimals as the column keeps."""
    scale = 10 ** DECIMALS[name]
    return st.integers(round(lowest * scale), round(highest * scale)).map(lambda number: number / scale)


TIMES = st.just({}) | st.tuples(rounded("start", 0, 9000), rounded("end", 0.001, 900)).map(
    lambda times: {"start": times[0], "end": round(times[0] + times[1], 3)}
)
MEASURES: dict[str, st.SearchStrategy[Any]] = {
    "fold": st.integers(1, 10),
    "duration": rounded("duration", 0, 1e5),
    "sample_rate": st.integers(1, 768_000),
    "channels": st.integers(1, 64),
    "loudness_db": rounded("loudness_db", -120, 3),
    "clipped_share": rounded("clipped_share", 0, 1),
    "silent_share": rounded("silent_share", 0, 1),
    "bandwidth_hz": rounded("bandwidth_hz", 0, 384_000),
    "dc_offset": rounded("dc_offset", -1, 1),
    "corpus": WORDS,
    "codec": WORDS,
    "flags": st.lists(st.sampled_from(get_args(Flag)), unique=True).map(tuple),
    "extra": st.dictionaries(WORDS.filter(lambda name: name not in COLUMNS), st.just("") | WORDS, max_size=3),
}
CLIPS = st.lists(
    st.tuples(
        st.lists(NAMES, min_size=1, max_size=3), WORDS, WORDS, TIMES, st.fixed_dictionaries({}, optional=MEASURES)
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


@given(rows=CLIPS)
@example(rows=[([label], label, label, {}, {"corpus": label, "extra": {label: label}}) for label in TRICKY])
@example(rows=[(["a"], "low", "a", {}, {"extra": {"file": "b.wav", "filename": "c.wav", "extra": "d"}})])
def test_clips_come_back_as_they_were_written(
    rows: list[tuple[list[str], str, str, dict[str, float], dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    clips = [Clip(folder.joinpath(*names), label, group, **times, **rest) for names, label, group, times, rest in rows]
    write_manifest(folder / "round-trip.csv", clips)
    columns = list(dict.fromkeys(name for clip in clips for name in clip.extra))
    # In a CSV a clip has every column that another one has.
    everywhere = [replace(clip, extra={name: clip.extra.get(name, "") for name in columns}) for clip in clips]
    assert read_manifest(folder / "round-trip.csv") == everywhere
    assert (folder / "round-trip.csv").read_bytes() == manifest_text(clips, folder).encode("utf-8")
    assert manifest_text(read_manifest(folder / "round-trip.csv"), folder) == manifest_text(everywhere, folder)


def test_the_columns_stand_in_their_order_and_those_of_ones_own_behind_them(tmp_path: Path) -> None:
    clip = Clip(
        tmp_path / "low" / "a.wav",
        "low",
        "anna",
        "ward",
        1.0,
        2.23456,
        3,
        1.23456,
        8000,
        2,
        "amrnb",
        -23.456,
        0.12345678,
        0.123456,
        3400.4,
        -0.1234567,
        ("quiet", "copy"),
        {"age": "3", "gender": "female"},
    )
    bare = Clip(tmp_path / "b.wav", "high", "bert", extra={"town": "Ulm"})
    assert manifest_text([clip, bare], tmp_path).splitlines() == [
        "path,label,group,corpus,start,end,fold,duration,sample_rate,channels,codec,"
        "loudness_db,clipped_share,silent_share,bandwidth_hz,dc_offset,flags,age,gender,town",
        "low/a.wav,low,anna,ward,1.000,2.235,3,1.235,8000,2,amrnb,"
        "-23.46,0.123457,0.1235,3400,-0.12346,quiet+copy,3,female,",
        "b.wav,high,bert,,,,,,,,,,,,,,,,,Ulm",
    ]


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


def test_a_column_of_ones_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("age,path,label,town\n3,a.wav,low,\n,b.wav,low,Ulm\n")
    clips = read_manifest(tmp_path / "train.csv")
    assert [(clip.label, clip.extra) for clip in clips] == [
        ("low", {"age": "3", "town": ""}),
        ("low", {"age": "", "town": "Ulm"}),
    ]


@pytest.mark.parametrize("column", PATH_COLUMNS)
def test_the_recordings_may_stand_in_a_column_that_other_tools_write(column: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"{column},label\nsub/a.wav,low\n")
    (clip,) = read_manifest(tmp_path / "train.csv")
    assert (clip.path, clip.group, clip.extra) == (tmp_path / "sub" / "a.wav", "sub/a.wav", {})


@pytest.mark.parametrize("other", PATH_COLUMNS[1:])
def test_of_two_columns_with_recordings_the_one_called_path_counts(other: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"{other},path,label\nb.wav,a.wav,low\n")
    (clip,) = read_manifest(tmp_path / "train.csv")
    assert (clip.path.name, clip.extra) == ("a.wav", {other: "b.wav"})


def test_an_empty_path_is_named_by_the_column_that_the_file_has(tmp_path: Path) -> None:
    assert "row 2: the file_name is empty" in refusal(tmp_path, "file_name,label\n,low\n")


def test_windows_of_one_recording_without_a_group_are_one_group(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label,start,end\na.wav,low,0,1\na.wav,high,1,2.5\n")
    clips = read_manifest(tmp_path / "train.csv")
    assert [(clip.start, clip.end, clip.group) for clip in clips] == [(0.0, 1.0, "a.wav"), (1.0, 2.5, "a.wav")]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("path\na.wav\n", "no column label"),
        ("label\nlow\n", "no column path"),
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
        ('"b\nb.wav",low,anna,"1\n2",8000', "duration must be a number"),
    ],
)
def test_a_bad_cell_is_named_with_its_row(row: str, named: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"path,label,group,duration,sample_rate\na.wav,low,anna,1,8000\n{row}\n")
    assert "row 3" in message
    assert named in message


@pytest.mark.parametrize(
    "column",
    ["start", "end", "fold", "duration", "sample_rate", "channels", "clipped_share", "silent_share", "bandwidth_hz"],
)
def test_a_number_below_zero_is_refused(column: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"path,label,{column}\na.wav,low,-1\n")
    assert f"row 2: {column} must be" in message
    assert "'-1'" in message


@pytest.mark.parametrize("column", ["loudness_db", "dc_offset"])
def test_a_loudness_and_an_offset_may_lie_below_zero(column: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"path,label,{column}\na.wav,low,-0.5\n")
    assert getattr(read_manifest(tmp_path / "train.csv")[0], column) == -0.5


@pytest.mark.parametrize("column", ["loudness_db", "dc_offset"])
@pytest.mark.parametrize("cell", ["-inf", "nan", "loud"])
def test_a_loudness_and_an_offset_must_be_numbers(column: str, cell: str, tmp_path: Path) -> None:
    assert f"{column} must be a number" in refusal(tmp_path, f"path,label,{column}\na.wav,low,{cell}\n")


@pytest.mark.parametrize("times", ["1,", ",1", "2,1", "0.1,0"])
def test_a_start_without_an_end_or_behind_it_is_refused(times: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"path,label,start,end\na.wav,low,0,1\nb.wav,low,{times}\n")
    assert "row 3" in message
    assert "start" in message
    assert "end" in message


@pytest.mark.parametrize("times", ["0,0", "1.5,1.5"])
def test_an_excerpt_of_no_length_is_refused(times: str, tmp_path: Path) -> None:
    assert "row 2" in refusal(tmp_path, f"path,label,start,end\na.wav,low,{times}\n")


def test_a_start_without_a_column_for_the_end_is_refused(tmp_path: Path) -> None:
    assert "row 2" in refusal(tmp_path, "path,label,start\na.wav,low,1\n")


@pytest.mark.parametrize("fold", ["0", "2.5"])
def test_a_fold_that_is_no_whole_number_from_one_is_refused(fold: str, tmp_path: Path) -> None:
    assert "fold" in refusal(tmp_path, f"path,label,fold\na.wav,low,{fold}\n")


def test_times_and_fold_are_read_from_a_row_and_may_be_missing() -> None:
    assert read_times({"start": "0.25", "end": "1", "fold": "5", "label": "low"}, "here") == (0.25, 1.0, 5)
    assert read_times({"start": "", "end": ""}, "here") == (None, None, None)
    assert read_times({}, "here") == (None, None, None)
    with pytest.raises(DataError, match="here: fold must be"):
        read_times({"fold": "first"}, "here")


def test_the_words_of_a_table_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfname,number\r\nNA,007\r\n,1e3\r\n")
    assert read_table(tmp_path / "list.csv").to_dict("records") == [
        {"name": "NA", "number": "007"},
        {"name": "", "number": "1e3"},
    ]


def test_a_clip_that_is_written_again_keeps_what_crycli_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text('note,label,file\n"two\nlines",low,a.wav\n')
    write_manifest(tmp_path / "train.csv", read_manifest(tmp_path / "mine.csv"))
    (clip,) = read_manifest(tmp_path / "train.csv")
    assert (clip.path, clip.extra) == (tmp_path / "a.wav", {"note": "two\nlines"})


def texts(folder: Path, label: str) -> dict[str, str]:
    return {f"{part}.csv": manifest_text([Clip(folder / f"{part}.wav", label, part)], folder) for part in PARTS}


def labels_of_the_parts(folder: Path, first: str) -> set[str]:
    parts = sorted(PARTS, key=lambda part: part != first)
    return {clip.label for part in parts for clip in read_manifest(folder / f"{part}.csv")}


@pytest.mark.parametrize("moved", range(len(PARTS)))
@pytest.mark.parametrize("first", PARTS)
def test_what_an_interruption_left_half_replaced_is_new_when_it_is_read(
    moved: int, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_together(tmp_path, texts(tmp_path, "old"))
    replace_file, calls = Path.replace, count()

    def interrupted(self: Path, target: Path) -> Path:
        if next(calls) == moved:
            raise KeyboardInterrupt
        return replace_file(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupted)
        write_together(tmp_path, texts(tmp_path, "new"))
    assert labels_of_the_parts(tmp_path, first) == {"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.csv", "train.csv", "validation.csv"]


@pytest.mark.parametrize("written", range(len(PARTS) + 1))
def test_an_interruption_before_all_is_written_leaves_the_old_manifests(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_together(tmp_path, texts(tmp_path, "old"))
    write_file, calls = Path.write_bytes, count()

    def interrupted(self: Path, content: bytes) -> int:
        if next(calls) == written:
            raise KeyboardInterrupt
        return write_file(self, content)

    def interrupted_rename(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_bytes", interrupted)
        patch.setattr(Path, "rename", interrupted_rename)
        write_together(tmp_path, texts(tmp_path, "new"))
    assert labels_of_the_parts(tmp_path, "train") == {"old"}


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
