"""`streamed`: many reads at a time, and only so many ahead of who takes what was read.

Law: memory is what is read ahead, whatever there is to read in all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

from jobs.patient import THREADS

K = TypeVar("K")
T = TypeVar("T")

TOGETHER: Final = 16
"""Reads that a thread is given at once: handing over each by itself takes as long as the read."""


def streamed(read: Callable[[K], T], keys: Iterable[K]) -> Iterator[T]:
    """What `read` gives for each key, in order; an error is raised where its result would come."""
    left = iter(keys)

    def some() -> list[K]:
        return list(islice(left, TOGETHER))

    def read_each(few: list[K]) -> list[T]:
        return [read(key) for key in few]

    pool = ThreadPoolExecutor(THREADS)
    try:
        ahead = deque(pool.submit(read_each, few) for few in islice(iter(some, []), 2 * THREADS))
        while ahead:
            yield from ahead.popleft().result()
            if few := some():
                ahead.append(pool.submit(read_each, few))
    finally:
        pool.shutdown(cancel_futures=True)
