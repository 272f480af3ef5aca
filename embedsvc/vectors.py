"""What arrays of vectors must be before anything is made of them: finite, of a size that is ordinary, of length 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.types import Vectors

__all__ = ["check_squares", "check_vectors", "unit_rows"]

_ROWS = 256  # in float64 they stay in the cache


def check_vectors(vectors: Vectors, name: str = "the vectors", *, first: int = 0) -> Vectors:
    """The vectors themselves if they are finite numbers, a row a text; `first` is the number of their first row.

    Raises
    ------
    SettingsError
        If they are no matrix.
    DegenerateInputError
        For NaN or infinity; the message counts and names the rows.
    """
    if vectors.ndim != 2:
        raise SettingsError(f"{name}: the shape is {vectors.shape}, expected (n_texts, width)")
    # The sum of a row is finite unless a member is not, or it overflows: only then look closer.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(vectors.sum(axis=1)))
    bad = suspects[~np.isfinite(vectors[suspects]).all(axis=1)]
    if len(bad):
        raise DegenerateInputError(
            f"{name}: NaN or infinite numbers in {_named(bad + first)}",
            "Find out what made them, or leave these texts out.",
        )
    return vectors


def check_squares(vectors: Vectors, name: str) -> Vectors:
    """The vectors themselves, if float32 holds the squares of their numbers, which methods of others take of them.

    Raises
    ------
    DegenerateInputError
        For numbers beyond 1e17, and for vectors that have none above 1e-17 but are not zero.
    """
    largest = float(np.abs(vectors).max(initial=0.0))
    if largest > 1e17 or 0 < largest < 1e-17:
        raise DegenerateInputError(
            f"{name}: the largest number is {largest:.1g}, and float32 does not hold its square",
            "No model should give such numbers; scale the vectors if they are right.",
        )
    return vectors


def unit_rows(vectors: Vectors, name: str = "the vectors") -> Vectors:
    """Rows scaled to length 1, float32.

    Raises
    ------
    DegenerateInputError
        For rows of zeros, which have no direction; the message counts and names them.
    """
    lengths, unit = np.empty((len(vectors), 1)), np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _ROWS):
        cut = slice(start, start + _ROWS)
        wide = vectors[cut].astype(np.float64)
        np.sqrt(np.einsum("nd,nd->n", wide, wide), out=lengths[cut, 0])
        np.divide(wide, lengths[cut], out=wide, where=lengths[cut] > 0)
        unit[cut] = wide
    if not lengths.all():
        raise DegenerateInputError(
            f"{name}: only zeros in {_named(np.flatnonzero(lengths == 0))}, and a zero vector has no direction",
            "Leave these texts out, or measure euclidean distances.",
        )
    return unit


def _named(rows: NDArray[np.int64]) -> str:
    more = " …" if len(rows) > 10 else ""
    return f"{len(rows):,} row{'s' * (len(rows) > 1)}: {', '.join(map(str, rows[:10]))}{more} (counted from 0)"
