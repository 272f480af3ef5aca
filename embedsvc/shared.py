"""What the pairs of a comparison share: each vector, graph, matrix and draw is made once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embedsvc import knn, masks, metrics, permutations, resampling, threads
from embedsvc.errors import SettingsError
from embedsvc.graphs import Graphs
from embedsvc.knn import NeighborGraph
from embedsvc.moments import CLOSE, Moments, moments
from embedsvc.ranks import ranks
from embedsvc.resampling import Range
from embedsvc.sides import ROWS, Side
from embedsvc.simulation import Simulation
from embedsvc.types import Vectors
from embedsvc.variants import derive
from embedsvc.vectors import unit_rows

__all__ = ["ALL_TEXTS", "MANY", "Draws", "Work"]

Floats = NDArray[np.float64]

ALL_TEXTS = 10_000  # up to here the neighbours of every text are found, above those of the sample: exactly in any case
MANY = 5_000  # texts above which products in float32 and one draw of the mask are enough for Procrustes

_SHARED = {
    "cka": ("moments", "permuted_grams", "resampled_grams"),
    "procrustes": ("moments", "weights", "centred", "spectra"),
    "rsa": ("permuted_ranks", "resampled_ranks"),
    "cosine": ("permuted_cosines",),
    "knn_overlap": ("permuted_overlaps",),
}


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


class Work:
    """The pairs of some sides, with everything that several pairs share made once."""

    def __init__(
        self, sides: list[Side], ids: tuple[str, ...], ks: tuple[int, ...], draws: Draws, graphs: Graphs | None
    ) -> None:
        self.sides, self.ids, self.ks, self.draws = sides, ids, ks, draws
        n = len(ids)
        rows = None
        if n > ALL_TEXTS and graphs is None:
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
        self._bases: dict[tuple[int, str], Side] = {}
        self._simulations: dict[Side, Simulation] = {}
        self._samples: dict[Side, Vectors] = {}
        self._units: dict[Side, Vectors] = {}
        self._ranks: dict[Side, Floats] = {}
        self._extra: dict[Side, NeighborGraph] = {}
        self._weights: dict[int, Floats] = {}

    def prepare(self, measures: Sequence[str]) -> None:
        """Make what the pairs share by these measures, each thing on all processors."""
        for measure in measures:
            for name in _SHARED.get(measure, ()):
                getattr(self, name)

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
        names = [side.name for side in self.sides]
        return moments(lambda: self._blocks(self.sides), names=names, single=len(self.ids) > MANY)

    def _blocks(self, sides: Sequence[Side]) -> Iterator[list[Vectors]]:
        one = sides[0]
        if one.rows is None and not all("vectors" in side.__dict__ for side in sides):
            names = [side.variant for side in sides]
            for block in one.embeddings.iter_blocks(names, rows=ROWS):
                yield [block.vectors[name] for name in names]
        else:
            for at in range(0, len(self.ids), ROWS):
                yield [side.vectors[at : at + ROWS] for side in sides]

    def rotation(self, i: int, j: int) -> tuple[Floats, float]:
        """The orthogonal map that turns side i onto j best, and the angle that it leaves."""
        rotation, angle = self.moments.rotation(i, j)
        if self.moments.single and angle < CLOSE:
            sides = (self.sides[i], self.sides[j])
            return moments(lambda: self._blocks(sides), pairs=[(0, 1)]).rotation(0, 1)
        return rotation, angle

    @cached_property
    def spectra(self) -> list[Floats]:
        """Eigenvalues of the second moments of each side."""
        cross = self.moments.cross
        return threads.each(lambda i: np.asarray(np.linalg.eigvalsh(cross[i, i])), range(len(self.sides)))

    def unit(self, side: Side) -> Vectors:
        """Vectors scaled to length 1."""
        if side not in self._units:
            compared = side in self.sides
            self._units[side] = self.graphs.unit(side.name) if compared else unit_rows(side.vectors, side.name)
        return self._units[side]

    def sampled(self, side: Side) -> Vectors:
        """Vectors of the sample."""
        if side not in self._samples:
            self._samples[side] = side.take(self.rows)
        return self._samples[side]

    @cached_property
    def centred(self) -> list[Floats]:
        """Vectors of the sample about the mean of all, for each side."""
        return [
            self.sampled(side).astype(np.float64) - mean
            for side, mean in zip(self.sides, self.moments.means, strict=True)
        ]

    @cached_property
    def grams(self) -> list[Floats]:
        """Centred Gram matrix of the sample, for each side."""
        return threads.each(lambda side: resampling.u_centred(self.sampled(side)), self.sides)

    def ranks(self, side: Side) -> Floats:
        """Ranks of the distances between the texts of the sample."""
        if side not in self._ranks:
            self._ranks[side] = ranks(metrics.distances(self.sampled(side)))
        return self._ranks[side]

    @cached_property
    def rank_squares(self) -> list[Floats]:
        """The ranks of each side as squares; zeros where all distances are equal."""
        return threads.each(lambda side: resampling.rank_square(self.ranks(side), len(self.rows)), self.sides)

    @cached_property
    def permuted_grams(self) -> Floats:
        """CKA of every two sides under random matches, see `permutations.permute_squares`."""
        return permutations.permute_squares(self.grams, self.draws.permutations, self.draws.rng("cka"))

    @cached_property
    def permuted_ranks(self) -> Floats:
        """RSA of every two sides under random matches."""
        return permutations.permute_squares(self.rank_squares, self.draws.permutations, self.draws.rng("rsa"))

    @cached_property
    def permuted_cosines(self) -> Floats:
        """Mean cosine of every two sides under random matches."""
        units = threads.each(lambda side: self.unit(side)[self.rows], self.sides)
        return permutations.permute_cosines(units, self.draws.permutations, self.draws.rng("cosine"))

    @cached_property
    def permuted_overlaps(self) -> dict[tuple[int, int, int], Floats]:
        """Mean k-NN overlap under random matches, by the numbers of two sides and k; shape (draws,).

        The sample's texts are matched among themselves, since only their neighbours are known.
        """
        near = [self.graphs[side.name].at(self.rows).indices for side in self.sides]
        matches = [self.draws.rng("match", draw) for draw in range(self.draws.permutations)]
        return permutations.permute_overlaps(near, self.rows, len(self.ids), self.ks, matches)

    @cached_property
    def weights(self) -> Floats:
        """Bootstrap draws of the sample, the same for every pair."""
        return resampling.bootstrap_weights(len(self.rows), self.draws.bootstrap, self.draws.rng("weights"))

    @cached_property
    def resampled_grams(self) -> Floats:
        """CKA of every two sides for each draw of texts."""
        return resampling.bootstrap_cka(self.grams, self.weights)

    @cached_property
    def resampled_ranks(self) -> Floats:
        """How far RSA of every two sides is from itself for each draw of texts."""
        return resampling.bootstrap_spearman([self.ranks(side) for side in self.sides], len(self.rows), self.weights)

    def mean_interval(self, scores: Floats) -> Range:
        """Interval of the mean of per-text scores."""
        n = len(scores)
        if n > resampling.MANY:
            return resampling.bootstrap_mean(scores, None)
        if n not in self._weights:
            self._weights[n] = resampling.bootstrap_weights(n, self.draws.bootstrap, self.draws.rng("means", n))
        return resampling.bootstrap_mean(scores, self._weights[n])

    def base(self, side: Side, variant: str) -> Side:
        """The variant of a side's set that is masked, be it compared or not."""
        for held in self.sides:
            if held.embeddings is side.embeddings and held.variant == variant:
                return held
        key = (id(side.embeddings), variant)
        if key not in self._bases:
            self._bases[key] = Side(variant, side.embeddings, variant, side.rows)
        return self._bases[key]

    def simulation(self, base: Side) -> Simulation:
        """Head masks drawn on a variant, once."""
        if base not in self._simulations:
            self._simulations[base] = Simulation(
                base,
                self.unit(base),
                self._keys,
                passes=self.draws.simulations,
                seed=derive(self.draws.seed, "compare", "head masks", base.variant),
                many=len(self.ids) > MANY,
            )
        return self._simulations[base]

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        return masks.row_keys(self.ids)

    def base_moments(self, base: Side) -> tuple[Moments, int]:
        """Moments that hold those of a variant that is masked, and its number among them."""
        if base in self.sides:
            return self.moments, self.sides.index(base)
        return moments(lambda: ([block] for block in base.blocks()), names=[base.name]), 0

    def base_graph(self, base: Side) -> NeighborGraph:
        """Neighbours in a variant that is masked."""
        if base in self.sides:
            return self.graphs[base.name]
        if base not in self._extra:
            self._extra[base] = knn.neighbor_graph(
                self.unit(base), self.graphs.k, seed=self.draws.seed, rows=self.graphs.rows, unit=True, name=base.name
            )
        return self._extra[base]


@dataclass(frozen=True, slots=True)
class _Named:
    sides: list[Side]

    def __getitem__(self, name: str) -> Vectors:
        return next(side.vectors for side in self.sides if side.name == name)
