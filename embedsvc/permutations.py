"""What chance gives: measures under random matches of texts, which cost little more than the measure itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import threads
from embedsvc.threads import one_thread

__all__ = ["circles", "permute_cosines", "permute_overlaps", "permute_procrustes", "permute_squares"]

Floats = NDArray[np.float64]

_TABLE = 200_000_000  # bytes


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


def _nuclear(matrix: Floats) -> float:
    """Sum of the singular values, by the eigenvalues of the smaller square: several times faster, and exact enough."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    with one_thread():  # two threads gain little here, and on busy processors they wait for each other
        return float(np.sqrt(np.maximum(np.linalg.eigvalsh(small @ small.T), 0.0)).sum())
