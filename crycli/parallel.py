"""Work spread over threads or processes, with the results in order."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

SECONDS_TO_START = 1.0  # processes with the decoders loaded
IN_FLIGHT = 4  # items a worker

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count(workers: int) -> int:
    """The number of threads meant by a setting in which 0 stands for every core this process may use."""
    if workers > 0:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    while done < len(items):
        try:
            for result in _in_processes(function, items[done:], workers):
                yield result
                done += 1
        except BrokenProcessPool:
            # One of the items at work then is to blame: each of them gets processes of its own.
            for item in items[done : done + IN_FLIGHT * workers]:
                yield _alone(function, item, crashed)
                done += 1


def _in_processes(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    from joblib import Parallel, delayed

    # Without the limit on bytes joblib would pass arrays through files.
    parallel = Parallel(n_jobs=workers, return_as="generator", max_nbytes=None, pre_dispatch=f"{IN_FLIGHT}*n_jobs")
    yield from parallel(delayed(function)(item) for item in items)


def _alone(function: Callable[[Item], Result], item: Item, crashed: Callable[[Item], Result]) -> Result:
    """The result of one item; two workers, because joblib starts no process for one."""
    try:
        return next(_in_processes(function, [item], 2))
    except BrokenProcessPool:
        return crashed(item)
