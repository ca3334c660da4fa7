"""What was measured is kept between runs, and whatever is wrong with the cache costs time and never the run."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import settings, write_cries

from crycli import probing
from crycli.audio import Excerpt
from crycli.cache import FILE_NAME, FOLDER_VARIABLE, Cache, cache_folder
from crycli.prepare import prepare_dataset_csv

BY_BABY = r"data.group_by=baby-\d+"


class Counted:
    """Counts the recordings that are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        real = probing.probe

        def probe(excerpt: Excerpt, windowing: Any) -> probing.Probe:
            self.paths.append(excerpt.path.name)
            return real(excerpt, windowing)

        monkeypatch.setattr(probing, "probe", probe)

    def take(self) -> list[str]:
        taken, self.paths = self.paths, []
        return sorted(taken)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_cries(tmp_path / "cries", babies=3)


def prepare(cries: Path, *assignments: str, cache: object = None) -> dict[str, bytes]:
    """The files that a run writes."""
    output = cries.parent / "data"
    shutil.rmtree(output, ignore_errors=True)
    chosen = settings(BY_BABY, "workers=1", f"cache={cache or cries.parent / 'cache'}", *assignments)
    prepare_dataset_csv([cries], output, chosen)
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_a_second_run_decodes_nothing_and_writes_the_same(few: Path, decoded: Counted) -> None:
    first = prepare(few)
    assert len(decoded.take()) == 12
    assert prepare(few) == first
    assert decoded.take() == []


def test_a_second_run_reads_no_recording_at_all(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(few)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a recording is opened")

    monkeypatch.setattr("crycli.audio.Reader", refuse)
    assert prepare(few) == first


def test_a_second_run_makes_no_player_again(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (few / "low" / "copy.wav").write_bytes((few / "low" / "baby-00-0.wav").read_bytes())
    first = prepare(few)
    assert b"data:audio/" in first["report.html"]
    monkeypatch.setattr("crycli.pages.player", None)
    monkeypatch.setattr("crycli.pages.thumbnail", None)
    assert prepare(few) == first


def test_only_what_is_new_or_changed_is_decoded(few: Path, decoded: Counted) -> None:
    prepare(few)
    decoded.take()
    changed = few / "low" / "baby-00-0.wav"
    status = changed.stat()
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    shutil.copy(few / "low" / "baby-01-0.wav", few / "low" / "baby-09-0.wav")
    prepare(few)
    assert decoded.take() == ["baby-00-0.wav", "baby-09-0.wav"]


def test_another_content_of_the_same_size_is_seen(few: Path, decoded: Counted) -> None:
    before = prepare(few)
    decoded.take()
    first, second = few / "low" / "baby-00-0.wav", few / "high" / "baby-00-0.wav"
    assert first.stat().st_size == second.stat().st_size
    time = first.stat().st_mtime_ns
    first.write_bytes(second.read_bytes())
    os.utime(first, ns=(time, time))  # as rsync and tar do
    after = prepare(few)
    assert decoded.take() == ["baby-00-0.wav"]
    assert before["prepare.json"] != after["prepare.json"]


@pytest.mark.parametrize("assignment", ["data.window=0.5", "data.min_seconds=0.3"])
def test_other_settings_for_clips_decode_again(assignment: str, few: Path, decoded: Counted) -> None:
    prepare(few)
    decoded.take()
    prepare(few, assignment)
    assert len(decoded.take()) == 12
    prepare(few)
    prepare(few, assignment)
    assert decoded.take() == []


@pytest.mark.parametrize("assignment", ["checks.quiet_db=-5", "data.seed=3", "data.folds=2", "data.label_map={low: x}"])
def test_thresholds_and_splits_change_without_decoding(assignment: str, few: Path, decoded: Counted) -> None:
    prepare(few)
    decoded.take()
    prepare(few, assignment)
    assert decoded.take() == []


def test_another_version_of_the_code_decodes_again(
    few: Path, decoded: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(few)
    decoded.take()
    monkeypatch.setattr("crycli.cache.__version__", "999")
    prepare(few)
    assert len(decoded.take()) == 12


def test_a_failure_is_not_kept(few: Path, decoded: Counted) -> None:
    (few / "low" / "words.wav").write_text("words")
    prepare(few)
    decoded.take()
    prepare(few)
    assert decoded.take() == ["words.wav"]


def test_without_a_cache_nothing_is_kept(few: Path, decoded: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(few.parent / "auto"))
    first = prepare(few, cache="none")
    assert prepare(few, cache="none") == first
    assert len(decoded.take()) == 24
    assert not (few.parent / "auto").exists()
    assert prepare(few, cache="auto") == first
    assert (few.parent / "auto" / FILE_NAME).is_file()


def test_the_setting_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert [cache_folder(setting) for setting in ("none", "auto", "some/where")] == [None, tmp_path, Path("some/where")]


def test_what_was_measured_before_an_interruption_is_kept(
    few: Path, decoded: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = probing.probe

    def probe(excerpt: Excerpt, windowing: Any) -> probing.Probe:
        if len(decoded.paths) == 5:
            raise KeyboardInterrupt
        return counting(excerpt, windowing)

    with monkeypatch.context() as context:
        context.setattr(probing, "probe", probe)
        with pytest.raises(KeyboardInterrupt):
            prepare(few)
    assert len(decoded.take()) == 5
    prepare(few)
    assert len(decoded.take()) == 7


def spoil_file(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "words":
        file.write_bytes(b"not a database" * 1000)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "half":
        file.write_bytes(content[: len(content) // 2])
    elif how == "middle":
        file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    elif how == "folder":
        file.unlink()
        file.mkdir()
    elif how == "other table":
        file.unlink()
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE kept (something TEXT)")
    else:
        broken = {"no json": "[1", "other json": "{}", "null": "null"}[how]
        with sqlite3.connect(file) as database:
            database.execute("UPDATE kept SET content = ?", (broken,))


@pytest.mark.parametrize(
    "how",
    ["words", "empty", "half", "middle", "folder", "other table", "no json", "other json", "null"],
)
def test_a_damaged_cache_costs_time_alone(how: str, few: Path, decoded: Counted) -> None:
    first = prepare(few)
    decoded.take()
    spoil_file(few.parent / "cache" / FILE_NAME, how)
    assert prepare(few) == first
    assert len(decoded.take()) == 12


@pytest.mark.parametrize("how", ["words", "half", "middle", "no json"])
def test_a_damaged_cache_is_mended(how: str, few: Path, decoded: Counted) -> None:
    prepare(few)
    spoil_file(few.parent / "cache" / FILE_NAME, how)
    prepare(few)
    decoded.take()
    prepare(few)
    assert decoded.take() == []


@pytest.mark.parametrize("cache", ["file", "file/below", "/proc/nowhere/cache"])
def test_a_cache_that_cannot_be_made_costs_time_alone(cache: str, few: Path, decoded: Counted) -> None:
    (few.parent / "file").write_text("mine")
    folder = few.parent / cache
    assert prepare(few, cache=folder) == prepare(few, cache=folder)
    assert len(decoded.take()) == 24
    assert (few.parent / "file").read_text() == "mine"


def test_a_cache_that_cannot_be_written_is_read(few: Path, decoded: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(few)
    decoded.take()
    real = sqlite3.connect

    def read_only(file: Path, **options: Any) -> sqlite3.Connection:  # root may write whatever its mode says
        return real(f"file:{file}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    assert prepare(few) == first
    assert decoded.take() == []
    shutil.copy(few / "low" / "baby-01-0.wav", few / "low" / "baby-09-0.wav")
    prepare(few)
    assert decoded.take() == ["baby-09-0.wav"]


LOCKED = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_cache_that_another_process_has_locked_costs_time_alone(
    few: Path, decoded: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout: real(file, timeout=timeout / 50))
    first = prepare(few)
    decoded.take()
    file = few.parent / "cache" / FILE_NAME
    command = [sys.executable, "-c", LOCKED, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        assert prepare(few) == first
        assert len(decoded.take()) == 12
        holder.stdin.close()
    assert prepare(few) == first
    assert decoded.take() == []


def test_two_runs_at_once_share_a_cache(few: Path) -> None:
    command = [sys.executable, "-m", "crycli", "-q", "prepare", str(few), "--set", BY_BABY]
    command += ["--set", f"cache={few.parent / 'cache'}", "--set", "checks.min_groups=1", "-o"]
    runs = [
        subprocess.Popen([*command, str(few.parent / name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    assert [(run.communicate(timeout=120)[1], run.returncode) for run in runs] == [("", 0)] * 2
    assert (few.parent / "a" / "train.csv").read_bytes() == (few.parent / "b" / "train.csv").read_bytes()


def test_what_is_kept_under_other_settings_is_not_found(tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    file.write_text("x")
    excerpts = [Excerpt(file), Excerpt(file, 1.0, 2.0), Excerpt(tmp_path / "gone.wav")]
    with Cache(tmp_path / "cache", [], "a") as cache:
        assert cache.find(excerpts) == [None, None, None]
        cache.add(excerpts[0], {"whole": 1})
        cache.add(excerpts[1], [2])
        cache.add(excerpts[2], [3])
    with Cache(tmp_path / "cache", [], "a") as cache:
        assert cache.find(excerpts) == [{"whole": 1}, [2], None]
    with Cache(tmp_path / "cache", [], "b") as cache:
        assert cache.find(excerpts) == [None, None, None]


def test_thousands_of_recordings_are_found(tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    file.write_text("x")
    excerpts = [Excerpt(file, float(number), number + 1.0) for number in range(2_345)]
    with Cache(tmp_path / "cache", []) as cache:
        for number, excerpt in enumerate(excerpts):
            cache.add(excerpt, number)
    with Cache(tmp_path / "cache", []) as cache:
        assert cache.find(excerpts) == list(range(2_345))
