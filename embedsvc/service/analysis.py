"""What a request asks to be computed about vectors, one at a time: comparisons, moments, cosines, neighbours, maps.

It is numpy and takes seconds at worst, so it has a thread of its own: embeddings do not wait for it, and it does not
take more than one processor from them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from embedsvc import masks, theory
from embedsvc.embeddings import EmbeddingSet
from embedsvc.service.encoding import unit
from embedsvc.service.problems import Problem
from embedsvc.tallies import Moments, cosines
from embedsvc.types import Mode, Text, Variant
from embedsvc.variants import REFERENCE

__all__ = ["Analysis", "cosines_of", "moments_of", "text_of"]

T = TypeVar("T")

_WAITING = 8
_CHUNK = 4_000_000  # numbers drawn at one time: 16 MB


class Analysis:
    """A thread, and a short queue before it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="embedsvc-analysis")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`.

        Raises
        ------
        Problem
            429 when too many wait.
        """
        if self._waiting >= _WAITING:
            raise Problem(429, f"{_WAITING} analyses are waiting", "Try again.", code="overloaded", retry_after=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let go of the thread."""
        self._pool.shutdown(cancel_futures=True)


def text_of(text: str) -> Text:
    """A text under an id made of its content: the same text gets the same masks in every request and on every machine.

    >>> text_of("good morning").id
    'sha256:cdf71dea7d7741a2b6f021f3dd344f75'
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Text(f"sha256:{digest[:32]}", text)


def moments_of(embeddings: EmbeddingSet, mode: Mode, tap: str, passes: int) -> Moments:
    """Mean and variance of a tap over the passes of a mode; head passes are drawn without holding them."""
    n, width = len(embeddings), embeddings.manifest.width(str(Variant(tap, mode, 0)))
    moments = Moments(n, width)
    if mode is not Mode.HEAD:
        for index in range(passes):
            moments.add(embeddings[str(Variant(tap, mode, index))][None])
        return moments
    manifest, pre = embeddings.manifest, embeddings[REFERENCE]
    assert manifest.seed is not None
    keys = masks.row_keys(embeddings.ids)
    step = max(1, _CHUNK // max(1, pre.size))
    for start in range(0, passes, step):
        numbers = range(start, min(start + step, passes))
        post = manifest.head.posts(pre, keys, seed=manifest.seed, passes=numbers)
        moments.add(post if tap == "post_dropout" else manifest.head.logits(post))
    return moments


def cosines_of(embeddings: EmbeddingSet, between: Sequence[str]) -> dict[str, Any]:
    """How far dropout turns each text's vector, and what it does to the cosines between texts.

    Parameters
    ----------
    embeddings : EmbeddingSet
        With `pre_dropout.inference` and passes of `post_dropout`.
    between : sequence of str
        Variants whose cosines between texts are wanted.
    """
    pre = embeddings[REFERENCE]
    passes = [
        name for name in embeddings.variants if name.startswith("post_dropout.") and not name.endswith("inference")
    ]
    mean, deviation = theory.cosine_under_dropout(pre, embeddings.manifest.head.rate)
    units: Mapping[str, Any] = {name: unit(embeddings[name]) for name in between}
    return {
        "reference": REFERENCE,
        "to_reference": {name: cosines(pre, embeddings[name]) for name in passes},
        "expected": {"mean": mean, "deviation": deviation},
        "between": {name: np.clip(rows @ rows.T, -1, 1) for name, rows in units.items()},
    }
