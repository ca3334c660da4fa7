from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet
import pytest
import ray
import ray.data
import soundfile
from conftest import cry, settings

from crycli.audio import Excerpt
from crycli.cluster import Outcome, predict_on_ray
from crycli.config import Config
from crycli.errors import ConfigError, CrycliError, OutputError
from crycli.inference import load_predictor
from crycli.predictions import Row
from crycli.progress import Step
from crycli.tables import Layout

TOKEN = "0" * 64  # where there is none, Ray makes one and keeps it in the home folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with two cores; to start it takes seconds."""
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Excerpt]:
    """Eleven: short ones, a long one, a part of it, one by URL, and two that cannot be read."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "not-sound.wav").write_bytes(b"RIFF")
    soundfile.write(folder / "long.wav", cry(500.0, 5.0), 16_000)
    found = [Excerpt(folder / name) for name in ("not-sound.wav", "gone.wav", "long.wav")]
    found.append(Excerpt(folder / "long.wav", 1.0, 2.5))
    for number in range(7):
        soundfile.write(folder / f"{number}.wav", cry(300.0 + 100 * number, 0.6, seed=number), 16_000)
        found.append(Excerpt(folder / f"{number}.wav"))
    found[-1] = Excerpt(f"file://{found[-1].path}")
    return found


def local_rows(bundle: Path, recordings: list[Excerpt], config: Config) -> list[Row]:
    predictor = load_predictor(str(bundle), config)
    policy = predictor.policy
    kind = "recordings" if config.predict.rows == "auto" else config.predict.rows
    layout = Layout(kind, predictor.labels, config.predict.top_k, policy.unsure_below, policy.events)
    return [row for prediction in predictor.predict(recordings) for row in layout.rows(prediction)]


def rows_in(folder: Path) -> list[Row]:
    """The rows of all shards, in their order."""
    shards = sorted(folder.glob("part-*.parquet"))
    return [row for shard in shards for row in pyarrow.parquet.read_table(shard).to_pylist()]


def assert_same(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, value in other.items():
            assert one[name] == (pytest.approx(value, abs=1.1e-6) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    "assignments",
    [
        ["predict.rows=windows", "predict.window=1", "predict.hop=0.5", "predict.top_k=2"],
        pytest.param(
            ["predict.rows=events", "predict.window=1", "predict.hop=0.5", "predict.event_onset=0.4"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_shards_hold_the_rows_of_the_local_engine(
    assignments: list[str],
    recordings: list[Excerpt],
    bundles: dict[str, Path],
    tmp_path: Path,
    cluster: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(recordings[0].path).parent
    monkeypatch.chdir(folder)
    recordings = [*recordings, Excerpt(Path("0.wav"))]  # the row says what was typed; workers are elsewhere
    config = settings("predict.shard_size=5", *assignments)
    outcome = predict_on_ray(str(bundles["layer"]), recordings, tmp_path / "answers", config)
    assert outcome == Outcome(recordings=12, failed=2, shards=3)
    expected = local_rows(bundles["layer"], recordings, config)
    assert len(expected) > len(recordings)
    assert_same(rows_in(tmp_path / "answers"), expected)
    names = {path.name for path in (tmp_path / "answers").iterdir()}
    assert names == {"_task.json", "_SUCCESS", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"}
    assert len(pyarrow.parquet.read_table(tmp_path / "answers")) == len(rows_in(tmp_path / "answers"))


@pytest.fixture(scope="module")
def long_recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Excerpt]:
    """Sixteen of 40 s."""
    folder = tmp_path_factory.mktemp("long")
    for number in range(16):
        soundfile.write(folder / f"{number}.wav", np.tile(cry(300.0 + 20 * number, 2.0, seed=number), 20), 16_000)
    return [Excerpt(folder / f"{number}.wav") for number in range(16)]


def busy_workers() -> set[int]:
    """The processes that are at a shard."""
    titles = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            titles[process.pid] = " ".join(process.cmdline())
    return {number for number, title in titles.items() if "ShardWriter)).submit" in title}


def test_a_killed_worker_costs_and_doubles_no_row(
    long_recordings: list[Excerpt], bundles: dict[str, Path], tmp_path: Path, cluster: None
) -> None:
    config = settings("predict.shard_size=2", "predict.window=1")
    killed: set[int] = set()
    seen: set[int] = set()

    def kill_one(step: Step) -> None:
        while not killed and step.done > 0:
            for worker in list(busy_workers())[:1]:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)

    ended = threading.Event()

    def watch() -> None:  # all the time: between two steps a worker may begin and end
        while not ended.wait(0.05):
            seen.update(busy_workers())

    watcher = threading.Thread(target=watch)
    watcher.start()
    answers = tmp_path / "answers"
    try:
        outcome = predict_on_ray(str(bundles["layer"]), long_recordings, answers, config, on_step=kill_one)
    finally:
        ended.set()
        watcher.join()
    assert killed
    assert seen - killed
    assert outcome == Outcome(recordings=16, failed=0, shards=8)
    assert_same(rows_in(answers), local_rows(bundles["layer"], long_recordings, config))
    assert [path.name for path in answers.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_a_shard_whose_worker_dies_each_time_ends_the_run(
    long_recordings: list[Excerpt], bundles: dict[str, Path], tmp_path: Path, cluster: None
) -> None:
    ended = threading.Event()

    def kill_each() -> None:
        before: set[int] = set()
        while not ended.wait(1.0):  # enough to begin, not enough to end
            now = busy_workers()
            for worker in now & before:
                os.kill(worker, signal.SIGKILL)
            before = now - before

    killer = threading.Thread(target=kill_each)
    killer.start()
    try:
        with pytest.raises(CrycliError, match=r"part-00000.parquet was begun 4 times, and each time its worker died"):
            config = settings("predict.window=1", "predict.hop=0.1")
            predict_on_ray(str(bundles["layer"]), long_recordings, tmp_path / "answers", config)
    finally:
        ended.set()
        killer.join()


@pytest.fixture(scope="module")
def answers(
    recordings: list[Excerpt], bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, cluster: None
) -> Path:
    """What three shards of four became. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("answers")
    predict_on_ray(str(bundles["layer"]), recordings, folder, settings("predict.shard_size=4"))
    return folder


def test_a_lost_and_a_damaged_shard_are_made_anew_and_the_others_kept(
    answers: Path, recordings: list[Excerpt], bundles: dict[str, Path], tmp_path: Path, cluster: None
) -> None:
    folder = Path(shutil.copytree(answers, tmp_path / "answers"))
    (folder / "part-00000.parquet").write_bytes((folder / "part-00000.parquet").read_bytes()[:-50])
    (folder / "part-00001.parquet").unlink()
    kept = (folder / "part-00002.parquet").stat().st_mtime_ns
    config = settings("predict.shard_size=4")
    outcome = predict_on_ray(str(bundles["layer"]), recordings, f"file://{folder}", config, resume=True)
    assert outcome == Outcome(recordings=11, failed=2, shards=3, resumed=1)
    assert_same(rows_in(folder), rows_in(answers))
    assert (folder / "part-00002.parquet").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_an_error_of_a_worker_ends_the_run_in_one_line(
    answers: Path, recordings: list[Excerpt], bundles: dict[str, Path], tmp_path: Path, cluster: None
) -> None:
    odd = [*recordings[:4], Excerpt("smoke://signal/cry.wav")]
    config = settings("predict.shard_size=4", "workers=1")
    with pytest.raises(CrycliError, match=r"^smoke://signal/cry.wav: .*not known"):
        predict_on_ray(str(bundles["layer"]), odd, tmp_path / "answers", config)
    assert [path.name for path in (tmp_path / "answers").glob("*.parquet")] == ["part-00000.parquet"]
    assert not (tmp_path / "answers" / "_SUCCESS").exists()


@pytest.mark.slow
def test_a_folder_that_each_machine_has_for_itself_is_refused(
    recordings: list[Excerpt], bundles: dict[str, Path], cluster: None
) -> None:
    with pytest.raises(OutputError, match="memory://answers is not the same folder on every machine"):
        predict_on_ray(str(bundles["layer"]), recordings, "memory://answers")


def test_what_is_finished_is_not_begun_again(
    answers: Path, recordings: list[Excerpt], bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", None)
    monkeypatch.setattr(ray.data, "from_items", None)
    config = settings("predict.shard_size=4")
    outcome = predict_on_ray(str(bundles["layer"]), recordings, answers, config, resume=True)
    assert outcome == Outcome(recordings=11, failed=2, shards=3, resumed=3)
    assert (answers / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("assignment", "left_out", "message"),
    [
        ("predict.shard_size=5", 0, "shard_size was 4 and is 5"),
        ("predict.threshold=0.9", 0, "threshold was 0.0 and is 0.9"),
        ("predict.rows=windows", 0, "rows was recordings and is windows"),
        ("workers=1", 1, "recordings was 11 and is 10; list of recordings was "),
    ],
)
def test_shards_of_another_task_are_not_gone_on_with(
    assignment: str,
    left_out: int,
    message: str,
    answers: Path,
    recordings: list[Excerpt],
    bundles: dict[str, Path],
) -> None:
    config = settings("predict.shard_size=4", assignment)
    with pytest.raises(ConfigError, match=f"^cannot resume .*: {message}"):
        predict_on_ray(str(bundles["layer"]), recordings[left_out:], answers, config, resume=True)


def test_shards_of_another_model_are_not_gone_on_with(
    answers: Path, recordings: list[Excerpt], bundles: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=r"^cannot resume .*: model was "):
        predict_on_ray(str(bundles["group"]), recordings, answers, settings("predict.shard_size=4"), resume=True)


@pytest.mark.slow
def test_a_folder_that_holds_something_is_refused_and_other_files_outlive_force(
    recordings: list[Excerpt], bundles: dict[str, Path], tmp_path: Path, cluster: None
) -> None:
    bundle = str(bundles["layer"])
    for name in ("notes.txt", "part-00007.parquet", ".part-00007.parquet.ab.partial", "_SUCCESS"):
        (tmp_path / name).write_text("old")
    with pytest.raises(OutputError, match="exists and is not empty"):
        predict_on_ray(bundle, recordings, tmp_path)
    with pytest.raises(OutputError, match="nothing of the engine ray to resume"):
        predict_on_ray(bundle, recordings, tmp_path, resume=True)
    predict_on_ray(bundle, recordings, tmp_path, force=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", "_task.json", "_SUCCESS", "part-00000.parquet"}
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file and the output is a folder"):
        predict_on_ray(bundle, recordings, tmp_path / "file", force=True)


@pytest.mark.slow
def test_without_a_cluster_one_is_begun_on_this_machine_and_says_nothing(
    recordings: list[Excerpt], bundles: dict[str, Path], tmp_path: Path
) -> None:
    program = """
import sys
from pathlib import Path
from crycli.audio import Excerpt
from crycli.cluster import predict_on_ray
from crycli.config import load_config

if __name__ == "__main__":
    predict_on_ray(sys.argv[1], [Excerpt(Path(sys.argv[2]))], sys.argv[3], load_config(None, ["workers=1"]))
"""
    arguments = [str(bundles["layer"]), str(recordings[4].path), "answers"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        cwd=tmp_path,
        env={**environment, "RAY_AUTH_TOKEN": TOKEN},
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "")
    said = [line for line in done.stderr.splitlines() if "Set ray log level from environment" not in line]
    assert said == []
    assert_same(rows_in(tmp_path / "answers"), local_rows(bundles["layer"], recordings[4:5], Config()))


@pytest.mark.parametrize("assignment", ["predict.format=csv", "predict.sort=label"])
def test_what_shards_cannot_be_is_refused(assignment: str, recordings: list[Excerpt], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the engine ray"):
        predict_on_ray("no model is looked for", recordings, tmp_path, settings(assignment))


def test_without_ray_the_extra_is_named(
    recordings: list[Excerpt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ConfigError, match=r'pip install "crycli\[ray\]"'):
        predict_on_ray("no model is looked for", recordings, tmp_path)
