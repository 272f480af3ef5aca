"""Which texts make a step: shuffled anew each epoch, with others of like length, a function of seed and epoch alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["epoch_batches", "pieces"]

# Texts are sorted by length within pools of this many batches: enough to save padding, few enough to stay random.
_POOL = 32


def epoch_batches(lengths: NDArray[np.int64], *, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.intp]]:
    """Batches of one epoch; every row in exactly one.

    Parameters
    ----------
    lengths : ndarray of shape (n,), int64
        Tokens of each text.
    batch_size : int
    seed, epoch : int

    Returns
    -------
    list of ndarray of intp
        Of `batch_size` rows each; one is shorter where the rows do not come out even.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    order = rng.permutation(len(lengths))
    batches: list[NDArray[np.intp]] = []
    pool = _POOL * batch_size
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[at] for at in rng.permutation(len(batches))]


def pieces(rows: NDArray[np.intp], lengths: NDArray[np.int64], token_budget: int) -> list[NDArray[np.intp]]:
    """A batch in pieces that fit the budget: rows times the longest of them, at least one row each."""
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    found: list[NDArray[np.intp]] = []
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or (end - start + 1) * lengths[rows[end]] > token_budget:
            found.append(rows[start:end])
            start = end
    return found
