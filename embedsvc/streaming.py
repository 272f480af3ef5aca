"""Blocks of texts through an encoder's workers.

Tokenising and writing happen in the caller's thread while a few workers encode, so that the encoder never waits for
either; at most two blocks are in memory. Texts of a block that have the same tokens share their inference passes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import batching, masks
from embedsvc.occupancy import Occupancy
from embedsvc.types import Block, Pass, Text, Variant, Vectors

if TYPE_CHECKING:
    from embedsvc.models import Encoder
    from embedsvc.settings import Settings

__all__ = ["Known", "Progress", "Recalled", "known_passes", "stream"]

Progress = Callable[[int, int], None]
"""Told after each batch how many texts and tokens it held; may be called from several threads."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """Rows of a block whose vectors are known already, all or some.

    Attributes
    ----------
    rows : ndarray of shape (m,), intp
        Positions in the block, ascending.
    vectors : mapping of str to ndarray of shape (m, width), float32
        Of the stored variants that all of these rows have; a pass of which one is lacking is encoded.
    n_tokens, truncated : ndarray of shape (m,)
        See `Forward`.
    """

    rows: NDArray[np.intp]
    vectors: Mapping[str, Vectors]
    n_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


Known = Callable[[Sequence[Text]], Recalled | None]
"""Asked for the rows of each block of which something need not be encoded; None if there is none."""


def known_passes(passes: Mapping[Pass, tuple[str, ...]], names: Collection[str]) -> dict[Pass, tuple[str, ...]]:
    """Of some passes those that need not be run over rows of which these variants are known."""
    return {pass_: taps for pass_, taps in passes.items() if all(name in names for name in _names(pass_, taps))}


def stream(
    texts: Iterable[Text],
    encoder: Encoder,
    settings: Settings,
    passes: dict[Pass, tuple[str, ...]],
    *,
    skip: Collection[int],
    known: Known | None,
    workers: int,
    progress: Progress | None,
    occupancy: Occupancy,
) -> Iterator[Block]:
    """Blocks with one array for each tap of each pass, in the order of the texts. See `extraction.extract`."""
    job = _Job(encoder, settings, passes, known, progress, occupancy)
    source = iter(texts)
    running: deque[_Running] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="embedsvc-encode")
    occupancy.begin(workers)
    try:
        index = 0
        while rows := tuple(islice(source, settings.rows_per_part)):
            if index not in skip:
                running.append(job.start(index, rows, pool))
                if len(running) > 1:
                    yield job.finish(running.popleft())
            index += 1
        while running:
            yield job.finish(running.popleft())
    finally:
        # On an error or Ctrl-C: drop what has not begun, wait for what has (a batch is a fraction of a second).
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Encoding:
    """Some rows of a block on their way through some passes; what is fitted, in arrays and futures are these rows.

    A piece gets its inference vectors from its first, the piece with the same tokens that stands before all others.
    """

    texts: tuple[Text, ...]
    passes: dict[Pass, tuple[str, ...]]
    fitted: batching.Fitted
    firsts: NDArray[np.intp]
    arrays: dict[tuple[Pass, str], Vectors]
    futures: list[Future[None]]


@dataclass(frozen=True, slots=True)
class _Running:
    """A block whose batches are with the workers.

    Passes that no row has yet go over the whole block, in the batches of a block of which nothing is known; passes
    that some rows have go over the others.
    """

    index: int
    texts: tuple[Text, ...]
    recalled: Recalled | None
    whole: _Encoding | None
    fresh: _Encoding | None


@dataclass(frozen=True, slots=True)
class _Job:
    encoder: Encoder
    settings: Settings
    passes: dict[Pass, tuple[str, ...]]
    known: Known | None
    progress: Progress | None
    occupancy: Occupancy

    def start(self, index: int, texts: tuple[Text, ...], pool: ThreadPoolExecutor) -> _Running:
        """Tokenise a block, plan its batches and hand them to the workers."""
        recalled = self.known(texts) if self.known else None
        if recalled is None:
            return _Running(index, texts, None, self._hand(texts, self.passes, self.progress, pool), None)
        had = known_passes(self.passes, recalled.vectors)
        lacking = {pass_: taps for pass_, taps in self.passes.items() if pass_ not in had}
        old = frozenset(recalled.rows.tolist())
        rest = tuple(text for row, text in enumerate(texts) if row not in old)
        if lacking:
            # Its rows are counted once, with the passes that all of them lack.
            whole = self._hand(texts, lacking, self.progress, pool)
            return _Running(index, texts, recalled, whole, self._hand(rest, had, None, pool) if had else None)
        if self.progress:
            self.progress(len(old), 0)
        return _Running(index, texts, recalled, None, self._hand(rest, had, self.progress, pool))

    def _hand(
        self,
        texts: tuple[Text, ...],
        passes: dict[Pass, tuple[str, ...]],
        progress: Progress | None,
        pool: ThreadPoolExecutor,
    ) -> _Encoding:
        from embedsvc.models.base import encoder_taps

        spec, settings = self.encoder.spec, self.settings
        with self.occupancy.tokenizer():
            tokens = self.encoder.tokenize([text.text for text in texts])
        ids = [text.id for text in texts]
        fitted = batching.fit(tokens, ids, spec, max_tokens=settings.max_tokens, on_long=settings.on_long)
        arrays = {
            (pass_, tap): np.empty((len(fitted.pieces), spec.taps[tap]), dtype=np.float32)
            for pass_, taps in passes.items()
            for tap in encoder_taps(taps)
        }
        every = np.arange(len(fitted.pieces), dtype=np.intp)
        # Masks follow the id and not the text, so that stochastic passes are encoded for every row.
        alike = getattr(self.encoder, "inference_by_tokens", False)
        firsts = batching.firsts(fitted.pieces) if alike else every
        handed = every if any(pass_.mode.stochastic for pass_ in passes) else np.flatnonzero(firsts == every)
        pieces = fitted.pieces if len(handed) == len(every) else fitted.pieces.take(handed)
        plan = batching.plan(pieces, token_budget=settings.token_budget, special_tokens=spec.special_tokens)
        encoding = _Encoding(texts, passes, fitted, firsts, arrays, [])
        encoding.futures.extend(pool.submit(self._encode, handed[rows], encoding, progress) for rows in plan)
        if progress and len(handed) < len(every):
            progress(_begun(fitted, np.setdiff1d(every, handed)), 0)
        return encoding

    def _encode(self, rows: NDArray[np.intp], encoding: _Encoding, progress: Progress | None) -> None:
        """One batch through every pass, into its rows of the arrays."""
        from embedsvc.models.base import encoder_taps

        fitted = encoding.fitted
        lone = rows[encoding.firsts[rows] == rows]
        with self.occupancy.batch():
            for pass_, taps in encoding.passes.items():
                some = rows if pass_.mode.stochastic else lone
                if not len(some):
                    continue
                batch = fitted.pieces.take(some)
                vectors = self.encoder.encode(batch, keys=fitted.keys[some], taps=encoder_taps(taps), pass_=pass_)
                for tap, value in vectors.items():
                    encoding.arrays[pass_, tap][some] = value
        if progress:
            counts = fitted.pieces.counts[rows] + self.encoder.spec.special_tokens
            progress(_begun(fitted, rows), int(np.maximum(counts, 0).sum()))

    def finish(self, block: _Running) -> Block:
        """Wait for a block's batches and put together what was known and what is new."""
        whole = self._vectors(block.whole) if block.whole else {}
        fresh = self._vectors(block.fresh) if block.fresh else {}
        if block.recalled is not None:
            old = block.recalled
            fresh = {name: _woven(old.rows, old.vectors[name], each) for name, each in fresh.items()}
        if block.whole is not None:
            n_tokens, truncated = block.whole.fitted.n_tokens, block.whole.fitted.truncated
        else:
            assert block.recalled is not None and block.fresh is not None
            n_tokens = _woven(old.rows, old.n_tokens, block.fresh.fitted.n_tokens)
            truncated = _woven(old.rows, old.truncated, block.fresh.fitted.truncated)
        return Block(
            index=block.index,
            offset=block.index * self.settings.rows_per_part,
            texts=block.texts,
            n_tokens=n_tokens,
            truncated=truncated,
            vectors=whole | fresh,
        )

    def _vectors(self, encoding: _Encoding) -> dict[str, Vectors]:
        """Wait for an encoding, and add the head's taps."""
        from embedsvc.models.base import head_vectors

        for future in encoding.futures:
            future.result()
        keys = masks.row_keys(text.id for text in encoding.texts)
        if (encoding.firsts != np.arange(len(encoding.firsts))).any():
            for (pass_, _), array in encoding.arrays.items():
                if not pass_.mode.stochastic:
                    array[:] = array[encoding.firsts]
        merged = {key: encoding.fitted.merge(value) for key, value in encoding.arrays.items()}
        vectors: dict[str, Vectors] = {}
        for pass_, taps in encoding.passes.items():
            made = {tap: merged[pass_, tap] for tap in taps if (pass_, tap) in merged}
            if (pass_, "pre_dropout") in merged:
                made |= head_vectors(self.encoder.head, merged[pass_, "pre_dropout"], keys, taps, pass_)
            vectors |= dict(zip(_names(pass_, taps), (made[tap] for tap in taps), strict=True))
        return vectors


def _begun(fitted: batching.Fitted, pieces: NDArray[np.intp]) -> int:
    """How many rows have their first piece among these: a row of several counts with its first."""
    if len(fitted.rows) == len(fitted.n_tokens):
        return len(pieces)
    return int(np.sum(np.diff(fitted.rows, prepend=-1)[pieces] > 0))


def _names(pass_: Pass, taps: Iterable[str]) -> tuple[str, ...]:
    """The variants that a pass gives."""
    return tuple(str(Variant(tap, pass_.mode, pass_.index)) for tap in taps)


def _woven(rows: NDArray[np.intp], old: NDArray[Any], fresh: NDArray[Any]) -> NDArray[Any]:
    """One array of the rows known before, which go to `rows`, and the fresh ones, which take the places left."""
    every = np.empty((len(old) + len(fresh), *fresh.shape[1:]), dtype=fresh.dtype)
    places = np.ones(len(every), dtype=np.bool_)
    places[rows] = False
    every[rows] = old
    every[places] = fresh
    return every
