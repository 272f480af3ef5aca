"""How far two clusterings of the same texts agree: ARI and AMI under three conventions for noise, clusterwise Jaccard.

Labels are whole numbers, one a text; -1 is noise (HDBSCAN's word for a text in no cluster). What noise counts as
decides the score: two identical partitions into ten clusters, each with its own 40 % of noise, have an ARI of .07 if
noise is one more cluster, .33 if each noise text stands alone, and 1.00 on the 36 % of texts that both put in a
cluster. So an `Agreement` carries the last two and the coverage, never one number alone.

References
----------
Hubert & Arabie (1985), Comparing partitions. Vinh, Epps & Bailey (2010), Information theoretic measures for
clusterings comparison. Hennig (2007), Cluster-wise assessment of cluster stability, CSDA 52, 258-271.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import SettingsError

__all__ = [
    "NOISE",
    "Agreement",
    "Labels",
    "Noise",
    "Spread",
    "adjusted_mutual_information",
    "adjusted_rand",
    "agreement",
    "by_chance",
    "clusterwise_jaccard",
    "match",
    "verdict",
]

Labels = NDArray[np.int32]  # (n_texts,)
NOISE = -1


class Noise(StrEnum):
    """What a text in no cluster counts as."""

    CLUSTER = "cluster"  # all noise is one more cluster: agreement on what is noise counts as much as on a cluster
    SINGLETONS = "singletons"  # each is a cluster of its own
    DROPPED = "dropped"  # texts that are noise on either side are left out: see the coverage


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and range of a number that was drawn several times."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of the values, None if there are none."""
        return cls(float(np.mean(values)), min(values), max(values), len(values)) if values else None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two clusterings.

    Attributes
    ----------
    ari, ami : float
        Noise texts as singletons. 1 for equal partitions, 0 in the mean for unrelated ones; may be negative.
    ari_clustered, ami_clustered : float or None
        Over the texts that both put in a cluster; None if there are none.
    coverage : float
        Share of the texts that both put in a cluster.
    n : int
        Texts compared.
    """

    ari: float
    ami: float
    ari_clustered: float | None
    ami_clustered: float | None
    coverage: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """JSON values, by attribute."""
        return {name: getattr(self, name) for name in self.__slots__}


def agreement(a: Labels, b: Labels) -> Agreement:
    """Agreement of two clusterings of the same texts, symmetric.

    Two clusterings that both put all texts in one cluster agree to 1, as in scikit-learn; so do two of nothing but
    noise, by the first convention.

    Parameters
    ----------
    a, b : ndarray of shape (n,), int
        -1 is noise. How clusters are numbered does not matter.

    Raises
    ------
    SettingsError
        If the shapes differ or hold no text.
    """
    _check(a, b)
    both = (a != NOISE) & (b != NOISE)
    some = bool(both.any())
    ari, ami = (score(a, b, noise=Noise.SINGLETONS) for score in (adjusted_rand, adjusted_mutual_information))
    clustered: tuple[float | None, float | None] = (None, None)
    if both.all():
        clustered = ari, ami  # without noise the conventions are one
    elif some:
        clustered = adjusted_rand(a, b, noise=Noise.DROPPED), adjusted_mutual_information(a, b, noise=Noise.DROPPED)
    return Agreement(
        ari=ari,
        ami=ami,
        ari_clustered=clustered[0],
        ami_clustered=clustered[1],
        coverage=float(both.mean()),
        n=len(a),
    )


def adjusted_rand(a: Labels, b: Labels, *, noise: Noise = Noise.SINGLETONS) -> float:
    """Adjusted Rand index under one convention for noise; NaN if the convention leaves no text.

    The value is scikit-learn's, whose checks took three quarters of the time.
    """
    _check(a, b)
    left, right = _without_noise(a, b, Noise(noise))
    if not len(left):
        return math.nan
    together = np.unique(left * (int(right.max()) + 2) + right, return_counts=True)[1]
    # Ordered pairs of texts that are together in both, only on the left, only on the right, and in neither.
    sums = (int(np.square(sizes).sum()) for sizes in (together, *_sizes(left, right)))
    both, on_left, on_right = (squares - len(left) for squares in sums)
    only_left, only_right = on_left - both, on_right - both
    if not only_left and not only_right:
        return 1.0
    neither = len(left) * (len(left) - 1) - both - only_left - only_right
    shared = 2.0 * (both * neither - only_left * only_right)
    return shared / (on_left * (only_left + neither) + on_right * (only_right + neither))


def adjusted_mutual_information(a: Labels, b: Labels, *, noise: Noise = Noise.SINGLETONS) -> float:
    """Adjusted mutual information (arithmetic normaliser) under one convention for noise; NaN if no text is left.

    The value is scikit-learn's. Its expected mutual information takes a step for each pair of clusters, 5 s for 8,000
    noise texts as singletons; here each pair of cluster *sizes* is a step, a millisecond.
    """
    from sklearn.metrics import mutual_info_score

    _check(a, b)
    left, right = _without_noise(a, b, Noise(noise))
    if not len(left):
        return math.nan
    sizes_a, sizes_b = _sizes(left, right)
    if len(sizes_a) == len(sizes_b) and len(sizes_a) in (1, len(left)):
        return 1.0  # the only sizes for which the formula says 0/0: one cluster each, or every text alone in both
    expected = _expected_information(sizes_a, sizes_b)
    highest = (_entropy(sizes_a) + _entropy(sizes_b)) / 2
    return float((mutual_info_score(left, right) - expected) / (highest - expected))


def by_chance(labels: Labels, *, seed: int, n_permutations: int = 100) -> Spread | None:
    """ARI of a clustering with itself under shuffled texts: what clusters of these sizes get by chance.

    Noise texts as singletons, as in `adjusted_rand`. Shuffling changes nothing but which texts two clusters share, so
    that a draw is one count; scikit-learn's checks and sums of each took twenty times as long.
    """
    generator = np.random.default_rng(seed)
    names, numbers = np.unique(labels[labels != NOISE], return_inverse=True)
    k = len(names)
    places = np.full(len(labels), k)
    places[labels != NOISE] = numbers
    own, every = _pairs(np.bincount(numbers, minlength=k)), _pairs(np.array([len(labels)]))
    if own in (0, every):  # every text alone, or one cluster: whatever is shuffled stays as it is
        return Spread.of([1.0] * n_permutations)
    by_luck = own * own / every

    def ari(shuffled: NDArray[np.intp]) -> float:
        shared = np.bincount(places * (k + 1) + shuffled, minlength=(k + 1) ** 2).reshape(k + 1, k + 1)[:k, :k]
        return (_pairs(shared) - by_luck) / (own - by_luck)

    return Spread.of([ari(generator.permutation(places)) for _ in range(n_permutations)])


def clusterwise_jaccard(base: Labels, other: Labels, clusters: Sequence[int]) -> NDArray[np.float64]:
    """For each cluster of `base`, its Jaccard similarity to the most similar cluster of `other`.

    Parameters
    ----------
    base, other : ndarray of shape (n,), int
        Of the same texts. Noise is no cluster, so nothing can be similar to it.
    clusters : sequence of int
        Numbers of clusters in `base`.

    Returns
    -------
    ndarray of shape (n_clusters,), float64
        From 0 (nothing left of it) to 1 (found again); NaN where `base` has no text of the cluster.
    """
    _check(base, other)
    mine = np.asarray(clusters, dtype=np.int64)
    theirs, shared = _contingency(base, other, mine)
    sizes = np.array([np.count_nonzero(base == number) for number in mine], dtype=np.int64)
    others = np.array([np.count_nonzero(other == number) for number in theirs], dtype=np.int64)
    best = np.zeros(len(mine))
    if len(theirs):
        union = sizes[:, None] + others[None, :] - shared
        best = (shared / union).max(axis=1)
    return np.where(sizes > 0, best, np.nan)


def match(base: Labels, other: Labels) -> Labels:
    """`other` with its clusters numbered like those of `base` that they share most texts with, one to one.

    Solved as an assignment problem over shared texts (the Hungarian method). Clusters without a partner get the next
    free numbers, larger ones first; noise stays noise.
    """
    from scipy.optimize import linear_sum_assignment

    _check(base, other)
    mine = np.unique(base[base != NOISE])
    theirs, shared = _contingency(base, other, mine)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    # A partner without one shared text is none.
    number = {int(theirs[c]): int(mine[r]) for r, c in zip(rows, columns, strict=True) if shared[r, c] > 0}
    free = int(mine.max(initial=-1)) + 1
    alone = sorted((-int(np.count_nonzero(other == name)), int(name)) for name in theirs if int(name) not in number)
    number |= {name: free + at for at, (_, name) in enumerate(alone)}
    matched = np.full(len(other), NOISE, dtype=np.int32)
    for name, new in number.items():
        matched[other == name] = new
    return matched


def verdict(jaccard: float) -> str:
    """What a mean clusterwise Jaccard means in words (Hennig 2007, and the help page of his ``fpc::clusterboot``).

    >>> [verdict(value) for value in (0.9, 0.8, 0.7, 0.55, 0.5)]
    ['highly stable', 'stable', 'a pattern', 'distrust', 'dissolved']
    """
    if math.isnan(jaccard):
        return "unknown"
    if jaccard <= 0.5:
        return "dissolved"
    if jaccard < 0.6:
        return "distrust"
    if jaccard < 0.75:
        return "a pattern"  # something is there, but which texts belong to it is in doubt
    return "stable" if jaccard < 0.85 else "highly stable"


def _check(a: Labels, b: Labels) -> None:
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise SettingsError(f"two clusterings of the same texts are needed, got labels of shapes {a.shape}, {b.shape}")


def _without_noise(a: Labels, b: Labels, noise: Noise) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels that say by themselves what noise counts as."""
    if noise is Noise.DROPPED:
        both = (a != NOISE) & (b != NOISE)
        return a[both].astype(np.int64), b[both].astype(np.int64)
    if noise is Noise.CLUSTER:
        return a.astype(np.int64), b.astype(np.int64)
    return _alone(a), _alone(b)


def _alone(labels: Labels) -> NDArray[np.int64]:
    rows = np.arange(len(labels), dtype=np.int64)
    return np.where(labels == NOISE, int(labels.max()) + 1 + rows, labels)


def _contingency(base: Labels, other: Labels, mine: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clusters of `other`, and the texts each shares with each of `mine`, shape (n_mine, n_theirs)."""
    theirs = np.unique(other[other != NOISE]).astype(np.int64)
    # Where each cluster stands among mine or theirs; after the last one where it is not asked about, noise too.
    row, column = _places(base, mine), _places(other, theirs)
    cells = np.bincount(row * (len(theirs) + 1) + column, minlength=(len(mine) + 1) * (len(theirs) + 1))
    shared = cells.reshape(len(mine) + 1, len(theirs) + 1)[:-1, :-1]
    return theirs, shared


def _places(labels: Labels, names: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each label among the names, their number for one that is not there; noise never is."""
    table = np.full(max(int(labels.max()), int(names.max(initial=0))) + 2, len(names), dtype=np.int64)
    table[names] = np.arange(len(names))
    return np.asarray(table[labels])  # noise, -1, reads the last entry, which no name takes


def _sizes(*clusterings: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """How many texts each cluster has."""
    return [np.unique(labels, return_counts=True)[1] for labels in clusterings]


def _pairs(counts: NDArray[np.intp]) -> int:
    """Pairs of texts in groups of these sizes."""
    return int((counts * (counts - 1)).sum()) // 2


def _entropy(sizes: NDArray[np.intp]) -> float:
    """Entropy of a partition in nats."""
    share = sizes / sizes.sum()
    return float(-(share * np.log(share)).sum())


def _expected_information(sizes_a: NDArray[np.intp], sizes_b: NDArray[np.intp]) -> float:
    """Mean mutual information in nats of random partitions with these cluster sizes (Vinh et al. 2010, equation 24)."""
    from scipy.special import gammaln

    n = int(sizes_a.sum())
    factorial = gammaln(np.arange(1.0, n + 2))  # log n!
    total = 0.0
    for a, times_a in zip(*(each.tolist() for each in np.unique(sizes_a, return_counts=True)), strict=True):
        for b, times_b in zip(*(each.tolist() for each in np.unique(sizes_b, return_counts=True)), strict=True):
            few, many = max(1, a + b - n), min(a, b)
            shared = np.arange(few, many + 1)
            # The hypergeometric chance that the two clusters share so many texts.
            above = factorial[a] + factorial[b] + factorial[n - a] + factorial[n - b] - factorial[n]
            below = factorial[few : many + 1] + factorial[a - shared] + factorial[b - shared]
            chance = np.exp(above - below - factorial[n - a - b + shared])
            term = shared * (np.log(shared) + (math.log(n) - math.log(a) - math.log(b))) * chance
            total += float(term.sum()) / n * times_a * times_b
    return total
