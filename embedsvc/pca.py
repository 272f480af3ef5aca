"""The map that is honest about displacement: two principal axes of the reference, for every variant alike.

It is linear, so the mean of a text's dropout passes lies on the text itself (E[post] = pre), and the scatter of its
passes is known without drawing any: an ellipse with the covariance p/q · Wᵀ diag(x²) W.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedsvc import theory
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.projectors import Layout, Method, Request
from embedsvc.types import Vectors
from embedsvc.variants import space
from embedsvc.vectors import check_vectors

__all__ = ["PCA", "Axes", "ellipses", "fit_axes", "noise_covariance", "pca"]

Floats = NDArray[np.float64]


class Axes:
    """The first two principal axes of some vectors.

    Attributes
    ----------
    mean : ndarray of shape (width,)
    components : ndarray of shape (width, 2)
        W: orthonormal columns, the largest entry of each positive.
    explained : tuple of two floats
        Share of the total variance along each.
    """

    def __init__(self, mean: Floats, components: Floats, explained: tuple[float, float]) -> None:
        self.mean = mean
        self.components = components
        self.explained = explained

    def place(self, vectors: Vectors) -> Vectors:
        """Coordinates of vectors, shape (n, 2), float32."""
        return np.ascontiguousarray((vectors - self.mean) @ self.components, dtype=np.float32)


def pca(request: Request) -> Layout:
    """See `Projector`. Reads the set twice, a part at a time: memory grows with the texts by their coordinates only."""
    if request.parameters:
        raise SettingsError(f"pca takes no parameters, got {', '.join(request.parameters)}")
    embeddings, reference = request.embeddings, request.reference
    axes = fit_axes(embeddings, reference)
    names = (reference, *request.others)
    coordinates = {name: np.empty((len(embeddings), 2), dtype=np.float32) for name in names}
    has_noise = space(reference) == "pre_dropout" and reference.startswith("pre_dropout.")
    noise = np.empty((len(embeddings), 2, 2), dtype=np.float32) if has_noise else None
    for block in embeddings.iter_blocks(names):
        rows = slice(block.offset, block.offset + len(block.texts))
        for name in names:
            coordinates[name][rows] = axes.place(_finite(embeddings, block.vectors[name], name))
        if noise is not None:
            noise[rows] = noise_covariance(axes, block.vectors[reference], embeddings.manifest.head.rate)
    share = sum(axes.explained)
    sentence = (
        f"PCA fitted once on {reference}; its two axes hold {share:.1%} of the variance. "
        "Linear: distances on the map are those of the vectors along these axes, and no others."
    )
    return Layout(coordinates, {"explained": list(axes.explained)}, sentence, noise)


def fit_axes(embeddings: EmbeddingSet, variant: str) -> Axes:
    """The axes of a variant, from its mean and scatter, merged part by part in float64: exact, unlike incremental PCA.

    Raises
    ------
    DegenerateInputError
        If all vectors are equal, not finite, or narrower than the plane.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", The American Statistician 37(3).
    """
    from scipy.linalg import eigh

    width = embeddings.manifest.width(variant)
    if width < 2:
        raise DegenerateInputError(f"{variant} is {width} number wide, and a map needs 2", "Choose another variant.")
    count, mean, scatter = 0, np.zeros(width), np.zeros((width, width))
    for block in embeddings.iter_blocks([variant]):
        vectors = _finite(embeddings, block.vectors[variant], variant).astype(np.float64)
        if not len(vectors):
            continue
        center = vectors.mean(axis=0)
        vectors -= center
        away, count = center - mean, count + len(vectors)
        scatter += vectors.T @ vectors + np.outer(away, away) * (len(vectors) * (count - len(vectors)) / count)
        mean += away * (len(vectors) / count)
    total = float(np.trace(scatter))
    # What is left of equal rows when their rounded mean is taken off is rounding, and no variance.
    if count < 2 or total <= count * np.finfo(np.float64).eps ** 2 * float(mean @ mean) * 16:
        raise DegenerateInputError(
            f"{variant}: all {count:,} vectors are equal, so there is no axis to draw them along",
            "Bring texts that differ.",
        )
    values, vectors = eigh(scatter, subset_by_index=(width - 2, width - 1))
    components = vectors[:, ::-1]
    largest = components[np.abs(components).argmax(axis=0), [0, 1]]
    share = np.maximum(values[::-1], 0.0) / total
    return Axes(mean, components * np.sign(largest), (float(share[0]), float(share[1])))


def noise_covariance(axes: Axes, pre: Vectors, rate: float) -> NDArray[np.float32]:
    """Covariance of each text's place over the masks of the head, p/q · Wᵀ diag(x²) W. Shape (n, 2, 2)."""
    first, second = axes.components.T
    products = np.stack([first * first, first * second, first * second, second * second], axis=1)
    flat = theory.odds(rate) * (np.square(pre, dtype=np.float64) @ products)
    return np.asarray(flat.reshape(-1, 2, 2), dtype=np.float32)


def ellipses(noise: NDArray[np.floating], coverage: float = 0.95) -> tuple[Floats, Floats]:
    """Half axes, longer first, shape (n, 2), and angle of the longer to the x axis in radians, shape (n,).

    Parameters
    ----------
    noise : ndarray of shape (n, 2, 2)
        Covariances.
    coverage : float
        Share of the passes inside, 0 < coverage < 1, as if they were Gaussian: sums over many units nearly are.
    """
    if not 0 < coverage < 1:
        raise SettingsError(f"coverage is {coverage}, expected 0 < coverage < 1")
    values, vectors = np.linalg.eigh(noise.astype(np.float64))
    radius = np.sqrt(-2.0 * np.log1p(-coverage))  # of a Gaussian on a plane: chi-squared of two degrees
    longer = vectors[:, :, 1]
    # An axis has no direction: angles lie in [0, π).
    return np.sqrt(np.maximum(values[:, ::-1], 0.0)) * radius, np.arctan2(longer[:, 1], longer[:, 0]) % np.pi


def _finite(embeddings: EmbeddingSet, vectors: Vectors, name: str) -> Vectors:
    """The vectors of a block; if one is not finite, the error names all such rows of the set."""
    if not np.isfinite(vectors).all():
        check_vectors(embeddings[name], name)
    return vectors


PCA = Method(pca, metric="euclidean", fewest_texts=2, neighborhoods=False, independent=True)
