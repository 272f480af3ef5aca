"""The second moments of several representations of the same texts, streamed: what linear CKA and Procrustes need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import DegenerateInputError, NoValueError, SettingsError
from embedsvc.knn import check_vectors
from embedsvc.threads import one_thread
from embedsvc.types import Vectors

__all__ = ["Moments", "moments"]

Floats = NDArray[np.float64]
Blocks = Callable[[], Iterable[Sequence[Vectors]]]
"""Starts a pass over the rows: each block holds the same rows of every representation."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Centred second moments of several representations of the same texts: all that linear CKA and Procrustes need.

    Attributes
    ----------
    n : int
    means : tuple of ndarray of shape (width,)
    cross : mapping of (int, int) to ndarray of shape (width_i, width_j)
        Σ (x - mean)(y - mean)ᵀ of representations i <= j, float64.
    norms : ndarray of shape (n_representations,)
        Σ‖x - mean‖².
    products : ndarray of shape (n_representations, n_representations)
        Σ ‖x - mean‖² · ‖y - mean‖².
    """

    n: int
    means: tuple[Floats, ...]
    cross: dict[tuple[int, int], Floats]
    norms: Floats
    products: Floats

    def between(self, i: int, j: int) -> Floats:
        """Σ (x - mean)(y - mean)ᵀ of representations i and j in that order, shape (width_i, width_j)."""
        return self.cross[i, j] if (i, j) in self.cross else self.cross[j, i].T

    def hsic(self, i: int, j: int) -> float:
        """Unbiased estimate of ‖Cov(x, y)‖², times n(n - 3); may be negative.

        References
        ----------
        Song et al. (2012), JMLR 13:1393, equation 5, of linear kernels.
        """
        n = self.n
        cross = self.between(i, j)
        a = np.einsum("ij,ij->", cross, cross)
        return float(a - n / (n - 2) * self.products[i, j] + self.norms[i] * self.norms[j] / ((n - 1) * (n - 2)))

    def shares_variation(self, i: int) -> bool:
        """Whether any of its variation is in two texts or more; if not, debiased CKA is 0/0.

        Debiasing leaves out each text's product with itself, and of one text that lies apart from equal ones nothing is
        left but rounding.
        """
        return bool(self.hsic(i, i) > self.n * np.finfo(np.float64).eps * self.norms[i] ** 2)

    def cka(self, i: int, j: int) -> float:
        """Debiased linear CKA; see `linear_cka`."""
        _check_count(self.n)
        if not (self.shares_variation(i) and self.shares_variation(j)):
            raise NoValueError(
                f"no two of the {self.n:,} texts share any variation, so debiased CKA has no value",
                "Bring more texts, or take procrustes or knn_overlap.",
            )
        # A root each: the product of squares of small vectors would vanish.
        return float(self.hsic(i, j) / (np.sqrt(self.hsic(i, i)) * np.sqrt(self.hsic(j, j))))

    def procrustes(self, i: int, j: int) -> float:
        """Angular Procrustes distance; see `procrustes`."""
        # The values alone: vectors cost several times as much.
        with one_thread():
            nuclear = np.linalg.svd(self.between(i, j), compute_uv=False).sum()
        return _angle(float(nuclear) / np.sqrt(self.norms[i] * self.norms[j]))

    def rotation(self, i: int, j: int) -> tuple[Floats, float]:
        """The orthogonal map that turns i onto j best, and the nuclear norm of their cross-product.

        The narrower side counts as filled up with zeros.
        """
        from scipy.linalg import orthogonal_procrustes

        cross = self.between(i, j)
        width = max(cross.shape)
        square = np.zeros((width, width))
        square[: cross.shape[0], : cross.shape[1]] = cross
        with one_thread():
            rotation, nuclear = orthogonal_procrustes(np.eye(width), square)
        return rotation[: cross.shape[0], : cross.shape[1]], float(nuclear)


def moments(blocks: Blocks, *, pairs: Iterable[tuple[int, int]] | None = None, names: Sequence[str] = ()) -> Moments:
    """Stream the moments of several representations, in memory that does not grow with the texts.

    Parameters
    ----------
    blocks : callable
        Starts a pass over the rows, and is called twice.
    pairs : iterable of (int, int), optional
        Cross-products that are needed; all by default. CKA needs that of each side with itself, Procrustes does not.
    names : sequence of str, optional
        What the representations are, for messages.

    Raises
    ------
    DegenerateInputError
        For NaN or infinite vectors, and a representation that is the same for every text.
    """
    n, shifts, sums, varies = 0, [], [], []
    cross: dict[tuple[int, int], Floats] = {}
    first: list[Vectors] = []
    for block in blocks():
        labels = names or [f"representation {i}" for i in range(len(block))]
        if not first and len(block[0]):
            first = [x[:1].copy() for x in block]
            # Sums about a vector near the mean: about zero, a large mean would eat the digits of the variance.
            shifts = [x.mean(axis=0, dtype=np.float64) for x in block]
            sums = [np.zeros(x.shape[1]) for x in block]
            varies = [False] * len(block)
            every = [(i, j) for i in range(len(block)) for j in range(i, len(block))]
            some = every if pairs is None else {(min(pair), max(pair)) for pair in pairs}
            cross = {(i, j): np.zeros((len(sums[i]), len(sums[j]))) for i, j in some}
        if len({len(x) for x in block}) > 1:
            raise SettingsError(f"the representations have {', '.join(str(len(x)) for x in block)} rows")
        for i, x in enumerate(block):
            check_vectors(x, labels[i], first=n)
            varies[i] = varies[i] or bool((x != first[i]).any())
        moved = [x - shift for x, shift in zip(block, shifts, strict=True)]
        for i, u in enumerate(moved):
            sums[i] += u.sum(axis=0)
        for (i, j), total in cross.items():
            total += moved[i].T @ moved[j]
        n += len(block[0])
    _check_count(n)
    for i, differs in enumerate(varies):
        if not differs:
            raise DegenerateInputError(
                f"{labels[i]}: all {n:,} texts have the same vector, so nothing about it can be alike",
                "Leave it out; a model that says the same of every text is broken or untrained.",
            )
    for (i, j), total in cross.items():
        total -= np.outer(sums[i], sums[j]) / n
    means = [shift + total / n for shift, total in zip(shifts, sums, strict=True)]
    norms, products = np.zeros(len(means)), np.zeros((len(means), len(means)))
    for block in blocks():
        moved = [x - mean for x, mean in zip(block, means, strict=True)]
        squared = np.stack([np.einsum("nd,nd->n", u, u) for u in moved])
        norms += squared.sum(axis=1)
        products += squared @ squared.T
    return Moments(n, tuple(means), cross, norms, products)


def _check_count(n: int) -> None:
    if n < 4:
        raise SettingsError(f"there are {n} texts, and debiasing needs 4 or more", "Bring more texts.")


def _angle(similarity: float) -> float:
    # Rounding may carry a perfect fit past 1 by a few units in the last place.
    return float(np.arccos(np.clip(similarity, -1.0, 1.0)))
