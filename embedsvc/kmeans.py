"""k-means: scikit-learn's iterations from starts that are drawn side by side.

References
----------
Arthur & Vassilvitskii (2007), k-means++: the advantages of careful seeding. Achlioptas (2003), Database-friendly random
projections: why distances between starts need not be taken in all directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.types import Vectors

__all__ = ["N_STARTS", "SKETCH", "kmeans", "starts"]

N_STARTS = 3  # the best counts
SKETCH = 64  # random directions that the starts of wider vectors are chosen in


def kmeans(vectors: Vectors, k: int | None, seed: int) -> NDArray[Any]:
    """Labels of k-means, see `clusterers.Clusterer.fit`."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    drawn: Iterator[Vectors] = iter(())

    def start(x: Vectors, k: int, random_state: object) -> Vectors:
        nonlocal drawn
        centres = next(drawn, None)
        if centres is None:  # scikit-learn asks for each start with the same vectors, which it has centred
            drawn = iter(x[starts(x, k, N_STARTS, rng)])
            centres = next(drawn)
        return centres

    # Several threads add up in whichever order they end; with one, the same seed gives the same clusters. Its products
    # are too small to share as well: on busy processors, threads of BLAS waiting for each other took 20 times as long.
    with threads.one_thread():
        labels: NDArray[Any] = KMeans(k, init=start, n_init=N_STARTS, max_iter=100).fit_predict(vectors)
    return labels


def starts(points: Vectors, k: int, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows to begin at, n times k of them, by greedy k-means++.

    All n are drawn in step, so that a product measures the candidates of each, and in `SKETCH` random directions of
    wider vectors, which keep distances to about a tenth: a start is drawn by chance anyway, and is iterated from in the
    vectors themselves.

    Parameters
    ----------
    points : ndarray of shape (n_points, width), float32
        About their mean, or float32 loses digits.
    k, n : int
    rng : Generator

    Returns
    -------
    ndarray of shape (n, k), intp
    """
    if points.shape[1] > SKETCH:
        directions = rng.standard_normal((points.shape[1], SKETCH), dtype=np.float32)
        points = points @ (directions / np.float32(np.sqrt(SKETCH)))
    lengths = np.einsum("nd,nd->n", points, points)
    across = np.ascontiguousarray(points.T)

    def apart(rows: NDArray[np.intp]) -> Vectors:
        """Squared distances of some points to all, shape (*rows.shape, n_points)."""
        some = rows.ravel()
        found = (-2 * points[some]) @ across
        found += lengths
        found += lengths[some, None]
        np.maximum(found, 0, out=found)
        found[np.arange(len(some)), some] = 0  # not what rounding leaves
        return np.asarray(found.reshape(*rows.shape, -1))

    chosen = np.empty((n, k), np.intp)
    chosen[:, 0] = rng.integers(0, len(points), n)
    nearest = apart(chosen[:, 0])
    each, tried = np.arange(n), 2 + int(np.log(k))  # as many as scikit-learn tries
    for at in range(1, k):
        odds = np.cumsum(nearest, axis=1, dtype=np.float64)
        draws = rng.random((n, tried)) * odds[:, -1:]
        found = np.stack([np.searchsorted(*pair) for pair in zip(odds, draws, strict=True)])
        candidates = np.minimum(found, len(points) - 1)
        nearer = np.minimum(apart(candidates), nearest[:, None])
        best = nearer.sum(axis=2).argmin(axis=1)
        chosen[:, at], nearest = candidates[each, best], nearer[each, best]
    return chosen
