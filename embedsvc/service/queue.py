"""What runs next: rows of all requests in one fair order, batched by like length under a token budget.

Requests share the encoder by tokens, as flows share a line in self-clocked fair queueing: a row is tagged with the
virtual time at which its request would have been given so many tokens, and the row with the lowest tag is next. A
request of one text that comes behind one of a thousand waits for a row or two of those, not for all.

References
----------
Golestani (1994), "A self-clocked fair queueing scheme for broadband applications", IEEE INFOCOM.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FairQueue", "Flow", "Row", "Work"]

_WINDOW = 8  # budgets' worth of rows among which those of like length are sought


@dataclass(eq=False, slots=True)
class Flow:
    """One request's claim on the encoder.

    Attributes
    ----------
    last : int
        Tag of its last row.
    waiting : int
        Tokens of its rows that wait.
    """

    last: int = 0
    waiting: int = 0


@dataclass(eq=False, slots=True)
class Work:
    """Rows that one request wants under one pass.

    Attributes
    ----------
    group : hashable
        Rows of different groups cannot run together.
    lengths : sequence of int
        Tokens of each row, special ones included.
    payload : any
        What whoever runs the rows needs.
    future : Future
        Cancelled by whoever does not want the answer any more.
    """

    group: Hashable
    lengths: Sequence[int]
    payload: Any
    flow: Flow = field(default_factory=Flow)
    future: Future[Any] = field(default_factory=Future)
    waiting: int = 0


@dataclass(eq=False, slots=True)
class Row:
    """Row `index` of a work."""

    work: Work
    index: int
    length: int


_Entry = tuple[int, int, Row]


class FairQueue:
    """Not safe across threads: `Batcher` holds its lock.

    A batch is one worker's share of what waits, up to the budget: with all of it the others would stand idle, and what
    comes next would wait for the whole. So batches grow with the queue, and throughput with the batches.

    Parameters
    ----------
    token_budget : int
        Rows of a batch times the longest of them; one row goes in whatever its length.
    quantum : int
        A request counts towards `backlog` with so many tokens at most: what a newcomer of that size waits for it.
    workers : int
        That take batches.

    Attributes
    ----------
    backlog : int
        Tokens that would run before a newcomer's first `quantum`.
    tokens : int
        Tokens of all rows that wait.
    """

    def __init__(self, token_budget: int, quantum: int, workers: int = 1) -> None:
        self._budget = token_budget
        self._workers = workers
        self._quantum = quantum
        self._heaps: dict[Hashable, list[_Entry]] = {}
        self._order = itertools.count()
        self._now = 0
        self.backlog = 0
        self.tokens = 0

    def push(self, work: Work) -> None:
        """Add all rows of a work."""
        if not work.lengths:
            return
        heap = self._heaps.setdefault(work.group, [])
        flow = work.flow
        tag = max(flow.last, self._now)
        for index, length in enumerate(work.lengths):
            tag += length
            heapq.heappush(heap, (tag, next(self._order), Row(work, index, length)))
        flow.last = tag
        work.waiting = sum(work.lengths)
        self._account(flow, work.waiting)

    def drop(self, work: Work) -> None:
        """Forget a work that was cancelled or failed: its rows are passed over when their turn comes."""
        self._account(work.flow, -work.waiting)
        work.waiting = 0

    def take(self) -> list[Row] | None:
        """The next batch, or None if nothing waits."""
        while True:
            group = min(self._heaps, key=lambda group: self._heaps[group][0][:2], default=None)
            if group is None:
                return None
            heap = self._heaps[group]
            window = self._window(heap)
            batch, rest = self._alike(window)
            for entry in rest:
                heapq.heappush(heap, entry)
            if not heap:
                del self._heaps[group]
            if batch:
                self._now = max(self._now, window[0][0])
                return [row for _, _, row in batch]

    def _window(self, heap: list[_Entry]) -> list[_Entry]:
        window: list[_Entry] = []
        size = 0
        while heap and size < _WINDOW * self._budget:
            entry = heapq.heappop(heap)
            if not entry[2].work.future.done():  # cancelled, or failed in another batch
                window.append(entry)
                size += entry[2].length
        return window

    def _alike(self, window: list[_Entry]) -> tuple[list[_Entry], list[_Entry]]:
        """The first row, and of the others those nearest to it in length; what is left over."""
        if not window:
            return [], []
        room = min(self._budget, -(-self.tokens // self._workers))
        length = longest = window[0][2].length
        batch, rest = window[:1], []
        for entry in sorted(window[1:], key=lambda entry: abs(entry[2].length - length)):
            longer = max(longest, entry[2].length)
            if (len(batch) + 1) * longer <= room:
                batch.append(entry)
                longest = longer
            else:
                rest.append(entry)
        for _, _, row in batch:
            # A work that was dropped meanwhile has been accounted for.
            taken = min(row.length, row.work.waiting)
            row.work.waiting -= taken
            self._account(row.work.flow, -taken)
        return batch, rest

    def _account(self, flow: Flow, tokens: int) -> None:
        before = min(flow.waiting, self._quantum)
        flow.waiting += tokens
        self.backlog += min(flow.waiting, self._quantum) - before
        self.tokens += tokens
