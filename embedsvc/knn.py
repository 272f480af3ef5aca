"""Nearest neighbours of texts, exact or with their recall: for overlap, maps and clusters alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import MissingExtraError, SettingsError
from embedsvc.nearest import nearest
from embedsvc.types import Vectors, check_seed
from embedsvc.vectors import check_vectors, unit_rows

__all__ = [
    "EXACT_ROWS",
    "Metric",
    "NeighborGraph",
    "chance",
    "neighbor_graph",
    "overlap",
]

Metric = Literal["cosine", "euclidean"]

EXACT_ROWS = 50_000  # above, an approximate graph takes a fraction of the time and its recall is measured

_RECALL_QUERIES = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class NeighborGraph:
    """The k nearest other texts of each text, nearest first; a text is never its own neighbour.

    Attributes
    ----------
    indices : ndarray of shape (m, k), int32
        Row numbers of the neighbours, out of all `n` rows.
    distances : ndarray of shape (m, k), float32
        Ascending; ties are in the order of the row numbers. Cosine distances are 1 - cos, from 0 to 2.
    metric : {"cosine", "euclidean"}
    n : int
        Rows there are.
    rows : ndarray of shape (m,), int64, or None
        The rows whose neighbours these are, ascending; None for all `n`, then m = n.
    exact : bool
    recall : float or None
        Share of the true neighbours found, over 1,000 rows searched exactly; None where the graph is exact.
    seed : int
        Of an approximate search; an exact one draws nothing.
    checked : ndarray of int, or None
        Rows of an approximate graph that were searched exactly: for its recall, and to put their neighbours right.
    """

    indices: NDArray[np.int32]
    distances: NDArray[np.float32]
    metric: Metric
    n: int
    rows: NDArray[np.int64] | None
    exact: bool
    recall: float | None
    seed: int
    checked: NDArray[np.int64] | None = None

    @property
    def k(self) -> int:
        """Neighbours of each text."""
        return int(self.indices.shape[1])

    @property
    def queries(self) -> NDArray[np.int64]:
        """The rows whose neighbours these are, all or some, ascending."""
        return np.arange(self.n) if self.rows is None else self.rows

    @property
    def method(self) -> str:
        """How it was made, as a phrase."""
        how = "exact" if self.exact else f"approximate (NN-descent, seed {self.seed}, recall {self.recall:.3f})"
        some = "" if self.rows is None else f" of {len(self.rows):,} sampled texts"
        return f"{how} {self.metric} neighbours{some} among {self.n:,} texts"

    def first(self, k: int) -> NeighborGraph:
        """The graph of the k nearest only.

        Raises
        ------
        SettingsError
            If it holds fewer.
        """
        if not 1 <= k <= self.k:
            raise SettingsError(f"k is {k}, expected 1 to {self.k}, the neighbours this graph holds")
        return replace(self, indices=self.indices[:, :k], distances=self.distances[:, :k])

    def at(self, rows: NDArray[np.int64]) -> NeighborGraph:
        """The graph of some of its rows, ascending.

        Raises
        ------
        SettingsError
            If it does not hold the neighbours of one of them.
        """
        where = np.searchsorted(self.queries, rows)
        if np.any(where >= len(self.indices)) or np.any(self.queries[where] != rows):
            raise SettingsError("the graph does not hold the neighbours of every row asked for")
        some = replace(self, indices=self.indices[where], distances=self.distances[where], rows=rows)
        right = self.checked is not None and bool(np.isin(rows, self.checked).all())
        return replace(some, exact=True, recall=None, checked=None) if right else some


def neighbor_graph(
    vectors: Vectors,
    k: int,
    *,
    metric: Metric = "cosine",
    seed: int = 0,
    rows: NDArray[np.int64] | None = None,
    exact: bool | None = None,
    checked: NDArray[np.int64] | None = None,
    unit: bool = False,
    name: str = "the vectors",
) -> NeighborGraph:
    """The k nearest other texts of each text.

    Parameters
    ----------
    vectors : ndarray of shape (n, width), float32
    k : int
        From 1 to n - 1.
    metric : {"cosine", "euclidean"}
    seed : int
        Of an approximate search.
    rows : ndarray of int, optional
        Search the neighbours of these rows only, always exactly.
    exact : bool, optional
        By default up to `EXACT_ROWS` rows; above by NN-descent (Dong et al. 2011), with its recall.
    checked : ndarray of int, optional
        Rows that an approximate search must get right, its recall being measured on them; by default 1,000 drawn.
    unit : bool
        The vectors are of length 1 already, by `unit_rows`.
    name : str
        What the vectors are, for messages.

    Returns
    -------
    NeighborGraph
        Among more than k + 1 equal vectors, which ones are neighbours is arbitrary.

    Raises
    ------
    SettingsError
        If k is out of range, or the metric unknown.
    DegenerateInputError
        For NaN or infinite vectors, or zero ones under cosine (the message names rows).
    MissingExtraError
        If an approximate search needs pynndescent and it is not installed.
    """
    check_seed(seed)
    if metric not in ("cosine", "euclidean"):
        raise SettingsError(f"the metric is {metric!r}, expected 'cosine' or 'euclidean'")
    if not unit:
        check_vectors(vectors, name)
    n = len(vectors)
    if not 1 <= k < n:
        raise SettingsError(
            f"k is {k}, expected 1 to {n - 1}: {name} hold{'s' if n == 1 else ''} {n:,} texts, "
            "and a text is not its own neighbour",
            "Ask for fewer neighbours, or bring more texts.",
        )
    if metric == "cosine" and not unit:
        points = unit_rows(vectors, name)
    else:
        points = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows is not None:
        rows = np.unique(np.asarray(rows, dtype=np.int64))
    if rows is not None or exact or (exact is None and n <= EXACT_ROWS):
        indices, distances = _exact(points, k, metric, np.arange(n) if rows is None else rows)
        return NeighborGraph(indices, distances, metric, n, rows, exact=True, recall=None, seed=seed)
    indices, distances = _approximate(points, k, metric, seed)
    if checked is None:
        checked = np.sort(np.random.default_rng(seed).choice(n, min(_RECALL_QUERIES, n), replace=False))
    checked = np.unique(np.asarray(checked, dtype=np.int64))
    truth, near = _exact(points, k, metric, checked)
    recall = float(_shared(indices[checked], truth).mean() / k)
    indices[checked], distances[checked] = truth, near
    return NeighborGraph(indices, distances, metric, n, None, exact=False, recall=recall, seed=seed, checked=checked)


def overlap(a: NeighborGraph, b: NeighborGraph, k: int) -> NDArray[np.float64]:
    """Share of each text's k nearest neighbours that two graphs have in common.

    Returns
    -------
    ndarray of shape (m,), float64
        From 0 to 1, for the rows of the graphs. Its mean by chance is `chance(k, n)`.

    Raises
    ------
    SettingsError
        If the graphs are of different texts, or hold fewer than k neighbours.

    References
    ----------
    Huh et al. (2024), arXiv:2405.07987, call its mean mutual k-nearest-neighbour alignment.
    """
    if a.n != b.n or not np.array_equal(a.queries, b.queries):
        raise SettingsError(
            f"the graphs are of different texts: {len(a.indices):,} of {a.n:,}, and {len(b.indices):,} of {b.n:,}"
        )
    return _shared(a.first(k).indices, b.first(k).indices) / k


def chance(k: int, n: int) -> float:
    """Mean k-nearest-neighbour overlap of two unrelated representations of n texts: k / (n - 1).

    >>> chance(10, 101)
    0.1
    """
    if not 1 <= k < n:
        raise SettingsError(f"k is {k}, expected 1 to {n - 1}")
    return k / (n - 1)


def _exact(
    points: Vectors, k: int, metric: Metric, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    if metric == "cosine":
        return nearest(points, points[rows], k, own=rows)
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute", metric="euclidean").fit(points)
    distances, indices = search.kneighbors(points[rows])
    return _without_self(indices, distances, rows)


def _approximate(points: Vectors, k: int, metric: Metric, seed: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    try:
        from pynndescent import NNDescent
    except ModuleNotFoundError as error:
        if error.name != "pynndescent":
            raise
        raise MissingExtraError.of("pynndescent", "report") from None

    # It takes 32 bits of seed; ours has 63.
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    found = NNDescent(points, metric="euclidean", n_neighbors=k + 1, random_state=state)
    indices, distances = found.neighbor_graph
    if metric == "cosine":
        distances = distances**2 / 2
    clean, near = _without_self(indices, distances, np.arange(len(points)))
    short = np.flatnonzero((clean < 0).any(axis=1))  # it marks with -1 what it did not find
    if len(short):
        clean[short], near[short] = _exact(points, k, metric, short)
    return clean, near


def _without_self(
    indices: NDArray[np.integer], distances: NDArray[np.floating], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Leave k of k + 1 neighbours: the row itself goes, by its number, and the farthest where it is not among them.

    Never column 0: among duplicates any of them may come first, and the row itself not at all.
    """
    others = indices != rows[:, None]
    others[others.all(axis=1), -1] = False
    shape = (len(rows), indices.shape[1] - 1)
    kept = indices[others].reshape(shape).astype(np.int32)
    near = np.asarray(distances[others].reshape(shape), dtype=np.float32)
    order = np.lexsort((kept, near), axis=-1)
    return np.take_along_axis(kept, order, axis=1), np.take_along_axis(near, order, axis=1)


def _shared(a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many members two rows of distinct numbers share."""
    both = np.sort(np.concatenate([a, b], axis=1), axis=1)
    return np.asarray(np.count_nonzero(both[:, 1:] == both[:, :-1], axis=1), dtype=np.int64)
