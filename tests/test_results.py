"""Answers on a stream, in files that can be gone on with, and beside recordings."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from crycli.audio import Excerpt, Location
from crycli.errors import ConfigError, OutputError
from crycli.events import EventPolicy
from crycli.predictions import Prediction, Windows
from crycli.results import Results, open_results
from crycli.tables import Form, Layout, Sort, form_of

LABELS = ("cry", "noise")
LAYOUT = Layout("windows", LABELS)
EVENTS = Layout("events", LABELS, events=EventPolicy(("cry",)))
RECORDINGS: list[Location | Excerpt] = [Path(f"{name}.wav") for name in "cabed"]


class StoppedError(Exception):
    """What interrupts a run."""


def answer_for(recording: Location | Excerpt) -> Prediction:
    """Two windows and a vector, which depend on the name; "b" cannot be read."""
    excerpt = recording if isinstance(recording, Excerpt) else Excerpt(recording)
    letter = Path(excerpt.path).name[0]
    if letter == "b":
        return Prediction(excerpt.path, error="no such file")
    likely = (ord(letter) - 90) / 16  # 0.4375 for a, 0.625 for d
    each = np.array([[likely, 1 - likely], [1.0, 0.0]])
    start = excerpt.start or 0.0
    mean = tuple(each.mean(axis=0).tolist())
    windows = Windows(start + np.array([0.0, 1.0]), start + np.array([1.0, 2.0]), each)
    vector = np.array([ord(letter), 1 / 3, -1.5], np.float32)
    return Prediction(*(excerpt.path, start, start + 2.0, "cry", mean[0], mean), windows=windows, embedding=vector)


def run(results: Results, most: int | None = None) -> Results:
    """Answer for the remaining recordings, or for some of them and be interrupted."""
    try:
        with results:
            for recording in results.remaining[:most]:
                results.write(answer_for(recording))
            if most is not None:
                raise StoppedError
    except StoppedError:
        pass
    return results


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def kinds() -> list[dict[str, Any]]:
    """The ways to write files that resume in their own way."""
    return [
        {"form": "csv", "layout": LAYOUT, "name": "a.csv"},
        {"form": "jsonl", "layout": LAYOUT, "name": "a.jsonl", "embeddings": "v.csv"},
        {"form": "raven", "layout": EVENTS, "name": "a.txt"},
        {"form": "csv", "layout": LAYOUT, "name": "a.csv", "sort": "confidence", "embeddings": "v.csv"},
        {"form": "csv", "layout": LAYOUT, "name": None, "embeddings": "v.csv"},
        {"form": "parquet", "layout": EVENTS, "name": "a.parquet", "embeddings": "v.parquet"},
    ]


def opened(
    folder: Path,
    kind: dict[str, Any],
    *,
    resume: bool = False,
    force: bool = False,
    recordings: Sequence[Location | Excerpt] = RECORDINGS,
    task: dict[str, Any] | None = None,
) -> Results:
    return open_results(
        recordings,
        kind["layout"],
        kind["form"],
        None if kind["name"] is None else folder / kind["name"],
        embeddings=folder / kind["embeddings"] if "embeddings" in kind else None,
        sort=kind.get("sort", "input"),
        resume=resume,
        force=force,
        task=task,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(which=strategies.integers(0, 5), done=strategies.integers(0, len(RECORDINGS)), share=strategies.floats(0, 1))
def test_killed_anywhere_and_resumed_it_leaves_what_an_uninterrupted_run_leaves(
    kinds: list[dict[str, Any]], tmp_path: Path, which: int, done: int, share: float
) -> None:
    kind = kinds[which]
    if kind["form"] == "parquet":
        pytest.importorskip("pyarrow")
    folder = tmp_path / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run(opened(folder, kind))
    expected = content(folder)
    assert run(opened(folder, kind, force=True), done).remaining == RECORDINGS
    before = {name: len(value) for name, value in content(folder).items()}
    if done < len(RECORDINGS):
        run(opened(folder, kind, resume=True), 1)
    # What was written of the next recording, cut off in the order of writing: the line of progress comes last.
    grown = sorted(content(folder).items(), key=lambda item: (".progress" in item[0], ".rows." in item[0]))
    written = round(share * sum(len(value) - before.get(name, 0) for name, value in grown))
    for name, value in grown:
        part = min(written, len(value) - before.get(name, 0))
        os.truncate(folder / name, before.get(name, 0) + part)
        written -= part
    again = run(opened(folder, kind, resume=True))
    assert again.failed == 1
    assert content(folder) == expected


def test_a_file_grows_with_each_answer_and_says_that_it_is_unfinished(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    with open_results(RECORDINGS, Layout("recordings", LABELS), "csv", file) as results:
        for count, recording in enumerate(RECORDINGS, start=1):
            results.write(answer_for(recording))
            assert len(file.read_text().splitlines()) == 1 + count
            assert (tmp_path / "answers.csv.progress").exists()
    assert list(content(tmp_path)) == ["answers.csv"]
    assert results.failed == 1
    assert not results.finished


@pytest.mark.parametrize("sort", ["input", "confidence"])
@pytest.mark.parametrize("layout", [LAYOUT, EVENTS, Layout("recordings", LABELS, top_k=2)], ids=lambda item: item.kind)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_is_finished_tells_how_many_recordings_had_no_answer(
    ending: Form, layout: Layout, sort: Sort, tmp_path: Path
) -> None:
    def opened_as(*, resume: bool = False) -> Results:
        return open_results(RECORDINGS, layout, ending, tmp_path / f"a.{ending}", sort=sort, resume=resume)

    assert run(opened_as()).failed == 1
    assert (opened_as(resume=True).finished, opened_as(resume=True).failed) == (True, 1)
    (tmp_path / f"a.{ending}").write_bytes(b"\xff\xfe something else\n1\n")
    with pytest.raises(OutputError, match="--force"):
        opened_as(resume=True)


def test_what_is_finished_has_nothing_left_to_do(tmp_path: Path, kinds: list[dict[str, Any]]) -> None:
    run(opened(tmp_path, kinds[3]))
    before = content(tmp_path)
    (tmp_path / ".a.csv.partial").write_text("left by a kill between the last two steps")
    again = run(opened(tmp_path, kinds[3], resume=True))
    assert again.finished
    assert list(again.remaining) == []
    assert content(tmp_path) == before


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "selections.txt", "txt"])
def test_what_is_finished_is_not_taken_for_the_output_of_another_task(ending: str, tmp_path: Path) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"a.{ending}"
    one, two = [Path("a.wav")], [Path("d.wav")]

    def opened_for(recordings: Sequence[Location], layout: Layout) -> Results:
        return open_results(recordings, layout, form_of(file), file, resume=True)

    run(opened_for(one, EVENTS))
    before = content(tmp_path)
    assert opened_for(one, EVENTS).finished
    if ending != "txt":  # whose rows name no recording
        with pytest.raises(ConfigError, match=r"of other recordings \(1 more, such as \S*a\.wav\): .*--force"):
            opened_for(two, EVENTS)
    if ending in ("csv", "jsonl", "parquet"):
        with pytest.raises(ConfigError, match=r"lacks p_cry, p_noise and has peak, peak_at"):
            opened_for(one, LAYOUT)
    assert content(tmp_path) == before
    file.write_text("hello,world\n")
    with pytest.raises((ConfigError, OutputError), match=f"{re.escape(str(file))}.* anew with --force"):
        opened_for(one, EVENTS)
    assert file.read_text() == "hello,world\n"


def test_a_finished_file_that_lacks_a_recording_is_not_finished_for_it(tmp_path: Path) -> None:
    run(open_results([Path("a.wav")], LAYOUT, "csv", tmp_path / "a.csv"))
    with pytest.raises(ConfigError, match=r"of other recordings \(1 missing, such as d\.wav\)"):
        open_results([Path("a.wav"), Path("d.wav")], LAYOUT, "csv", tmp_path / "a.csv", resume=True)
    quiet = replace(EVENTS, events=EventPolicy(("noise",), onset=0.9))
    run(open_results([Path("d.wav")], quiet, "csv", tmp_path / "none.csv"))
    assert open_results([Path("d.wav")], quiet, "csv", tmp_path / "none.csv", resume=True).finished


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet"])
def test_finished_vectors_tell_how_many_recordings_had_no_answer_and_of_which_they_are(
    ending: str, tmp_path: Path
) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"v.{ending}"

    def opened_for(recordings: Sequence[Location | Excerpt]) -> Results:
        return open_results(recordings, LAYOUT, "csv", None, embeddings=file, resume=True)

    run(opened_for(RECORDINGS))
    again = opened_for(RECORDINGS)
    assert (again.finished, again.failed) == (True, 1)
    with pytest.raises(ConfigError, match=r"1 more, such as c\.wav"):
        opened_for(RECORDINGS[1:])
    file.write_text("hello,world\n")
    with pytest.raises(OutputError, match="is not what was written"):
        opened_for(RECORDINGS)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("flag", ["output", "embeddings"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_the_work(flag: str, resume: bool, tmp_path: Path) -> None:
    (tmp_path / "k.npz").mkdir()
    places = {"output": tmp_path / "a.csv", "embeddings": tmp_path / "v.npz", flag: tmp_path / "k.npz"}
    with pytest.raises(OutputError, match=r"k\.npz is a folder and the output is a file"):
        open_results(RECORDINGS, LAYOUT, "csv", **places, resume=resume)
    for place in (Path("."), Path("/"), Path("")):
        with pytest.raises(OutputError, match="is a folder and the output is a file"):
            open_results(RECORDINGS, LAYOUT, "parquet", place, resume=resume)


def test_an_unfinished_file_is_neither_taken_for_a_finished_one_nor_overwritten(
    tmp_path: Path, kinds: list[dict[str, Any]]
) -> None:
    run(opened(tmp_path, kinds[5]), 2)
    with pytest.raises(OutputError, match=r"a\.parquet is unfinished: go on with --resume"):
        opened(tmp_path, kinds[5])
    run(opened(tmp_path, kinds[5], force=True))
    with pytest.raises(OutputError, match="exists"):
        opened(tmp_path, kinds[5])


def test_other_recordings_or_another_model_cannot_be_gone_on_with(tmp_path: Path, kinds: list[dict[str, Any]]) -> None:
    run(opened(tmp_path, kinds[0], task={"model": "m1", "window": 3.0}), 2)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="recordings was 5 and is 4; list of recordings was"):
        opened(tmp_path, kinds[0], resume=True, recordings=RECORDINGS[:4], task={"model": "m1", "window": 3.0})
    with pytest.raises(ConfigError, match=r"model was m1 and is m2; window was 3\.0 and is 2\.0: "):
        opened(tmp_path, kinds[0], resume=True, task={"model": "m2", "window": 2.0})
    with pytest.raises(ConfigError, match="list of recordings was"):
        moved = [Excerpt(Path("c.wav"), 1.0, 2.0), *RECORDINGS[1:]]
        opened(tmp_path, kinds[0], resume=True, recordings=moved, task={"model": "m1", "window": 3.0})
    assert content(tmp_path) == before


def test_an_earlier_answer_stays_until_the_new_one_is_made(tmp_path: Path, kinds: list[dict[str, Any]]) -> None:
    file = tmp_path / "a.csv"
    file.write_text("old")
    run(opened(tmp_path, kinds[3], force=True), 2)
    assert file.read_text() == "old"
    run(opened(tmp_path, kinds[3], resume=True))
    assert file.read_text().startswith("path,start,end,label")


@pytest.mark.parametrize(("sort", "order"), [("path", "aabccddee"), ("confidence", "caeddecab"), ("label", "")])
def test_rows_are_sorted_as_asked(sort: Sort, order: str, tmp_path: Path) -> None:
    run(open_results(RECORDINGS, LAYOUT, "csv", tmp_path / "a.csv", sort=sort))
    stream = io.StringIO()
    run(open_results(RECORDINGS, LAYOUT, "csv", stream, sort=sort))
    assert stream.getvalue() == (tmp_path / "a.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    if sort == "path":
        assert "".join(row["path"][0] for row in rows) == order
    elif sort == "label":
        assert [row["label"] for row in rows] == [*sorted(row["label"] for row in rows[:-1]), ""]
    else:
        assert [float(row["confidence"] or -1) for row in rows] == sorted(
            (float(row["confidence"] or -1) for row in rows), reverse=True
        )


@pytest.mark.parametrize("form", ["csv", "jsonl", "raven"])
def test_a_stream_has_what_a_file_has_and_each_row_at_once(form: Form, tmp_path: Path) -> None:
    run(open_results(RECORDINGS, EVENTS, form, tmp_path / "a"))
    stream = io.StringIO()
    with open_results(RECORDINGS, EVENTS, form, stream) as results:
        results.write(answer_for(results.remaining[0]))
        assert "c.wav" in stream.getvalue()
        for recording in results.remaining[1:]:
            results.write(answer_for(recording))
    assert stream.getvalue() == (tmp_path / "a").read_text()
    assert results.failed == 1


def test_vectors_stand_with_their_recordings(tmp_path: Path) -> None:
    stream = io.StringIO()
    run(open_results(RECORDINGS, LAYOUT, "csv", stream, embeddings=tmp_path / "v.npz"))
    assert stream.getvalue().count("\n") == 10
    with np.load(tmp_path / "v.npz", allow_pickle=False) as found:
        assert found["path"].tolist() == ["c.wav", "a.wav", "e.wav", "d.wav"]
        assert found["end"].tolist() == [2.0] * 4
        assert found["embeddings"].dtype == np.float32
        assert found["embeddings"].tolist() == np.array([[ord(x), 1 / 3, -1.5] for x in "caed"], np.float32).tolist()
    assert list(content(tmp_path)) == ["v.npz"]


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet"])
def test_vectors_are_the_same_numbers_in_every_form(ending: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet") if ending == "parquet" else None
    file = tmp_path / f"v.{ending}"
    run(open_results(RECORDINGS, LAYOUT, "csv", None, embeddings=file))
    expected = np.array([[ord(x), 1 / 3, -1.5] for x in "caed"], np.float32)
    if ending == "npz":
        found = np.load(file)["embeddings"]
    else:
        rows = parquet.read_table(file).to_pylist() if parquet else list(csv.DictReader(file.open(newline="")))
        assert list(rows[0]) == ["path", "start", "end", "e0", "e1", "e2"]
        found = np.array([[row[f"e{index}"] for index in range(3)] for row in rows], np.float32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ending", ["csv", "npz"])
def test_no_vector_at_all_is_a_file_without_rows(ending: str, tmp_path: Path) -> None:
    run(open_results([Path("b.wav")], LAYOUT, "csv", None, embeddings=tmp_path / f"v.{ending}"))
    assert list(content(tmp_path)) == [f"v.{ending}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "audacity"}, "write one file beside each with --beside"),
        ({"form": "raven", "sort": "label"}, "in the order of time"),
        ({"form": "csv", "output": "beside", "embeddings": Path("v.npz")}, "do not go together"),
        ({"form": "csv", "embeddings": Path("v.txt")}, r"must end in \.npz, \.csv, \.parquet"),
        ({"form": "parquet", "output": io.StringIO()}, "needs a file"),
        ({"form": "csv", "output": "beside", "recordings": ["s3://a/b.wav"]}, "nothing can be written beside s3://"),
    ],
)
def test_what_cannot_be_had_together_is_refused_before_the_work(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    arguments = {"recordings": RECORDINGS, "layout": EVENTS, "output": tmp_path / "a", **options}
    with pytest.raises(ConfigError, match=message):
        open_results(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_audacity_takes_several_excerpts_of_one_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    excerpts = [Excerpt(Path("a.wav"), 0.0, 2.0), Excerpt(Path("a.wav"), 10.0, 12.0)]
    run(open_results(excerpts, EVENTS, "audacity", tmp_path / "a.txt"))
    assert (tmp_path / "a.txt").read_text() == "0.000000\t2.000000\tcry\n10.000000\t12.000000\tcry\n"
    run(open_results([Path("b.wav")], EVENTS, "audacity", tmp_path / "b.txt"))
    assert (tmp_path / "b.txt").read_text() == ""
    assert "b.wav: no such file" in caplog.text


def test_a_file_stands_beside_each_recording_that_could_be_read(tmp_path: Path) -> None:
    recordings: list[Location | Excerpt] = [
        tmp_path / "a.wav",
        tmp_path / "b.wav",
        Excerpt(tmp_path / "c.wav", 1.0, 3.0),
        Excerpt(tmp_path / "c.wav", 4.0),
    ]
    results = run(open_results(recordings, EVENTS, "audacity", "beside"))
    assert list(content(tmp_path)) == [
        "a.wav.crycli.txt",
        "c.wav.1.000-3.000.crycli.txt",
        "c.wav.4.000-.crycli.txt",
    ]
    assert (tmp_path / "a.wav.crycli.txt").read_text() == "0.000000\t2.000000\tcry\n"
    assert results.failed == 1


@pytest.mark.parametrize(
    ("form", "ending"),
    [("csv", ".csv"), ("jsonl", ".jsonl"), ("parquet", ".parquet"), ("raven", ".selections.txt")],
)
def test_beside_goes_on_with_those_that_have_no_file_yet(form: Form, ending: str, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    recordings: list[Location | Excerpt] = [tmp_path / f"{name}.wav" for name in "acd"]
    run(open_results(recordings, EVENTS, form, "beside"), 1)
    assert list(content(tmp_path)) == [f"a.wav.crycli{ending}"]
    with pytest.raises(OutputError, match="exists"):
        open_results(recordings, EVENTS, form, "beside")
    second = run(open_results(recordings, EVENTS, form, "beside", resume=True))
    assert second.remaining == recordings[1:]
    assert list(content(tmp_path)) == [f"{name}.wav.crycli{ending}" for name in "acd"]
    assert run(open_results(recordings, EVENTS, form, "beside", resume=True)).finished


def test_beside_does_not_take_files_of_another_kind_for_its_own(tmp_path: Path) -> None:
    run(open_results([tmp_path / "a.wav"], EVENTS, "csv", "beside"))
    with pytest.raises(ConfigError, match=r"a\.wav\.crycli\.csv: .*lacks p_cry, p_noise and has peak, peak_at"):
        open_results([tmp_path / "a.wav"], LAYOUT, "csv", "beside", resume=True)


@pytest.mark.parametrize("length", [237, 247])  # with the ending too long only for the name while it is written; at all
def test_a_name_that_leaves_no_room_for_one_beside_it_fails_by_itself(
    length: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recordings = [tmp_path / f"{'c' * length}.wav", tmp_path / "a.wav"]
    for resume in (False, True):
        results = run(open_results(recordings, EVENTS, "csv", "beside", resume=resume))
        assert results.failed == 1
        assert list(content(tmp_path)) == ["a.wav.crycli.csv"]
    assert results.finished
    assert f"{'c' * length}.wav: nothing is written beside it: the name would be too long" in caplog.text


def test_rows_that_are_sorted_are_not_lost_where_the_disk_fails_at_the_end(
    tmp_path: Path, kinds: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("crycli.results.sorted_rows", fail)
        with pytest.raises(OutputError, match=r"a\.csv: No space left on device"):
            run(opened(tmp_path, kinds[3]))
    assert not (tmp_path / "a.csv").exists()
    again = opened(tmp_path, kinds[3], resume=True)
    assert list(again.remaining) == []
    run(again)
    assert json.dumps(sorted(content(tmp_path))) == '["a.csv", "v.csv"]'
