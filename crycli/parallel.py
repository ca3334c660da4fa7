"""Work spread over threads or processes, with the results in order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from loky import ProcessPoolExecutor

SECONDS_TO_START = 1.0  # processes with the decoders loaded
SECONDS_TO_WATCH = 2.0
IN_FLIGHT = 4  # tasks a worker
LARGEST_TASK = 8  # items that a process is handed at once

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count(workers: int) -> int:
    """The number of workers meant by a setting in which 0 stands for every core this process may use."""
    if workers > 0:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_rank() -> int:
    """The number of this process among those that torchrun or accelerate started for one training, from 0."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes were started for one training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Apply a function to each item in threads and yield the results in the order of the items.

    For results that are large; most decoders release the interpreter's lock. At most four items a worker are in
    flight, so memory does not grow with the number of items.
    """
    workers = worker_count(workers)
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= IN_FLIGHT * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def map_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, crashed: Callable[[Item], Result]
) -> Iterator[Result]:
    """Apply a function to each item in processes and yield the results in the order of the items.

    For small results. It begins without processes and starts them only where there is work for longer than they take
    to start. The function and the items must be picklable; a script that calls this needs no `__main__` guard.

    Args:
        function: what to apply.
        items: what to apply it to.
        workers: how many processes; 0 for one a core, 1 for none.
        crashed: the result for an item on which a process dies, as decoders written in C may on a damaged file.
    """
    workers = worker_count(workers)
    started = time.monotonic()
    done = 0
    while done < len(items) and (workers == 1 or time.monotonic() - started < SECONDS_TO_START):
        yield function(items[done])
        done += 1
    meanwhile = done  # as many as were done in that time are done here while the processes start
    while done < len(items):
        size = max(1, min(LARGEST_TASK, (len(items) - done) // (IN_FLIGHT * workers)))
        try:
            for result in _in_processes(function, items[done:], workers, size, meanwhile):
                yield result
                done += 1
        except BrokenExecutor:
            # One of the items at work then is to blame.
            meanwhile = 0
            for result in _one_by_one(function, items[done : done + IN_FLIGHT * workers * size], crashed):
                yield result
                done += 1


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, size: int, meanwhile: int = 0
) -> Iterator[Result]:
    """The results of items that are handed out `size` at a time, but for the first ones, which are done here."""
    tasks = iter([items[first : first + size] for first in range(meanwhile, len(items), size)])
    pool = _process_pool(workers)
    each = _Each(function)
    try:
        waiting = deque(pool.submit(each, task) for task in islice(tasks, IN_FLIGHT * workers))
        for item in items[:meanwhile]:
            yield function(item)
        while waiting:
            results = waiting.popleft().result()
            waiting.extend(pool.submit(each, task) for task in islice(tasks, 1))
            yield from results
    finally:
        pool.shutdown(kill_workers=True)


def _one_by_one(
    function: Callable[[Item], Result], items: Sequence[Item], crashed: Callable[[Item], Result]
) -> Iterator[Result]:
    """The results of items of which some may kill the process that works on them."""
    done = 0
    while done < len(items):
        try:
            for result in _in_processes(function, items[done:], 1, 1):
                yield result
                done += 1
        except BrokenExecutor:
            # With one worker and tasks of one item, the first without a result is to blame.
            yield crashed(items[done])
            done += 1


def _process_pool(workers: int) -> ProcessPoolExecutor:
    # Unlike the standard library's, its processes do not run the caller's script once more.
    from loky import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, initializer=_stay_with_parent, initargs=(os.getpid(),))


def _stay_with_parent(parent: int) -> None:
    """Ctrl-C reaches every process of a terminal, and this one is ended by its parent; without one it ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_TO_WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Each(Generic[Item, Result]):
    """A function applied to each item of a task; a class, because a process must be able to load it."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self.function = function

    def __call__(self, task: Sequence[Item]) -> list[Result]:
        return [self.function(item) for item in task]
