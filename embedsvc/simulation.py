"""What the head's dropout alone would do to a measure, by drawing head masks where no closed form is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedsvc import knn, metrics, theory
from embedsvc.embeddings import EmbeddingSet
from embedsvc.knn import NeighborGraph
from embedsvc.moments import CLOSE, moments
from embedsvc.ranks import ranks
from embedsvc.sides import ROWS, Side
from embedsvc.types import Mode, Variant, Vectors
from embedsvc.vectors import unit_rows

__all__ = ["Mechanism", "Simulation", "mechanism"]

Floats = NDArray[np.float64]
T = TypeVar("T", float, Floats)

_ROWS = 512
_PRE, _POST = "pre_dropout", "post_dropout"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """How two variants would differ if nothing but the head's dropout were at work.

    Attributes
    ----------
    base : str
        The variant that is masked.
    masks : {0, 1, 2}
        0: both sides are the base under the same mask or none; 1: one side is masked; 2: both are, independently.
    whole : bool
        Whether that is all there is between them. Otherwise the encoder's dropout comes on top, and what is observed
        beyond the expectation is the encoder's.
    """

    base: str
    masks: int
    whole: bool

    def __str__(self) -> str:
        what = {0: "no mask between them", 1: "one head mask", 2: "two independent head masks"}[self.masks]
        return f"{what} on {self.base}" + ("" if self.whole else "; the encoder's dropout comes on top")


def mechanism(a: tuple[EmbeddingSet, str], b: tuple[EmbeddingSet, str]) -> Mechanism | None:
    """The head's dropout between two variants, each with its set; None where they differ by more than dropout.

    That is so for taps other than `pre_dropout` and `post_dropout`, and for sets of different models.
    """
    (one, name), (other, other_name) = a, b
    first, second = Variant.parse(name), Variant.parse(other_name)
    if {first.tap, second.tap} - {_PRE, _POST}:
        return None
    ours, theirs = one.manifest, other.manifest
    same_model = ours.model.digest == theirs.model.digest and ours.head.digest() == theirs.head.digest()
    if not same_model or (ours.max_tokens, ours.on_long) != (theirs.max_tokens, theirs.on_long):
        return None
    # Head masks are keyed by seed, pass and text: training and head passes of one number share theirs.
    drawn = [
        (side.manifest.seed, variant.index) if variant.tap == _POST and variant.mode.stochastic else None
        for side, variant in ((one, first), (other, second))
    ]
    count = 0 if drawn[0] == drawn[1] else (1 if None in drawn else 2)
    passes = [
        (None, None) if variant.mode is not Mode.TRAINING else (side.manifest.seed, variant.index)
        for side, variant in ((one, first), (other, second))
    ]
    own = str(Variant(_PRE, Mode.INFERENCE if passes[0] == (None, None) else Mode.TRAINING, passes[0][1]))
    whole = passes[0] == passes[1]
    base = own if whole else f"{_PRE}.{Mode.INFERENCE}"
    if base not in one:
        if own not in one:
            return None
        base = own
    return Mechanism(base, count, whole)


class Simulation:
    """Several draws of the head's mask on one base, and what measures make of them.

    Parameters
    ----------
    base : Side
    unit : ndarray of shape (n, width), float32
        Its vectors scaled to length 1.
    keys : ndarray of shape (n,), uint64
        Row keys, see `masks.row_key`.
    passes : int
        Draws, 2 or more; two independent masks are those of consecutive draws.
    seed : int
        Not that of the set, or its own masks would be drawn again.
    many : bool
        Whether the texts are so many that Procrustes hardly differs between draws: one will do, and float32.
    """

    def __init__(
        self, base: Side, unit: Vectors, keys: NDArray[np.uint64], *, passes: int, seed: int, many: bool
    ) -> None:
        self.base, self._base_unit = base, unit
        self.passes = passes
        self._head = base.embeddings.manifest.head
        self._keys, self._seed, self._many = keys, seed, many
        self._found: list[NeighborGraph] = []
        self._known: dict[tuple[str | int, ...], Any] = {}

    @cached_property
    def posts(self) -> list[Vectors]:
        """The base under each mask."""
        posts = [np.empty_like(self.base.vectors) for _ in range(self.passes)]
        # Some rows at a time, which stay in the cache; and of these all passes in one run.
        for start in range(0, len(self._keys), _ROWS):
            rows = slice(start, start + _ROWS)
            some = self.base.vectors[rows]
            drawn = self._head.posts(some, self._keys[rows], seed=self._seed, passes=range(self.passes))
            for post, masked in zip(posts, drawn, strict=True):
                post[rows] = masked
        return posts

    def pairs(self, count: int) -> Iterator[tuple[int, int]]:
        """Numbers of the sides to compare, -1 for the base, for one or two masks."""
        return iter([(-1, at) for at in range(self.passes)]) if count == 1 else pairwise(range(self.passes))

    def side(self, at: int) -> Vectors:
        """The base, -1, or a draw."""
        return self.base.vectors if at < 0 else self.posts[at]

    def cosines(self, count: int) -> Floats:
        """Mean cosine of each text, which has a closed form and needs no draw."""
        if ("cosines", count) not in self._known:
            form = theory.cosine_between_passes if count == 2 else lambda x, p: theory.cosine_under_dropout(x, p)[0]
            self._known["cosines", count] = form(self.base.vectors, self._head.rate)
        return np.asarray(self._known["cosines", count])

    def procrustes(self, count: int) -> float:
        """Mean angular distance; of many texts that of one draw."""
        key = ("procrustes", count)
        if self._many and key not in self._known:
            self._known[key] = self._angle(*next(self.pairs(count)))
        return self._mean(key, count, self._angle)

    def _angle(self, i: int, j: int) -> float:
        x, y, starts = self.side(i), self.side(j), range(0, len(self._keys), ROWS)
        blocks = lambda: ((x[at : at + ROWS], y[at : at + ROWS]) for at in starts)  # noqa: E731
        found = moments(blocks, pairs=[(0, 1)], single=self._many).procrustes(0, 1)
        return found if found >= CLOSE or not self._many else moments(blocks, pairs=[(0, 1)]).procrustes(0, 1)

    def rsa(self, count: int, rows: NDArray[np.int64], base_ranks: Floats) -> float:
        """Mean correlation over the pairs of some texts, the same at every call; `base_ranks` are those of the base."""

        def ranked(at: int) -> Floats:
            if at < 0:
                return base_ranks
            key = ("ranks", at)
            if key not in self._known:
                self._known[key] = ranks(metrics.distances(self.posts[at][rows]))
            return np.asarray(self._known[key])

        return self._mean(("rsa", count), count, lambda i, j: float(np.corrcoef(ranked(i), ranked(j))[0, 1]))

    def generic(self, count: int, measure: metrics.Measure, rows: NDArray[np.int64]) -> float:
        """Mean of any measure over some texts, the same at every call."""
        key = ("measure", measure.name, count)
        return self._mean(key, count, lambda i, j: measure(self.side(i)[rows], self.side(j)[rows]))

    def overlap(self, count: int, k: int, graph: NeighborGraph) -> Floats:
        """Mean k-NN overlap of each text; `graph` is that of the base."""
        graphs = self._graphs(graph)
        return self._mean(("overlap", count, k), count, lambda i, j: knn.overlap(graphs[i + 1], graphs[j + 1], k))

    def second_order(self, count: int, k: int, graph: NeighborGraph) -> Floats:
        """Mean second-order cosine of each text."""
        graphs, units = [each.first(k) for each in self._graphs(graph)], self._units
        return self._mean(
            ("second order", count, k),
            count,
            lambda i, j: metrics.row_second_order(units[i + 1], units[j + 1], graphs[i + 1], graphs[j + 1]),
        )

    def _mean(self, key: tuple[str | int, ...], count: int, measure: Callable[[int, int], T]) -> T:
        """Mean over the draws, kept: pairs of variants that share a mechanism share its expectations."""
        if key not in self._known:
            draws = np.array([measure(i, j) for i, j in self.pairs(count)])
            self._known[key] = float(draws.mean()) if draws.ndim == 1 else draws.mean(axis=0)
        known: T = self._known[key]
        return known

    @cached_property
    def _units(self) -> list[Vectors]:
        return [self._base_unit, *(unit_rows(post, "vectors under a drawn mask") for post in self.posts)]

    def _graphs(self, graph: NeighborGraph) -> list[NeighborGraph]:
        if not self._found:
            exact = graph.exact or None
            self._found = [
                knn.neighbor_graph(unit, graph.k, seed=graph.seed, rows=graph.rows, exact=exact, unit=True)
                for unit in self._units[1:]
            ]
        return [graph, *self._found]
