"""The second moments of several representations of the same texts, streamed: what linear CKA and Procrustes need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.errors import DegenerateInputError, NoValueError, SettingsError
from embedsvc.threads import one_thread
from embedsvc.types import Vectors
from embedsvc.vectors import check_vectors

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
    sums: _Sums | None = None
    for block in blocks():
        labels = names or [f"representation {i}" for i in range(len(block))]
        if len({len(x) for x in block}) > 1:
            raise SettingsError(f"the representations have {', '.join(str(len(x)) for x in block)} rows")
        for i, x in enumerate(block):
            check_vectors(x, labels[i], first=sums.n if sums else 0)
        if len(block[0]):
            sums = sums or _Sums(block, pairs, np.float32 if single else np.float64, about)
            sums.add(block)
    n = sums.n if sums else 0
    _check_count(n)
    assert sums is not None
    for i, differs in enumerate(sums.varies):
        if not differs:
            raise DegenerateInputError(
                f"{labels[i]}: all {n:,} texts have the same vector, so nothing about it can be alike",
                "Leave it out; a model that says the same of every text is broken or untrained.",
            )
    found = sums.moments()
    if about is None and sums.far(found):
        return moments(blocks, pairs=pairs, names=names, single=single, about=found.means)
    return found


class _Sums:
    """Sums over the rows u = x - about of several representations."""

    def __init__(
        self,
        block: Sequence[Vectors],
        pairs: Iterable[tuple[int, int]] | None,
        kind: type[np.float32 | np.float64],
        about: Sequence[Floats] | None,
    ) -> None:
        self.n = 0
        self.varies = [False] * len(block)
        self._first = [x[:1].copy() for x in block]
        self._kind = kind
        # Sums about a vector near the mean: about zero, a large mean would eat the digits of the variance.
        means = about or [x.mean(axis=0, dtype=np.float64) for x in block]
        self._about = [mean.astype(kind) for mean in means]
        every = [(i, j) for i in range(len(block)) for j in range(i, len(block))]
        some = every if pairs is None else {(min(pair), max(pair)) for pair in pairs}
        widths = [x.shape[1] for x in block]
        self._cross = {(i, j): np.zeros((widths[i], widths[j])) for i, j in some}  # Σ u vᵀ
        self._energies = np.zeros(len(block))  # Σ ‖u‖²
        self._products = np.zeros((len(block), len(block)))  # Σ ‖u‖² ‖v‖²
        self._weighted = [np.zeros((len(block) + 1, width)) for width in widths]  # Σ ‖u‖² v, then Σ v

    def add(self, block: Sequence[Vectors]) -> None:
        """The same further rows of each."""
        each = range(len(block))
        moved = [np.subtract(block[i], self._about[i], dtype=self._kind) for i in each]
        squared = np.stack([np.einsum("nd,nd->n", u, u, dtype=np.float64) for u in moved])
        if not all(1e-15 < most < 1e15 for most in squared.max(axis=1)):  # whose squares leave float32
            moved = [u.astype(np.float64) for u in moved]
        by = np.concatenate([squared, np.ones((1, len(block[0])))]).astype(moved[0].dtype)

        def cross(pair: tuple[int, int]) -> None:
            self._cross[pair] += moved[pair[0]].T @ moved[pair[1]]

        def weigh(i: int) -> None:
            self._weighted[i] += by @ moved[i]
            self.varies[i] = self.varies[i] or bool((block[i] != self._first[i]).any())

        threads.each(cross, self._cross)
        threads.each(weigh, each)
        self._energies += squared.sum(axis=1)
        self._products += squared @ squared.T
        self.n += len(block[0])

    def moments(self) -> Moments:
        """What the sums are about the means."""
        n, weighted, energies = self.n, self._weighted, self._energies
        apart = [each[-1] / n for each in weighted]  # of the means from what the sums are about
        away = np.array([each @ each for each in apart])
        products = np.full(self._products.shape, np.nan)
        for i, j in self._cross:
            # ‖x - mean‖² is ‖u‖² - 2 u·apart + ‖apart‖²: the sum of its products, multiplied out.
            once = weighted[j][i] @ apart[j] + weighted[i][j] @ apart[i]
            both = 4 * (apart[i] @ self._cross[i, j] @ apart[j]) - 3 * n * away[i] * away[j]
            products[i, j] = self._products[i, j] - 2 * once + away[j] * energies[i] + away[i] * energies[j] + both
            products[j, i] = products[i, j]
        cross = {(i, j): total - n * np.outer(apart[i], apart[j]) for (i, j), total in self._cross.items()}
        means = tuple(about.astype(np.float64) + each for about, each in zip(self._about, apart, strict=True))
        return Moments(n, means, cross, energies - n * away, products, self._kind is np.float32)

    def far(self, found: Moments) -> bool:
        """Whether the sums are about vectors so far from the means that digits were lost."""
        away = [
            np.square(mean - about.astype(np.float64)).sum()
            for mean, about in zip(found.means, self._about, strict=True)
        ]
        return bool((self.n * np.array(away) > _FAR * found.norms).any())


def _check_count(n: int) -> None:
    if n < 4:
        raise SettingsError(f"there are {n} texts, and debiasing needs 4 or more", "Bring more texts.")


def _angle(similarity: float) -> float:
    # Rounding may carry a perfect fit past 1 by a few units in the last place.
    return float(np.arccos(np.clip(similarity, -1.0, 1.0)))
