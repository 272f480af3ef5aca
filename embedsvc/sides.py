"""A variant that is compared, in the order of the texts compared: read once, or streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import DegenerateInputError
from embedsvc.types import Vectors
from embedsvc.vectors import check_vectors

__all__ = ["ROWS", "Side", "read_at_once"]

ROWS = 4096  # a block of float64 at width 768 is 25 MB


@dataclass(frozen=True, eq=False)
class Side:
    """A variant of a set, in the order of the texts compared."""

    name: str
    embeddings: EmbeddingSet
    variant: str
    rows: NDArray[np.int64] | None

    @cached_property
    def vectors(self) -> Vectors:
        """The vectors, checked: finite, and not the same for every text."""
        return self.read()

    def read(self) -> Vectors:
        """What `vectors` are, read anew."""
        vectors = self.embeddings[self.variant]
        vectors = check_vectors(vectors if self.rows is None else vectors[self.rows], self.name)
        first = vectors[:1]
        if (vectors == first).all():
            raise DegenerateInputError(
                f"{self.name}: all {len(vectors):,} texts have the same vector, so nothing about it can be alike",
                "Leave this variant out; a model that says the same of every text is broken or untrained.",
            )
        return vectors

    @property
    def width(self) -> int:
        """Of the vectors."""
        return self.embeddings.manifest.width(self.variant)

    def blocks(self) -> Iterator[Vectors]:
        """The vectors in pieces, in order; read anew where they are not in memory, so that memory stays flat."""
        if self.rows is None and "vectors" not in self.__dict__:
            for block in self.embeddings.iter_blocks([self.variant], rows=ROWS):
                yield block.vectors[self.variant]
        else:
            for at in range(0, len(self.vectors), ROWS):
                yield self.vectors[at : at + ROWS]

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """Vectors of some rows, ascending."""
        found, start = [], 0
        for block in self.blocks():
            stop = start + len(block)
            inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
            found.append(block[inside - start])
            start = stop
        return np.concatenate(found)

    def equals(self, other: Side) -> bool:
        """Whether the two are equal bit for bit."""
        return self.width == other.width and self._start == other._start and self._digest == other._digest

    @cached_property
    def _start(self) -> bytes:
        """The first rows, which tell most variants apart."""
        return next((block[:16].tobytes() for block in self.blocks()), b"")

    @cached_property
    def _digest(self) -> bytes:
        """Hash of the bytes."""
        digest = hashlib.blake2b()
        for block in self.blocks():
            digest.update(np.ascontiguousarray(block).data)
        return digest.digest()


def read_at_once(sides: Sequence[Side]) -> None:
    """Read the vectors of sides on all processors; some versions of Python make one `cached_property` after another."""
    for side, vectors in zip(sides, threads.each(Side.read, sides), strict=True):
        side.__dict__["vectors"] = vectors
