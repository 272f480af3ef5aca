"""Running sums over stochastic passes: what a thousand passes say about each text, without holding them.

A tally is fed the passes of a block of texts in pieces of any size, and holds no more than a few numbers a unit. The
head's mask is a coin for each unit, so `HeadTally` counts the passes that kept a unit: the counts are all that mean
and variance need, and exact. Passes through the encoder are merged by Welford's and Chan's updates (`VectorTally`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.head import Head
from embedsvc.types import Vectors

__all__ = ["ClassScores", "ClassTally", "HeadTally", "Moments", "VectorScores", "VectorTally"]

Floats = NDArray[np.float64]

_CELLS = 4_000_000  # mask units held at one time: 16 MB as float32


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How far the passes agree on the class of each text, arrays of shape (n,). Entropies are in nats.

    Attributes
    ----------
    predictive_entropy : ndarray
        H(mean p): of the probabilities averaged over the passes.
    expected_entropy : ndarray
        Mean of H(p): how unsure a single pass is.
    bald : ndarray
        Their difference, the mutual information of class and mask, 0 where all passes agree and ln(n_classes) at
        most. Below 0 it can only be rounding, and is 0 then.
    variation_ratio : ndarray
        Share of passes that do not vote for the class with most votes.
    class_flip : ndarray
        Share of passes whose class is not that of the reference (inference).

    References
    ----------
    Gal & Ghahramani (2016), arXiv:1506.02142; Houlsby et al. (2011), arXiv:1112.5745.
    """

    predictive_entropy: Floats
    expected_entropy: Floats
    bald: Floats
    variation_ratio: Floats
    class_flip: Floats


@dataclass(frozen=True, slots=True)
class VectorScores:
    """How far the vectors of the passes scatter, arrays of shape (n,).

    Attributes
    ----------
    variance : ndarray
        Unbiased variance over the passes, summed over the units.
    cosine_to_pre : ndarray
        Mean over the passes of cos(pre, post) of the same pass; NaN for a `pre` of length 0.
    cosine_between : ndarray
        Mean over all pairs of passes of the cosine of their `post`; NaN where fewer than two have a length.
    """

    variance: Floats
    cosine_to_pre: Floats
    cosine_between: Floats


class ClassTally:
    """Σp, ΣH and votes of a block of texts.

    One logit is that of the second of two classes, as a sigmoid reads it; several go through a softmax, in float64
    and without overflow however large they are.

    >>> agreeing = ClassTally(1, 2)
    >>> agreeing.add(np.zeros((5, 1, 2)))
    >>> float(agreeing.scores(np.zeros((1, 2))).bald[0])
    0.0
    """

    def __init__(self, n_texts: int, n_logits: int) -> None:
        n_classes = max(n_logits, 2)
        self._probabilities = np.zeros((n_texts, n_classes))
        self._entropies = np.zeros(n_texts)
        self._votes = np.zeros((n_texts, n_classes), dtype=np.int64)
        self._passes = 0

    def add(self, logits: NDArray[np.floating]) -> None:
        """Logits of further passes, shape (n_passes, n_texts, n_logits), finite."""
        logits = _two_sided(logits)
        log_p = logits - logits.max(axis=-1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
        p = np.exp(log_p)
        self._passes += len(logits)
        self._probabilities += p.sum(axis=0)
        self._entropies -= (p * log_p).sum(axis=(0, -1))
        voted = logits.argmax(axis=-1)
        for index in range(logits.shape[-1]):
            self._votes[:, index] += (voted == index).sum(axis=0)

    def scores(self, reference: NDArray[np.floating]) -> ClassScores:
        """What the passes came to; `reference` are the logits that class flips are counted against, (n, n_logits)."""
        mean = self._probabilities / self._passes
        predictive = -np.sum(mean * np.log(np.where(mean > 0, mean, 1.0)), axis=1)  # 0 · log 0 is 0
        expected = self._entropies / self._passes
        rows = np.arange(len(mean))
        own = self._votes[rows, _two_sided(reference).argmax(axis=1)]
        return ClassScores(
            predictive,
            expected,
            np.maximum(predictive - expected, 0.0),
            (self._passes - self._votes.max(axis=1)) / self._passes,
            (self._passes - own) / self._passes,
        )


def _two_sided(logits: NDArray[np.floating]) -> Floats:
    wide: Floats = np.asarray(logits, dtype=np.float64)
    return wide if wide.shape[-1] > 1 else np.concatenate([np.zeros_like(wide), wide], axis=-1)


class VectorTally:
    """Mean, squared deviations and directions of vectors of a block of texts, merged pass by pass.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", The American Statistician 37(3).
    """

    def __init__(self, n_texts: int, width: int) -> None:
        self.mean = np.zeros((n_texts, width))
        self._m2 = np.zeros((n_texts, width))
        self._directions = np.zeros((n_texts, width))
        self._with_length = np.zeros(n_texts)
        self.passes = 0

    def add(self, vectors: NDArray[np.floating]) -> None:
        """Vectors of one further pass, shape (n_texts, width), finite."""
        wide: Floats = np.asarray(vectors, dtype=np.float64)
        self.passes += 1
        away = wide - self.mean
        self.mean += away / self.passes
        self._m2 += away * (wide - self.mean)
        directions = _directions(wide)
        self._directions += directions
        self._with_length += directions.any(axis=1)

    @property
    def variance(self) -> Floats:
        """Unbiased variance over the passes, summed over the units, shape (n,); NaN before the second pass."""
        if self.passes < 2:
            return np.full(len(self.mean), np.nan)
        total: Floats = self._m2.sum(axis=1) / (self.passes - 1)
        return total

    @property
    def energy(self) -> Floats:
        """Mean over the passes of the squared length, shape (n,)."""
        energy: Floats = (self._m2 / self.passes + self.mean**2).sum(axis=1)
        return energy

    @property
    def cosine_between(self) -> Floats:
        """See `VectorScores`."""
        return _mean_pair_cosine((self._directions**2).sum(axis=1), self._with_length)


class Moments:
    """Mean and variance of each unit over passes, merged in pieces of any size.

    Attributes
    ----------
    passes : int
        So far.
    mean : ndarray of shape (n_texts, width), float64

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", The American Statistician 37(3).
    """

    def __init__(self, n_texts: int, width: int) -> None:
        self.passes = 0
        self.mean = np.zeros((n_texts, width))
        self._m2 = np.zeros((n_texts, width))

    def add(self, vectors: NDArray[np.floating]) -> None:
        """Vectors of further passes, shape (n_passes, n_texts, width)."""
        wide: Floats = np.asarray(vectors, dtype=np.float64)
        count, total = len(wide), self.passes + len(wide)
        mean = wide.mean(axis=0)
        away = mean - self.mean
        self._m2 += np.square(wide - mean).sum(axis=0) + np.square(away) * (self.passes * count / total)
        self.mean += away * (count / total)
        self.passes = total

    @property
    def variance(self) -> Floats:
        """Unbiased variance over the passes, shape (n_texts, width); NaN before the second pass."""
        if self.passes < 2:
            return np.full(self.mean.shape, np.nan)
        return self._m2 / (self.passes - 1)


class HeadTally:
    """Passes of the head's dropout over a block of texts, drawn as they are counted.

    Parameters
    ----------
    pre : ndarray of shape (n, width), float32
        `pre_dropout.inference`, finite.
    keys : ndarray of shape (n,), uint64
        Row keys, see `masks.row_key`.
    head : Head
    seed : int

    Attributes
    ----------
    passes : int
        Drawn so far, from 0 on.
    classes : ClassTally or None
        None where the head has no trained dense layer.
    """

    def __init__(self, pre: Vectors, keys: NDArray[np.uint64], head: Head, seed: int) -> None:
        self._pre = pre
        self._unit = _directions(pre.astype(np.float64))
        self._energy = (pre.astype(np.float64) ** 2).sum(axis=1)
        self._keys = keys
        self._head = head
        self._seed = seed
        self.passes = 0
        self.classes = None if head.n_classes is None else ClassTally(len(pre), head.n_classes)
        self._kept = np.zeros(pre.shape, dtype=np.int64)  # passes that kept each unit
        self._directions = np.zeros(pre.shape)  # sums of mask / length of the masked vector
        self._with_length = np.zeros(len(pre))
        self._cosines = np.zeros(len(pre))
        # A mask meets squares (the energy it keeps) and weights (its logits) in one product.
        weights = np.empty((*pre.shape, 0), np.float32)
        if head.kernel is not None:
            weights = pre[:, :, None] * head.kernel * np.float32(1.0 / (1.0 - head.rate))
        self._factors = np.concatenate([np.square(self._unit, dtype=np.float32)[:, :, None], weights], axis=2)
        self._ahead = np.empty((0, *pre.shape), dtype=np.bool_)  # masks of the passes to come

    def draw(self, passes: int, *, more: int = 0) -> None:
        """So many further passes; that `more` will be asked for later makes a longer run of masks, which costs less."""
        end = self.passes + passes
        n, width = self._pre.shape
        while self.passes < end:
            if not len(self._ahead):
                count = min(end + more - self.passes, max(1, _CELLS // max(1, n * width)))
                self._ahead = masks.keep(
                    self._keys,
                    seed=self._seed,
                    passes=range(self.passes, self.passes + count),
                    site=masks.HEAD_SITE,
                    units=width,
                    rate=self._head.rate,
                )
            kept, self._ahead = np.split(self._ahead, [end - self.passes])
            self._add(kept)
            self.passes += len(kept)

    def _add(self, kept: NDArray[np.bool_]) -> None:
        mask = np.empty((kept.shape[1], kept.shape[0], kept.shape[2]), dtype=np.float32)  # (n, passes, width)
        np.copyto(mask, kept.swapaxes(0, 1))
        products = np.matmul(mask, self._factors)
        # cos(x, x ∘ m)² is the share of the energy of x that m keeps.
        cosines = np.sqrt(np.clip(products[:, :, 0], 0.0, 1.0))
        self._cosines += cosines.sum(axis=1, dtype=np.float64)
        weights = np.divide(1.0, cosines, out=np.zeros_like(cosines), where=cosines > 0)
        # One product for both sums; of at most 2**24 passes at a time counts are exact in float32.
        sums = np.matmul(np.stack([weights, np.ones_like(weights)], axis=1), mask)
        self._directions += sums[:, 0]
        self._kept += sums[:, 1].astype(np.int64)
        self._with_length += (cosines > 0).sum(axis=1)
        if self.classes is not None:
            logits = products[:, :, 1:].swapaxes(0, 1)
            self.classes.add(logits if self._head.bias is None else logits + self._head.bias)

    def cosine_of_mean(self) -> Floats:
        """cos(mean of the passes so far, pre), shape (n,); NaN for a `pre` of length 0, 0 where all was dropped."""
        mean = self._unit * self._kept
        length = np.linalg.norm(mean, axis=1)
        cosine = (mean * self._unit).sum(axis=1) / np.where(length > 0, length, 1.0)
        return np.where(self._energy > 0, cosine, np.nan)

    def scores(self) -> VectorScores:
        """What the passes came to; a pass that drops every unit has no direction and counts as cosine 0 to `pre`."""
        rate, passes = self._head.rate, self.passes
        share = self._kept / passes
        spread = share * (1.0 - share) * passes / (passes - 1) if passes > 1 else np.full(share.shape, np.nan)
        variance = (np.square(self._pre, dtype=np.float64) * spread).sum(axis=1) / (1.0 - rate) ** 2
        sums = (np.square(self._unit * self._directions)).sum(axis=1)
        has_length = self._energy > 0
        return VectorScores(
            variance,
            np.where(has_length, self._cosines / passes, np.nan),
            np.where(has_length, _mean_pair_cosine(sums, self._with_length), np.nan),
        )


def draw_until(tally: HeadTally, grid: Sequence[int]) -> Floats:
    """Draw up to each number of passes in turn; `HeadTally.cosine_of_mean` at each, shape (len(grid), n)."""
    curve = []
    for passes in grid:
        tally.draw(passes - tally.passes, more=grid[-1] - passes)
        curve.append(tally.cosine_of_mean())
    return np.stack(curve)


def cosines(x: NDArray[np.floating], y: NDArray[np.floating]) -> Floats:
    """Cosine of each row of `x` with that of `y`, shape (n,); NaN where `x` has length 0, 0 where only `y` has."""
    unit_x, unit_y = _directions(np.asarray(x, np.float64)), _directions(np.asarray(y, np.float64))
    return np.where(unit_x.any(axis=1), (unit_x * unit_y).sum(axis=1), np.nan)


def _directions(x: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays one."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    directions: Floats = x / np.where(length > 0, length, 1.0)
    return directions


def _mean_pair_cosine(squared_sum: Floats, count: Floats) -> Floats:
    """Mean cosine over pairs of `count` unit vectors: their sum has the squared length ‖Σu‖² = count + Σ cosines."""
    pairs = count * (count - 1)
    mean = np.full(len(count), np.nan)
    np.divide(squared_sum - count, pairs, out=mean, where=pairs > 0)
    return mean
