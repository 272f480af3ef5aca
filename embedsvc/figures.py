"""The figures of a pair of variants: each measure's observation, expectation, null and interval."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import knn, metrics, resampling, theory
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.knn import Graphs, NeighborGraph
from embedsvc.metrics import METRICS
from embedsvc.resampling import Range
from embedsvc.simulation import Mechanism, Simulation, mechanism
from embedsvc.types import Vectors
from embedsvc.variants import derive

__all__ = ["Draws", "Figure", "Pair", "Side", "Work"]

Floats = NDArray[np.float64]

_ALL_TEXTS = 20_000  # up to here the neighbours of every text are found, above those of the sample: exactly in any case
_SECOND_ORDER_DRAWS = 10  # each gathers the vectors of all neighbours
_PROCRUSTES_DRAWS = 5  # each needs a matrix's singular values, and the null hardly spreads
_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of one pair.

    Attributes
    ----------
    observed : float
    expected : float or None
        From the head's dropout alone; None where no theory applies.
    expected_by : str
        "closed form", "simulation", "identity" (nothing masked comes between the two) or "".
    null : Range
        Under random matches of texts.
    interval : Range
        Bootstrap over texts, 95 %.
    """

    observed: float
    expected: float | None
    expected_by: str
    null: Range
    interval: Range

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "observed": self.observed,
            "expected": self.expected,
            "expected_by": self.expected_by or None,
            "null": {"mean": self.null.mean, "low": self.null.low, "high": self.null.high},
            "interval": {"low": self.interval.low, "high": self.interval.high},
        }


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two variants that are not identical.

    Attributes
    ----------
    a, b : str
    mechanism : Mechanism or None
        What the expectations rest on.
    figures : mapping of str to Figure
        By measure, ``knn_overlap_10`` for k = 10.
    omitted : mapping of str to str
        Measures that have no value here, and why.
    scores : mapping of str to ndarray of shape (n,), float64
        Per text, NaN where it was not sampled: ``cosine``, ``cosine_expected``, ``knn_overlap_10``,
        ``knn_overlap_10_expected``, ``knn_excess_change_10`` (expected less observed overlap: what changed beyond the
        head's mask), ``second_order_cosine``.
    """

    a: str
    b: str
    mechanism: Mechanism | None
    figures: Mapping[str, Figure]
    omitted: Mapping[str, str]
    scores: Mapping[str, Floats]


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

    def pair(self, i: int, j: int, measures: tuple[str, ...]) -> Pair:
        """Everything about one pair."""
        a, b = self.sides[i], self.sides[j]
        basis = mechanism((a.embeddings, a.variant), (b.embeddings, b.variant))
        figures: dict[str, Figure] = {}
        scores: dict[str, Floats] = {}
        omitted: dict[str, str] = {}
        task = _Task(self, i, j, basis, scores)
        for name in measures:
            if name in ("cosine", "alignment") and a.width != b.width:
                omitted[name] = f"{a.name} is {a.width} wide, {b.name} {b.width}"
                continue
            figures |= _FIGURES[name](task) if name in _FIGURES else _generic(task, name)
        return Pair(a.name, b.name, basis, figures, omitted, scores)

    @cached_property
    def moments(self) -> metrics.Moments:
        """Of all sides, in one stream."""
        return metrics.moments(self._blocks, names=[side.name for side in self.sides])

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
        from scipy.spatial.distance import pdist

        return [pdist(self.sampled(i).astype(np.float64)) for i in range(len(self.sides))]

    @cached_property
    def ranks(self) -> list[Floats]:
        """Their ranks, as squares."""
        from scipy.stats import rankdata

        squares = [resampling.rank_square(rankdata(values), len(self.rows)) for values in self.distances]
        for side, square in zip(self.sides, squares, strict=True):
            if not square.any():
                raise DegenerateInputError(f"{side.name}: all distances between texts are equal, so RSA has no value")
        return squares

    @cached_property
    def weights(self) -> Floats:
        """Bootstrap draws of the sample, the same for every pair."""
        return resampling.bootstrap_weights(len(self.rows), self.draws.bootstrap, self.draws.rng("weights"))

    @cached_property
    def rank_bootstrap(self) -> Floats:
        """RSA of every pair for each draw."""
        return resampling.bootstrap_spearman(self.distances, len(self.rows), self.weights)

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

    def base_moments(self, side: Side, base: str) -> metrics.Moments:
        """Of the variant that is masked, where it is not compared."""
        masked = Side(base, side.embeddings, base, side.rows)
        return metrics.moments(lambda: ([block] for block in masked.blocks()), names=[base])

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


@dataclass(frozen=True, slots=True)
class _Task:
    """One pair at work; `scores` is filled on the way."""

    work: Work
    i: int
    j: int
    basis: Mechanism | None
    scores: dict[str, Floats]

    @property
    def a(self) -> Side:
        return self.work.sides[self.i]

    @property
    def b(self) -> Side:
        return self.work.sides[self.j]

    @property
    def rate(self) -> float:
        return self.a.embeddings.manifest.head.rate

    @property
    def simulation(self) -> Simulation:
        assert self.basis is not None
        return self.work.simulation(self.a, self.basis.base)

    def rng(self, what: str) -> np.random.Generator:
        return self.work.draws.rng(what, self.a.name, self.b.name)

    def figure(
        self, name: str, observed: float, expected: Callable[[Mechanism], float], by: str, null: Range, interval: Range
    ) -> Figure:
        """A figure with its expectation, which is that of identity where no mask is between the two."""
        if self.basis is None:
            return Figure(observed, None, "", null, interval)
        if self.basis.masks == 0:
            if name == "cosine":
                self.scores["cosine_expected"] = np.ones(len(self.work.ids))
            return Figure(observed, METRICS[name].on_identical, "identity", null, interval)
        return Figure(observed, expected(self.basis), by, null, interval)

    def spread(self, name: str, scores: Floats) -> Floats:
        """Keep scores of the query rows for all texts, NaN elsewhere."""
        full = np.full(len(self.work.ids), np.nan)
        full[self.work.queries] = scores
        self.scores[name] = full
        return scores


def _cka(task: _Task) -> dict[str, Figure]:
    work, draws = task.work, task.work.draws
    moments = work.moments
    k, l = work.grams[task.i], work.grams[task.j]  # noqa: E741 - Gram matrices K, L

    def expected(basis: Mechanism) -> float:
        own = next(
            (
                s
                for s, side in enumerate(work.sides)
                if side.variant == basis.base and side.embeddings is task.a.embeddings
            ),
            None,
        )
        base, at = (moments, own) if own is not None else (work.base_moments(task.a, basis.base), 0)
        n, cross = base.n, base.cross[at, at]
        second = np.diagonal(cross) / n + base.means[at] ** 2
        debiased = base.hsic(at, at) / (n * (n - 3))
        return theory.cka_under_dropout(cross / (n - 1), second, task.rate, masks=basis.masks, squared_norm=debiased)

    observed = moments.cka(task.i, task.j)
    own = float(np.vdot(k, l) / np.sqrt(np.vdot(k, k) * np.vdot(l, l)))
    drawn = Range.of(resampling.bootstrap_cka(k, l, work.weights) - own)
    return {
        "cka": task.figure(
            "cka",
            observed,
            expected,
            "closed form",
            Range.of(resampling.permute_cka(k, l, draws.permutations, task.rng("cka"))),
            drawn.moved(observed, _narrower(work)),
        )
    }


def _procrustes(task: _Task) -> dict[str, Figure]:
    work, moments = task.work, task.work.moments
    observed = moments.procrustes(task.i, task.j)
    rotation, _ = moments.rotation(task.i, task.j)
    x, y = (work.sampled(at) - moments.means[at] for at in (task.i, task.j))
    drawn = resampling.bootstrap_procrustes(x, y, rotation, work.weights)
    whole = resampling.bootstrap_procrustes(x, y, rotation, np.ones((1, len(x))))[0]
    null = resampling.permute_procrustes(
        lambda: (task.a.vectors, task.b.vectors),
        (moments.cross[task.i, task.i], moments.cross[task.j, task.j]),
        moments.n,
        min(_PROCRUSTES_DRAWS, work.draws.permutations),
        task.rng("procrustes"),
    )
    return {
        "procrustes": task.figure(
            "procrustes",
            observed,
            lambda basis: task.simulation.procrustes(basis.masks),
            "simulation",
            Range.of(null),
            Range.of(drawn - whole).moved(observed, _narrower(work)),
        )
    }


def _rsa(task: _Task) -> dict[str, Figure]:
    work = task.work
    a, b = work.ranks[task.i], work.ranks[task.j]
    observed = float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))
    null = resampling.permute_spearman(a, b, work.draws.permutations, task.rng("rsa"))
    return {
        "rsa": task.figure(
            "rsa",
            observed,
            lambda basis: task.simulation.rsa(basis.masks, work.rows),
            "simulation",
            Range.of(null),
            Range.of(work.rank_bootstrap[:, task.i, task.j]),
        )
    }


def _cosine(task: _Task) -> dict[str, Figure]:
    work = task.work
    scores = metrics.row_cosines(task.a.vectors, task.b.vectors)
    task.scores["cosine"] = scores

    def expected(basis: Mechanism) -> float:
        form = task.simulation.cosines(basis.masks)
        task.scores["cosine_expected"] = form
        return float(form.mean())

    units = (task.a.unit[work.rows], task.b.unit[work.rows])
    null = resampling.permute_cosine(*units, work.draws.permutations, task.rng("cosine"))
    return {
        "cosine": task.figure(
            "cosine", float(scores.mean()), expected, "closed form", Range.of(null), work.mean_interval(scores)
        )
    }


def _knn_overlap(task: _Task) -> dict[str, Figure]:
    work = task.work
    a, b = work.graphs[task.a.name], work.graphs[task.b.name]
    matched = [_matched(b.at(work.rows), task.rng(f"match {draw}"))[0] for draw in range(work.draws.permutations)]
    sampled = a.at(work.rows)
    figures = {}
    for k in work.ks:
        name = f"knn_overlap_{k}"
        scores = task.spread(name, knn.overlap(a, b, k))

        def expected(basis: Mechanism, k: int = k, name: str = name, scores: Floats = scores) -> float:
            graph = work.base_graph(task.a, basis.base)
            form = task.spread(f"{name}_expected", task.simulation.overlap(basis.masks, k, graph))
            task.spread(f"knn_excess_change_{k}", form - scores)
            return float(form.mean())

        null = np.array([knn.overlap(sampled, graph, k).mean() for graph in matched])
        if task.basis is not None and task.basis.masks == 0:
            task.spread(f"{name}_expected", np.ones(len(scores)))
            task.spread(f"knn_excess_change_{k}", 1.0 - scores)
        figures[name] = task.figure(
            "knn_overlap", float(scores.mean()), expected, "simulation", Range.of(null), work.mean_interval(scores)
        )
    return figures


def _second_order(task: _Task) -> dict[str, Figure]:
    work, k = task.work, task.work.ks[0]
    a, b = (work.graphs[side.name].first(k) for side in (task.a, task.b))
    scores = task.spread("second_order_cosine", metrics.row_second_order(task.a.unit, task.b.unit, a, b))
    sampled = a.at(work.rows)
    null = []
    for draw in range(min(_SECOND_ORDER_DRAWS, work.draws.permutations)):
        matched, order = _matched(b.at(work.rows), task.rng(f"match {draw}"))
        null.append(metrics.row_second_order(task.a.unit, task.b.unit, sampled, matched, order=order).mean())
    return {
        "second_order_cosine": task.figure(
            "second_order_cosine",
            float(scores.mean()),
            lambda basis: float(
                task.simulation.second_order(basis.masks, k, work.base_graph(task.a, basis.base)).mean()
            ),
            "simulation",
            Range.of(np.array(null)),
            work.mean_interval(scores),
        )
    }


def _generic(task: _Task, name: str) -> dict[str, Figure]:
    """Any registered measure, of the sample, by calling it."""
    work, measure = task.work, METRICS[name]
    x, y = work.sampled(task.i), work.sampled(task.j)
    rng = task.rng(name)
    null = [measure(x, y[rng.permutation(len(y))]) for _ in range(work.draws.permutations)]
    # Halves of the texts without replacement spread as the whole does, and hold no text twice (Shao & Wu 1989).
    halves = [rng.permutation(len(x))[: len(x) // 2] for _ in range(work.draws.bootstrap)]
    interval = Range.of(np.array([measure(x[half], y[half]) for half in halves]))
    return {
        name: task.figure(
            name,
            measure(x, y),
            lambda basis: task.simulation.generic(basis.masks, measure, work.rows),
            "simulation",
            Range.of(np.array(null)),
            interval,
        )
    }


_FIGURES: dict[str, Callable[[_Task], dict[str, Figure]]] = {
    "cka": _cka,
    "procrustes": _procrustes,
    "rsa": _rsa,
    "cosine": _cosine,
    "knn_overlap": _knn_overlap,
    "second_order_cosine": _second_order,
}


def _narrower(work: Work) -> float:
    """How much less an estimate of all texts spreads than one of the sample."""
    return float(np.sqrt(len(work.rows) / len(work.ids)))


def _matched(graph: NeighborGraph, rng: np.random.Generator) -> tuple[NeighborGraph, NDArray[np.int64]]:
    """The graph under a random match of texts, and the match: text i is given the neighbours of text ``order[i]``.

    The graph's own rows are matched among themselves, since only their neighbours are known.
    """
    rows = graph.queries
    order = np.empty(graph.n, dtype=np.int64)
    rest = np.setdiff1d(np.arange(graph.n), rows, assume_unique=True)
    shuffled = rng.permutation(len(rows))
    order[rows], order[rest] = rows[shuffled], rng.permutation(rest)
    back = np.empty_like(order)
    back[order] = np.arange(graph.n)
    indices = back[graph.indices[shuffled]].astype(np.int32)
    return NeighborGraph(
        indices, graph.distances[shuffled], graph.metric, graph.n, graph.rows, graph.exact, graph.recall, graph.seed
    ), order
