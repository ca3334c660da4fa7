"""Work in threads and in processes: in order, a few items ahead, and with its errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import interruptible
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from crycli import parallel
from crycli.errors import AudioError
from crycli.parallel import map_ordered, map_processes, worker_count


@trials(deadline=None, max_examples=50)
@given(items=st.lists(st.integers(0, 3), max_size=40), workers=st.integers(1, 8))
def test_results_come_in_the_order_of_the_items(items: list[int], workers: int) -> None:
    def late(numbered: tuple[int, int]) -> int:
        number, delay = numbered
        time.sleep(delay / 5000)
        return number

    assert list(map_ordered(late, enumerate(items), workers)) == list(range(len(items)))


def test_the_work_is_spread_over_the_threads_asked_for() -> None:
    meeting = threading.Barrier(3, timeout=10)  # three must be at work at once, or it breaks
    assert list(map_ordered(lambda item: meeting.wait() >= 0, range(6), 3)) == [True] * 6


@pytest.mark.parametrize("workers", [1, 3])
def test_items_are_taken_only_a_few_ahead_of_the_results(workers: int) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = map_ordered(lambda item: item, endless(), workers)
    for received in range(1, 50):
        assert next(results) == received
        assert taken <= received + 4 * workers
    results.close()  # type: ignore[attr-defined]


def test_nothing_is_done_before_it_is_asked_for() -> None:
    done: list[int] = []
    map_ordered(done.append, range(3), 1)
    assert done == []


def test_an_error_reaches_the_caller_after_the_results_before_it() -> None:
    results = map_ordered(lambda item: 6 // item, [3, 2, 1, 0, 1], 2)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_the_items_reaches_the_caller() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the list ends early")

    with pytest.raises(OSError, match="the list ends early"):
        list(map_ordered(lambda item: item, broken(), 2))


def test_after_an_error_what_waits_is_not_begun() -> None:
    begun = []
    go_on = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise ValueError
        go_on.wait(timeout=10)

    with pytest.raises(ValueError):
        list(map_ordered(work, range(100), 2))
    go_on.set()
    time.sleep(0.1)
    assert len(begun) <= 3  # the one that failed, and what the two threads had begun


def test_zero_workers_mean_the_cores_there_are() -> None:
    assert 1 <= worker_count(0) <= (os.cpu_count() or 1)
    assert worker_count(3) == 3


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are started for any work."""
    monkeypatch.setattr(parallel, "SECONDS_TO_START", 0.0)


def late_square(item: int) -> int:
    """The later the earlier."""
    time.sleep(0.05 if item % 5 == 0 else 0.0)
    return item * item


def at_work(item: int) -> tuple[int, int]:
    """The item and who worked on it."""
    time.sleep(0.02)
    return item, os.getpid()


def refuse_seven(item: int) -> int:
    """An error that a recording may bring."""
    if item == 7:
        raise AudioError("seven is no recording")
    return item


def lost(item: object) -> int:
    """Stands for the result of an item on which a process died."""
    return -1


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_processes_give_the_results_in_the_order_of_the_items(workers: int, at_once: None) -> None:
    assert list(map_processes(late_square, range(40), workers, lost)) == [item * item for item in range(40)]


def test_work_goes_to_other_processes_where_it_is_long(at_once: None) -> None:
    results = list(map_processes(at_work, range(20), 2, lost))
    assert [item for item, _ in results] == list(range(20))
    processes = {process for _, process in results}
    assert os.getpid() not in processes
    assert len(processes) == 2


def test_short_work_and_one_worker_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {process for _, process in map_processes(at_work, range(3), 8, lost)} == {os.getpid()}
    monkeypatch.setattr(parallel, "SECONDS_TO_START", 0.0)
    assert {process for _, process in map_processes(at_work, range(3), 1, lost)} == {os.getpid()}


def test_long_work_moves_to_other_processes_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "SECONDS_TO_START", 0.1)
    results = list(map_processes(at_work, range(30), 2, lost))
    assert [item for item, _ in results] == list(range(30))
    here = [process == os.getpid() for _, process in results]
    assert here[0]
    assert not here[-1]
    assert here == sorted(here, reverse=True)


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_an_error_in_a_process_reaches_the_caller_with_its_type(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "SECONDS_TO_START", seconds)
    with pytest.raises(AudioError, match=r"^seven is no recording$"):
        list(map_processes(refuse_seven, range(20), 2, lost))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_no_items_give_no_results(workers: int, at_once: None) -> None:
    assert list(map_processes(late_square, [], workers, lost)) == []


def test_results_that_are_no_longer_wanted_may_be_left(at_once: None) -> None:
    results = map_processes(at_work, range(10_000), 2, lost)
    assert next(results)[0] == 0
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5
    assert list(map_processes(late_square, range(5), 2, lost)) == [0, 1, 4, 9, 16]


def die_on_three(item: int) -> int:
    """As a decoder written in C does on a damaged file."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_an_item_on_which_a_process_dies_is_lost_and_no_other(at_once: None) -> None:
    assert list(map_processes(die_on_three, range(12), 2, lost)) == [-1 if item == 3 else item for item in range(12)]


UNGUARDED = """
import math, os
from crycli import parallel
parallel.SECONDS_TO_START = 0.0
from crycli.parallel import map_processes

def root(item):
    return math.sqrt(item), os.getpid()

print("begun", flush=True)
results = list(map_processes(root, [number * number for number in range(30)], 2, None))
assert [value for value, _ in results] == list(range(30))
assert os.getpid() not in {process for _, process in results}
print("done")
"""


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["begun", "done"], done.stderr
    assert (done.returncode, done.stderr) == (0, "")


SLEEPY = """
import sys, time
from crycli import parallel
parallel.SECONDS_TO_START = 0.0

def sleep(item):
    time.sleep(0.3)
    return item

try:
    for item in parallel.map_processes(sleep, range(1000), 2, None):
        print(item, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def processes_of(session: int) -> list[int]:
    """The processes that live in a session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def stop_at_work(script: Path, *, group: bool) -> tuple[int, float, str]:
    """Ctrl-C at a script whose workers are at work: its exit status, the seconds it took, what it printed as errors."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    script.write_text(SLEEPY)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, **streams, preexec_fn=interruptible, start_new_session=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "0\n"
            assert len(processes_of(running.pid)) >= 3  # it and its two workers
            started = time.monotonic()
            (os.killpg if group else os.kill)(running.pid, signal.SIGINT)
            _, stderr = running.communicate(timeout=30)
            seconds = time.monotonic() - started
            while processes_of(running.pid) and time.monotonic() - started < 10:
                time.sleep(0.1)
            assert processes_of(running.pid) == []
        finally:
            for survivor in processes_of(running.pid):
                os.kill(survivor, signal.SIGKILL)
    return running.returncode, seconds, stderr


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")


@needs_proc
@pytest.mark.parametrize("group", [True, False], ids=["from a terminal", "by kill -INT"])
def test_ctrl_c_ends_the_processes_within_seconds_and_leaves_none(group: bool, tmp_path: Path) -> None:
    code, seconds, _ = stop_at_work(tmp_path / "script.py", group=group)
    assert code == 130
    assert seconds < 8


@needs_proc
@pytest.mark.parametrize("group", [True, False], ids=["from a terminal", "by kill -INT"])
def test_ctrl_c_fills_the_terminal_with_no_tracebacks_of_the_workers(group: bool, tmp_path: Path) -> None:
    for _ in range(3):  # some of them come by chance
        errors = stop_at_work(tmp_path / "script.py", group=group)[2]
        # Now and then loky's resource tracker says that a killed worker has left a semaphore, and removes it.
        assert "Traceback" not in errors
        assert "Exception" not in errors
