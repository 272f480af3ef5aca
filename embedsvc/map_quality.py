"""How well a map keeps neighbourhoods: trustworthiness and continuity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.threads import each
from embedsvc.types import Vectors

__all__ = ["Quality", "quality"]

_ROWS = 256  # whose distances are held at a time

Ranks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a map keeps neighbourhoods, from 0 to 1; None where there are too few texts to tell.

    Attributes
    ----------
    trustworthiness : float or None
        1 if all neighbours on the map are neighbours of the vectors.
    continuity : float or None
        1 if all neighbours of the vectors are neighbours on the map.

    References
    ----------
    Venna & Kaski (2001), "Neighborhood preservation in nonlinear projection methods", ICANN.
    """

    trustworthiness: float | None
    continuity: float | None


def quality(vectors: Vectors, places: Vectors, k: int) -> Quality:
    """Trustworthiness and continuity by euclidean distance, of all rows among all.

    scikit-learn's `trustworthiness` gives the same numbers one at a time, in nearly twice the time, with the square of
    their number in memory; here it is a block of rows. Of equal distances it ranks one first by chance; here they
    share the lower rank.

    Parameters
    ----------
    vectors : ndarray of shape (n, width)
    places : ndarray of shape (n, 2)
    k : int
        Neighbours, 1 or more and less than n / 2; below 1 there is no answer.
    """
    n = len(vectors)
    if k < 1:
        return Quality(None, None)
    # Centred, so that little is rounded away where squares are subtracted.
    spaces = [np.ascontiguousarray(points - points.mean(axis=0)) for points in (vectors, places.astype(np.float64))]

    def beyond(start: int) -> tuple[int, int]:
        rows = np.arange(start, min(start + _ROWS, n))
        of_vectors, on_map = (_distances(points, rows) for points in spaces)
        return _beyond(on_map, of_vectors, k), _beyond(of_vectors, on_map, k)

    untrue, torn = zip(*each(beyond, range(0, n, _ROWS)), strict=True)
    worst = n * k * (2 * n - 3 * k - 1) / 2
    return Quality(1 - sum(untrue) / worst, 1 - sum(torn) / worst)


def _distances(points: NDArray[np.floating[Any]], rows: Ranks) -> Vectors:
    """Squared, of some rows to all; a row is never near itself."""
    lengths = np.einsum("nd,nd->n", points, points)
    found = -2 * (points[rows] @ points.T)
    found += lengths
    found += lengths[rows, None]
    found[np.arange(len(rows)), rows] = np.inf
    return np.asarray(found, dtype=np.float32)


def _beyond(here: Vectors, there: Vectors, k: int) -> int:
    """How many ranks the k nearest here lie beyond the k nearest there, in all."""
    wanted = np.take_along_axis(there, _nearest(here, k), axis=1)
    # Counted one by one: to sort every row and look these up took twice as long.
    nearer = [(there < wanted[:, at, None]).view(np.int8).sum(axis=1, dtype=np.int64) for at in range(k)]
    return int(sum(np.maximum(count + 1 - k, 0).sum() for count in nearer))


def _nearest(distances: Vectors, k: int) -> Ranks:
    """Columns of the k smallest of each row."""
    least = np.partition(distances, k - 1, axis=1)[:, k - 1, None]
    found = np.flatnonzero(distances <= least)
    if len(found) == k * len(distances):
        return np.asarray(found % distances.shape[1]).reshape(-1, k)
    return np.argpartition(distances, k - 1, axis=1)[:, :k]  # more are as near as the last: any will do
