"""Threads that read, decode and check parts of a batch, in calls that release the interpreter lock.

in_threads([task, task, task])      done, or the first error raised, when all have ended
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

from sm_store.system import cpus

THREADS = min(8, cpus())


def in_threads(tasks: Sequence[Callable[[], None]]) -> None:
    """Run tasks, the last one in this thread. Afterwards no task is running any more, also if one failed."""
    started = [_pool(os.getpid()).submit(task) for task in tasks[:-1]]
    try:
        for task in tasks[-1:]:
            task()
    finally:
        wait(started)
    for done in started:
        done.result()


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """The pool of this process: a forked process does not inherit threads."""
    return ThreadPoolExecutor(THREADS, "store")
