"""Find the nearest of many rows by cosine: float32 products, and a threshold that leaves few candidates to sort.

Every row is looked at, so nothing is missed. scikit-learn's brute force does the same in float64 and took 3.5 times as
long for 20,000 × 384. Similarities are right to about a millionth, the rounding of float32; which of two rows comes
first whose similarities differ by less is arbitrary. Of near-copies among those found, where that would be all there
is to a distance, it is measured again in float64.

Where every point is a query, the cosine of two is computed once for both.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.types import Vectors

__all__ = ["nearest"]

_CELLS = 8_000_000  # similarities at a time, 32 MB a thread: they are read again and should still be in the cache
_TRIED = 1024  # columns that a threshold is guessed from
_SHARED = (8_000, 60_000)  # points whose cosines are computed once for both: fewer gain nothing, more hold too much
_CROWDED = 20  # times as many candidates as there should be, as among thousands of copies: too many to hold
_CLOSE = 1e-4  # below, a distance has lost its digits to the rounding of the product

Indices = NDArray[np.int32]
Distances = NDArray[np.float32]


def nearest(
    points: Vectors, queries: Vectors, k: int, *, own: NDArray[np.int64] | None = None
) -> tuple[Indices, Distances]:
    """The k nearest points of each query, nearest first, on all processors.

    Parameters
    ----------
    points, queries : ndarray of shape (n, width) and (m, width), float32
        Rows of length 1.
    k : int
        From 1 to n, or to n - 1 with `own`.
    own : ndarray of shape (m,), optional
        The point that each query is, by its number: it is not among its neighbours, but a copy of it may be.

    Returns
    -------
    indices : ndarray of shape (m, k), int32
    distances : ndarray of shape (m, k), float32
        Cosine distances, 1 - cos. Ties are in the order of the points.
    """
    rows = max(16, min(512, _CELLS // len(points)))
    if own is not None and _SHARED[0] <= len(points) <= _SHARED[1] and np.array_equal(own, np.arange(len(points))):
        among = _nearest_of_all(points, k, rows)
        if among is not None:
            return among
    indices, distances = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
    across = points.T

    def search(start: int) -> None:
        cut = slice(start, start + rows)
        cosines = queries[cut] @ across
        if own is not None:
            cosines[np.arange(len(cosines)), own[cut]] = -np.inf
        found = _candidates(cosines, k)
        near = np.take_along_axis(cosines, np.minimum(found, len(points) - 1), axis=1)
        near[found == len(points)] = -np.inf
        indices[cut], distances[cut] = _in_order(points, queries[cut], found, near, k)

    threads.each(search, range(0, len(queries), rows))
    return indices, distances


def _nearest_of_all(points: Vectors, k: int, rows: int) -> tuple[Indices, Distances] | None:
    """The k nearest others of each point, from the cosines above the diagonal; none if too many pass the threshold."""
    from scipy.sparse import coo_array

    n = len(points)
    least = np.empty(n, np.float32)
    some = points[:: max(1, n // _TRIED)].T
    crowded = threading.Event()

    def guess(start: int) -> None:
        least[start : start + rows] = _guess(points[start : start + rows] @ some, k, n)

    def pass_on(start: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]] | None:
        if crowded.is_set():
            return None
        stop = min(start + rows, n)
        cosines = points[start:stop] @ points[start:].T
        height, width = cosines.shape
        np.fill_diagonal(cosines[:, :height], -np.inf)
        # Each pair is asked for from both sides; within the square on the diagonal it is there twice.
        below = np.concatenate([np.full(height, np.inf, np.float32), least[stop:]])
        own = np.flatnonzero(cosines >= least[start:stop, None])
        other = np.flatnonzero(cosines >= below)
        if len(own) + len(other) > _CROWDED * (k + n // _TRIED) * rows:
            crowded.set()
            return None
        (row, column), (from_row, from_column) = np.divmod(own, width), np.divmod(other, width)
        return (
            np.concatenate([row, from_column]).astype(np.int32) + np.int32(start),
            np.concatenate([column, from_row]).astype(np.int32) + np.int32(start),
            cosines.ravel()[np.concatenate([own, other])],
        )

    starts = range(0, n, rows)
    threads.each(guess, starts)
    passed = [part for part in threads.each(pass_on, starts) if part is not None]
    if crowded.is_set():
        return None
    row, column, cosine = (np.concatenate(parts) for parts in zip(*passed, strict=True))
    pairs = coo_array((cosine, (row, column)), shape=(n, n)).tocsr()
    pairs.sort_indices()
    counts = np.diff(pairs.indptr)
    indices, distances = np.empty((n, k), np.int32), np.empty((n, k), np.float32)

    def choose(start: int) -> None:
        cut = slice(start, start + rows)
        taken = np.arange(max(k, int(counts[cut].max()))) < counts[cut, None]
        found, near = np.full(taken.shape, n, np.int32), np.full(taken.shape, -np.inf, np.float32)
        held = slice(pairs.indptr[start], pairs.indptr[min(start + rows, n)])
        found[taken], near[taken] = pairs.indices[held], pairs.data[held]
        indices[cut], distances[cut] = _in_order(points, points[cut], found, near, k)

    threads.each(choose, starts)
    short = np.flatnonzero(counts < k)
    if len(short):
        indices[short], distances[short] = nearest(points, points[short], k, own=short)
    return indices, distances


def _in_order(
    points: Vectors, queries: Vectors, found: Indices, near: NDArray[np.float32], k: int
) -> tuple[Indices, Distances]:
    """The k nearest of candidates with these cosines, near-copies measured again."""
    best = np.argsort(-near, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(found, best, axis=1)
    near = np.maximum(np.float32(1.0) - np.take_along_axis(near, best, axis=1), np.float32(0.0))
    query, place = np.nonzero(near < _CLOSE)
    if len(query):
        apart = points[found[query, place]].astype(np.float64) - queries[query]
        near[query, place] = np.einsum("nd,nd->n", apart, apart) / 2
        order = np.lexsort((found, near), axis=-1)
        found, near = np.take_along_axis(found, order, axis=1), np.take_along_axis(near, order, axis=1)
    return found, near


def _guess(some: NDArray[np.float32], k: int, n: int) -> NDArray[np.float32]:
    """A threshold for each row from its cosines with some of n points.

    So that about 2.5 k pass; too few for a row happen, and cost a look at the whole of it.
    """
    rank = min(int(2.5 * k * some.shape[1] / n) + 2, some.shape[1] - 1)
    return np.partition(some, some.shape[1] - 1 - rank, axis=1)[:, -1 - rank]


def _candidates(cosines: NDArray[np.float32], k: int) -> Indices:
    """Columns that hold the k largest of each row, ascending, and a few more; filled up with the number of columns."""
    rows, n = cosines.shape
    least = _guess(cosines[:, :: max(1, n // _TRIED)], k, n)
    passed = cosines >= least[:, None]
    for short in np.flatnonzero(np.count_nonzero(passed, axis=1) < k):
        passed[short] = cosines[short] >= np.partition(cosines[short], n - k)[n - k]
    row, column = np.divmod(np.flatnonzero(passed), n)
    counts = np.bincount(row, minlength=rows)
    found = np.full((rows, int(counts.max())), n, np.int32)
    found[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = column
    return found
