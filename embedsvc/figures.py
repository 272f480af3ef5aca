"""The figures of a pair of variants: each measure's observation, expectation, null and interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, combinations, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import knn, metrics, permutations, resampling, theory, threads
from embedsvc.errors import NoValueError
from embedsvc.knn import NeighborGraph
from embedsvc.metrics import METRICS
from embedsvc.resampling import Range
from embedsvc.shared import Work
from embedsvc.sides import Side
from embedsvc.simulation import Mechanism, Simulation, mechanism
from embedsvc.types import Vectors

__all__ = ["Figure", "Pair", "measure_pairs"]

Floats = NDArray[np.float64]

_SECOND_ORDER_DRAWS = 5  # each gathers the vectors of all neighbours, and the null hardly spreads
_PROCRUSTES_DRAWS = 5  # each needs a matrix's singular values, and the null hardly spreads


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


def measure_pairs(work: Work, measures: tuple[str, ...], told: Callable[[str], object]) -> tuple[Pair, ...]:
    """Every two sides by each measure, on all processors; `told` is told each pair as its turn comes."""
    tasks, groups = [], defaultdict[object, list[_Task]](list)
    for i, j in combinations(range(len(work.sides)), 2):
        a, b = work.sides[i], work.sides[j]
        basis = mechanism((a.embeddings, a.variant), (b.embeddings, b.variant))
        tasks.append(_Task(work, i, j, basis, scores={}))
        # Pairs that share drawn masks take turns, so that these are drawn once.
        groups[work.base(a, basis.base) if basis is not None and basis.masks else (i, j)].append(tasks[-1])
    if tasks:
        work.prepare(measures)
    begun = count(1)

    def measure(group: list[_Task]) -> list[tuple[tuple[int, int], Pair]]:
        found = []
        for task in group:
            told(f"Pair {next(begun)} of {len(tasks)}: {task.a.name} × {task.b.name}")
            found.append(((task.i, task.j), _measure(task, measures)))
        return found

    largest_first = sorted(groups.values(), key=len, reverse=True)
    made = dict(chain.from_iterable(threads.each(measure, largest_first)))
    return tuple(made[task.i, task.j] for task in tasks)


def _measure(task: _Task, measures: tuple[str, ...]) -> Pair:
    a, b = task.a, task.b
    figures: dict[str, Figure] = {}
    omitted: dict[str, str] = {}
    for name in measures:
        if name in ("cosine", "alignment") and a.width != b.width:
            omitted[name] = f"{a.name} is {a.width} wide, {b.name} {b.width}"
            continue
        try:
            figures |= _FIGURES[name](task) if name in _FIGURES else _generic(task, name)
        except NoValueError as error:
            omitted[name] = error.problem
    return Pair(a.name, b.name, task.basis, figures, omitted, task.scores)


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
    def units(self) -> tuple[Vectors, Vectors]:
        """Vectors of both sides scaled to length 1."""
        return self.work.unit(self.a), self.work.unit(self.b)

    @property
    def rate(self) -> float:
        return self.a.embeddings.manifest.head.rate

    @property
    def simulation(self) -> Simulation:
        return self.work.simulation(self.base)

    @property
    def base(self) -> Side:
        """The variant that is masked."""
        assert self.basis is not None
        return self.work.base(self.a, self.basis.base)

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
    work, moments = task.work, task.work.moments
    k, l = work.grams[task.i], work.grams[task.j]  # noqa: E741 - Gram matrices K, L
    for side, at, gram in ((task.a, task.i, k), (task.b, task.j, l)):
        if not moments.shares_variation(at) or not gram.any():
            raise NoValueError(f"no two texts share any variation of {side.name}, which leaves 0/0 once it is debiased")

    def expected(basis: Mechanism) -> float:
        base, at = work.base_moments(task.base)
        n, cross = base.n, base.cross[at, at]
        second = np.diagonal(cross) / n + base.means[at] ** 2
        debiased = base.hsic(at, at) / (n * (n - 3))
        return theory.cka_under_dropout(cross / (n - 1), second, task.rate, masks=basis.masks, squared_norm=debiased)

    observed = moments.cka(task.i, task.j)
    own = float(np.vdot(k, l) / np.sqrt(np.vdot(k, k) * np.vdot(l, l)))
    drawn = Range.of(work.resampled_grams[:, task.i, task.j] - own)
    return {
        "cka": task.figure(
            "cka",
            observed,
            expected,
            "closed form",
            Range.of(work.permuted_grams[:, task.i, task.j]),
            drawn.moved(observed, _narrower(work)),
        )
    }


def _procrustes(task: _Task) -> dict[str, Figure]:
    work = task.work
    rotation, observed = work.rotation(task.i, task.j)
    x, y = work.centred[task.i], work.centred[task.j]
    weights = np.concatenate([np.ones((1, len(x))), work.weights])  # all as they are, then the draws
    whole, *drawn = resampling.bootstrap_procrustes(x, y, rotation, weights)
    null = permutations.permute_procrustes(
        lambda: (task.a.vectors, task.b.vectors),
        (work.spectra[task.i], work.spectra[task.j]),
        work.moments.n,
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
            Range.of(np.array(drawn) - whole).moved(observed, _narrower(work)),
        )
    }


def _rsa(task: _Task) -> dict[str, Figure]:
    work = task.work
    a, b = work.rank_squares[task.i], work.rank_squares[task.j]
    for side, ranks in ((task.a, a), (task.b, b)):
        if not ranks.any():
            raise NoValueError(f"all distances between texts of {side.name} are equal, so they have no order")
    observed = float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))
    return {
        "rsa": task.figure(
            "rsa",
            observed,
            lambda basis: task.simulation.rsa(basis.masks, work.rows, work.ranks(task.base)),
            "simulation",
            Range.of(work.permuted_ranks[:, task.i, task.j]),
            Range.of(observed + work.resampled_ranks[:, task.i, task.j]),
        )
    }


def _cosine(task: _Task) -> dict[str, Figure]:
    work = task.work
    scores = np.clip(np.einsum("nd,nd->n", *task.units, dtype=np.float64), -1.0, 1.0)
    task.scores["cosine"] = scores

    def expected(basis: Mechanism) -> float:
        form = task.simulation.cosines(basis.masks)
        task.scores["cosine_expected"] = form
        return float(form.mean())

    null = Range.of(work.permuted_cosines[:, task.i, task.j])
    return {
        "cosine": task.figure("cosine", float(scores.mean()), expected, "closed form", null, work.mean_interval(scores))
    }


def _knn_overlap(task: _Task) -> dict[str, Figure]:
    work = task.work
    a, b = work.graphs[task.a.name], work.graphs[task.b.name]
    figures = {}
    for k in work.ks:
        name = f"knn_overlap_{k}"
        scores = task.spread(name, knn.overlap(a, b, k))

        def expected(basis: Mechanism, k: int = k, name: str = name, scores: Floats = scores) -> float:
            graph = work.base_graph(task.base)
            form = task.spread(f"{name}_expected", task.simulation.overlap(basis.masks, k, graph))
            task.spread(f"knn_excess_change_{k}", form - scores)
            return float(form.mean())

        null = work.permuted_overlaps[task.i, task.j, k]
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
    scores = task.spread("second_order_cosine", metrics.row_second_order(*task.units, a, b))
    sampled = a.at(work.rows)
    null = []
    for draw in range(min(_SECOND_ORDER_DRAWS, work.draws.permutations)):
        matched, order = _matched(b.at(work.rows), task.rng(f"match {draw}"))
        null.append(metrics.row_second_order(*task.units, sampled, matched, order=order).mean())
    return {
        "second_order_cosine": task.figure(
            "second_order_cosine",
            float(scores.mean()),
            lambda basis: float(task.simulation.second_order(basis.masks, k, work.base_graph(task.base)).mean()),
            "simulation",
            Range.of(np.array(null)),
            work.mean_interval(scores),
        )
    }


def _generic(task: _Task, name: str) -> dict[str, Figure]:
    """Any registered measure, of the sample, by calling it."""
    work, measure = task.work, METRICS[name]
    x, y = work.sampled(task.a), work.sampled(task.b)
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
