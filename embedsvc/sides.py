"""The variants that are compared, and what their pairs share: each vector, graph, matrix and draw is made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embedsvc import knn, metrics, resampling, threads
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.knn import Graphs, NeighborGraph
from embedsvc.moments import Moments, moments
from embedsvc.resampling import Range
from embedsvc.simulation import Simulation
from embedsvc.types import Vectors
from embedsvc.variants import derive

__all__ = ["Draws", "Side", "Work"]

Floats = NDArray[np.float64]

_ALL_TEXTS = 20_000  # up to here the neighbours of every text are found, above those of the sample: exactly in any case
_ROWS = 4096
_RANKED = 300  # texts that the interval of RSA is drawn from
_TABLE = 100_000_000  # cells of two bytes


@dataclass(frozen=True, slots=True)
class Draws:
    """How many draws of what, and the seed of them all."""

    seed: int
    permutations: int
    bootstrap: int
    simulations: int
    sample: int

    def rng(self, *path: str | int) -> np.random.Generator:
        """Generator of one purpose."""
        return np.random.default_rng(derive(self.seed, "compare", *path))


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
        vectors = self.of(self.variant)
        first = vectors[:1]
        if (vectors == first).all():
            raise DegenerateInputError(
                f"{self.name}: all {len(vectors):,} texts have the same vector, so nothing about it can be alike",
                "Leave this variant out; a model that says the same of every text is broken or untrained.",
            )
        return vectors

    def of(self, variant: str) -> Vectors:
        """Another variant of the same set, for the same texts."""
        vectors = self.embeddings[variant]
        return knn.check_vectors(vectors if self.rows is None else vectors[self.rows], self.name)

    @cached_property
    def unit(self) -> Vectors:
        """The vectors scaled to length 1."""
        return knn.unit_rows(self.vectors, self.name)

    @property
    def width(self) -> int:
        """Of the vectors."""
        return self.embeddings.manifest.width(self.variant)

    def blocks(self) -> Iterator[Vectors]:
        """The vectors in pieces, in order; read anew where they are not in memory, so that memory stays flat."""
        if self.rows is None and "vectors" not in self.__dict__:
            for block in self.embeddings.iter_blocks([self.variant], rows=_ROWS):
                yield block.vectors[self.variant]
        else:
            for at in range(0, len(self.vectors), _ROWS):
                yield self.vectors[at : at + _ROWS]

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """Vectors of some rows, ascending."""
        found, start = [], 0
        for block in self.blocks():
            stop = start + len(block)
            inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
            found.append(block[inside - start])
            start = stop
        return np.concatenate(found)

    @cached_property
    def digest(self) -> tuple[int, bytes]:
        """Width and hash of the bytes."""
        digest = hashlib.blake2b()
        for block in self.blocks():
            digest.update(np.ascontiguousarray(block).data)
        return self.width, digest.digest()


class Work:
    """The pairs of some sides, with everything that several pairs share made once."""

    def __init__(
        self, sides: list[Side], ids: tuple[str, ...], ks: tuple[int, ...], draws: Draws, graphs: Graphs | None
    ) -> None:
        self.sides, self.ids, self.ks, self.draws = sides, ids, ks, draws
        n = len(ids)
        rows = None
        if n > _ALL_TEXTS and graphs is None:
            rows = metrics.sample_rows(n, draws.sample, derive(draws.seed, "compare", "sample"))
        if graphs is not None and graphs.k < max(ks):
            raise SettingsError(f"the graphs given hold {graphs.k} neighbours, expected {max(ks)} or more")
        # One variant a set here, so a side's name is its variant's wherever graphs are handed in.
        self.graphs = graphs or Graphs(_Named(sides), max(ks), seed=draws.seed, rows=rows)
        if rows is None and graphs is not None and graphs.rows is not None:
            rows = graphs.rows
        self.queries = np.arange(n) if rows is None else rows
        some = metrics.sample_rows(len(self.queries), draws.sample, derive(draws.seed, "compare", "sample"))
        self.rows = self.queries[some]
        self._simulations: dict[str, Simulation] = {}

    @property
    def sampling(self) -> str:
        """What was taken of how many texts."""
        n, m, s = len(self.ids), len(self.queries), len(self.rows)
        every = f"all {n:,} texts"
        near = every if m == n else f"{m:,} sampled texts among all {n:,}"
        square = every if s == n else f"{s:,} sampled texts"
        return f"CKA, Procrustes and cosine of {every}; neighbours of {near}; RSA and permutations of {square}"

    def duplicates(self) -> int:
        """Texts whose vector in the first side is that of an earlier one."""
        seen = {hash(row.tobytes()) for block in self.sides[0].blocks() for row in block}
        return len(self.ids) - len(seen)

    @cached_property
    def moments(self) -> Moments:
        """Of all sides, in one stream."""
        return moments(self._blocks, names=[side.name for side in self.sides])

    def _blocks(self) -> Iterator[list[Vectors]]:
        one = self.sides[0]
        if one.rows is None and not all("vectors" in side.__dict__ for side in self.sides):
            names = [side.variant for side in self.sides]
            for block in one.embeddings.iter_blocks(names, rows=_ROWS):
                yield [block.vectors[name] for name in names]
        else:
            for at in range(0, len(self.ids), _ROWS):
                yield [side.vectors[at : at + _ROWS] for side in self.sides]

    def sampled(self, i: int) -> Vectors:
        """Vectors of the sample."""
        if i not in self._samples:
            self._samples[i] = self.sides[i].take(self.rows)
        return self._samples[i]

    @cached_property
    def _samples(self) -> dict[int, Vectors]:
        return {}

    @cached_property
    def grams(self) -> list[Floats]:
        """Centred Gram matrix of the sample, for each side."""
        return [resampling.u_centred(self.sampled(i)) for i in range(len(self.sides))]

    @cached_property
    def distances(self) -> list[Floats]:
        """Distances between the texts of the sample, for each side."""
        return [metrics.distances(self.sampled(i)) for i in range(len(self.sides))]

    @cached_property
    def ranks(self) -> list[Floats]:
        """Their ranks, as squares; zeros where all distances are equal."""
        from scipy.stats import rankdata

        return [resampling.rank_square(rankdata(values), len(self.rows)) for values in self.distances]

    @cached_property
    def permuted_grams(self) -> Floats:
        """CKA of every two sides under random matches, see `resampling.permute_squares`."""
        return resampling.permute_squares(self.grams, self.draws.permutations, self.draws.rng("cka"))

    @cached_property
    def permuted_ranks(self) -> Floats:
        """RSA of every two sides under random matches."""
        return resampling.permute_squares(self.ranks, self.draws.permutations, self.draws.rng("rsa"))

    @cached_property
    def permuted_overlaps(self) -> dict[tuple[int, int, int], Floats]:
        """Mean k-NN overlap under random matches, by the numbers of two sides and k; shape (draws,).

        The sample's texts are matched among themselves, since only their neighbours are known.
        """
        graphs = [self.graphs[side.name].at(self.rows) for side in self.sides]
        draws, n, most = self.draws.permutations, len(self.ids), max(self.ks)
        pairs = [(i, j, k) for j in range(len(graphs)) for i in range(j) for k in self.ks]
        shared = {key: np.zeros(draws) for key in pairs}
        rest = np.setdiff1d(np.arange(n), self.rows, assume_unique=True)
        rows = max(1, _TABLE // (n * len(graphs)))  # whose neighbours are looked up at a time

        def match(draw: int, start: int, places: list[NDArray[np.uint16]]) -> None:
            rng = self.draws.rng("match", draw)
            shuffled = rng.permutation(len(self.rows))
            back = np.empty(n, dtype=np.int32)
            back[self.rows[shuffled]], back[rng.permutation(rest)] = self.rows, rest
            some = shuffled[start : start + rows]
            at = np.arange(len(some))[:, None]
            for j, graph in enumerate(graphs):
                matched = back[graph.indices[some, :most]]
                for i in range(j):
                    place = places[i][at, matched]
                    for k in self.ks:
                        shared[i, j, k][draw] += np.count_nonzero(place[:, :k] <= k)

        for start in range(0, len(self.rows), rows):
            places = []
            for graph in graphs:
                near = graph.indices[start : start + rows, :most]
                place = np.full((len(near), n), most + 1, np.uint16)  # of each text among the neighbours of each row
                np.put_along_axis(place, near.astype(np.int64), np.arange(1, most + 1, dtype=np.uint16)[None], axis=1)
                places.append(place)
            threads.each(lambda draw: match(draw, start, places), range(draws))  # noqa: B023 - over before the next
        return {(i, j, k): found / (k * len(self.rows)) for (i, j, k), found in shared.items()}

    @cached_property
    def weights(self) -> Floats:
        """Bootstrap draws of the sample, the same for every pair."""
        return resampling.bootstrap_weights(len(self.rows), self.draws.bootstrap, self.draws.rng("weights"))

    @cached_property
    def rank_bootstrap(self) -> Floats:
        """How far RSA of every pair is from itself for each draw of texts, shape (draws, s, s).

        Ranks are taken anew for each draw and pairs grow with the square of the texts: of many texts some are drawn
        from, and their spread is that of all by the root of their share.
        """
        m = len(self.rows)
        some = np.sort(self.draws.rng("ranks").choice(m, min(m, _RANKED), replace=False))
        distances = (
            self.distances
            if len(some) == m
            else [metrics.distances(self.sampled(i)[some]) for i in range(len(self.sides))]
        )
        weights = resampling.bootstrap_weights(len(some), self.draws.bootstrap, self.draws.rng("weights"))
        drawn, whole = (
            resampling.bootstrap_spearman(distances, len(some), each) for each in (weights, np.ones((1, len(some))))
        )
        return np.asarray((drawn - whole) * np.sqrt(len(some) / m))

    def mean_interval(self, scores: Floats) -> Range:
        """Interval of the mean of per-text scores."""
        n = len(scores)
        few = n <= resampling.MANY
        return resampling.bootstrap_mean(scores, self._mean_weights(n) if few else None)

    def _mean_weights(self, n: int) -> Floats:
        if n not in self._weights:
            self._weights[n] = resampling.bootstrap_weights(n, self.draws.bootstrap, self.draws.rng("means", n))
        return self._weights[n]

    @cached_property
    def _weights(self) -> dict[int, Floats]:
        return {}

    def simulation(self, side: Side, base: str) -> Simulation:
        """Head masks drawn on a variant of a side's set, once."""
        key = f"{id(side.embeddings)}:{base}"
        if key not in self._simulations:
            held = next((s for s in self.sides if s.embeddings is side.embeddings and s.variant == base), None)
            vectors = held.vectors if held else side.of(base)
            self._simulations[key] = Simulation(
                vectors,
                side.embeddings.manifest.head,
                self.ids,
                passes=self.draws.simulations,
                seed=derive(self.draws.seed, "compare", "head masks", base),
            )
        return self._simulations[key]

    def base_moments(self, side: Side, base: str) -> Moments:
        """Of the variant that is masked, where it is not compared."""
        masked = Side(base, side.embeddings, base, side.rows)
        return moments(lambda: ([block] for block in masked.blocks()), names=[base])

    def base_graph(self, side: Side, base: str) -> NeighborGraph:
        """Neighbours in the variant that is masked, be it compared or not."""
        held = next((s for s in self.sides if s.embeddings is side.embeddings and s.variant == base), None)
        if held:
            return self.graphs[held.name]
        extra = f"{id(side.embeddings)}:{base}"
        if extra not in self._extra:
            vectors = self.simulation(side, base).base
            self._extra[extra] = knn.neighbor_graph(
                vectors, self.graphs.k, seed=self.draws.seed, rows=self.graphs.rows, name=base
            )
        return self._extra[extra]

    @cached_property
    def _extra(self) -> dict[str, NeighborGraph]:
        return {}


@dataclass(frozen=True, slots=True)
class _Named:
    sides: list[Side]

    def __getitem__(self, name: str) -> Vectors:
        return next(side.vectors for side in self.sides if side.name == name)
