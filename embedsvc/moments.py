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

__all__ = ["CLOSE", "Moments", "moments"]

CLOSE = 0.02  # an angle in radians; its square is what rounding is to be small beside
_FAR = 16.0  # squared distance of what sums are about from the mean, as a multiple of the variance

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
        Σ ‖x - mean‖² · ‖y - mean‖², NaN where there is no `cross`.
    single : bool
        Whether products were taken in float32.
    """

    n: int
    means: tuple[Floats, ...]
    cross: dict[tuple[int, int], Floats]
    norms: Floats
    products: Floats
    single: bool = False

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
        rounding = self.n * float(np.finfo(np.float64).eps)
        if self.single:
            rounding = max(rounding, 16 * float(np.finfo(np.float32).eps))
        return bool(self.hsic(i, i) > rounding * self.norms[i] ** 2)

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
        """The orthogonal map that turns i onto j best, and the angular distance that it leaves.

        Shape (width_i, width_j); the narrower side counts as filled up with zeros.
        """
        with one_thread():
            left, values, right = np.linalg.svd(self.between(i, j), full_matrices=False)
            rotation = left @ right
        return rotation, _angle(float(values.sum()) / np.sqrt(self.norms[i] * self.norms[j]))


def moments(
    blocks: Blocks,
    *,
    pairs: Iterable[tuple[int, int]] | None = None,
    names: Sequence[str] = (),
    single: bool = False,
    about: Sequence[Floats] | None = None,
) -> Moments:
    """Stream the moments of several representations, in memory that does not grow with the texts.

    Parameters
    ----------
    blocks : callable
        Starts a pass over the rows; one is enough, unless the first block is unlike the rest.
    pairs : iterable of (int, int), optional
        Cross-products that are needed; all by default. CKA needs that of each side with itself, Procrustes does not.
    names : sequence of str, optional
        What the representations are, for messages.
    single : bool
        Products of a block in float32, in half the time, and only their sums in float64: right to some 1e-8 of the
        norms. An angle below `CLOSE` then wants to be measured again.
    about : sequence of ndarray of shape (width,), optional
        What the sums are taken about: near the means, or their digits are lost. By default the means of the first
        block.

    Raises
    ------
    DegenerateInputError
        For NaN or infinite vectors, and a representation that is the same for every text.
    """
    kind = np.float32 if single else np.float64
    n, shifts = 0, [np.asarray(shift, kind) for shift in about or ()]
    first: list[Vectors] = []
    cross: dict[tuple[int, int], Floats] = {}
    for block in blocks():
        labels = names or [f"representation {i}" for i in range(len(block))]
        if len({len(x) for x in block}) > 1:
            raise SettingsError(f"the representations have {', '.join(str(len(x)) for x in block)} rows")
        for i, x in enumerate(block):
            check_vectors(x, labels[i], first=n)
        if not len(block[0]):
            continue
        if not first:
            first = [x[:1].copy() for x in block]
            # Sums about a vector near the mean: about zero, a large mean would eat the digits of the variance.
            shifts = shifts or [x.mean(axis=0, dtype=np.float64).astype(kind) for x in block]
            widths = [x.shape[1] for x in block]
            varies = [False] * len(block)
            every = [(i, j) for i in range(len(block)) for j in range(i, len(block))]
            some = every if pairs is None else {(min(pair), max(pair)) for pair in pairs}
            cross = {(i, j): np.zeros((widths[i], widths[j])) for i, j in some}
            sums = [np.zeros(width) for width in widths]  # Σ u
            energies = np.zeros(len(block))  # Σ ‖u‖²
            products = np.zeros((len(block), len(block)))  # Σ ‖u‖² ‖v‖²
            weighted = [np.zeros((len(block), width)) for width in widths]  # Σ ‖u‖² v
        moved = [np.subtract(x, shift, dtype=kind) for x, shift in zip(block, shifts, strict=True)]
        squared = np.stack([np.einsum("nd,nd->n", u, u, dtype=np.float64) for u in moved])
        if single and not all(1e-15 < each < 1e15 for each in squared.max(axis=1)):  # squares leave float32
            moved = [u.astype(np.float64) for u in moved]
        for (i, j), total in cross.items():
            total += moved[i].T @ moved[j]
        for i, u in enumerate(moved):
            varies[i] = varies[i] or bool((block[i] != first[i]).any())
            sums[i] += u.sum(axis=0, dtype=np.float64)
            weighted[i] += squared.astype(u.dtype) @ u
        energies += squared.sum(axis=1)
        products += squared @ squared.T
        n += len(block[0])
    _check_count(n)
    for i, differs in enumerate(varies):
        if not differs:
            raise DegenerateInputError(
                f"{labels[i]}: all {n:,} texts have the same vector, so nothing about it can be alike",
                "Leave it out; a model that says the same of every text is broken or untrained.",
            )
    apart = [total / n for total in sums]  # of the means from what the sums are about
    away = np.array([each @ each for each in apart])
    norms = energies - n * away
    means = [shift.astype(np.float64) + each for shift, each in zip(shifts, apart, strict=True)]
    if about is None and (n * away > _FAR * norms).any():
        return moments(blocks, pairs=pairs, names=names, single=single, about=means)
    found = np.full(products.shape, np.nan)
    for i, j in cross:
        # ‖x - mean‖² is ‖u‖² - 2 u·apart + ‖apart‖²: the sum of its products, multiplied out.
        moved_by = weighted[j][i] @ apart[j] + weighted[i][j] @ apart[i]
        both = 4 * (apart[i] @ cross[i, j] @ apart[j]) - 3 * n * away[i] * away[j]
        found[i, j] = products[i, j] - 2 * moved_by + away[j] * energies[i] + away[i] * energies[j] + both
        found[j, i] = found[i, j]
    for (i, j), total in cross.items():
        total -= n * np.outer(apart[i], apart[j])
    return Moments(n, tuple(means), cross, norms, found, single)


def _check_count(n: int) -> None:
    if n < 4:
        raise SettingsError(f"there are {n} texts, and debiasing needs 4 or more", "Bring more texts.")


def _angle(similarity: float) -> float:
    # Rounding may carry a perfect fit past 1 by a few units in the last place.
    return float(np.arccos(np.clip(similarity, -1.0, 1.0)))
