"""Dropout variability: how far stochastic passes scatter for each text, beside what the mask alone predicts.

It says how much an answer depends on which units were dropped. It is *not* calibrated epistemic uncertainty: with
another rate p every number here changes, and a model can be steady and wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks, theory
from embedsvc.clustering import cluster
from embedsvc.clusters import Clustering
from embedsvc.embeddings import EmbeddingSet, SetOrPath, as_set
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.graphs import Graphs
from embedsvc.knn import NeighborGraph, neighbor_graph, overlap
from embedsvc.tallies import ClassScores, ClassTally, HeadTally, VectorScores, VectorTally, cosines, draw_until
from embedsvc.threads import one_thread
from embedsvc.types import Block, Mode, Pass, Variant, Vectors, check_seed
from embedsvc.variability import ClusterFlips, Curve, NeighborFlips, Stability, Variability, VarianceSplit
from embedsvc.variants import REFERENCE, derive
from embedsvc.vectors import check_vectors

__all__ = ["stability"]

Floats = NDArray[np.float64]

_ROWS_CELLS = 4_000_000  # texts × passes × units drawn at one time


def stability(
    embeddings: SetOrPath,
    *,
    passes: int,
    seed: int | None = None,
    k: int = 10,
    neighbor_passes: int = 5,
    max_neighbor_texts: int = 10_000,
    cluster_passes: int = 5,
    cluster_method: str = "kmeans",
    clusters: int | Literal["auto"] = "auto",
    clustering: Clustering | None = None,
    graphs: Graphs | None = None,
) -> Stability:
    """Dropout variability of each text, over head passes drawn here and the training passes the set stores.

    Head passes are drawn from `pre_dropout.inference` text by text and counted at once: memory does not grow with
    `passes`, and with the texts only by a few numbers each (save for the neighbours, which need all vectors).

    Parameters
    ----------
    embeddings : EmbeddingSet, str or Path
    passes : int
        Head passes to draw, 2 or more; pass k is ``post_dropout.head.k``.
    seed : int, optional
        Of the masks; by default that of the set, or 0 where it has none.
    k : int
        Nearest neighbours to compare; fewer where there are not so many other texts.
    neighbor_passes : int
        The first so many passes are those whose neighbours are compared; 0 for none.
    max_neighbor_texts : int
        Above, so many texts are sampled, and their neighbours searched among all.
    cluster_passes : int
        Passes of each mode whose clusters are compared with those of inference, at most; 0 for none.
    cluster_method, clusters
        `method` and `k` of `cluster`. Texts that cannot be clustered are told of in `sampling`, but if a number of
        clusters is given.
    clustering : Clustering, optional
        What `cluster` gave for this set: its passes are taken, instead of clustering again.
    graphs : Graphs, optional
        Neighbour graphs of this set, to use instead of searching again; their rows are the texts compared.

    Raises
    ------
    SettingsError
        For fewer than two passes, no text, or other numbers out of range.
    UnknownNameError
        If there is no such method of clustering.
    UnknownVariantError
        If the set does not hold `pre_dropout.inference`.
    DegenerateInputError
        For vectors with NaN or infinity, or of length 0 where neighbours are asked for.
    """
    embeddings = as_set(embeddings)
    for name, value, least in (
        ("passes", passes, 2),
        ("k", k, 1),
        ("neighbor_passes", neighbor_passes, 0),
        ("cluster_passes", cluster_passes, 0),
        ("max_neighbor_texts", max_neighbor_texts, 1),
        ("the number of texts", len(embeddings), 1),
    ):
        if value < least:
            raise SettingsError(f"{name} is {value}, expected {least} or more")
    manifest = embeddings.manifest
    if seed is None:
        seed = 0 if manifest.seed is None else manifest.seed
    check_seed(seed)
    # A mask meets its text in a product too small to share: two threads of BLAS made it twenty times slower.
    with one_thread("blas"):
        vectors, expected, classes, curve = _head(embeddings, passes, seed)
    trained = _training_passes(embeddings)
    sample = _Sample(embeddings, seed, min(k, len(embeddings) - 1), neighbor_passes, max_neighbor_texts, graphs)
    why = "they were not asked for"
    if clustering is None and cluster_passes:
        clustering, why = _clustered(embeddings, cluster_method, clusters, cluster_passes, seed)
    moved = _cluster_flips(clustering)
    head = Variability(
        *(Mode.HEAD, passes, vectors, expected, classes),
        neighbors=sample.flips(Mode.HEAD, range(passes)),
        clusters=moved.get("post_dropout.head"),
    )
    training = split = None
    if len(trained) > 1:
        vectors, classes, split = _training(embeddings, trained)
        training = Variability(
            *(Mode.TRAINING, len(trained), vectors, None, classes),
            neighbors=sample.flips(Mode.TRAINING, trained),
            clusters=moved.get("post_dropout.training"),
        )
    method = (
        f"Dropout variability at rate {manifest.head.rate:g}: {passes:,} passes of the head's dropout over {REFERENCE}"
        + (f", and {len(trained)} stored passes in training mode" if training else "")
        + ". It is not calibrated epistemic uncertainty."
    )
    return Stability(
        *(embeddings.ids, manifest.head.rate, seed, head, training, curve, split),
        restarts=clustering.restart_flip if clustering is not None and moved else None,
        method=method,
        sampling=f"{sample.sentence(len(embeddings))} {_told(moved, clustering, why)}",
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

    def __init__(
        self, embeddings: EmbeddingSet, seed: int, k: int, passes: int, max_texts: int, graphs: Graphs | None
    ) -> None:
        self._embeddings = embeddings
        self._seed = seed
        self._k = k
        self._passes = passes
        n, rows = len(embeddings), None
        if n > max_texts:
            rows = np.sort(np.random.default_rng(derive(seed, "stability")).choice(n, max_texts, replace=False))
        self._graphs = Graphs(embeddings, k, seed=seed, rows=rows) if graphs is None else graphs
        self._reference = self._graphs[REFERENCE].first(k) if k and passes else None
        self._told: list[str] = []

    def flips(self, mode: Mode, passes: Sequence[int]) -> NeighborFlips | None:
        if self._reference is None:
            return None
        # The masks of any passes are as good as those of others, and the first may have been searched before.
        some = tuple(passes[: self._passes])
        lost = sum(1.0 - overlap(self._reference, self._graph(mode, index), self._k) for index in some)
        flip = np.full(len(self._embeddings), np.nan)
        flip[self._reference.queries] = lost / len(some)
        self._told.append(f"{mode} passes {_listed(some)}")
        return NeighborFlips(self._k, some, flip)

    def _graph(self, mode: Mode, index: int) -> NeighborGraph:
        name = f"post_dropout.{mode}.{index}"
        if mode is Mode.TRAINING or self._seed == self._embeddings.manifest.seed:
            return self._graphs[name]
        keys = masks.row_keys(self._embeddings.ids)
        vectors = self._embeddings.manifest.head.post(self._embeddings[REFERENCE], keys, Pass(mode, index, self._seed))
        return neighbor_graph(vectors, self._graphs.k, seed=self._graphs.seed, rows=self._graphs.rows, name=name)

    def sentence(self, n: int) -> str:
        if self._reference is None:
            return f"All {n:,} texts; neighbours were not compared."
        return f"All {n:,} texts; {self._k} {self._reference.method} in {' and '.join(self._told)}."


def _clustered(
    embeddings: EmbeddingSet, method: str, k: int | Literal["auto"], passes: int, seed: int
) -> tuple[Clustering | None, str]:
    """The clusters of inference and what passes make of them; or why there are none."""
    drawn = embeddings.reseeded(seed)
    try:
        return cluster(drawn, method=method, k=k, variants=[REFERENCE], n_resamples=0, n_passes=passes, seed=seed), ""
    except DegenerateInputError as error:
        if k != "auto":
            raise
        return None, error.problem


def _cluster_flips(clustering: Clustering | None) -> dict[str, ClusterFlips]:
    """By the stem of the passes."""
    if clustering is None:
        return {}
    stems = [each for each in clustering.passes if each.stem.startswith("post_dropout.")]
    return {each.stem: ClusterFlips(clustering.sentence, each.passes, each.flip) for each in stems}


def _told(moved: Mapping[str, ClusterFlips], clustering: Clustering | None, why: str) -> str:
    """Which clusters were compared."""
    if clustering is None or not moved:
        return f"Clusters were not compared: {why}."
    sampled = int(np.count_nonzero(~np.isnan(clustering.restart_flip)))
    of = "" if sampled == clustering.n else f" of {sampled:,} sampled texts"
    named = (f"{stem.partition('.')[2]} passes {_listed(each.passes)}" for stem, each in moved.items())
    return f"Clusters{of} in {' and '.join(named)}; {clustering.sentence}."


def _listed(passes: Sequence[int]) -> str:
    return ", ".join(map(str, passes))


def _finite(embeddings: EmbeddingSet, block: Block, name: str) -> Vectors:
    """The vectors of a block; if one is not finite, the error names all such texts of the set."""
    vectors = block.vectors[name]
    if not np.isfinite(vectors).all():
        check_vectors(embeddings[name], name)
    return vectors


def _joined(parts: Sequence[Any]) -> Any:  # noqa: ANN401 - whichever dataclass of arrays it is given
    kind = type(parts[0])
    return kind(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(kind)))
