"""Work in threads: in order, a few items ahead, and with its errors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from crycli.parallel import map_ordered, worker_count


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
