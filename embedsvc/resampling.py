"""What chance gives, and how sure an estimate is: permutations and bootstraps that cost little.

Permutations shuffle which text is which on one side. Bootstraps draw *texts* with replacement, never pairs of them;
a pair of a text with itself, which only resampling makes, does not count. `weights` are the counts of such draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.ranks import later_sums
from embedsvc.threads import one_thread

__all__ = [
    "MANY",
    "Range",
    "bootstrap_cka",
    "bootstrap_mean",
    "bootstrap_procrustes",
    "bootstrap_spearman",
    "bootstrap_weights",
    "circles",
    "permute_cosines",
    "permute_overlaps",
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
_TABLE = 200_000_000  # bytes


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


def circles(m: int, draws: int, rng: np.random.Generator) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Random matches of m texts as shifts of random circles: a circle, and how far it is shifted by each match.

    Text ``circle[t]`` is given text ``circle[(t + shift) % m]``, never itself. The shifts of a circle are a group, so
    that a null made of them is valid, and all m - 1 of them are had for the price of a few.

    References
    ----------
    Hemerik & Goeman (2018), "Exact testing with random permutations", TEST 27: why a group is what is needed.
    """
    found = []
    for start in range(0, draws, m - 1):
        shifts = 1 + rng.permutation(m - 1)[: draws - start]
        found.append((rng.permutation(m), shifts))
    return found


def permute_squares(squares: Sequence[Floats], draws: int, rng: np.random.Generator) -> Floats:
    """Correlation of every two of several square matrices under random matches of texts, shape (draws, s, s).

    Of `u_centred` matrices that is debiased CKA, of `rank_square` the Spearman correlation of distances. Matches are
    those of `circles`, the same for all pairs: a shift moves each diagonal along itself, so that the products of two
    matrices under all shifts are a correlation, which the FFT takes. Entry (i, j) is for i < j; the rest is NaN.

    Parameters
    ----------
    squares : sequence of ndarray of shape (m, m)
        Symmetric, zero on the diagonal. One of nothing but zeros correlates with none, by 0.
    """
    from scipy import fft

    m = len(squares[0])
    # float32 has digits enough for a null, and half the memory traffic is half the time.
    norms = [float(np.sqrt((square * square).sum() / 2)) for square in squares]
    whole = [np.asarray(square / (norm or 1.0), dtype=np.float32) for square, norm in zip(squares, norms, strict=True)]
    offsets = np.arange(1, m // 2 + 1)[:, None]
    rolled = (np.arange(m) + offsets) % m
    # Half a circle meets every pair of texts, and of an even number those that are opposite twice.
    weights = np.where(2 * offsets == m, np.float32(0.5), np.float32(1.0))
    found = np.full((draws, len(whole), len(whole)), np.nan)
    at = 0
    for circle, shifts in circles(m, draws, rng):
        cells = circle * m + circle[rolled]
        waves = threads.each(lambda square, cells=cells: fft.rfft(square.take(cells), axis=1), whole)  # type: ignore[misc]
        for j in range(1, len(whole)):
            own = waves[j] * weights
            for i in range(j):
                summed = fft.irfft(np.einsum("df,df->f", waves[i].conj(), own), n=m)
                found[at : at + len(shifts), i, j] = summed[shifts]
        at += len(shifts)
    return found


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


def permute_cosines(units: Sequence[NDArray[np.float32]], draws: int, rng: np.random.Generator) -> Floats:
    """Mean cosine of every two of several arrays of unit rows under random matches of texts, shape (draws, s, s).

    Matches are those of `circles`, the same for all pairs. Entry (i, j) is for i < j and equal widths; the rest is NaN.
    """
    from scipy import fft

    m = len(units[0])
    found = np.full((draws, len(units), len(units)), np.nan)
    at = 0
    for circle, shifts in circles(m, draws, rng):
        waves = [fft.rfft(unit[circle], axis=0) for unit in units]
        for j, unit in enumerate(units):
            for i in range(j):
                if units[i].shape == unit.shape:
                    summed = fft.irfft(np.einsum("fd,fd->f", waves[i].conj(), waves[j]), n=m)
                    found[at : at + len(shifts), i, j] = summed[shifts] / m
        at += len(shifts)
    return found


def permute_overlaps(
    neighbors: Sequence[NDArray[np.int32]],
    rows: NDArray[np.int64],
    n: int,
    ks: Sequence[int],
    matches: Sequence[np.random.Generator],
) -> dict[tuple[int, int, int], Floats]:
    """Mean k-NN overlap of every two of several graphs under random matches of texts.

    Parameters
    ----------
    neighbors : sequence of ndarray of shape (m, k)
        Of the same rows in each graph, nearest first.
    rows : ndarray of shape (m,)
        Which of n texts they are: they are matched among themselves, and the rest among itself.
    n : int
    ks : sequence of int
    matches : sequence of Generator
        One for each draw.

    Returns
    -------
    dict of (int, int, int) to ndarray of shape (draws,)
        By the numbers of two graphs i < j, and k.
    """
    most = max(ks)
    keys = [(i, k) for i in range(len(neighbors) - 1) for k in ks]
    shared = {(i, j, k): np.zeros(len(matches)) for i, k in keys for j in range(i + 1, len(neighbors))}
    rest = np.setdiff1d(np.arange(n), rows, assume_unique=True)
    drawn = [(rng.permutation(len(rows)), rng.permutation(rest)) for rng in matches]
    for start in range(0, len(keys), 64):
        some = keys[start : start + 64]
        kind = next(kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if len(some) <= 8 * kind(0).itemsize)
        bits = {key: kind(1 << at) for at, key in enumerate(some)}
        step = max(1, _TABLE // (n * kind(0).itemsize))  # rows whose neighbours are looked up at a time

        def match(draw: int, first: int, table: NDArray[np.unsignedinteger], bits: dict[tuple[int, int], Any]) -> None:
            shuffled, others = drawn[draw]
            back = np.empty(n, dtype=np.int64)
            back[rows[shuffled]], back[others] = rows, rest
            matched = shuffled[first : first + len(table)]
            lines = n * np.arange(len(matched))[:, None]
            for j in range(1, len(neighbors)):
                seen = table.take(lines + back[neighbors[j][matched, :most]])
                for (i, k), bit in bits.items():
                    if i < j:
                        shared[i, j, k][draw] += np.count_nonzero(seen[:, :k] & bit)

        for first in range(0, len(rows), step):
            # Which graphs have each text among the k neighbours of each row, a bit for each graph and k.
            table = np.zeros((min(step, len(rows) - first), n), kind)
            at = np.arange(len(table))[:, None]
            for (i, k), bit in bits.items():
                table[at, neighbors[i][first : first + step, :k]] |= bit
            threads.each(lambda draw: match(draw, first, table, bits), range(len(matches)))  # noqa: B023 - over at once
    return {(i, j, k): found / (k * len(rows)) for (i, j, k), found in shared.items()}


def permute_procrustes(
    blocks: Callable[[], tuple[NDArray[np.floating], NDArray[np.floating]]],
    spectra: tuple[Floats, Floats],
    n: int,
    draws: int,
    rng: np.random.Generator,
) -> Floats:
    """Angular Procrustes distance under random matches of texts, shape (draws,).

    With ten texts or more for each dimension XᵀPY is drawn from the normal law it then has, √n · Cx^½ G Cy^½ with
    independent normals G. Turning both sides leaves G what it is and singular values as they are, so that Cx and Cy may
    be diagonal. With fewer, texts are really permuted.

    Parameters
    ----------
    blocks : callable
        Gives both representations whole; asked only where texts are permuted.
    spectra : tuple of ndarray of shape (width,)
        Eigenvalues of XᵀX and YᵀY, centred.
    n : int
    """
    scale = np.sqrt(spectra[0].sum() * spectra[1].sum())
    result = np.empty(draws)
    if n < 10 * max(map(len, spectra)):
        x, y = (np.asarray(v - v.mean(axis=0, dtype=np.float64), dtype=np.float64) for v in blocks())
        for draw in range(draws):
            result[draw] = _nuclear(x.T @ y[rng.permutation(n)]) / scale
    else:
        first, second = (np.sqrt(np.maximum(values, 0.0)) for values in spectra)
        for draw in range(draws):
            noise = rng.standard_normal((len(first), len(second))) / np.sqrt(n - 1)
            result[draw] = _nuclear(first[:, None] * noise * second) / scale
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


def _weighted(square: Floats, weights: Floats) -> Floats:
    return np.asarray(((weights @ square) * weights).sum(axis=1))


def _ratios(products: Floats, squares: Floats) -> Floats:
    """Products over the roots of squares; NaN where a draw leaves nothing that varies."""
    found = np.full(products.shape, np.nan)
    np.divide(products, np.sqrt(squares, where=squares > 0, out=np.ones_like(squares)), out=found, where=squares > 0)
    return found


def _nuclear(matrix: Floats) -> float:
    """Sum of the singular values, by the eigenvalues of the smaller square: several times faster, and exact enough."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    with one_thread():  # two threads gain little here, and on busy processors they wait for each other
        return float(np.sqrt(np.maximum(np.linalg.eigvalsh(small @ small.T), 0.0)).sum())
