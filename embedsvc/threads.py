"""Use the processors for many small tasks at once, rather than all of them for each."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar

from embedsvc.machine import processors

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["each", "one_thread", "silenced"]

S = TypeVar("S")
T = TypeVar("T")


def each(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """What `work` makes of each item, in order, on as many threads as there are processors.

    For work whose time is spent in numpy and scikit-learn, which let other threads run meanwhile. Within it a product
    has one thread: threads of BLAS that wait for each other on a busy machine made small products twenty times slower.
    Nothing that is computed depends on how many threads there are.
    """
    with one_thread(), ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(work, items))


def one_thread(only: Literal["blas", "openmp"] | None = None) -> AbstractContextManager[object]:
    """BLAS and OpenMP, or only one of them, with one thread for the while."""
    global _pools
    known = _pools
    if known is None or known[0] != len(sys.modules):
        from threadpoolctl import ThreadpoolController

        _pools = known = (len(sys.modules), ThreadpoolController())
    limits: AbstractContextManager[object] = known[1].limit(limits=1, user_api=only)
    return limits


# The libraries that are loaded. To look for them takes 3 ms, so they are looked for again only after an import.
_pools: tuple[int, ThreadpoolController] | None = None


@contextmanager
def silenced(*categories: type[Warning], module: str = "") -> Iterator[None]:
    """No such warnings for the while, nor any from modules whose names match, in whatever thread.

    ``warnings.catch_warnings`` changes the filters of the whole process, and two threads that leave it in another order
    than they entered it leave the wrong ones behind. Here the last to leave restores what the first found.
    """
    global _silencers, _found
    with _FILTERS:
        if not _silencers:
            _found = warnings.catch_warnings()
            _found.__enter__()
        _silencers += 1
        for category in categories:
            warnings.simplefilter("ignore", category)
        if module:
            warnings.filterwarnings("ignore", module=module)
    try:
        yield
    finally:
        with _FILTERS:
            _silencers -= 1
            if not _silencers:
                _found.__exit__(None, None, None)


_FILTERS = threading.Lock()
_silencers = 0
_found: warnings.catch_warnings[None]
