"""How sure an estimate is: bootstraps that cost little.

They draw *texts* with replacement, never pairs of them; a pair of a text with itself, which only resampling makes, does
not count. `weights` are the counts of such draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.ranks import later_sums

__all__ = [
    "MANY",
    "Range",
    "bootstrap_cka",
    "bootstrap_mean",
    "bootstrap_procrustes",
    "bootstrap_spearman",
    "bootstrap_weights",
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


def bootstrap_cka(grams: Sequence[Floats], weights: Floats) -> Floats:
    """Debiased CKA of resampled texts for every two of several `u_centred` matrices, shape (draws, s, s).

    NaN where a draw of few texts holds nothing but copies of one. Entry (i, j) is for i < j. The centring is not redone
    for each draw: rows of the matrices sum to zero, so that its error is of second order.
    """
    own = [_weighted(gram * gram, weights) for gram in grams]
    found = np.full((len(weights), len(grams), len(grams)), np.nan)
    for j, gram in enumerate(grams):
        for i in range(j):
            found[:, i, j] = _ratios(_weighted(grams[i] * gram, weights), own[i] * own[j])
    return found


def rank_square(ranks: Floats, m: int) -> Floats:
    """Ranks of the pairs of m texts (in the order of ``pdist``), centred, as a square with a zero diagonal."""
    square = np.zeros((m, m))
    square[np.triu_indices(m, 1)] = ranks - ranks.mean()
    return square + square.T


def bootstrap_spearman(ranked: Sequence[Floats], m: int, weights: Floats) -> Floats:
    """How far Spearman correlations of several representations' distances are from their own for resampled texts.

    To first order in the weights of pairs of texts, the ranks' own change included, and so one product of the weights
    with a matrix of influences for each two representations.

    Parameters
    ----------
    ranked : sequence of ndarray of shape (m(m - 1)/2,)
        Middle ranks of the distances, in the order of ``pdist``.
    m : int
    weights : ndarray of shape (draws, m)

    Returns
    -------
    ndarray of shape (draws, len(ranked), len(ranked))
        Entry (i, j) is for i < j, the rest is NaN; NaN where all distances are equal, or all texts of a draw.

    References
    ----------
    Efron (1982), "The jackknife, the bootstrap and other resampling plans", chapter 6: the infinitesimal jackknife.
    """
    count = m * (m - 1) // 2
    centred = [ranks / count - (count + 1) / (2 * count) for ranks in ranked]
    groups = [np.asarray(np.minimum(ranks * (_GROUPS / count), _GROUPS - 1), np.int32) for ranks in ranked]
    each = weights.astype(np.float32)
    pairs = np.square(weights.sum(axis=1)) - np.square(weights).sum(axis=1)  # each counted from both of its texts
    upper = np.triu_indices(m, 1)

    def influence(i: int, j: int) -> tuple[float, Floats]:
        """Mean product of ranks i and j, and what weight on each pair of texts does to it."""
        product = centred[i] * centred[j]
        by_rank = later_sums(groups[i], centred[j]) + (later_sums(groups[j], centred[i]) if i != j else 0.0)
        return float(product.mean()), product + by_rank * ((1 if i != j else 2) / count)

    own = threads.each(lambda i: influence(i, i), range(len(ranked)))

    def resample(pair: tuple[int, int]) -> Floats:
        (first, first_own), (second, second_own) = (own[at] for at in pair)
        if not (first > 0 and second > 0):
            return np.full(len(weights), np.nan)
        shared, whole = influence(*pair)
        whole = (whole - shared / 2 * (first_own / first + second_own / second)) / np.sqrt(first * second)
        square = np.zeros((m, m), np.float32)
        square[upper] = whole - whole.mean()
        moved = np.einsum("nm,nm->n", each @ square, each, dtype=np.float64) * 2
        return np.asarray(np.divide(moved, pairs, out=np.full(len(weights), np.nan), where=pairs > 0))

    found = np.full((len(weights), len(ranked), len(ranked)), np.nan)
    every = [(i, j) for j in range(len(ranked)) for i in range(j)]
    for (i, j), values in zip(every, threads.each(resample, every), strict=True):
        found[:, i, j] = values
    return found


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


def _weighted(square: Floats, weights: Floats) -> Floats:
    return np.asarray(((weights @ square) * weights).sum(axis=1))


def _ratios(products: Floats, squares: Floats) -> Floats:
    """Products over the roots of squares; NaN where a draw leaves nothing that varies."""
    found = np.full(products.shape, np.nan)
    np.divide(products, np.sqrt(squares, where=squares > 0, out=np.ones_like(squares)), out=found, where=squares > 0)
    return found
