"""Runs what waits in the queue on a few workers, which are threads: TensorFlow computes outside the interpreter lock.

Nothing here knows of HTTP or an event loop. A worker that is free takes what waits at that moment and waits for
nothing: under light load a text runs alone and at once, under heavy load batches fill by themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import EmbedsvcError
from embedsvc.models.base import Encoder
from embedsvc.service.queue import FairQueue, Flow, Row, Work
from embedsvc.types import Pass, Tokens, Vectors

__all__ = ["Batcher", "Closed"]

Observer = Callable[[int, int, float], None]
"""Told of each batch: its rows, its tokens, its seconds. Called in the threads of the workers."""


class Closed(EmbedsvcError):
    """The batcher was closed, or the model unloaded, before the rows ran."""

    def __init__(self) -> None:
        super().__init__("the model was unloaded, or the service stopped, before this request was answered")


@dataclass(frozen=True, slots=True)
class _Group:
    """What a batch has in common: one call of `Encoder.encode`."""

    encoder: Encoder = field(hash=False, compare=False)
    number: int  # stands for the encoder, which need not be hashable
    taps: tuple[str, ...]
    pass_: Pass


@dataclass(eq=False, slots=True)
class _Rows:
    tokens: Tokens
    keys: NDArray[np.uint64]
    out: dict[str, Vectors]
    left: int


class Batcher:
    """One queue before all models, and the workers that empty it.

    Parameters
    ----------
    token_budget : int
        Tokens a batch.
    workers : int
        Batches at once.
    observer : callable, optional

    Attributes
    ----------
    turn : int
        Tokens after which a request gives way to others: half a batch.
    """

    def __init__(self, *, token_budget: int, workers: int, observer: Observer | None = None) -> None:
        self.turn = max(1, token_budget // 2)
        self._queue = FairQueue(token_budget, self.turn, workers)
        self._wake = threading.Condition()
        self._closed = False
        self._observer = observer
        self._seconds = self._tokens = 0.0  # of batches, the latest counting most
        self._workers = [
            threading.Thread(target=self._work, name=f"embedsvc-encode-{number}", daemon=True)
            for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def backlog(self) -> int:
        """Tokens that would run before a newcomer's, see `FairQueue.backlog`."""
        return self._queue.backlog

    @property
    def tokens(self) -> int:
        """Tokens that wait."""
        return self._queue.tokens

    @property
    def seconds_per_token(self) -> float | None:
        """Of late, all workers together; None before the first batch."""
        return self._seconds / self._tokens / len(self._workers) if self._tokens else None

    def submit(
        self,
        encoder: Encoder,
        tokens: Tokens,
        *,
        keys: NDArray[np.uint64],
        taps: Sequence[str],
        pass_: Pass,
        flow: Flow,
    ) -> Future[Mapping[str, Vectors]]:
        """Queue rows for one pass.

        Parameters
        ----------
        encoder : Encoder
        tokens, keys, taps, pass_
            See `Encoder.encode`.
        flow : Flow
            Of the request: all it submits counts together.

        Returns
        -------
        Future of mapping of str to ndarray of shape (n, width), float32
            Cancel it, and rows that have not begun never will.
        """
        rows = _Rows(
            tokens,
            keys,
            {tap: np.empty((len(tokens), encoder.spec.taps[tap]), dtype=np.float32) for tap in taps},
            len(tokens),
        )
        lengths = np.maximum(tokens.counts, [_guess(text) for text in tokens.texts]) if tokens.ids is None else None
        lengths = (tokens.counts if lengths is None else lengths) + encoder.spec.special_tokens
        group = _Group(encoder, id(encoder), tuple(taps), pass_)
        work = Work(group, [max(1, length) for length in lengths.tolist()], rows, flow)
        if not rows.left:
            work.future.set_result(rows.out)
            return work.future
        work.future.add_done_callback(lambda future: self._dropped(work) if future.cancelled() else None)
        with self._wake:
            if self._closed:
                raise Closed
            self._queue.push(work)
            self._wake.notify(min(len(tokens), len(self._workers)))
        return work.future

    def close(self) -> None:
        """Let the workers finish the batches they have, and stop; what waits gets `Closed`."""
        with self._wake:
            self._closed = True
            waiting = []
            while batch := self._queue.take():
                waiting += batch
            self._wake.notify_all()
        for work in {id(row.work): row.work for row in waiting}.values():
            self._fail(work, Closed())
        for worker in self._workers:
            worker.join()

    def _dropped(self, work: Work) -> None:
        with self._wake:
            self._queue.drop(work)
            self._wake.notify()  # so that its rows do not lie there until the next request comes

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (batch := self._queue.take()):
                    if self._closed:
                        return
                    self._wake.wait()
            began = time.perf_counter()
            self._run(batch)
            seconds, tokens = time.perf_counter() - began, sum(row.length for row in batch)
            with self._wake:
                self._seconds = 0.9 * self._seconds + seconds
                self._tokens = 0.9 * self._tokens + tokens
            if self._observer:
                self._observer(len(batch), tokens, seconds)
            del batch  # or an idle worker would hold the last answer

    def _run(self, batch: list[Row]) -> None:
        by_work: dict[int, list[Row]] = {}
        for row in batch:
            by_work.setdefault(id(row.work), []).append(row)
        parts = list(by_work.values())
        try:
            vectors = _encode(batch)
        except Exception as error:
            if len(parts) == 1:
                self._fail(batch[0].work, error)
            else:
                # What one request breaks must not break the others that rode with it.
                for part in parts:
                    self._run(part)
            return
        where = {id(row): at for at, row in enumerate(batch)}
        for part in parts:
            work, rows = part[0].work, part[0].work.payload
            from_, to = [where[id(row)] for row in part], [row.index for row in part]
            for tap, out in rows.out.items():
                out[to] = vectors[tap][from_]
            with self._wake:  # two workers may hold rows of one work
                rows.left -= len(part)
                done = not rows.left and work.future.set_running_or_notify_cancel()
            if done:
                work.future.set_result(rows.out)

    def _fail(self, work: Work, error: Exception) -> None:
        with self._wake:
            if work.future.done() or work.future.running():  # another of its batches has failed before
                return
            self._queue.drop(work)
            open_ = work.future.set_running_or_notify_cancel()
        if open_:
            work.future.set_exception(error)


def _encode(batch: list[Row]) -> Mapping[str, Vectors]:
    group: _Group = batch[0].work.group  # type: ignore[assignment]
    sources = [(row.work.payload, row.index) for row in batch]
    has_ids = sources[0][0].tokens.ids is not None
    tokens = Tokens(
        tuple(rows.tokens.texts[index] for rows, index in sources),
        tuple(rows.tokens.ids[index] for rows, index in sources) if has_ids else None,
        np.array([rows.tokens.counts[index] for rows, index in sources], dtype=np.int64),
    )
    keys = np.array([rows.keys[index] for rows, index in sources], dtype=np.uint64)
    return group.encoder.encode(tokens, keys=keys, taps=group.taps, pass_=group.pass_)


def _guess(text: str) -> int:
    return len(text) // 4 + 1
