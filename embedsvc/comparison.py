"""Compare variants of the same texts pair by pair: what is observed, what dropout alone predicts, what chance gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from embedsvc import metrics, shared
from embedsvc.comparisons import Comparison
from embedsvc.embeddings import EmbeddingSet, SetOrPath, as_set
from embedsvc.errors import SettingsError
from embedsvc.figures import measure_pairs
from embedsvc.graphs import Graphs
from embedsvc.joining import shared_rows
from embedsvc.manifest import summarise
from embedsvc.metrics import METRICS
from embedsvc.shared import Draws, Work
from embedsvc.sides import Side, read_at_once
from embedsvc.types import check_seed
from embedsvc.variants import OTHER

__all__ = ["DEFAULT_METRICS", "DEFAULT_VARIANTS", "compare"]

Floats = NDArray[np.float64]

DEFAULT_METRICS = ("cka", "procrustes", "rsa", "cosine", "knn_overlap", "second_order_cosine")
DEFAULT_VARIANTS = (
    "pre_dropout.inference",
    "post_dropout.inference",  # costs nothing: it is the first, and said to be
    "pre_dropout.training.0",
    "post_dropout.training.0",
    "post_dropout.training.1",
    "post_dropout.head.0",
    "post_dropout.head.1",
)

_KS = (10, 50)


def compare(
    embeddings: SetOrPath,
    *,
    variants: Sequence[str] | None = None,
    other: SetOrPath | None = None,
    join: str = "strict",
    measures: Sequence[str] = DEFAULT_METRICS,
    ks: Sequence[int] | None = None,
    n_permutations: int = 100,
    n_bootstrap: int = 200,
    n_simulations: int | None = None,
    sample: int = 1_000,
    seed: int = 0,
    graphs: Graphs | None = None,
    told: Callable[[str], object] = lambda step: None,
) -> Comparison:
    """Compare every two variants of a set, or of two sets of the same texts.

    Parameters
    ----------
    embeddings : EmbeddingSet, str or Path
        The vectors of the variants compared are held in memory, but for CKA alone: it streams them from the set.
    variants : sequence of str, optional
        By default those of `DEFAULT_VARIANTS` that the set holds, two passes of each kind at most. With `other`: of
        both sets, by default `pre_dropout.inference` and `post_dropout.training.0`.
    other : EmbeddingSet, str or Path, optional
        Joined by id.
    join : {"strict", "inner"}
        Whether every text must be in both sets, or those in both are enough.
    measures : sequence of str
        Names out of `METRICS`. Those beyond `DEFAULT_METRICS` are taken over the sample.
    ks : sequence of int, optional
        Neighbours for the overlap; 10 and 50 by default, as far as there are texts. The first is that of second-order
        cosine as well.
    n_permutations, n_bootstrap : int
        Draws of the null and of the intervals.
    n_simulations : int, optional
        Head masks drawn where the expectation has no closed form, 2 or more; 4 by default, 2 above 5,000 texts.
    sample : int
        Texts for what takes squares of their number (RSA, permutations, the interval of CKA) and, above 10,000 texts,
        whose neighbours are searched: from 10 to 2,000.
    seed : int
        Of all draws; a set's own masks are drawn by its own seed.
    graphs : Graphs, optional
        Of this set, to use instead of searching again; not with `other`. ``Graphs(embeddings, 50)`` is of every text,
        however many there are.
    told : callable
        Is told each pair as its turn comes.

    Raises
    ------
    SettingsError
        For a single variant, too few texts, a k that is too large, or sets that do not share their texts.
    UnknownVariantError
    DegenerateInputError
        For vectors that are not finite, zero, or the same for every text.
    """
    embeddings = as_set(embeddings)
    other = None if other is None else as_set(other)
    check_seed(seed)
    for name, value, least in (
        ("n_permutations", n_permutations, 20),
        ("n_bootstrap", n_bootstrap, 20),
        ("n_simulations", 2 if n_simulations is None else n_simulations, 2),
        ("sample", sample, 10),
    ):
        if value < least:
            raise SettingsError(f"{name} is {value}, expected {least} or more")
    if sample > metrics.RSA_TEXTS:
        raise SettingsError(f"sample is {sample}, expected at most {metrics.RSA_TEXTS}: their pairs are held in memory")
    for name in measures:
        METRICS[name]
    sides, left_out, ids = _sides(embeddings, variants, other, join)
    n = len(ids)
    if n < 4:
        raise SettingsError(f"there are {n} texts to compare, expected 4 or more", "Bring more texts.")
    if n_simulations is None:
        n_simulations = 4 if n <= shared.MANY else 2
    notes: list[str] = []
    chosen = _neighbors(ks, n, notes)
    if set(measures) - {"cka"}:
        # Read once here, or each use would stream them from the set again; what is known to be a copy is not read.
        read_at_once([side for side in sides if side.variant not in side.embeddings.manifest.identical])
    same = _identical(sides)
    work = Work(
        [side for side in sides if side.name not in same],
        ids,
        chosen,
        Draws(seed, n_permutations, n_bootstrap, n_simulations, sample),
        graphs if other is None else None,
    )
    duplicates = work.duplicates()
    if duplicates:
        notes.append(
            f"{duplicates:,} texts have the very vector of another in {work.sides[0].name}; which of equals are "
            "neighbours is arbitrary"
        )
    return Comparison(
        variants=tuple(side.name for side in sides),
        pairs=measure_pairs(work, tuple(dict.fromkeys(measures)), told),
        identical=same,
        left_out=left_out,
        ids=ids,
        queries=work.queries,
        ks=chosen,
        seed=seed,
        n_permutations=n_permutations,
        n_bootstrap=n_bootstrap,
        n_simulations=n_simulations,
        sampling=work.sampling,
        method=_METHOD,
        notes=tuple(notes),
    )


_METHOD = (
    "CKA: linear, debiased, of all texts. Procrustes: angular distance in radians, of all texts. RSA: Spearman "
    "correlation of euclidean distances, of the sample. Neighbours by cosine, exact unless a graph given says "
    "otherwise, a text never its own. Dropout alone: the head's, by closed form (CKA, cosine) or drawn "
    "head masks (Procrustes of more than 5,000 texts: one draw). Chance: random matches of the texts of the sample "
    "(CKA, RSA, cosine: shifts of a random circle of them; Procrustes: of all texts, 5 draws; second-order cosine: "
    "5 draws). Intervals: bootstrap over texts, "
    "95 %; of CKA, Procrustes and RSA to first order."
)


def _neighbors(ks: Sequence[int] | None, n: int, notes: list[str]) -> tuple[int, ...]:
    if ks is None:
        chosen = tuple(k for k in _KS if k < n) or (min(3, n - 1),)
        if len(chosen) < len(_KS):
            notes.append(f"{n} texts have too few neighbours for k = {', '.join(str(k) for k in _KS if k >= n)}")
        return chosen
    if not ks:
        raise SettingsError("ks is empty, expected at least one number of neighbours")
    for k in ks:
        if not 1 <= k < n:
            raise SettingsError(
                f"k is {k}, expected 1 to {n - 1}: there are {n:,} texts, and a text is not its own neighbour",
                "Ask for fewer neighbours, or bring more texts.",
            )
    return tuple(dict.fromkeys(ks))


def _identical(sides: list[Side]) -> dict[str, str]:
    """Variants equal bit for bit to an earlier one: by the manifest where it says so, else by their bytes."""
    same: dict[str, str] = {}
    for at, side in enumerate(sides):
        for earlier in sides[:at]:
            if earlier.name in same:
                continue
            told = side.embeddings is earlier.embeddings and earlier.variant == side.embeddings.manifest.identical.get(
                side.variant
            )
            if told or side.equals(earlier):
                same[side.name] = earlier.name
                break
    return same


def _sides(
    embeddings: EmbeddingSet, variants: Sequence[str] | None, other: EmbeddingSet | None, join: str
) -> tuple[list[Side], tuple[str, ...], tuple[str, ...]]:
    """What to compare, what was left out, and the ids of the texts."""
    if join not in ("strict", "inner"):
        raise SettingsError(f"join is {join!r}, expected 'strict' or 'inner'")
    if other is None:
        names = _default(embeddings, DEFAULT_VARIANTS) if variants is None else tuple(dict.fromkeys(variants))
        embeddings.iter_blocks(names)  # raises for an unknown name, and reads nothing
        if len(names) < 2:
            raise SettingsError(
                f"there is one variant to compare, {names[0]}, expected two or more"
                if names
                else "no variant was named",
                f"The set holds: {summarise(embeddings.variants)}",
            )
        left_out = tuple(name for name in embeddings.variants if name not in names)
        return [Side(name, embeddings, name, None) for name in names], left_out, embeddings.ids
    few = ("pre_dropout.inference", "post_dropout.training.0")
    ours, theirs = (
        _default(each, few) if variants is None else tuple(dict.fromkeys(variants)) for each in (embeddings, other)
    )
    embeddings.iter_blocks(ours)
    other.iter_blocks(theirs)
    rows, other_rows = shared_rows(embeddings, other, join)
    sides = [Side(f"this:{name}", embeddings, name, rows) for name in ours]
    sides += [Side(f"{OTHER}{name}", other, name, other_rows) for name in theirs]
    left_out = tuple(f"this:{name}" for name in embeddings.variants if name not in ours)
    left_out += tuple(f"{OTHER}{name}" for name in other.variants if name not in theirs)
    return sides, left_out, tuple(embeddings.ids[row] for row in rows)


def _default(embeddings: EmbeddingSet, preferred: Sequence[str]) -> tuple[str, ...]:
    named = tuple(name for name in preferred if name in embeddings.variants)
    return named or embeddings.variants[:6]
