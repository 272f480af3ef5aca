"""Sets with vectors made to measure, for tests of what is done with a set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedsvc.embeddings import EmbeddingSet
from embedsvc.models.fake import FakeEncoder
from embedsvc.types import Block, Mode, Text
from tests.sets import MANIFEST, write

__all__ = ["blobs", "make_set"]


def blobs(
    n: int, *, width: int = 16, centers: int = 4, apart: float = 6.0, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Gaussian blobs of unit variance whose centres have length `apart`, and the blob of each row."""
    rng = np.random.default_rng(seed)
    middle = rng.standard_normal((centers, width))
    middle *= apart / np.linalg.norm(middle, axis=1, keepdims=True)
    which = np.arange(n) % centers
    return (middle[which] + rng.standard_normal((n, width))).astype(np.float32), which


def make_set(
    path: Path,
    pre: NDArray[np.float32],
    *,
    labels: Sequence[str | None] | None = None,
    training: Sequence[NDArray[np.float32]] = (),
    passes: int = 2,
    rate: float = 0.1,
    words: Sequence[str] | None = None,
) -> EmbeddingSet:
    """A set of `pre_dropout` in inference, of passes of `post_dropout` in training mode, and of head passes.

    With `training`, there are as many passes of each mode as it holds. Ids are ``t0``, ``t1`` …
    """
    n, width = pre.shape
    encoder = FakeEncoder(width=width, rate=rate)
    manifest = replace(
        MANIFEST,
        model=encoder.spec,
        head=encoder.head,
        taps=("pre_dropout", "post_dropout"),
        modes=(Mode.INFERENCE, Mode.HEAD, *([Mode.TRAINING] if len(training) else [])),
        passes=len(training) or passes,
        rows_per_part=max(n, 1),
    )
    vectors = {"pre_dropout.inference": pre}
    for index, post in enumerate(training):
        vectors |= {f"pre_dropout.training.{index}": post, f"post_dropout.training.{index}": post}
    texts = tuple(
        Text(f"t{row}", f"text {row}" if words is None else words[row], None if labels is None else labels[row])
        for row in range(n)
    )
    counts = np.ones(n, dtype=np.int64)
    block = Block(0, 0, texts, counts, counts < 0, {name: vectors[name] for name in manifest.stored})
    write(path, [block] if n else [], manifest)
    return EmbeddingSet.read(path)
