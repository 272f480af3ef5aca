"""Neighbour graphs by the name of a variant: one each, computed once, for all that need it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedsvc import knn
from embedsvc.knn import Metric, NeighborGraph
from embedsvc.types import Vectors
from embedsvc.vectors import check_vectors, unit_rows

__all__ = ["Graphs"]


class Variants(Protocol):
    """What gives vectors by name: an `EmbeddingSet`, or a dict of arrays."""

    def __getitem__(self, variant: str, /) -> Vectors:
        """Vectors of a variant, shape (n, width)."""


class Graphs:
    """Neighbour graphs by the name of a variant, each computed when first asked for, and once.

    Variants that are one another bit for bit share a graph.

    Parameters
    ----------
    vectors : EmbeddingSet or mapping of str to ndarray
    k : int
        Neighbours of every graph; take fewer with `NeighborGraph.first`.
    identical : mapping of str to str, optional
        Variants and what they are equal to; an `EmbeddingSet` tells by itself.
    metric, seed, rows
        See `knn.neighbor_graph`.
    whole : collection of str
        Variants whose graph is of all texts, `rows` or not: a map needs that. `rows` of it are exact in any case.
    """

    def __init__(
        self,
        vectors: Variants,
        k: int,
        *,
        metric: Metric = "cosine",
        seed: int = 0,
        rows: NDArray[np.int64] | None = None,
        identical: Mapping[str, str] | None = None,
        whole: Collection[str] = (),
    ) -> None:
        self.k = k
        self.metric: Metric = metric
        self.seed = seed
        self.rows = rows
        self._vectors = vectors
        self._identical = identical or getattr(getattr(vectors, "manifest", None), "identical", {})
        self._whole = {self._identical.get(name, name) for name in whole}
        self._graphs: dict[str, NeighborGraph] = {}
        self._units: weakref.WeakValueDictionary[str, Vectors] = weakref.WeakValueDictionary()
        self._one, self._another = threading.Lock(), threading.Lock()

    def __getitem__(self, variant: str) -> NeighborGraph:
        graph = self._graph(self._identical.get(variant, variant))
        return graph if self.rows is None or graph.rows is not None else graph.at(self.rows)

    def all(self, variant: str) -> NeighborGraph | None:
        """The graph of all texts; None where only `rows` are searched."""
        variant = self._identical.get(variant, variant)
        return self._graph(variant) if self.rows is None or variant in self._whole else None

    def unit(self, variant: str) -> Vectors:
        """The vectors scaled to length 1, see `unit_rows`: the same array for all who hold it at one time."""
        variant = self._identical.get(variant, variant)
        with self._another:
            unit = self._units.get(variant)
            if unit is None:
                unit = self._units[variant] = unit_rows(check_vectors(self._vectors[variant], variant), variant)
            return unit

    def _graph(self, variant: str) -> NeighborGraph:
        with self._one:  # so that two threads do not search for the same
            if variant not in self._graphs:
                whole, unit = variant in self._whole, self.metric == "cosine"
                self._graphs[variant] = knn.neighbor_graph(
                    self.unit(variant) if unit else self._vectors[variant],
                    self.k,
                    metric=self.metric,
                    seed=self.seed,
                    rows=None if whole else self.rows,
                    checked=self.rows if whole else None,
                    unit=unit,
                    name=variant,
                )
            return self._graphs[variant]
