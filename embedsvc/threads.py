"""Use the processors for many small tasks at once, rather than all of them for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Literal, TypeVar

__all__ = ["each", "one_thread"]

S = TypeVar("S")
T = TypeVar("T")


def each(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """What `work` makes of each item, in order, on as many threads as there are processors.

    For work whose time is spent in numpy and scikit-learn, which let other threads run meanwhile. Within it a product
    has one thread: threads of BLAS that wait for each other on a busy machine made small products twenty times slower.
    Nothing that is computed depends on how many threads there are.
    """
    with one_thread(), ThreadPoolExecutor(_processors()) as pool:
        return list(pool.map(work, items))


def one_thread(only: Literal["blas", "openmp"] | None = None) -> AbstractContextManager[object]:
    """BLAS and OpenMP, or only one of them, with one thread for the while."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, user_api=only)
    return limits


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
