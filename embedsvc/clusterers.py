"""Ways to cluster vectors, by name, and one path from vectors to labels for all of them.

A clusterer is a function of (vectors, number of clusters, seed) and a declaration of what it needs and gives; the
contract tests hold every registered one to its declaration.

References
----------
Ward (1963), Hierarchical grouping to optimize an objective function.
Campello, Moulavi & Sander (2013), Density-based clustering based on hierarchical density estimates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.agreement import NOISE, Labels
from embedsvc.kmeans import N_STARTS, SKETCH, kmeans
from embedsvc.registry import Registry
from embedsvc.types import Vectors
from embedsvc.variants import derive

__all__ = ["CLUSTERERS", "Clusterer", "Fit", "Reduction", "label", "label_each", "n_distinct"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clusterer:
    """One way to cluster.

    Attributes
    ----------
    fit : callable
        ``fit(vectors, k, seed) -> labels``: vectors of shape (n, width), float32 and finite; `k` is None where
        `needs_k` is false; the seed has 32 bits. Labels are whole numbers of shape (n,), -1 for noise.
    needs_k : bool
        Whether it must be told the number of clusters.
    gives_noise : bool
        Whether it may leave texts in no cluster.
    seeded : bool
        Whether it draws random numbers; without, any seed gives the same clusters.
    widest : int or None
        Wider vectors are reduced to this width by a PCA that was fitted once, on the reference variant.
    most_texts : int or None
        Above, it is fitted on a sample of so many: its time or memory grows with the square of the texts, or it is
        slow for other reasons. The rest joins as `label` says.
    fewest_texts : int
        Below, its answer means nothing.
    sentence : str
        What it does, for reports.
    """

    fit: Callable[[Vectors, int | None, int], NDArray[Any]]
    needs_k: bool
    gives_noise: bool
    seeded: bool
    widest: int | None
    most_texts: int | None
    fewest_texts: int
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class Reduction:
    """A PCA, fitted once and applied to every variant of its space.

    Attributes
    ----------
    fitted_on : str
        The variant.
    explained : float
        Share of that variant's variance that is kept, 0 to 1.
    mean : ndarray of shape (width,), float32
    axes : ndarray of shape (width, n_components), float32
    """

    fitted_on: str
    explained: float
    mean: Vectors
    axes: Vectors

    @classmethod
    def fit(cls, vectors: Vectors, n_components: int, *, fitted_on: str) -> Reduction:
        """The first principal components; as many as the texts can tell apart, if that is fewer."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors - mean.astype(np.float32)
        variances, rotation = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        top = slice(None, -1 - min(n_components, len(vectors) - 1, vectors.shape[1]), -1)
        # An eigenvector and its negative are both right: fix the sign, so that every machine gives the same one.
        components = rotation[:, top]
        signs = np.sign(components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])])
        share = min(float(variances[top].sum() / variances.sum()), 1.0)
        return cls(fitted_on, share, mean.astype(np.float32), np.ascontiguousarray(components * signs, np.float32))

    def apply(self, vectors: Vectors) -> Vectors:
        """The coordinates, shape (n, n_components)."""
        return np.asarray((vectors - self.mean) @ self.axes, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Labels of one fit.

    Attributes
    ----------
    labels : ndarray of shape (n,), int32
        Clusters from 0 on, larger ones first; -1 is noise.
    converged : bool
        False if the algorithm stopped at its limit of iterations.
    """

    labels: Labels
    converged: bool


def label(clusterer: Clusterer, vectors: Vectors, k: int | None, *, seed: int) -> Fit:
    """Cluster vectors; above `most_texts`, a sample of them, which the rest then joins.

    A text outside the sample gets the cluster with the nearest centre or, where there may be noise, what its nearest
    text of the sample got, noise included. With fewer texts than `k`, as in a resample of a small set, each gets a
    cluster of its own.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        # Recorded, not silenced: fewer distinct vectors than k is the same class, but our callers refuse that before.
        warnings.simplefilter("always", ConvergenceWarning)
        labels = _labels(clusterer, vectors, k, seed)
    for warning in caught:
        if not issubclass(warning.category, ConvergenceWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return Fit(labels, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught))


def label_each(
    clusterer: Clusterer, task: Callable[[T], tuple[Vectors, int | None, int]], items: Iterable[T]
) -> list[Labels]:
    """Labels of many clusterings on all processors; `task` makes vectors, k and seed of an item.

    Whether they converged is not told: what is asked of many is how far they agree.
    """
    from sklearn.exceptions import ConvergenceWarning

    with threads.silenced(ConvergenceWarning):
        return threads.each(lambda item: _labels(clusterer, *task(item)), items)


def n_distinct(vectors: Vectors) -> int:
    """How many of the vectors differ; 0 and -0 are equal."""
    rows = np.ascontiguousarray(vectors) + np.float32(0)
    return len(np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))))


def _labels(clusterer: Clusterer, vectors: Vectors, k: int | None, seed: int) -> Labels:
    if len(vectors) == 1:  # as a resample of two texts may be
        return np.array([NOISE if clusterer.gives_noise else 0], dtype=np.int32)
    rows = np.arange(len(vectors))
    if clusterer.most_texts is not None and len(vectors) > clusterer.most_texts:
        generator = np.random.default_rng(derive(seed, "fitted on"))
        rows = np.sort(generator.choice(len(vectors), clusterer.most_texts, replace=False))
    sample = vectors[rows]
    labels = np.asarray(clusterer.fit(sample, k if k is None else min(k, len(sample)), derive(seed, "fit")))
    if len(rows) < len(vectors):
        labels = _joined(vectors, rows, labels, gives_noise=clusterer.gives_noise)
    return _by_size(labels)


def _joined(vectors: Vectors, rows: NDArray[np.int64], labels: NDArray[Any], *, gives_noise: bool) -> NDArray[Any]:
    """Labels of all, from those of a sample."""
    from sklearn.metrics import pairwise_distances_argmin

    points, names = vectors[rows], labels
    if not gives_noise:
        names = np.unique(labels)
        points = np.stack([vectors[rows[labels == name]].mean(axis=0, dtype=np.float64) for name in names])
        points = points.astype(np.float32)
    everywhere: NDArray[Any] = names[pairwise_distances_argmin(vectors, points)]
    everywhere[rows] = labels
    return everywhere


def _by_size(labels: NDArray[Any]) -> Labels:
    """Clusters renumbered, larger ones first, ties by their first text."""
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    keep = names != NOISE
    order = np.lexsort((first[keep], -counts[keep]))
    renumbered = np.full(len(labels), NOISE, dtype=np.int32)
    for number, name in enumerate(names[keep][order]):
        renumbered[labels == name] = number
    return renumbered


def _agglomerative(vectors: Vectors, k: int | None, seed: int) -> NDArray[Any]:
    from sklearn.cluster import AgglomerativeClustering

    labels: NDArray[Any] = AgglomerativeClustering(k, linkage="ward").fit_predict(vectors)
    return labels


def _hdbscan(vectors: Vectors, k: int | None, seed: int) -> NDArray[Any]:
    from sklearn.cluster import HDBSCAN

    labels: NDArray[Any] = HDBSCAN(min_cluster_size=_smallest_cluster(len(vectors)), copy=True).fit_predict(vectors)
    return labels


def _smallest_cluster(n_texts: int) -> int:
    """Half the root of n: 5 up to 100 texts, 16 of 1,000, 50 of 10,000; so a resample is treated like the whole."""
    return max(5, round(math.sqrt(n_texts) / 2)) if n_texts >= 5 else 2


def _gmm(vectors: Vectors, k: int | None, seed: int) -> NDArray[Any]:
    from sklearn.mixture import GaussianMixture

    # A full covariance has width² / 2 numbers a component, more than a few hundred texts can settle.
    covariance = "full" if vectors.shape[1] <= 10 else "diag"
    x = vectors.astype(np.float64)
    # scikit-learn adds 1e-6 to every variance, whatever the unit; here it is a millionth of the mean variance.
    floor = 1e-6 * float(x.var(axis=0).mean())
    mixture = GaussianMixture(k, covariance_type=covariance, reg_covar=floor, n_init=2, max_iter=300, random_state=seed)
    # Its products are too small to share: threads of BLAS that wait for each other cost more than they give.
    with threads.one_thread():
        labels: NDArray[Any] = mixture.fit_predict(x)
    return labels


CLUSTERERS: Registry[Clusterer] = Registry(
    "clusterer",
    {
        "kmeans": Clusterer(
            kmeans,
            needs_k=True,
            gives_noise=False,
            seeded=True,
            widest=None,
            most_texts=10_000,
            fewest_texts=2,
            sentence=(
                f"k-means (k-means++ in {SKETCH} random directions of wider vectors, the best of {N_STARTS} starts, "
                "euclidean)"
            ),
        ),
        "agglomerative": Clusterer(
            _agglomerative,
            needs_k=True,
            gives_noise=False,
            seeded=False,
            widest=None,
            most_texts=10_000,
            fewest_texts=2,
            sentence="agglomerative clustering (Ward's linkage, euclidean)",
        ),
        "hdbscan": Clusterer(
            _hdbscan,
            needs_k=False,
            gives_noise=True,
            seeded=False,
            widest=50,
            most_texts=10_000,
            fewest_texts=10,
            sentence="HDBSCAN (euclidean, smallest cluster √n/2 but at least 5 texts)",
        ),
        "gmm": Clusterer(
            _gmm,
            needs_k=True,
            gives_noise=False,
            seeded=True,
            widest=50,
            most_texts=None,
            fewest_texts=2,
            sentence=(
                "Gaussian mixture (diagonal covariances, full ones up to 10 dimensions, a millionth of the mean "
                "variance added to each variance; the best of 2 starts)"
            ),
        ),
    },
)
