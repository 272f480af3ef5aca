"""How alike two representations of the same texts are: globally (CKA, Procrustes, RSA), text by text, and locally."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc import knn
from embedsvc.errors import DegenerateInputError, NoValueError, SettingsError
from embedsvc.knn import NeighborGraph
from embedsvc.moments import Moments, moments
from embedsvc.registry import Registry
from embedsvc.types import Vectors
from embedsvc.vectors import check_vectors, unit_rows

__all__ = [
    "METRICS",
    "Measure",
    "alignment",
    "cosine",
    "distance_ranks",
    "distances",
    "knn_overlap",
    "linear_cka",
    "procrustes",
    "row_cosines",
    "row_second_order",
    "rsa",
    "sample_rows",
    "second_order_cosine",
    "uniformity",
]

Floats = NDArray[np.float64]
RSA_TEXTS = 2_000  # pairs grow with the square: 2,000 texts have two million

_ROWS = 4096  # a block of float64 at width 768 is 25 MB


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of likeness and what it promises; the contract tests hold it to every word.

    Attributes
    ----------
    name : str
    function : callable
        Of two arrays (n, width); row i of both is the same text.
    symmetric : bool
    on_identical : float
        Its value when both are the same.
    invariances : frozenset of {"rotation", "scale", "shift"}
        What may be done to *one* side without changing the value: an orthogonal map, a positive factor, a constant
        vector added to all rows. What is not named here changes it.
    closer : {"higher", "lower"}
        Which values say that the two are more alike.
    reference : str
    """

    name: str
    function: Callable[[Vectors, Vectors], float]
    symmetric: bool
    on_identical: float
    invariances: frozenset[Literal["rotation", "scale", "shift"]]
    closer: Literal["higher", "lower"]
    reference: str

    def __call__(self, x: Vectors, y: Vectors) -> float:
        """The value; see `function`."""
        return self.function(x, y)


def linear_cka(x: Vectors, y: Vectors) -> float:
    """Debiased linear CKA of two representations of the same texts, at most 1; unrelated ones are at 0 on average.

    The value may be slightly negative. Columns that are constant count for nothing.

    Parameters
    ----------
    x, y : ndarray of shape (n_texts, width_x) and (n_texts, width_y)
        Row i of both is the same text; n_texts >= 4.

    Raises
    ------
    DegenerateInputError
        If one is the same for all texts (CKA is then 0/0), or not finite.
    NoValueError
        If no two texts share any variation of one: debiased, that is 0/0 as well.

    References
    ----------
    Kornblith et al. (2019), arXiv:1905.00414; debiased as in Nguyen et al. (2021), arXiv:2010.15327. For how CKA
    misleads see Davari et al. (2022), arXiv:2210.16156.

    >>> x = np.random.default_rng(0).standard_normal((50, 4))
    >>> round(linear_cka(x, 3 * x[:, ::-1] + 1), 6)
    1.0
    """
    return _moments_of(x, y).cka(0, 1)


def procrustes(x: Vectors, y: Vectors) -> float:
    """Angular Procrustes distance in radians: 0 for a rotation, scaling and shift of the same, at most π/2.

    Unrelated representations come out closer than π/2, the more so the fewer texts there are for their width: read it
    beside its permutation null.

    References
    ----------
    Williams et al. (2021), arXiv:2110.14739.
    """
    return _moments_of(x, y).procrustes(0, 1)


def rsa(x: Vectors, y: Vectors, *, seed: int = 0) -> float:
    """Spearman correlation of all distances between texts, -1 to 1, over at most 2,000 (sampled by `seed`).

    Raises
    ------
    NoValueError
        If all distances on one side are equal.

    References
    ----------
    Kriegeskorte et al. (2008), doi:10.3389/neuro.06.004.2008.
    """
    _check_pair(x, y, least=3)
    rows = sample_rows(len(x), RSA_TEXTS, seed)
    return float(np.corrcoef(distance_ranks(x[rows]), distance_ranks(y[rows]))[0, 1])


def distance_ranks(x: Vectors) -> Floats:
    """Ranks of the `distances` between all rows, whose correlation is `rsa`.

    Raises
    ------
    NoValueError
        If all distances are equal.
    """
    from scipy.stats import rankdata

    ranks = rankdata(distances(x))
    if ranks[0] == ranks.min() == ranks.max():
        raise NoValueError(
            "all distances between texts are equal, so their order says nothing",
            "Bring more texts, or take cka or procrustes.",
        )
    return np.asarray(ranks)


def distances(x: Vectors) -> Floats:
    """Euclidean distances between all rows, in the order of ``scipy.spatial.distance.pdist``, shape (n(n - 1)/2,).

    By products in float64, ten times as fast as one pair after the other; copies have a distance of exactly 0.
    """
    # Not centred: that would round, and distances that are equal would be no longer.
    wide = x.astype(np.float64)
    products = wide @ wide.T
    squares = np.diagonal(products)
    first, second = np.triu_indices(len(x), 1)
    both = squares[first] + squares[second]
    apart = both - 2.0 * products[first, second]
    # What is left of a difference of nearly equal numbers is rounding: the vectors of such pairs are subtracted.
    near = np.flatnonzero(apart < 1e-9 * both)
    for start in range(0, len(near), _ROWS):
        some = near[start : start + _ROWS]
        apart[some] = np.square(wide[first[some]] - wide[second[some]]).sum(axis=1)
    return np.asarray(np.sqrt(apart))


def cosine(x: Vectors, y: Vectors) -> float:
    """Mean over the texts of the cosine between a text's two vectors, from -1 to 1; needs equal widths."""
    return float(row_cosines(x, y).mean())


def row_cosines(x: Vectors, y: Vectors) -> Floats:
    """Cosine between the two vectors of each text, shape (n,).

    Raises
    ------
    SettingsError
        If the widths differ.
    DegenerateInputError
        For zero vectors.
    """
    _check_pair(x, y, same_width=True)
    dots = np.einsum("nd,nd->n", x, y, dtype=np.float64)
    norms = np.einsum("nd,nd->n", x, x, dtype=np.float64) * np.einsum("nd,nd->n", y, y, dtype=np.float64)
    if not norms.all():
        raise DegenerateInputError(
            f"{np.count_nonzero(norms == 0):,} texts have a zero vector on one side, which has no direction; "
            f"the first is row {int(np.argmin(norms != 0))}",
            "Leave these texts out.",
        )
    return np.asarray(np.clip(dots / np.sqrt(norms), -1.0, 1.0))


def knn_overlap(x: Vectors, y: Vectors, *, k: int = 10) -> float:
    """Mean share of each text's k nearest neighbours (by cosine) that both have, from 0 to 1; chance is k / (n - 1)."""
    _check_pair(x, y)
    a, b = (knn.neighbor_graph(vectors, k) for vectors in (x, y))
    return float(knn.overlap(a, b, k).mean())


def second_order_cosine(x: Vectors, y: Vectors, *, k: int = 10) -> float:
    """Mean of `row_second_order` over k nearest neighbours by cosine, from -1 to 1.

    References
    ----------
    Hamilton et al. (2016), arXiv:1606.02821: the local neighbourhood measure.
    """
    _check_pair(x, y)
    a, b = (knn.neighbor_graph(vectors, k) for vectors in (x, y))
    return float(row_second_order(unit_rows(x), unit_rows(y), a, b).mean())


def row_second_order(
    x: Vectors, y: Vectors, a: NeighborGraph, b: NeighborGraph, *, order: NDArray[np.int64] | None = None
) -> Floats:
    """How alike a text's similarities to its neighbours are on both sides: the cosine of the two lists, shape (m,).

    Parameters
    ----------
    x, y : ndarray of shape (n, width)
        Rows of length 1 (`unit_rows`).
    a, b : NeighborGraph
        The neighbours on either side; a text is described by its similarities to the union of both.
    order : ndarray of shape (n,), optional
        Row i of `x` is row ``order[i]`` of `y`; `b` is in the row numbers of `x` all the same.

    Raises
    ------
    NoValueError
        If a text is at right angles to all of its neighbours.
    """
    rows, k = a.queries, a.k
    at, of = (rows, a.indices) if order is None else (order[rows], order[a.indices])
    first, second = np.zeros((2, len(rows), k + b.k))
    first[:, :k] = _near(x, a, rows, a.indices)
    second[:, k:] = _near(y, b, at, b.indices if order is None else order[b.indices])
    # Each side knows how near its own neighbours are. What both have counts once, in the place it has in `a`.
    both = np.concatenate([a.indices, b.indices], axis=1)
    sorting = np.argsort(both, axis=1, kind="stable")
    both = np.take_along_axis(both, sorting, axis=1)
    row, place = np.nonzero(both[:, 1:] == both[:, :-1])
    mine, theirs = sorting[row, place], sorting[row, place + 1]
    second[row, mine], second[row, theirs] = second[row, theirs], 0.0
    only_a, only_b = np.ones((len(rows), k), dtype=bool), np.ones((len(rows), b.k), dtype=bool)
    only_a[row, mine] = only_b[row, theirs - k] = False
    row, place = np.nonzero(only_b)
    first[row, k + place] = _dots(x, rows[row], b.indices[row, place])
    row, place = np.nonzero(only_a)
    second[row, place] = _dots(y, at[row], of[row, place])
    norms = np.einsum("mk,mk->m", first, first) * np.einsum("mk,mk->m", second, second)
    if not norms.all():
        raise NoValueError(
            f"row {int(rows[np.argmin(norms)])} is unlike all of its neighbours: cosine 0",
            "Leave this text out, or take knn_overlap.",
        )
    return np.asarray(np.clip(np.einsum("mk,mk->m", first, second) / np.sqrt(norms), -1.0, 1.0))


def _near(x: Vectors, graph: NeighborGraph, rows: NDArray[np.int64], near: NDArray[np.integer]) -> Floats:
    """Cosines of rows of a graph with their neighbours, which a graph by cosine knows."""
    if graph.metric == "cosine":
        return np.asarray(1.0 - graph.distances.astype(np.float64))
    return _dots(x, np.repeat(rows, graph.k), near.ravel()).reshape(near.shape)


def _dots(x: Vectors, rows: NDArray[np.integer], others: NDArray[np.integer]) -> Floats:
    """Products of rows with others, one by one, a few at a time: what is gathered stays in the cache."""
    found = np.empty(len(rows))
    step = max(1, 200_000 // x.shape[1])
    for start in range(0, len(rows), step):
        cut = slice(start, start + step)
        found[cut] = np.einsum("nd,nd->n", x[rows[cut]], x[others[cut]])
    return found


def alignment(x: Vectors, y: Vectors) -> float:
    """Mean squared distance between the two vectors of a text, each scaled to length 1: from 0 to 4.

    Two passes of dropout with rate p give about 2p.

    References
    ----------
    Wang & Isola (2020), arXiv:2005.10242.
    """
    return float((2.0 - 2.0 * row_cosines(x, y)).mean())


def uniformity(x: Vectors, *, seed: int = 0) -> float:
    """Log of the mean of exp(-2 · squared distance) over pairs of unit vectors: 0 where all texts are alike.

    Over at most 2,000 texts (sampled by `seed`). Directions spread evenly in 768 dimensions give -3.9896.

    References
    ----------
    Wang & Isola (2020), arXiv:2005.10242.
    """
    from scipy.spatial.distance import pdist

    check_vectors(x)
    if len(x) < 2:
        raise SettingsError(f"there are {len(x)} texts, expected 2 or more")
    rows = sample_rows(len(x), RSA_TEXTS, seed)
    squared = pdist(unit_rows(x[rows]).astype(np.float64), "sqeuclidean")
    return float(np.log(np.exp(-2.0 * squared).mean()))


def sample_rows(n: int, most: int, seed: int) -> NDArray[np.int64]:
    """At most so many of n row numbers, ascending; all of them if they fit."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, n, most]).choice(n, most, replace=False))


_REFERENCES = {
    "cka": "Kornblith et al. 2019 (arXiv:1905.00414), debiased: Nguyen et al. 2021 (arXiv:2010.15327)",
    "overlap": "Huh et al. 2024 (arXiv:2405.07987)",
}

METRICS: Registry[Measure] = Registry(
    "metric",
    {
        measure.name: measure
        for measure in (
            Measure(
                "cka", linear_cka, True, 1.0, frozenset({"rotation", "scale", "shift"}), "higher", _REFERENCES["cka"]
            ),
            Measure(
                "procrustes",
                procrustes,
                True,
                0.0,
                frozenset({"rotation", "scale", "shift"}),
                "lower",
                "Williams et al. 2021 (arXiv:2110.14739)",
            ),
            Measure(
                "rsa",
                rsa,
                True,
                1.0,
                frozenset({"rotation", "scale", "shift"}),
                "higher",
                "Kriegeskorte et al. 2008 (doi:10.3389/neuro.06.004.2008)",
            ),
            Measure(
                "cosine", cosine, True, 1.0, frozenset({"scale"}), "higher", "the cosine of each text's two vectors"
            ),
            Measure(
                "knn_overlap",
                partial(knn_overlap, k=10),
                True,
                1.0,
                frozenset({"rotation", "scale"}),
                "higher",
                _REFERENCES["overlap"],
            ),
            Measure(
                "second_order_cosine",
                partial(second_order_cosine, k=10),
                True,
                1.0,
                frozenset({"rotation", "scale"}),
                "higher",
                "Hamilton et al. 2016 (arXiv:1606.02821)",
            ),
            Measure(
                "alignment",
                alignment,
                True,
                0.0,
                frozenset({"scale"}),
                "lower",
                "Wang & Isola 2020 (arXiv:2005.10242)",
            ),
        )
    },
)


def _moments_of(x: Vectors, y: Vectors) -> Moments:
    _check_pair(x, y)
    starts = range(0, len(x), _ROWS)
    return moments(lambda: ((x[start : start + _ROWS], y[start : start + _ROWS]) for start in starts), names=("x", "y"))


def _check_pair(x: Vectors, y: Vectors, *, least: int = 1, same_width: bool = False) -> None:
    for name, vectors in (("x", x), ("y", y)):
        check_vectors(vectors, name)
    if len(x) != len(y):
        raise SettingsError(
            f"x has {len(x):,} rows and y {len(y):,}, expected the same texts in the same order",
            "Join the two sets by their ids first.",
        )
    if len(x) < least:
        raise SettingsError(f"there are {len(x)} texts, expected {least} or more")
    if same_width and x.shape[1] != y.shape[1]:
        raise SettingsError(
            f"x is {x.shape[1]} wide and y {y.shape[1]}, and this measure compares them number by number",
            "Take cka, procrustes, rsa or knn_overlap, which compare across widths.",
        )
