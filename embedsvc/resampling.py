"""What chance gives, and how sure an estimate is: permutations and bootstraps that cost little.

Permutations shuffle which text is which on one side. Bootstraps draw *texts* with replacement, never pairs of them;
a pair of a text with itself, which only resampling makes, does not count. `weights` are the counts of such draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.threads import one_thread

__all__ = [
    "MANY",
    "Range",
    "bootstrap_cka",
    "bootstrap_mean",
    "bootstrap_procrustes",
    "bootstrap_spearman",
    "bootstrap_weights",
    "permute_cosine",
    "permute_procrustes",
    "permute_squares",
    "rank_square",
    "u_centred",
]

Floats = NDArray[np.float64]

_LEVELS = (2.5, 97.5)
MANY = 10_000  # texts above which the bootstrap of a mean is normal to more digits than are printed
_NORMAL = 1.959963984540054
_GROUPS = 4096  # of distances, for their ranks


@dataclass(frozen=True, slots=True)
class Range:
    """Mean and the interval that holds 95 % of the draws that have a value."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: NDArray[np.floating]) -> Range:
        """Of draws, shape (n,), NaN where a draw has no value."""
        draws = draws[~np.isnan(draws)]
        low, high = np.percentile(draws, _LEVELS)
        return cls(float(np.mean(draws)), float(low), float(high))

    def moved(self, by: float, scale: float = 1.0) -> Range:
        """Spread about zero, scaled and carried to another centre."""
        return Range(by + scale * self.mean, by + scale * self.low, by + scale * self.high)


def bootstrap_weights(n: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each of n texts was drawn, shape (draws, n)."""
    return rng.multinomial(n, np.full(n, 1.0 / n), size=draws).astype(np.float64)


def bootstrap_mean(scores: Floats, weights: Floats | None) -> Range:
    """Interval of the mean of scores of texts; without weights by the limit that the bootstrap has for many texts."""
    if weights is None:
        mean, error = float(scores.mean()), float(scores.std() / np.sqrt(len(scores)))
        return Range(mean, mean - _NORMAL * error, mean + _NORMAL * error)
    return Range.of(weights @ scores / len(scores))


def u_centred(x: NDArray[np.floating]) -> Floats:
    """Gram matrix of texts, centred without bias, zero on the diagonal. Shape (m, m).

    References
    ----------
    Székely & Rizzo (2014), doi:10.1214/14-AOS1255.
    """
    x = x - x.mean(axis=0, dtype=np.float64)
    gram = x @ x.T
    np.fill_diagonal(gram, 0.0)
    n = len(gram)
    rows = gram.sum(axis=1) / (n - 2)
    gram += gram.sum() / ((n - 1) * (n - 2)) - rows[:, None] - rows[None, :]
    np.fill_diagonal(gram, 0.0)
    return np.asarray(gram)


def permute_squares(squares: Sequence[Floats], draws: int, rng: np.random.Generator) -> Floats:
    """Correlation of every two of several square matrices under random matches of texts, shape (draws, s, s).

    Of `u_centred` matrices that is debiased CKA, of `rank_square` the Spearman correlation of distances. All pairs
    share their permutations, so that a matrix is put in order once a draw. Entry (i, j) is for i < j; the rest is NaN.

    Parameters
    ----------
    squares : sequence of ndarray of shape (m, m)
        Symmetric, zero on the diagonal. One of nothing but zeros correlates with none, by 0.
    """
    m = len(squares[0])
    first, second = np.triu_indices(m, 1)
    # float32 has digits enough for a null, and half the memory traffic is half the time.
    norms = [float(np.sqrt((square * square).sum() / 2)) for square in squares]
    whole = [np.asarray(square / (norm or 1.0), dtype=np.float32) for square, norm in zip(squares, norms, strict=True)]
    upper = np.stack([square[first, second] for square in whole])
    orders = [rng.permutation(m) for _ in range(draws)]

    def match(order: NDArray[np.int64]) -> Floats:
        found = np.full((len(whole), len(whole)), np.nan)
        at = order[first] * m + order[second]
        for j in range(1, len(whole)):
            found[:j, j] = upper[:j] @ whole[j].take(at)
        return found

    return np.stack(threads.each(match, orders))


def bootstrap_cka(k: Floats, l: Floats, weights: Floats) -> Floats:  # noqa: E741 - as above
    """Debiased CKA of resampled texts, shape (draws,); NaN where a draw of few texts holds nothing but copies of one.

    The centring is not redone for each draw: rows of K and L sum to zero, so that its error is of second order.
    """
    return _ratios(_weighted(k * l, weights), _weighted(k * k, weights) * _weighted(l * l, weights))


def rank_square(ranks: Floats, m: int) -> Floats:
    """Ranks of the pairs of m texts (in the order of ``pdist``), centred, as a square with a zero diagonal."""
    square = np.zeros((m, m))
    square[np.triu_indices(m, 1)] = ranks - ranks.mean()
    return square + square.T


def bootstrap_spearman(distances: list[Floats], m: int, weights: Floats) -> Floats:
    """Spearman correlations between several representations' distances for resampled texts, all ranked anew.

    Parameters
    ----------
    distances : list of ndarray of shape (m(m - 1)/2,)
        In the order of ``pdist``.
    m : int
    weights : ndarray of shape (draws, m)

    Returns
    -------
    ndarray of shape (draws, len(distances), len(distances))
        NaN where all distances of a draw are equal.
    """
    first, second = np.triu_indices(m, 1)
    # Equal distances share a group, and a group its middle rank; groups in ascending order make ranks by a sum. So many
    # groups of equal size stand for single ranks to 1e-7 of the correlation, and their sums stay in the cache.
    groups = [_groups(values) for values in distances]

    def resample(weight: Floats) -> Floats:
        pairs = weight[first] * weight[second]
        total = pairs.sum()
        if total == 0:  # copies of one text
            return np.full((len(distances), len(distances)), np.nan)
        ranks = np.empty((len(distances), len(first)))
        for row, group in enumerate(groups):
            sizes = np.bincount(group, weights=pairs)
            ranks[row] = (np.cumsum(sizes) - sizes / 2)[group]
            ranks[row] -= (ranks[row] @ pairs) / total
        products = (ranks * pairs) @ ranks.T
        own = np.diagonal(products)
        return _ratios(products, np.outer(own, own))

    return np.stack(threads.each(resample, weights))


def permute_cosine(x: NDArray[np.float32], y: NDArray[np.float32], draws: int, rng: np.random.Generator) -> Floats:
    """Mean cosine of unit rows under random matches of texts, shape (draws,)."""
    table = x @ y.T
    rows = np.arange(len(x))
    return np.array([table[rows, rng.permutation(len(x))].mean(dtype=np.float64) for _ in range(draws)])


def permute_procrustes(
    blocks: Callable[[], tuple[NDArray[np.floating], NDArray[np.floating]]],
    covariances: tuple[Floats, Floats],
    n: int,
    draws: int,
    rng: np.random.Generator,
) -> Floats:
    """Angular Procrustes distance under random matches of texts, shape (draws,).

    With ten texts or more for each dimension XᵀPY is drawn from the normal law it then has, √n · Cx^½ G Cy^½ with
    independent normals G; with fewer, texts are really permuted.

    Parameters
    ----------
    blocks : callable
        Gives both representations whole; asked only where texts are permuted.
    covariances : tuple of ndarray
        XᵀX and YᵀY, centred.
    n : int
    """
    scale = np.sqrt(np.trace(covariances[0]) * np.trace(covariances[1]))
    result = np.empty(draws)
    if n < 10 * max(len(c) for c in covariances):
        x, y = (np.asarray(v - v.mean(axis=0, dtype=np.float64), dtype=np.float64) for v in blocks())
        for draw in range(draws):
            result[draw] = _nuclear(x.T @ y[rng.permutation(n)]) / scale
    else:
        roots = [_root(c) for c in covariances]
        for draw in range(draws):
            noise = rng.standard_normal((len(roots[0]), len(roots[1]))) / np.sqrt(n - 1)
            result[draw] = _nuclear(roots[0] @ noise @ roots[1]) / scale
    return np.asarray(np.arccos(np.clip(result, -1.0, 1.0)))


def bootstrap_procrustes(x: NDArray[np.floating], y: NDArray[np.floating], rotation: Floats, weights: Floats) -> Floats:
    """Angular Procrustes distance of resampled texts under the rotation of all texts, shape (draws,).

    The best rotation changes the fit by a second-order term only, and finding it for every draw costs a singular
    value decomposition.

    Parameters
    ----------
    x, y : ndarray of shape (m, width)
        Centred.
    rotation : ndarray of shape (width_x, width_y)
    weights : ndarray of shape (draws, m)
    """
    shared, own, other = ((u * v).sum(axis=1) for u, v in ((x @ rotation, y), (x, x), (y, y)))
    return np.arccos(np.clip(_ratios(weights @ shared, (weights @ own) * (weights @ other)), -1.0, 1.0))


def _groups(values: Floats) -> NDArray[np.int32]:
    from scipy.stats import rankdata

    ranks = rankdata(values)
    return np.asarray(np.minimum(ranks * (_GROUPS / len(values)), _GROUPS - 1), dtype=np.int32)


def _weighted(square: Floats, weights: Floats) -> Floats:
    return np.asarray(((weights @ square) * weights).sum(axis=1))


def _ratios(products: Floats, squares: Floats) -> Floats:
    """Products over the roots of squares; NaN where a draw leaves nothing that varies."""
    found = np.full(products.shape, np.nan)
    np.divide(products, np.sqrt(squares, where=squares > 0, out=np.ones_like(squares)), out=found, where=squares > 0)
    return found


def _root(square: Floats) -> Floats:
    values, vectors = np.linalg.eigh(square)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _nuclear(matrix: Floats) -> float:
    """Sum of the singular values, by the eigenvalues of the smaller square: several times faster, and exact enough."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    with one_thread():  # two threads gain little here, and on busy processors they wait for each other
        return float(np.sqrt(np.maximum(np.linalg.eigvalsh(small @ small.T), 0.0)).sum())
