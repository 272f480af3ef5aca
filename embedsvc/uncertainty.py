"""Dropout variability: how far stochastic passes scatter for each text, beside what the mask alone predicts.

It says how much an answer depends on which units were dropped. It is *not* calibrated epistemic uncertainty: with
another rate p every number here changes, and a model can be steady and wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks, plots, theory
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import SettingsError
from embedsvc.knn import check_vectors, neighbor_graph, overlap
from embedsvc.results import Columns, Result
from embedsvc.scores import write_scores
from embedsvc.tallies import ClassScores, ClassTally, HeadTally, VectorScores, VectorTally, cosines, draw_until
from embedsvc.types import Block, Mode, Pass, Variant, Vectors, check_seed
from embedsvc.variants import REFERENCE, derive

__all__ = ["Curve", "NeighborFlips", "Stability", "Variability", "VarianceSplit", "stability"]

Floats = NDArray[np.float64]

_ROWS_CELLS = 4_000_000  # texts × passes × units drawn at one time
_MOST = 10  # texts listed for each score


@dataclass(frozen=True, slots=True, eq=False)
class NeighborFlips:
    """How often the nearest neighbours of a text are others in a pass than in inference.

    Attributes
    ----------
    k : int
    passes : tuple of int
        The sampled passes.
    flip : ndarray of shape (n,)
        Mean over the sampled passes of the share of the k nearest neighbours that are lost; NaN for texts that were
        not sampled.
    """

    k: int
    passes: tuple[int, ...]
    flip: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Variability:
    """The passes of one mode.

    Attributes
    ----------
    mode : Mode
        `head`, drawn here, or `training`, as stored.
    passes : int
    vectors : VectorScores
        Of `post_dropout`.
    expected : VectorScores or None
        What the head's mask alone predicts in closed form: p/q · ‖x‖², √q - p/(8 · PR · √q) with the participation
        ratio PR, and q - p/(4 · PR). None in training mode, where the encoder draws too.
    classes : ClassScores or None
        None without a trained head.
    neighbors : NeighborFlips or None
        None if not asked for.
    """

    mode: Mode
    passes: int
    vectors: VectorScores
    expected: VectorScores | None
    classes: ClassScores | None
    neighbors: NeighborFlips | None

    def columns(self) -> dict[str, Floats]:
        """Every score by its name, each of shape (n,)."""
        found = {f.name: getattr(self.vectors, f.name) for f in fields(VectorScores)}
        if self.expected is not None:
            found |= {f"expected_{f.name}": getattr(self.expected, f.name) for f in fields(VectorScores)}
        if self.classes is not None:
            found |= {f.name: getattr(self.classes, f.name) for f in fields(ClassScores)}
        if self.neighbors is not None:
            found["neighbor_flip"] = self.neighbors.flip
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The T-curve: cosine of the mean of the first T head passes with `pre_dropout`.

    Attributes
    ----------
    passes : tuple of int
        T: powers of two, and the last.
    observed, low, high : ndarray of shape (len(passes),)
        Mean over the texts, and their 5th and 95th percentiles.
    expected : ndarray of shape (len(passes),)
        1/√(1 + p/(qT)).
    """

    passes: tuple[int, ...]
    observed: Floats
    low: Floats
    high: Floats
    expected: Floats


@dataclass(frozen=True, slots=True, eq=False)
class VarianceSplit:
    """Total variance of `post_dropout` in training mode, split by the law of total variance.

    Attributes
    ----------
    encoder : ndarray of shape (n,)
        Unbiased variance of `pre_dropout` over the stored training passes, summed over the units.
    head : ndarray of shape (n,)
        p/q · E[pre²], summed over the units.
    observed : ndarray of shape (n,)
        Unbiased variance of `post_dropout` over the same passes: an estimate of encoder + head.
    """

    encoder: Floats
    head: Floats
    observed: Floats

    @property
    def encoder_share(self) -> float:
        """Share of the encoder in the predicted total over all texts, from 0 to 1; NaN if nothing varies."""
        encoder, total = float(self.encoder.sum()), float((self.encoder + self.head).sum())
        return encoder / total if total > 0 else float("nan")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Stability(Result):
    """What `stability` found.

    Attributes
    ----------
    ids : tuple of str
    rate : float
        Dropout rate p of the head.
    seed : int
        Of the head passes, and of what was sampled.
    head : Variability
    training : Variability or None
        None where the set stores fewer than two training passes of `post_dropout`.
    curve : Curve
    split : VarianceSplit or None
        None where the set does not store `pre_dropout` of these passes too.
    method, sampling : str
        What was done, and on how much of the data.
    """

    ids: tuple[str, ...]
    rate: float
    seed: int
    head: Variability
    training: Variability | None
    curve: Curve
    split: VarianceSplit | None
    method: str
    sampling: str

    @property
    def n(self) -> int:
        """Number of texts."""
        return len(self.ids)

    def columns(self) -> dict[str, Floats]:
        """Scores of each text by ``mode.score``, each of shape (n,)."""
        modes = [self.head, *([self.training] if self.training else [])]
        found = {f"{each.mode}.{name}": values for each in modes for name, values in each.columns().items()}
        if self.split is not None:
            found |= {"training.encoder_variance": self.split.encoder, "training.head_variance": self.split.head}
        return found

    def write(self, path: str | Path) -> None:
        """Write the scores of every text as Parquet, see `write_scores`."""
        facts = {"method": self.method, "sampling": self.sampling, "seed": self.seed, "rate": self.rate}
        write_scores(path, self.ids, self.columns(), facts=facts)

    def most(self, column: str, count: int = _MOST) -> list[tuple[str, float]]:
        """Ids and values of the texts that score highest, highest first; ties in the order of the set."""
        values = self.columns()[column]
        order = np.argsort(-values, kind="stable")  # NaN comes last
        return [(self.ids[row], float(values[row])) for row in order[:count] if not np.isnan(values[row])]

    def plot(self, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """The T-curve: how near the mean of T head passes comes to `pre_dropout`.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        figure = plots.canvas((7, 4), figure)
        each = self.curve
        plots.curve(figure, each.passes, observed=each.observed, low=each.low, high=each.high, expected=each.expected)
        return figure

    def _facts(self) -> dict[str, object]:
        training = {} if self.training is None else {"training passes": self.training.passes}
        return {"texts": self.n, "rate": self.rate, "head passes": self.head.passes, **training, "seed": self.seed}

    def _table(self) -> Columns:
        """A row for each text: the scores of `columns`."""
        return {"id": self.ids, **self.columns()}

    def _summary(self) -> Columns:
        """A row for each score: its mean and quantiles over the texts."""
        scores = {name: _summary(values) for name, values in self.columns().items()}
        known = dict.fromkeys(key for each in scores.values() for key in each or {})
        return {"score": list(scores), **{key: [(each or {}).get(key) for each in scores.values()] for key in known}}

    def to_json(self) -> dict[str, Any]:
        """The summary: means and quantiles of every score, the curve, the split, and the texts that change most."""
        columns = self.columns()
        ranked = [name for name in columns if name.endswith((".bald", ".class_flip", ".neighbor_flip"))]
        split = self.split and {
            "encoder": _mean(self.split.encoder),
            "head": _mean(self.split.head),
            "observed": _mean(self.split.observed),
            "encoder_share": _number(self.split.encoder_share),
        }
        return {
            "n": self.n,
            "rate": self.rate,
            "seed": self.seed,
            "passes": {each.mode: each.passes for each in (self.head, self.training) if each},
            "scores": {name: _summary(values) for name, values in columns.items()},
            "curve": {
                "passes": list(self.curve.passes),
                **{
                    name: [_number(value) for value in getattr(self.curve, name)]
                    for name in ("observed", "low", "high", "expected")
                },
            },
            "split": split,
            "most": {name: [{"id": id_, "value": value} for id_, value in self.most(name)] for name in ranked},
            "method": self.method,
            "sampling": self.sampling,
        }


def stability(
    embeddings: EmbeddingSet,
    *,
    passes: int,
    seed: int | None = None,
    k: int = 10,
    neighbor_passes: int = 5,
    max_neighbor_texts: int = 10_000,
) -> Stability:
    """Dropout variability of each text, over head passes drawn here and the training passes the set stores.

    Head passes are drawn from `pre_dropout.inference` text by text and counted at once: memory does not grow with
    `passes`, and with the texts only by a few numbers each (save for the neighbours, which need all vectors).

    Parameters
    ----------
    embeddings : EmbeddingSet
    passes : int
        Head passes to draw, 2 or more; pass k is ``post_dropout.head.k``.
    seed : int, optional
        Of the masks; by default that of the set, or 0 where it has none.
    k : int
        Nearest neighbours to compare; fewer where there are not so many other texts.
    neighbor_passes : int
        Passes sampled for the comparison of neighbours, at most; 0 for none.
    max_neighbor_texts : int
        Above, so many texts are sampled, and their neighbours searched among all.

    Raises
    ------
    SettingsError
        For fewer than two passes or texts, or other numbers out of range.
    UnknownVariantError
        If the set does not hold `pre_dropout.inference`.
    DegenerateInputError
        For vectors with NaN or infinity, or of length 0 where neighbours are asked for.
    """
    for name, value, least in (
        ("passes", passes, 2),
        ("k", k, 1),
        ("neighbor_passes", neighbor_passes, 0),
        ("max_neighbor_texts", max_neighbor_texts, 1),
        ("the number of texts", len(embeddings), 1),
    ):
        if value < least:
            raise SettingsError(f"{name} is {value}, expected {least} or more")
    manifest = embeddings.manifest
    if seed is None:
        seed = 0 if manifest.seed is None else manifest.seed
    check_seed(seed)
    with _one_thread():
        vectors, expected, classes, curve = _head(embeddings, passes, seed)
    trained = _training_passes(embeddings)
    sample = _Sample(embeddings, seed, min(k, len(embeddings) - 1), neighbor_passes, max_neighbor_texts)
    head = Variability(Mode.HEAD, passes, vectors, expected, classes, sample.flips(Mode.HEAD, range(passes)))
    training = split = None
    if len(trained) > 1:
        vectors, classes, split = _training(embeddings, trained)
        flips = sample.flips(Mode.TRAINING, trained)
        training = Variability(Mode.TRAINING, len(trained), vectors, None, classes, flips)
    method = (
        f"Dropout variability at rate {manifest.head.rate:g}: {passes:,} passes of the head's dropout over {REFERENCE}"
        + (f", and {len(trained)} stored passes in training mode" if training else "")
        + ". It is not calibrated epistemic uncertainty."
    )
    return Stability(
        embeddings.ids, manifest.head.rate, seed, head, training, curve, split, method, sample.sentence(len(embeddings))
    )


def _head(
    embeddings: EmbeddingSet, passes: int, seed: int
) -> tuple[VectorScores, VectorScores, ClassScores | None, Curve]:
    head = embeddings.manifest.head
    grid = tuple(sorted({2**power for power in range(passes.bit_length())} | {passes}))
    width = embeddings.manifest.width(REFERENCE)
    rows = max(1, _ROWS_CELLS // (width * max(min(passes, 1024), (head.n_classes or 0) + 1)))
    found: list[VectorScores] = []
    expected: list[VectorScores] = []
    classes: list[ClassScores] = []
    curves: list[Floats] = []
    for block in embeddings.iter_blocks([REFERENCE], rows=rows):
        pre = _finite(embeddings, block, REFERENCE)
        tally = HeadTally(pre, masks.row_keys(text.id for text in block.texts), head, seed)
        curves.append(draw_until(tally, grid))
        found.append(tally.scores())
        expected.append(_expected(pre, head.rate))
        if tally.classes is not None:
            classes.append(tally.classes.scores(head.logits(pre)))
    at = np.concatenate(curves, axis=1)
    at = at[:, ~np.isnan(at[0])]
    low, high = np.percentile(at, [5, 95], axis=1) if at.size else np.full((2, len(grid)), np.nan)
    observed = at.mean(axis=1) if at.size else low
    curve = Curve(grid, observed, low, high, np.array([theory.cosine_of_mean(head.rate, count) for count in grid]))
    return _joined(found), _joined(expected), _joined(classes) if classes else None, curve


def _expected(pre: Vectors, rate: float) -> VectorScores:
    somewhere = pre.any(axis=1)
    to_pre, between = np.full(len(pre), np.nan), np.full(len(pre), np.nan)
    if somewhere.any():
        to_pre[somewhere] = theory.cosine_under_dropout(pre[somewhere], rate)[0]
        between[somewhere] = theory.cosine_between_passes(pre[somewhere], rate)
    return VectorScores(theory.squared_displacement(pre, rate), to_pre, between)


def _training_passes(embeddings: EmbeddingSet) -> tuple[int, ...]:
    variants = map(Variant.parse, embeddings.manifest.stored)
    return tuple(v.index for v in variants if v.tap == "post_dropout" and v.index is not None)


def _training(
    embeddings: EmbeddingSet, passes: Sequence[int]
) -> tuple[VectorScores, ClassScores | None, VarianceSplit | None]:
    """One part of one variant in memory at a time, whatever the number of passes."""
    stored, head = set(embeddings.manifest.stored), embeddings.manifest.head
    with_pre = all(f"pre_dropout.training.{index}" in stored for index in passes)
    names = [f"{tap}.training.{index}" for index in passes for tap in ("post_dropout", *["pre_dropout"] * with_pre)]
    readers = {name: embeddings.iter_blocks([name]) for name in names}
    found: list[VectorScores] = []
    classes: list[ClassScores] = []
    splits: list[VarianceSplit] = []

    def read(name: str) -> Vectors:
        return _finite(embeddings, next(readers[name]), name)

    for base in embeddings.iter_blocks([REFERENCE]):
        n, width = base.vectors[REFERENCE].shape
        post, pre = VectorTally(n, width), VectorTally(n, width)
        tally = None if head.n_classes is None else ClassTally(n, head.n_classes)
        to_pre = np.zeros(n) if with_pre else np.full(n, np.nan)
        for index in passes:
            drawn = read(f"post_dropout.training.{index}")
            post.add(drawn)
            if tally is not None:
                tally.add(head.logits(drawn)[None])
            if with_pre:
                encoded = read(f"pre_dropout.training.{index}")
                pre.add(encoded)
                to_pre += cosines(encoded, drawn) / len(passes)
        found.append(VectorScores(post.variance, to_pre, post.cosine_between))
        if tally is not None:
            classes.append(tally.scores(head.logits(base.vectors[REFERENCE])))
        if with_pre:
            splits.append(VarianceSplit(pre.variance, theory.odds(head.rate) * pre.energy, post.variance))
    return _joined(found), _joined(classes) if classes else None, _joined(splits) if splits else None


class _Sample:
    """Which texts and passes the neighbours are compared on, and the comparison."""

    def __init__(self, embeddings: EmbeddingSet, seed: int, k: int, passes: int, max_texts: int) -> None:
        self._embeddings = embeddings
        self._seed = seed
        self._k = k
        self._passes = passes
        n = len(embeddings)
        self._rng = np.random.default_rng(derive(seed, "stability"))
        rows = np.sort(self._rng.choice(n, max_texts, replace=False)) if n > max_texts else None
        self._rows = rows
        self._reference = None
        if k and passes:
            self._reference = neighbor_graph(embeddings[REFERENCE], k, seed=seed, rows=rows, name=REFERENCE)
        self._told: list[str] = []

    def flips(self, mode: Mode, passes: Sequence[int]) -> NeighborFlips | None:
        if self._reference is None:
            return None
        count = min(self._passes, len(passes))
        sampled = tuple(sorted(int(index) for index in self._rng.choice(np.array(passes), count, replace=False)))
        lost = np.zeros(len(self._reference.indices))
        for index in sampled:
            name = f"post_dropout.{mode}.{index}"
            graph = neighbor_graph(self._vectors(mode, index), self._k, seed=self._seed, rows=self._rows, name=name)
            lost += 1.0 - overlap(self._reference, graph, self._k)
        flip = np.full(len(self._embeddings), np.nan)
        flip[self._reference.queries] = lost / count
        self._told.append(f"{mode} passes {', '.join(map(str, sampled))}")
        return NeighborFlips(self._k, sampled, flip)

    def _vectors(self, mode: Mode, index: int) -> Vectors:
        if mode is Mode.TRAINING:
            return self._embeddings[f"post_dropout.training.{index}"]
        keys = masks.row_keys(self._embeddings.ids)
        return self._embeddings.manifest.head.post(self._embeddings[REFERENCE], keys, Pass(mode, index, self._seed))

    def sentence(self, n: int) -> str:
        if self._reference is None:
            return f"All {n:,} texts; neighbours were not compared."
        return f"All {n:,} texts; {self._k} {self._reference.method} in {' and '.join(self._told)}."


def _finite(embeddings: EmbeddingSet, block: Block, name: str) -> Vectors:
    """The vectors of a block; if one is not finite, the error names all such texts of the set."""
    vectors = block.vectors[name]
    if not np.isfinite(vectors).all():
        check_vectors(embeddings[name], name)
    return vectors


def _joined(parts: Sequence[Any]) -> Any:  # noqa: ANN401 - whichever dataclass of arrays it is given
    kind = type(parts[0])
    return kind(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(kind)))


def _one_thread() -> AbstractContextManager[object]:
    """A mask meets its text in a product too small to share: two threads of BLAS made it twenty times slower."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def _summary(values: Floats) -> Mapping[str, float | int | None]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"n": 0, "mean": None, "p5": None, "median": None, "p95": None}
    low, middle, high = np.percentile(known, [5, 50, 95])
    return {
        "n": len(known),
        "mean": float(known.mean()),
        "p5": float(low),
        "median": float(middle),
        "p95": float(high),
    }
