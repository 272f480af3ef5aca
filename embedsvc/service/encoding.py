"""From the texts of a request to vectors, by way of the queue; what is cut, counted and refused on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedsvc import extraction, masks
from embedsvc.batching import Fitted, OnLong, fit
from embedsvc.embeddings import EmbeddingSet
from embedsvc.models.base import Encoder, encoder_taps, head_vectors
from embedsvc.service.batcher import Batcher
from embedsvc.service.hosting import body_taps
from embedsvc.service.problems import Problem
from embedsvc.service.queue import Flow
from embedsvc.service.settings import Limits
from embedsvc.types import Block, Pass, Text, Tokens, Variant, Vectors

__all__ = ["Embedded", "Encoding", "unit"]

_BRIEF = 512  # characters: a tenth of a millisecond

T = TypeVar("T")
Ids = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of the texts of a request.

    Attributes
    ----------
    vectors : ndarray of shape (n, width), float32
    n_tokens : ndarray of shape (n,), int64
        Tokens read, special ones included; -1 where the model cannot tell.
    truncated : ndarray of shape (n,), bool
    """

    vectors: Vectors
    n_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @property
    def tokens(self) -> int:
        """Tokens read in all."""
        return int(np.maximum(self.n_tokens, 0).sum())


class Encoding:
    """Tokenises beside the event loop, submits, gathers.

    Parameters
    ----------
    batcher : Batcher
    limits : Limits
    """

    def __init__(self, batcher: Batcher, limits: Limits) -> None:
        self._batcher = batcher
        self._limits = limits
        # Tokenising a large request must not hold up the small ones, so there are two.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="embedsvc-request")

    async def aside(self, work: Callable[[], T]) -> T:
        """Something short and heavy, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(cancel_futures=True)

    async def embed(
        self,
        encoder: Encoder,
        texts: Sequence[str] | Ids,
        *,
        tap: str,
        on_long: OnLong,
        keep_end: bool = False,
        queued: Callable[[], None] = lambda: None,
    ) -> Embedded:
        """One tap of some texts, in inference mode.

        Parameters
        ----------
        encoder : Encoder
        texts : sequence of str, or of sequences of token ids without special ones
        tap : str
        on_long : OnLong
        keep_end : bool
            See `batching.fit`.
        queued : callable
            Told when the rows are in the queue.

        Raises
        ------
        Problem
            413 or 422 for what is too long, 400 for ids that are none of the model's.
        """

        def tokenize() -> Fitted:
            return self._fit(encoder, _tokens(encoder, texts), [""] * len(texts), on_long, 1, keep_end=keep_end)

        # What takes less than two changes of thread is done at once; a model that has no ids tokenises as it likes.
        brief = sum(map(len, texts)) <= _BRIEF and getattr(encoder, "vocabulary", None) is not None
        fitted = tokenize() if brief else await self.aside(tokenize)
        body = body_taps(encoder, encoder_taps((tap,)))
        made = self._batcher.submit(encoder, fitted.pieces, keys=fitted.keys, taps=body, pass_=Pass(), flow=Flow())
        queued()
        encoded: Mapping[str, Vectors] = await asyncio.wrap_future(made)
        vectors = dict(encoded)
        if tap not in vectors:
            vectors |= head_vectors(encoder.head, vectors["pre_dropout"], fitted.keys, (tap,), Pass())
        return Embedded(vectors[tap], fitted.n_tokens, fitted.truncated)

    async def variants(
        self,
        encoder: Encoder,
        texts: Sequence[Text],
        settings: extraction.Settings,
        *,
        queued: Callable[[], None] = lambda: None,
    ) -> EmbeddingSet:
        """All that `extract` would store of these texts under these settings, as a set in memory.

        A mask belongs to the id of its text, so the answer is the same whatever else is asked for at the time.
        """
        manifest = extraction.describe(encoder, settings)
        passes = extraction.stored_passes(manifest)
        floats = len(texts) * sum(manifest.width(name) for name in manifest.stored)
        if floats > self._limits.answer_floats:
            raise Problem(
                413, f"{floats:,} numbers would have to be held, the limit is {self._limits.answer_floats:,}",
                "Ask for fewer texts, taps or passes.", code="answer_too_large",
            )  # fmt: skip
        ids = [text.id for text in texts]
        strings = [text.text for text in texts]
        fitted = await self.aside(
            lambda: self._fit(encoder, encoder.tokenize(strings), ids, settings.on_long, len(passes))
        )
        flow = Flow()
        futures = [
            self._batcher.submit(
                encoder,
                fitted.pieces,
                keys=fitted.keys,
                taps=body_taps(encoder, encoder_taps(taps)),
                pass_=pass_,
                flow=flow,
            )
            for pass_, taps in passes.items()
        ]
        queued()
        made = await asyncio.gather(*map(asyncio.wrap_future, futures))

        def finish() -> EmbeddingSet:
            keys = masks.row_keys(ids)
            vectors: dict[str, Vectors] = {}
            for (pass_, taps), encoded in zip(passes.items(), made, strict=True):
                every = dict(encoded)
                if "pre_dropout" in every:
                    every |= head_vectors(encoder.head, every["pre_dropout"], keys, taps, pass_)
                vectors |= {str(Variant(tap, pass_.mode, pass_.index)): every[tap] for tap in taps}
            block = Block(0, 0, tuple(texts), fitted.n_tokens, fitted.truncated, vectors)
            return EmbeddingSet.hold(manifest, [block], name="this request")

        return await self.aside(finish)

    def _fit(
        self,
        encoder: Encoder,
        tokens: Tokens,
        ids: Sequence[str],
        on_long: OnLong,
        passes: int,
        *,
        keep_end: bool = False,
    ) -> Fitted:
        spec, most = encoder.spec, self._limits.max_tokens
        if spec.max_tokens is not None and most is not None:
            most = min(most, spec.max_tokens)
        # A model that takes strings cuts them itself, at its own limit.
        most = None if tokens.ids is None else most
        fitted = fit(tokens, ids, spec, max_tokens=most, on_long=OnLong.TRUNCATE, keep_end=keep_end)
        if on_long is OnLong.FAIL and fitted.truncated.any():
            row = int(np.argmax(fitted.truncated))
            raise Problem(
                422,
                f"text {row} has {int(tokens.counts[row]) + spec.special_tokens:,} tokens, special ones included; "
                f"the limit is {int(fitted.n_tokens[row]):,}",
                "Shorten it, or send truncate: true.",
                code="text_too_long",
            )
        total = passes * int(np.maximum(fitted.n_tokens, 0).sum())
        if total > self._limits.request_tokens:
            raise Problem(
                413,
                f"the texts have {total:,} tokens" + (f" over {passes} passes" if passes > 1 else "")
                + f", the limit of one request is {self._limits.request_tokens:,}",
                "Send them in several requests.",
                code="too_many_tokens",
            )  # fmt: skip
        return fitted


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def _tokens(encoder: Encoder, texts: Sequence[str] | Ids) -> Tokens:
    if not texts or isinstance(texts[0], str):
        return encoder.tokenize(texts)  # type: ignore[arg-type]
    vocabulary: int | None = getattr(encoder, "vocabulary", None)
    if vocabulary is None:
        raise Problem(400, f"{encoder.spec.uri} takes texts only, no token ids", "Send strings.", param="input")
    ids = tuple(np.array(row, dtype=np.int64) for row in texts)
    for row, each in enumerate(ids):
        if len(each) and (each.min() < 0 or each.max() >= vocabulary):
            raise Problem(
                400,
                f"text {row} has token ids that are not in the model's vocabulary of {vocabulary:,}",
                "Ids are those of the model's own tokenizer, without special ones; clients that count tokens for "
                "OpenAI's models send others: switch that off, and they send texts.",
                param="input",
            )
    rows = tuple(each.astype(np.int32) for each in ids)
    return Tokens(("",) * len(rows), rows, np.array([len(row) for row in rows], dtype=np.int64))
