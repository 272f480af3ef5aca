"""What runs next: rows of all requests in one fair order, batched by like length under a token budget.

Requests take turns of so many tokens, those that are new first and in the order in which they came. So what fits into
one turn is first come, first served, and waits for what the queue held when it came and for nothing later; a request
of a thousand texts gives way after each of its turns.

References
----------
Nagle (1987), "On packet switches with infinite storage", IEEE Transactions on Communications 35 (4); turns of so many
units rather than one packet: Shreedhar & Varghese (1996), "Efficient fair queuing using deficit round-robin",
IEEE/ACM Transactions on Networking 4 (3).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FairQueue", "Flow", "Row", "Work"]


@dataclass(eq=False, slots=True)
class Flow:
    """One request's claim on the encoder.

    Attributes
    ----------
    round : int or None
        In which it has its first turn; None before it has asked for anything.
    asked : int
        Tokens of all its rows so far.
    waiting : int
        Tokens of its rows that wait.
    """

    round: int | None = None
    asked: int = 0
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


_Entry = tuple[int, bool, int, Row]
"""The round of its turn, whether it is a later turn than the first, the order of arrival; the lowest is next."""


class FairQueue:
    """Not safe across threads: `Batcher` holds its lock.

    A batch is one worker's share of what waits, up to the budget: with all of it the others would stand idle, and what
    comes next would wait for the whole. So batches grow with the queue, and throughput with the batches.

    Parameters
    ----------
    token_budget : int
        Rows of a batch times the longest of them; one row goes in whatever its length.
    turn : int
        Tokens after which a request gives way. It counts towards `backlog` with so many at most: a newcomer waits for
        no more of it.
    workers : int
        That take batches.

    Attributes
    ----------
    backlog : int
        Tokens that would run before a newcomer's first turn.
    tokens : int
        Tokens of all rows that wait.
    """

    def __init__(self, token_budget: int, turn: int, workers: int = 1) -> None:
        self._budget = token_budget
        self._workers = workers
        self._turn = turn
        self._heaps: dict[Hashable, list[_Entry]] = {}
        self._order = itertools.count()
        self._round = 0
        self.backlog = 0
        self.tokens = 0

    def push(self, work: Work) -> None:
        """Add all rows of a work."""
        if not work.lengths:
            return
        heap = self._heaps.setdefault(work.group, [])
        flow = work.flow
        if flow.round is None:
            # Never the round that is under way, or a stream of newcomers would keep the next one from beginning.
            flow.round = self._round + 1
        for index, length in enumerate(work.lengths):
            later = flow.asked // self._turn
            heapq.heappush(heap, (flow.round + later, later > 0, next(self._order), Row(work, index, length)))
            flow.asked += length
        work.waiting = sum(work.lengths)
        self._account(flow, work.waiting)

    def drop(self, work: Work) -> None:
        """Forget a work that was cancelled or failed: its rows are passed over when their turn comes."""
        self._account(work.flow, -work.waiting)
        work.waiting = 0

    def take(self) -> list[Row] | None:
        """The next batch, or None if nothing waits."""
        while True:
            group = min(self._heaps, key=lambda group: self._heaps[group][0][:3], default=None)
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
                self._round = max(self._round, window[0][0])
                return [entry[-1] for entry in batch]

    def _window(self, heap: list[_Entry]) -> list[_Entry]:
        """The next rows, as many as the budget would hold without padding: none is passed over for later ones."""
        window: list[_Entry] = []
        size = 0
        while heap and size < self._budget:
            entry = heapq.heappop(heap)
            if not entry[-1].work.future.done():  # cancelled, or failed in another batch
                window.append(entry)
                size += entry[-1].length
        return window

    def _alike(self, window: list[_Entry]) -> tuple[list[_Entry], list[_Entry]]:
        """The first row, and of the others those nearest to it in length; what is left over."""
        if not window:
            return [], []
        room = min(self._budget, -(-self.tokens // self._workers))
        length = longest = window[0][-1].length
        batch, rest = window[:1], []
        for entry in sorted(window[1:], key=lambda entry: abs(entry[-1].length - length)):
            longer = max(longest, entry[-1].length)
            if (len(batch) + 1) * longer <= room:
                batch.append(entry)
                longest = longer
            else:
                rest.append(entry)
        for *_, row in batch:
            # A work that was dropped meanwhile has been accounted for.
            taken = min(row.length, row.work.waiting)
            row.work.waiting -= taken
            self._account(row.work.flow, -taken)
        return batch, rest

    def _account(self, flow: Flow, tokens: int) -> None:
        before = min(flow.waiting, self._turn)
        flow.waiting += tokens
        self.backlog += min(flow.waiting, self._turn) - before
        self.tokens += tokens
