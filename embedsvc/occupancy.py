"""How busy the workers of an extraction are: whether reading, tokenising and writing keep up with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Occupancy"]


class Occupancy:
    """Fills while an extraction runs; its workers add to it.

    Attributes
    ----------
    workers : int
        Batches that can be under way at once.
    encoding : float
        Seconds in batches, summed over the workers.
    tokenizing : float
        Seconds in the tokenizer, which runs beside the workers.
    elapsed : float
        Seconds from the first text read to the last batch done.
    """

    def __init__(self) -> None:
        self.workers = 0
        self.encoding = 0.0
        self.tokenizing = 0.0
        self.elapsed = 0.0
        self._began: float | None = None
        self._lock = threading.Lock()

    @property
    def waiting(self) -> float | None:
        """Share of the workers' time without a batch to encode, from 0 to 1; None before the first batch is done.

        The start, when nothing is tokenised yet, and the end, when the last batch runs alone, are in it: in a run of
        few batches it is large whatever tokenising costs.
        """
        available = self.workers * self.elapsed
        return max(0.0, 1.0 - self.encoding / available) if available else None

    def begin(self, workers: int) -> None:
        """Start the clock."""
        self.workers = workers
        self._began = time.perf_counter()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around the work of one batch, in the thread of its worker."""
        assert self._began is not None
        began = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            with self._lock:
                self.encoding += ended - began
                self.elapsed = max(self.elapsed, ended - self._began)

    @contextmanager
    def tokenizer(self) -> Iterator[None]:
        """Around the tokenizer, in the one thread that calls it."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.tokenizing += time.perf_counter() - began
