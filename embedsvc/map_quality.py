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


def _distances(points: NDArray[np.floating[Any]], rows: Ranks) -> NDArray[np.floating[Any]]:
    """Of some rows to all, squared and short of what is the same for a whole row; a row is never near itself."""
    found = np.einsum("nd,nd->n", points, points) - 2 * (points[rows] @ points.T)
    found[np.arange(len(rows)), rows] = np.inf
    return np.asarray(found)


def _beyond(here: NDArray[np.floating[Any]], there: NDArray[np.floating[Any]], k: int) -> int:
    """How many ranks the k nearest here lie beyond the k nearest there, in all."""
    near = np.argpartition(here, k - 1, axis=1)[:, :k]
    wanted = np.take_along_axis(there, near, axis=1)
    ordered = np.sort(there, axis=1)
    nearer = np.stack([np.searchsorted(row, values) for row, values in zip(ordered, wanted, strict=True)])
    return int(np.maximum(nearer + 1 - k, 0).sum())
