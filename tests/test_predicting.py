"""`crycli predict` at work: long recordings, what is written of them, interruptions, sound that comes live."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import Outcome, cry, interruptible, settings
from safetensors.torch import load_file, save_file

from crycli.audio import Excerpt
from crycli.errors import ConfigError, DataError
from crycli.events import DEFAULT_ONSET
from crycli.exporting import export_bundle
from crycli.inference import load_predictor
from crycli.manifest import Clip, write_manifest
from crycli.predicting import Extras, Job, predict_live
from crycli.progress import Step
from crycli.results import Results
from crycli.windows import window_bounds

RATE = 16_000
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bundle(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose answers differ from window to window. Not to be changed by a test."""
    import shutil

    folder = tmp_path_factory.mktemp("predicting")
    run = Path(shutil.copytree(runs["layer"], folder / "run"))
    file = run / "model" / "model.safetensors"
    weights = load_file(file)
    weights["classifier.dense.weight"] *= 20
    weights["classifier.out_proj.weight"] *= 50
    save_file(weights, file, metadata={"format": "pt"})
    (run / "model" / "calibration.json").unlink()
    export_bundle(str(run), folder / "bundle")
    return folder / "bundle"


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """20 s of gliding pitches."""
    sweep = np.concatenate([cry(150.0 + 40 * step, 0.5, seed=step) for step in range(40)])
    soundfile.write(tmp_path / "night.wav", sweep, RATE)
    return tmp_path / "night.wav"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """60 short recordings, one of them damaged."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        soundfile.write(folder / f"{number:02d}.wav", cry(200.0 + 20 * number, 0.3, seed=number), RATE)
    (folder / "30.wav").write_bytes(b"RIFF and no more")
    return folder


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def begin(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    """A real process, from the source tree."""
    return subprocess.Popen([sys.executable, "-m", "crycli", *map(str, arguments)], cwd=ROOT, **options)  # type: ignore[call-overload,no-any-return]


def test_windows_cover_the_recording_and_their_mean_is_its_answer(
    bundle: Path, night: Path, crycli: Callable[..., Outcome]
) -> None:
    cut = ["--window", "2", "--hop", "0.7"]
    rows = read(crycli("predict", night, "-m", bundle, "--windows", *cut).out)
    bounds = window_bounds(20 * RATE, 2 * RATE, round(0.7 * RATE))
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [(a / RATE, b / RATE) for a, b in bounds]
    (whole,) = read(crycli("predict", night, "-m", bundle, *cut).out)
    assert np.ptp([float(row["p_high"]) for row in rows]) > 0.01
    assert float(whole["p_high"]) == pytest.approx(np.mean([float(row["p_high"]) for row in rows]), abs=1e-5)
    assert (float(whole["start"]), float(whole["end"])) == (0.0, 20.0)


def test_of_an_event_the_highest_window_is_the_answer_where_that_is_asked_for(
    bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    asked = ["--window", "2", "--hop", "0.7", "--set", "predict.combine=max", "--set", "predict.event_labels=[low]"]
    highest = max(float(row["p_low"]) for row in read(crycli("predict", night, "-m", bundle, "--windows", *asked).out))
    (whole,) = read(crycli("predict", night, "-m", bundle, *asked).out)
    assert float(whole["p_low"]) == pytest.approx(highest, abs=1e-6)
    assert float(whole["p_high"]) == pytest.approx(1 - highest, abs=1e-6)
    assert float(whole["confidence"]) == max(float(whole["p_low"]), float(whole["p_high"]))
    write_manifest(tmp_path / "test.csv", [Clip(night, "low", "night")])
    assert crycli("-q", "eval", bundle, tmp_path, "-o", tmp_path / "report", *asked[4:]).code == 0
    (scored,) = read((tmp_path / "report" / "predictions.csv").read_text())
    (alone,) = read(crycli("predict", night, "-m", bundle, *asked[4:]).out)
    assert scored["p_low"] == alone["p_low"]
    (mean,) = read(crycli("predict", night, "-m", bundle).out)
    assert float(mean["p_low"]) < float(alone["p_low"])


@pytest.fixture(scope="module")
def finder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but that it looks for events in windows of their own."""
    folder = tmp_path_factory.mktemp("finder") / "bundle"
    asked = ("predict.window=4", "predict.hop=2", "predict.event_window=1", "predict.event_hop=0.5")
    thresholds = ("predict.event_onset=0.6", "predict.event_offset=0.55")
    export_bundle(str(bundle.parent / "run"), folder, settings(*asked, *thresholds))
    return folder


def test_a_model_may_look_for_events_in_windows_of_their_own(
    finder: Path, bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    wanted = ["--set", "predict.event_onset=0.6", "--set", "predict.event_offset=0.55"]
    plain = crycli("predict", night, "-m", bundle, "--events", "--window", 1, "--hop", 0.5, *wanted).out
    assert len(read(plain)) > 1
    assert crycli("predict", night, "-m", finder, "--events").out == plain
    same = ["--set", "predict.event_window=1", "--set", "predict.event_hop=0.5"]
    assert crycli("predict", night, "-m", bundle, "--events", *same, *wanted).out == plain
    labels = tmp_path / "labels.txt"
    assert crycli("predict", night, "-m", finder, "-o", labels).code == 0
    assert len(labels.read_text().splitlines()) == len(read(plain))
    with night.open("rb") as sound:
        live = subprocess.run(
            [sys.executable, "-m", "crycli", "predict", "-", "-m", finder, "--events"],
            stdin=sound, capture_output=True, text=True, cwd=ROOT, check=True,
        ).stdout  # fmt: skip
    assert [row["start"] for row in read(live)] == [row["start"] for row in read(plain)]


def test_the_windows_of_events_are_for_events_alone_and_those_that_are_asked_for_come_first(
    finder: Path, bundle: Path, night: Path, crycli: Callable[..., Outcome]
) -> None:
    told = (finder / "README.md").read_text()
    assert "- Events: window 1.0, hop 0.5, onset 0.6, offset 0.55." in told
    rows = read(crycli("predict", night, "-m", finder, "--windows").out)
    assert (float(rows[0]["end"]), float(rows[1]["start"])) == (4.0, 2.0)
    better = "--events looks in windows of 1 s, and tells the times better"
    lower = ["--set", "predict.event_onset=0.5"]
    one = ["--window", 1]  # asked for, it is that of events too, whose hop is half of it
    for model, flags, told_so in ((finder, [], True), (finder, one, True), (bundle, one, False)):
        shown = crycli("predict", night, "-m", model, "--format", "table", *lower, *flags).out
        assert (" to 0:00:" in shown, better in shown) == (True, told_so)
    asked = ["--events", "--window", 2, "--hop", 1]
    assert crycli("predict", night, "-m", finder, *asked).out == crycli("predict", night, "-m", bundle, *asked).out
    (policy, other) = (load_predictor(str(finder), for_events=wanted).policy for wanted in (False, True))
    assert (policy.window_seconds, policy.hop_seconds, policy.events.onset) == (4.0, 2.0, DEFAULT_ONSET)
    assert (other.window_seconds, other.hop_seconds, other.events.onset) == (1.0, 0.5, 0.6)
    halved = load_predictor(str(finder), settings("predict.event_window=3"), for_events=True).policy
    assert (halved.window_seconds, halved.hop_seconds) == (3.0, 1.5)
    hopping = load_predictor(str(bundle), settings("predict.event_hop=1.5"), for_events=True).policy
    assert (hopping.window_seconds, hopping.hop_seconds) == (10.0, 1.5)
    done = crycli("predict", night, "-m", finder, "--events", "--set", "predict.event_hop=1.5")
    assert (done.code, "predict.event_hop: 1.5 s is longer than the window of 1 s" in done.err) == (1, True)


def test_whoever_cuts_events_out_is_told_where_their_times_would_be_better(
    finder: Path, bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    told = "--segments and --plot look in windows of 4 s; --events looks in windows of 1 s, and tells the times better"
    for number, (model, flags, times) in enumerate(((finder, [], 1), (finder, ["--events"], 0), (bundle, [], 0))):
        for extra in ("--segments", "--plot"):
            done = crycli("predict", night, "-m", model, *flags, extra, tmp_path / f"{number}{extra}")
            assert (done.code, done.err.count(told)) == (0, times)
    assert told not in crycli("predict", night, "-m", finder, "--embeddings", tmp_path / "v.npz").err


def test_a_window_or_a_hop_alone_is_what_events_are_looked_for_in(finder: Path, bundle: Path) -> None:
    def found(model: Path, *assignments: str) -> tuple[float, float, float]:
        policy = load_predictor(str(model), settings(*assignments), for_events=True).policy
        return policy.window_seconds, policy.hop_seconds, policy.events.onset

    for asked, expected in (
        (["predict.hop=0.25"], (1.0, 0.25, 0.6)),
        (["predict.window=1"], (1.0, 0.5, 0.6)),
        (["predict.window=3"], (3.0, 1.5, DEFAULT_ONSET)),
        (["predict.window=3", "predict.hop=1"], (3.0, 1.0, DEFAULT_ONSET)),
        (["predict.window=3", "predict.event_window=1"], (1.0, 0.5, 0.6)),
        (["predict.event_window=3"], (3.0, 1.5, DEFAULT_ONSET)),
        (["predict.event_window=3", "predict.hop=1"], (3.0, 1.0, DEFAULT_ONSET)),
        (["predict.event_hop=0.2", "predict.hop=0.9"], (1.0, 0.2, 0.6)),
    ):
        assert found(finder, *asked) == expected, asked
    for asked, expected in (
        (["predict.hop=3"], (10.0, 3.0, DEFAULT_ONSET)),
        (["predict.window=3"], (3.0, 3.0, DEFAULT_ONSET)),
        (["predict.event_window=3"], (3.0, 1.5, DEFAULT_ONSET)),
        (["predict.window=3", "predict.event_hop=1"], (3.0, 1.0, DEFAULT_ONSET)),
    ):
        assert found(bundle, *asked) == expected, asked
    with pytest.raises(ConfigError, match=r"predict.hop: 2 s is longer than the window of 1 s for events"):
        found(finder, "predict.hop=2")


def test_a_window_is_answered_as_a_recording_of_it_alone(bundle: Path, night: Path, tmp_path: Path) -> None:
    predictor = load_predictor(str(bundle), settings("predict.window=2.0", "predict.hop=0.7"))
    (answer,) = predictor.predict([night])
    assert answer.windows is not None
    samples, _ = soundfile.read(night, dtype="float32")
    for start, end, found in zip(answer.windows.starts, answer.windows.ends, answer.windows.probabilities, strict=True):
        alone = predictor.probabilities([samples[round(start * RATE) : round(end * RATE)]])[0]
        np.testing.assert_allclose(found, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--windows", "--events"], "give one of them"),
        (["--resume"], "-o"),
        (["--resume", "--force", "-o", "x.csv"], "give one"),
        (["--beside", "-o", "x.csv"], "--beside"),
        (["--window", "1", "--hop", "2"], "hop"),
        (["--format", "parquet"], "parquet needs a file"),
        (["--set", "predict.hop=99"], "gaps"),
        (["--set", "predict.event_labels=[dog]"], "dog"),
        (["--engine", "ray"], "-o"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(
    flags: list[str], problem: str, bundle: Path, night: Path, crycli: Callable[..., Outcome]
) -> None:
    done = crycli("predict", night, "-m", bundle, *flags)
    assert done.code in (1, 2)
    assert problem in done.err
    assert done.out == ""


def test_each_output_that_is_asked_for_is_made(
    bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    common = ["predict", night, "-m", bundle, "--window", "1", "--set", "predict.event_labels=[high, low]"]
    wanted = ["--segments", out / "cut", "--embeddings", out / "vectors.npz", "--plot", out / "night.png"]
    done = crycli(*common, "--events", "-o", out / "events.csv", *wanted)
    assert done.code == 0, done.err
    events = read((out / "events.csv").read_text())
    assert events
    assert len(list((out / "cut").rglob("*.wav"))) == len(events)
    for row in events:
        (segment,) = (out / "cut" / row["label"]).glob(f"night_{float(row['start']):.3f}-*.wav")
        assert soundfile.info(segment).duration == pytest.approx(float(row["end"]) - float(row["start"]), abs=0.01)
    with np.load(out / "vectors.npz") as vectors:
        assert vectors["path"].tolist() == [str(night)]
        assert vectors["embeddings"].shape == (1, 32)
    assert (out / "night.png").read_bytes().startswith(b"\x89PNG")
    labels = crycli(*common, "-o", out / "labels.txt", "--format", "audacity")
    assert labels.code == 0, labels.err
    lines = [line.split("\t") for line in (out / "labels.txt").read_text().splitlines()]
    assert [(f"{float(a):.3f}", f"{float(b):.3f}", c) for a, b, c in lines] == [
        (row["start"], row["end"], row["label"]) for row in events
    ]
    assert sorted(path.name for path in out.iterdir()) == [
        "cut",
        "events.csv",
        "labels.txt",
        "night.png",
        "vectors.npz",
    ]


@pytest.fixture
def twins(tmp_path: Path) -> list[Path]:
    """Two recordings of one name, in two folders."""
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "x.wav", cry(300.0 * (number + 1), 4.0, seed=number), RATE)
    return [tmp_path / "one" / "x.wav", tmp_path / "two" / "x.wav"]


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_no_picture_overwrites_another_whatever_the_excerpts_are(
    bundle: Path, twins: list[Path], tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    times = ["0,2", "0,2", "0,3", "0,4", "1,3", ","]
    rows = [f"{path},{part}" for path in twins for part in times]
    (tmp_path / "list.csv").write_text("\n".join(["path,start,end", *rows, ""]))
    done = crycli("predict", tmp_path / "list.csv", "-m", bundle, "--plot", tmp_path / "plots")
    assert done.code == 0, done.err
    made = sorted(re.sub("-[0-9a-f]{8}", "-DIGEST", name) for name in pictures(tmp_path / "plots"))
    endings = ["", "_0.000-2.000", "_0.000-3.000", "_0.000-4.000", "_1.000-3.000"]
    assert made == sorted(f"x.wav-DIGEST{ending}.png" for ending in endings for _ in twins)


def test_an_interruption_changes_neither_the_names_nor_the_content_of_pictures(
    bundle: Path, twins: list[Path], tmp_path: Path
) -> None:
    def job(name: str, *, resume: bool = False) -> tuple[Job, Results]:
        extras = Extras(plot=tmp_path / name)
        job = Job(str(bundle), [Excerpt(path) for path in twins], "csv", extras=extras, resume=resume)
        return job, job.open(tmp_path / f"{name}.csv")

    whole, results = job("whole")
    with results:
        whole.run(results)

    def stop(_: Step) -> None:
        raise KeyboardInterrupt

    broken, results = job("broken")
    with pytest.raises(KeyboardInterrupt), results:
        broken.run(results, stop)
    assert len(pictures(tmp_path / "broken")) == 1
    again, results = job("broken", resume=True)
    with results:
        again.run(results)
    assert len(pictures(tmp_path / "broken")) == 2
    assert pictures(tmp_path / "broken") == pictures(tmp_path / "whole")


@pytest.mark.parametrize("pair", [("-o", "--embeddings"), ("-o", "--plot"), ("--segments", "--plot")])
def test_two_outputs_of_one_name_are_refused_before_the_work(
    pair: tuple[str, str], bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    first, second = tmp_path / "x.csv", f"{tmp_path}/./x.csv"
    done = crycli("predict", night, "-m", bundle, pair[0], first, pair[1], second)
    assert (done.code, f"{pair[1]}: and {pair[0]} are the same" in done.err) == (2, True), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["night.wav"]


def test_a_folder_is_no_picture(bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]) -> None:
    (tmp_path / "k.png").mkdir()
    done = crycli("predict", night, "-m", bundle, "--plot", tmp_path / "k.png")
    assert (done.code, done.out) == (1, "")
    assert f"{tmp_path / 'k.png'} is a folder and the output is a file" in done.err


def test_only_what_is_there_is_said_to_be_there(
    bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    task = ["predict", night, "-m", bundle, "-o", tmp_path / "a.csv"]
    extras = ["--segments", tmp_path / "cut", "--plot", tmp_path / "night.png"]
    assert crycli(*task).code == 0
    done = crycli(*task, "--resume", *extras)
    assert (done.code, "Nothing is left to do" in done.err) == (0, True)
    assert "segments are" not in done.err
    assert "timelines are" not in done.err
    done = crycli(*task, "--force", *extras)
    assert "segments are" in done.err
    assert "timelines are" in done.err
    (tmp_path / "bad.wav").write_bytes(b"RIFF and no more")
    done = crycli("predict", tmp_path / "bad.wav", "-m", bundle, "--plot", tmp_path / "bad.png")
    assert (done.code, "timelines are" in done.err) == (3, False)


def test_segments_and_pictures_are_gone_on_with_as_they_were_begun(
    bundle: Path, twins: list[Path], tmp_path: Path
) -> None:
    def opened(segments: Path | None, *assignments: str, resume: bool = True) -> Results:
        extras = Extras(segments=segments)
        job = Job(str(bundle), list(map(Excerpt, twins)), "csv", settings(*assignments), extras, resume=resume)
        return job.open(tmp_path / "a.csv")

    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "cut", resume=False):
        raise KeyboardInterrupt
    with pytest.raises(ConfigError, match=r"event_onset was 0\.5 and is 0\.9"):
        opened(tmp_path / "cut", "predict.event_onset=0.9", "predict.event_offset=0.35")
    with pytest.raises(ConfigError, match=r"segments was \S*cut and is \S*other"):
        opened(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"segments was \S*cut and is not set"):
        opened(None)
    with opened(tmp_path / "cut") as results:
        assert len(results.remaining) == 2


def test_a_failure_before_an_interruption_counts_where_vectors_are_gone_on_with(
    bundle: Path, many: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    recordings = [many / "30.wav", many / "00.wav"]
    extras = Extras(embeddings=tmp_path / "v.npz")
    job = Job(str(bundle), list(map(Excerpt, recordings)), "csv", extras=extras)
    with pytest.raises(KeyboardInterrupt), job.open(None) as results:
        results.write(next(job.predictor.predict(recordings)))
        raise KeyboardInterrupt
    resumed = ["predict", *recordings, "-m", bundle, "--embeddings", tmp_path / "v.npz", "--resume"]
    done = crycli(*resumed, "--format", "table")
    assert (done.code, "00.wav" in done.out) == (3, True)
    assert crycli(*resumed, "--format", "table").code == 3  # finished by now
    assert crycli(*resumed).code == 3


def test_a_table_shows_the_course_of_a_long_recording_and_vectors_are_written_beside_it(
    bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    common = ["predict", night, "-m", bundle, "--window", "1", "--format", "table"]
    done = crycli(*common, "--embeddings", tmp_path / "v.npz", "--set", "predict.event_labels=[high]")
    assert done.code == 0, done.err
    assert "night.wav" in done.out
    assert "0:00:10" in done.out
    (answer,) = load_predictor(str(bundle), settings("predict.window=1.0")).predict([night], embeddings=True)
    with np.load(tmp_path / "v.npz") as vectors:
        np.testing.assert_allclose(vectors["embeddings"][0], answer.embedding, atol=1e-5)
    events = crycli(*common, "--events", "--set", "predict.event_labels=[high]").out
    rows = read(
        crycli("predict", night, "-m", bundle, "--window", "1", "--events", "--set", "predict.event_labels=[high]").out
    )
    assert rows
    for row in rows:
        assert f"{float(row['start']):.1f}" in events


def test_a_table_shows_a_path_as_it_is(bundle: Path, night: Path, crycli: Callable[..., Outcome]) -> None:
    shutil.copy(night, night.with_name("u:baby:[b]x.wav"))
    done = crycli("predict", night.with_name("u:baby:[b]x.wav"), "-m", bundle, "--format", "table")
    assert "u:baby:[b]x.wav" in done.out


def test_it_says_under_which_names_the_files_beside_the_recordings_are(
    bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    nights = tmp_path / "nights"
    nights.mkdir()
    shutil.copy(night, nights / "a.wav")
    done = crycli("predict", nights, "-m", bundle, "--window", "1", "--beside", "--format", "raven")
    assert (done.code, done.out) == (0, ""), done.err
    assert "beside the recordings, each in NAME.crycli.selections.txt" in done.err
    assert sorted(path.name for path in nights.iterdir()) == ["a.wav", "a.wav.crycli.selections.txt"]


def test_a_device_is_no_output_file(bundle: Path, night: Path, crycli: Callable[..., Outcome]) -> None:
    done = crycli("predict", night, "-m", bundle, "-o", "/dev/null", "--force")
    assert done.code == 1
    assert "redirect" in done.err
    assert not Path("/dev/null.progress").exists()


def test_a_dash_as_the_output_is_standard_output(
    bundle: Path, night: Path, crycli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = crycli("predict", night, "-m", bundle, "--window", "1")
    dashed = crycli("predict", night, "-m", bundle, "--window", "1", "-o", "-")
    assert (dashed.code, dashed.out) == (0, plain.out)
    assert "answers are in" not in dashed.err
    assert not (tmp_path / "-").exists()


def test_a_csv_lists_recordings_and_their_parts(
    bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    (tmp_path / "list.csv").write_text("path,start,end,note\nnight.wav,1.0,3.0,a\nnight.wav,,,b\n")
    rows = read(crycli("predict", tmp_path / "list.csv", "-m", bundle).out)
    assert [(row["path"], row["start"], row["end"]) for row in rows] == [
        (str(night), "1.000", "3.000"),
        (str(night), "0.000", "20.000"),
    ]
    for text, problem in (
        ("file_path\nx.wav\n", "no column path"),
        ("path,start,end\nx.wav,3,1\n", "row 2"),
        ("path\n", "no rec"),
    ):
        (tmp_path / "list.csv").write_text(text)
        done = crycli("predict", tmp_path / "list.csv", "-m", bundle)
        assert (done.code, done.out) == (1, "")
        assert problem in done.err


def test_a_name_in_a_csv_that_no_file_can_have_is_an_error_of_its_row(
    bundle: Path, night: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    (tmp_path / "list.csv").write_text("path\na\0b.wav\nnight.wav\n")
    done = crycli("predict", tmp_path / "list.csv", "-m", bundle)
    assert (done.code, len(read(done.out))) == (3, 2)
    assert "cannot be opened" in read(done.out)[0]["error"]


def test_the_order_the_threshold_and_the_likeliest_labels_are_as_asked(
    bundle: Path, many: Path, crycli: Callable[..., Outcome]
) -> None:
    surest = read(crycli("predict", many, "-m", bundle, "--sort", "confidence").out)
    sure = [float(row["confidence"]) for row in surest[:-1]]
    assert sure == sorted(sure, reverse=True)
    assert surest[-1]["error"]
    threshold = (sure[20] + sure[21]) / 2
    unsure = read(crycli("predict", many, "-m", bundle, "--threshold", str(threshold)).out)
    assert [row["label"] == "unsure" for row in unsure if not row["error"]] == [
        float(row["confidence"]) < threshold for row in unsure if not row["error"]
    ]
    ranked = read(crycli("predict", many / "00.wav", "-m", bundle, "--top-k", "5").out)
    assert [row["rank"] for row in ranked] == ["1", "2"]
    assert sum(float(row["confidence"]) for row in ranked) == pytest.approx(1.0, abs=1e-5)


def test_bad_recordings_are_named_with_their_reason_and_the_others_answered(
    bundle: Path, many: Path, crycli: Callable[..., Outcome]
) -> None:
    done = crycli("predict", many, "-m", bundle)
    assert done.code == 3
    rows = read(done.out)
    assert [row["path"] for row in rows if row["error"]] == [str(many / "30.wav")]
    assert "30.wav: " in done.err
    assert "1 of 60 recordings could not be read" in done.err


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl", "answers.parquet"])
def test_a_killed_run_goes_on_and_leaves_the_file_of_one_that_was_not(
    name: str, bundle: Path, many: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert crycli("predict", many, "-m", bundle, "-o", tmp_path / "a" / name).code == 3
    task = ["predict", many, "-m", bundle, "-o", tmp_path / "b" / name, "--resume"]
    progress = tmp_path / "b" / f"{name}.progress"
    kills = 0
    for lines in (5, 25):  # the first of them describes the task
        process = begin("-q", *task, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (progress.exists() and progress.read_bytes().count(b"\n") > lines):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    done = crycli(*task)
    assert done.code == 3, done.err
    assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert [path.name for path in (tmp_path / "b").iterdir()] == [name]
    again = crycli(*task)
    assert again.code == 3
    assert "Nothing is left to do" in again.err
    assert "1 of 60 recordings could not be read" in again.err
    other = crycli("predict", many, "-m", bundle, "-o", tmp_path / "b" / name)
    assert other.code == 1
    assert "--force" in other.err


def test_a_resumed_run_refuses_other_settings_and_shows_the_difference(
    bundle: Path, many: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    process = begin("-q", "predict", many, "-m", bundle, "-o", tmp_path / "a.csv", stderr=subprocess.DEVNULL)
    progress = tmp_path / "a.csv.progress"
    while process.poll() is None and not (progress.exists() and b"\n" in progress.read_bytes()):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = crycli("predict", many, "-m", bundle, "-o", tmp_path / "a.csv", "--resume", "--window", "2")
    assert done.code == 1
    assert "window was 10" in done.err
    done = crycli(
        *("predict", many, "-m", bundle, "-o", tmp_path / "a.csv", "--resume", "--set", "predict.combine=max")
    )
    assert done.code == 1
    assert "combine was mean" in done.err


def live(bundle: Path, *flags: str, rate: int = RATE) -> subprocess.Popen[bytes]:
    command = ["-q", "predict", "-", "-m", bundle, "--window", "1", "--hop", "0.5", "--format", "jsonl", *flags]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return begin(*command, "--set", f"predict.stream_rate={rate}", preexec_fn=interruptible, **streams)


def test_what_comes_live_is_answered_window_by_window_within_a_hop(bundle: Path) -> None:
    samples = cry(440.0, 3.0)
    pcm = (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()
    process = live(bundle)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(pcm[: 2 * RATE])  # one second: the first window, and nothing after it
    process.stdin.flush()
    first = json.loads(process.stdout.readline())  # it comes although no more sound does
    assert (first["path"], first["start"], first["end"]) == ("-", 0.0, 1.0)
    for second in (1.0, 1.5, 2.0, 2.5):
        begun = time.monotonic()
        process.stdin.write(pcm[round(2 * RATE * second) : round(2 * RATE * (second + 0.5))])
        process.stdin.flush()
        row = json.loads(process.stdout.readline())
        assert (row["start"], row["end"]) == (second - 0.5, second + 0.5)
        assert time.monotonic() - begun < 0.5
    process.stdin.close()
    assert process.stdout.read() == b""
    assert process.wait() == 0


def test_a_wav_stream_says_its_rate_and_gets_the_answers_of_the_file(
    bundle: Path, night: Path, crycli: Callable[..., Outcome]
) -> None:
    process = live(bundle, rate=8_000)  # the header's rate counts
    out, _ = process.communicate(night.read_bytes(), timeout=60)
    rows = [json.loads(line) for line in out.splitlines()]
    filed = crycli(
        *("predict", night, "-m", bundle, "--windows", "--window", "1", "--hop", "0.5", "--format", "jsonl")
    ).out
    expected = [json.loads(line) for line in filed.splitlines()]
    assert len(rows) == len(expected) == 39
    for row, other in zip(rows, expected, strict=True):
        assert (row["start"], row["end"]) == (other["start"], other["end"])
        assert row["p_high"] == pytest.approx(other["p_high"], abs=1e-4)


@pytest.mark.parametrize("flags", [["-m", "nowhere"], ["--sort", "label"], ["--format", "parquet"], []])
def test_a_live_run_that_hears_nothing_leaves_the_file_as_it_was(
    flags: list[str], bundle: Path, tmp_path: Path, crycli: Callable[..., Outcome]
) -> None:
    file = tmp_path / "a.csv"
    task = ["predict", "-", "-m", bundle, "-o", file, *flags]
    assert crycli(*task).code == 1
    assert not file.exists()
    file.write_text("earlier")
    assert crycli(*task, "--force").code == 1
    assert file.read_text() == "earlier"


def test_a_live_run_writes_its_rows_into_a_file(bundle: Path, night: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("earlier")
    process = live(bundle, "-o", str(tmp_path / "a.jsonl"), "--force")
    assert process.communicate(night.read_bytes(), timeout=60)[0] == b""
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 39


def test_live_events_are_told_as_they_end(bundle: Path, night: Path) -> None:
    process = live(bundle, "--events", "--set", "predict.event_labels=[high, low]")
    out, _ = process.communicate(night.read_bytes(), timeout=60)
    events = [json.loads(line) for line in out.splitlines()]
    assert events
    assert {event["label"] for event in events} <= {"high", "low"}
    assert max(event["end"] for event in events) <= 20.0


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_event_that_is_under_way_when_a_live_run_is_ended_is_told(
    ending: type[BaseException], bundle: Path, night: Path
) -> None:
    class Microphone(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            if content := super().read1(size):
                return content
            raise ending

    rows = io.StringIO()
    config = settings("predict.rows=events", "predict.window=1", "predict.event_onset=0.01")
    with pytest.raises(ending):
        predict_live(str(bundle), Microphone(night.read_bytes()), rows, "csv", config)
    assert max(float(row["end"]) for row in read(rows.getvalue())) == 20.0


@pytest.mark.parametrize("samples", [0, 1, 2, 399])
@pytest.mark.parametrize("kind", ["windows", "events"])
def test_a_stream_that_is_too_short_to_be_answered_says_so(samples: int, kind: str, bundle: Path) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, cry(300.0, 1.0)[:samples], RATE, format="WAV")
    stream.seek(0)
    expected = f"standard input: too short: {samples / RATE:.3f} s, and the model needs 0.025 s"
    with pytest.raises(DataError, match=expected):
        predict_live(str(bundle), stream, io.StringIO(), "csv", settings(f"predict.rows={kind}"))


def test_a_reader_that_goes_and_a_user_who_stops_end_a_live_run_quietly(bundle: Path) -> None:
    process = live(bundle)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(bytes(2 * RATE))
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_long_recordings_take_no_more_memory_than_short_ones(bundle: Path, tmp_path: Path) -> None:
    peaks = []
    for minutes in (1, 30):
        file = tmp_path / "long.wav"
        with soundfile.SoundFile(file, "w", RATE, 1) as sound:
            for minute in range(minutes):
                sound.write(cry(300.0, 60.0, seed=minute))
        process = begin("-q", "predict", file, "-m", bundle, "--window", "2", stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss / 1024)
    assert peaks[1] < peaks[0] + 60  # MB; the samples alone are 115
