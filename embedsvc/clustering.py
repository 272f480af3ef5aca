"""Do clusters depend on the variant: the same clustering of each, how far they agree, and how stable clusters are.

An agreement between two variants means nothing alone. Beside it stand what the head's mask does by itself (clusterings
of several head passes of one `pre_dropout`), what the algorithm does by itself (other starts on the same vectors), and
chance. Everything is clustered and measured in the space of the vectors, or in a PCA of it, never on a 2-D map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.agreement import (
    NOISE,
    Agreement,
    Labels,
    Spread,
    adjusted_rand,
    agreement,
    by_chance,
    clusterwise_jaccard,
    match,
    verdict,
)
from embedsvc.clusterers import CLUSTERERS, Clusterer, Reduction, label, label_each, n_distinct
from embedsvc.clusters import Cluster, Clustering, PassStability, VariantClusters
from embedsvc.embeddings import EmbeddingSet, SetOrPath, as_set
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.types import Mode, Pass, Variant, Vectors, check_seed
from embedsvc.variants import REFERENCE, choose, derive, reference, space
from embedsvc.vectors import check_squares, check_vectors

__all__ = ["cluster"]

_CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20)  # tried by k="auto"
_CHOICE_TEXTS = 2_000  # for each candidate
_SILHOUETTE_TEXTS = 2_000  # all their distances are computed
_STABILITY_TEXTS = 2_000  # of a resample or pass: there are dozens of fits
_RESTARTS = 5
_FIRST_ROWS = 64  # that tell two variants apart before all are compared
_REPRESENTATIVES = 3


def cluster(
    embeddings: SetOrPath,
    *,
    method: str = "kmeans",
    k: int | Literal["auto"] = "auto",
    variants: Sequence[str] | None = None,
    n_resamples: int = 20,
    n_passes: int = 10,
    max_texts: int | None = None,
    seed: int,
) -> Clustering:
    """Cluster every variant alike, and say how far the clusters agree and how stable they are.

    Parameters
    ----------
    embeddings : EmbeddingSet, str or Path
    method : str
        A name in `CLUSTERERS`.
    k : int or "auto"
        Clusters, from 2 to the number of texts. "auto" takes the candidate (2 to 20) with the best silhouette on a
        sample of the reference variant, once for all variants. Must be "auto" where the method finds it itself.
    variants : sequence of str, optional
        See `variants.choose`; the reference is put first.
    n_resamples : int
        Bootstrap resamples for each variant; a text drawn twice counts once, as in Hennig (2007). 0 for none.
    n_passes : int
        Head passes to draw, and stored training passes to use at most. 0 for none.
    max_texts : int, optional
        Of more texts so many are drawn, which clusters are fitted on and the others join, see `clusterers.label`; by
        default, and at most, the `most_texts` of the method.
    seed : int
        Of starts, samples and resamples; every variant gets the same. Masks follow the seed of the set, or this one
        where the set has none.

    Raises
    ------
    UnknownNameError
        If there is no such method.
    UnknownVariantError
        If the set does not hold a variant.
    SettingsError
        For a `k` that does not fit the method or the number of texts.
    DegenerateInputError
        For vectors that are not finite, all equal, or of fewer distinct values than `k`.
    """
    embeddings = as_set(embeddings)
    clusterer = CLUSTERERS[method]
    check_seed(seed)
    names = choose(embeddings, variants)
    _check_settings(clusterer, method, k, len(embeddings), n_resamples, n_passes)
    if max_texts is not None:
        least = max(clusterer.fewest_texts, 2 if isinstance(k, str) else k)
        if max_texts < least:
            raise SettingsError(f"max_texts is {max_texts}, expected {least} or more")
        clusterer = replace(clusterer, most_texts=min(max_texts, clusterer.most_texts or max_texts))
    job = _Job(embeddings, clusterer, names, seed)
    base = job.vectors(names[0])
    k_scores = job.score_candidates(base) if clusterer.needs_k and k == "auto" else {}
    chosen = max(k_scores, key=lambda each: (k_scores[each], -each)) if k_scores else None if k == "auto" else k

    found: list[VariantClusters] = []
    for name in names:
        vectors = base if name == names[0] else job.vectors(name)
        twin = job.twin(name, vectors)
        if twin is not None:
            same = next(each for each in found if each.variant == twin)
            made = VariantClusters(name, twin, same.labels, same.clusters, same.silhouette, same.against_labels)
        else:
            made = job.clusters(name, vectors, chosen, found[0].labels if found else None, n_resamples)
        found.append(made)
    # Two equal variants keep the agreement of the earlier one with the rest.
    pairs: dict[tuple[str, str], Agreement] = {}
    for a, b in combinations(found, 2):
        first, second = (each.same_as or each.variant for each in (a, b))
        known = pairs.get((first, second)) or pairs.get((second, first))
        pairs[a.variant, b.variant] = known or agreement(a.labels, b.labels)
    reference_labels = found[0].labels
    passes = job.passes(base, reference_labels, chosen, n_passes)
    restarts, restart_flip = job.restarts(base, reference_labels, chosen)
    chance = by_chance(reference_labels, seed=derive(seed, "chance"))
    assert chance is not None
    return Clustering(
        method=method,
        sentence=job.sentence(chosen, k_scores),
        k=chosen,
        k_scores=k_scores,
        variants=tuple(found),
        agreements=pairs,
        passes=passes,
        restarts=restarts,
        restart_flip=restart_flip,
        chance=chance,
        reductions=tuple(job.reductions.values()),
        n=len(embeddings),
        n_labelled=int(job.labelled.sum()),
        n_duplicates=len(base) - n_distinct(base),
        n_resamples=n_resamples,
        sampling=job.sampling(n_resamples),
        notes=tuple(job.notes),
        seed=seed,
        ids=embeddings.ids,
    )


class _Job:
    """What one call of `cluster` works with."""

    def __init__(self, embeddings: EmbeddingSet, clusterer: Clusterer, names: tuple[str, ...], seed: int) -> None:
        self.embeddings = embeddings
        self.clusterer = clusterer
        self.names = names
        self.seed = seed
        self.reductions: dict[str, Reduction] = {}
        self._first: dict[bytes, list[str]] = {}
        self.notes: list[str] = []
        known = {value: number for number, value in enumerate(sorted({v for v in embeddings.labels if v is not None}))}
        self.labelled = np.array([value is not None for value in embeddings.labels], dtype=bool)
        self.truth = np.array([NOISE if v is None else known[v] for v in embeddings.labels], dtype=np.int32)
        if known and not self.labelled.all():
            self.notes.append(
                f"{self.labelled.sum():,} of {len(embeddings):,} texts have a label: all were clustered, and the "
                "agreement with labels is over those that have one."
            )

    def vectors(self, name: str) -> Vectors:
        """The vectors of a variant, fit to be clustered."""
        vectors = check_squares(check_vectors(self.embeddings[name], name), name)
        if len(vectors) and (vectors == vectors[0]).all():
            raise DegenerateInputError(
                f"{name}: all {len(vectors)} texts have the same vector, so there is nothing to cluster",
                "Leave this variant out with --variants, or look at what the model does with these texts.",
            )
        return vectors

    def twin(self, name: str, vectors: Vectors) -> str | None:
        """The variant asked about before that has the same vectors, None if there is none."""
        alike = self._first.setdefault(vectors[:_FIRST_ROWS].tobytes(), [])  # nearly always as good as all of them
        same = next((other for other in alike if np.array_equal(self.embeddings[other], vectors)), None)
        if same is None:
            alike.append(name)
        return same

    def space(self, name: str, vectors: Vectors) -> Vectors:
        """The vectors themselves, or their PCA where the method needs fewer dimensions."""
        widest = self.clusterer.widest
        if widest is None or vectors.shape[1] <= widest:
            return vectors
        key = space(name)
        if key not in self.reductions:
            fitted_on = reference(name, self.names)
            base = vectors if fitted_on == name else self.vectors(fitted_on)
            self.reductions[key] = Reduction.fit(base, widest, fitted_on=fitted_on)
        return self.reductions[key].apply(vectors)

    def score_candidates(self, vectors: Vectors) -> dict[int, float]:
        """Silhouette of each candidate for k, on a sample of the reference."""
        rows = self.sample("choice of k", len(vectors), _CHOICE_TEXTS)
        sample = vectors[rows]
        points = self.space(self.names[0], vectors)[rows]
        most = min(len(sample) - 1, n_distinct(sample))
        candidates = [k for k in _CANDIDATES if k <= most]
        fits = label_each(self.clusterer, lambda k: (points, k, self.seed), candidates)
        apart = _distances(sample)
        scores = {k: _silhouette(apart, labels) for k, labels in zip(candidates, fits, strict=True)}
        known = {k: score for k, score in scores.items() if score is not None}
        if not known:
            raise DegenerateInputError(
                f"{len(vectors)} texts are too few to choose a number of clusters", "Give it, for example -k 2."
            )
        return known

    def clusters(
        self, name: str, vectors: Vectors, k: int | None, base: Labels | None, n_resamples: int
    ) -> VariantClusters:
        """Cluster one variant, and measure it."""
        if k is not None and (distinct := n_distinct(vectors)) < k:
            raise DegenerateInputError(
                f"{name}: {len(vectors)} texts have only {distinct} distinct vectors, too few for {k} clusters",
                f"Ask for at most {distinct} clusters, or leave this variant out.",
            )
        points = self.space(name, vectors)
        fit = label(self.clusterer, points, k, seed=self.seed)
        if not fit.converged:
            self.notes.append(f"{name}: the clustering stopped at its limit of iterations, before it had converged.")
        labels = fit.labels if base is None else match(base, fit.labels)
        numbers = [int(number) for number in np.unique(labels[labels != NOISE])]
        stability = self.resampled(points, labels, numbers, k, n_resamples)
        clusters = tuple(
            Cluster(
                number=number,
                size=int(np.count_nonzero(labels == number)),
                stability=stability.get(number),
                verdict=verdict(stability[number]) if number in stability else "unknown",
                representatives=self.representatives(points, np.flatnonzero(labels == number)),
            )
            for number in numbers
        )
        truth = agreement(labels[self.labelled], self.truth[self.labelled]) if self.labelled.any() else None
        return VariantClusters(name, None, labels, clusters, self.silhouette(vectors, labels), truth)

    def resampled(
        self, points: Vectors, labels: Labels, numbers: Sequence[int], k: int | None, n_resamples: int
    ) -> dict[int, float]:
        """Clusterwise stability over bootstrap resamples; the resamples are the same for every variant."""
        drawn = []
        for number in range(n_resamples):
            generator = np.random.default_rng(derive(self.seed, "resample", number))
            # Each text once however often it was drawn: copies would make clusters of their own.
            drawn.append(np.unique(generator.integers(0, len(points), min(len(points), _STABILITY_TEXTS))))
        fits = label_each(self.clusterer, lambda rows: (points[rows], k, self.seed), drawn)
        return _mean_by_cluster(
            numbers,
            [clusterwise_jaccard(labels[rows], again, numbers) for rows, again in zip(drawn, fits, strict=True)],
        )

    def passes(self, pre: Vectors, labels: Labels, k: int | None, n_passes: int) -> tuple[PassStability, ...]:
        """What head passes drawn from the reference, and stored training passes, make of its clusters."""
        if self.names[0] != REFERENCE or not n_passes:
            return ()
        rows = self.sample("passes", len(pre), _STABILITY_TEXTS)
        manifest = self.embeddings.manifest
        mask_seed = self.seed if manifest.seed is None else manifest.seed
        stored: dict[str, list[int]] = {}
        for variant in map(Variant.parse, self.embeddings.variants):
            if variant.mode is Mode.TRAINING and space(str(variant)) == "pre_dropout" and variant.index is not None:
                stored.setdefault(f"{variant.tap}.{variant.mode}", []).append(variant.index)
        keys = self.keys(rows)
        groups = {"post_dropout.head": list(range(n_passes))} | {s: i[:n_passes] for s, i in stored.items()}
        found = []
        for stem, indices in groups.items():

            def task(index: int, stem: str = stem) -> tuple[Vectors, int | None, int]:
                if stem == "post_dropout.head":
                    vectors = manifest.head.post(pre[rows], keys, Pass(Mode.HEAD, index, mask_seed))
                else:
                    vectors = self.vectors(f"{stem}.{index}")[rows]
                return self.space(REFERENCE, vectors), k, self.seed

            drawn = label_each(self.clusterer, task, indices)
            empty = sum(bool((other == NOISE).all()) for other in drawn)
            if empty:
                self.notes.append(
                    f"{empty} of {len(drawn)} passes of {stem} have no cluster at all; two such passes count as equal."
                )
            numbers = [int(number) for number in np.unique(labels[labels != NOISE])]
            to_reference = Spread.of([adjusted_rand(labels[rows], other) for other in drawn])
            assert to_reference is not None
            found.append(
                PassStability(
                    stem=stem,
                    passes=tuple(indices),
                    mask_seed=mask_seed,
                    to_reference=to_reference,
                    between=Spread.of([adjusted_rand(a, b) for a, b in combinations(drawn, 2)]),
                    stability=_mean_by_cluster(
                        numbers, [clusterwise_jaccard(labels[rows], other, numbers) for other in drawn]
                    ),
                    flip=_flips(labels, rows, drawn),
                )
            )
        return tuple(found)

    def restarts(self, vectors: Vectors, labels: Labels, k: int | None) -> tuple[Spread, NDArray[np.float64]]:
        """ARI between fits of the reference that differ in their seed only, and the texts that such fits put elsewhere.

        A method that draws nothing is fitted once: where the fits are of a sample, that alone puts texts elsewhere.
        """
        rows = self.sample("passes", len(vectors), _STABILITY_TEXTS)
        points = self.space(self.names[0], vectors)[rows]
        seeds = [derive(self.seed, "restart", number) for number in range(_RESTARTS if self.clusterer.seeded else 1)]
        fits = label_each(self.clusterer, lambda seed: (points, k, seed), seeds)
        spread = Spread.of([adjusted_rand(a, b) for a, b in combinations(fits, 2)])
        return spread or Spread(1.0, 1.0, 1.0, 0), _flips(labels, rows, fits)

    def silhouette(self, vectors: Vectors, labels: Labels) -> float | None:
        """Mean silhouette of a sample of the clustered texts, None where it has no value."""
        clustered = np.flatnonzero(labels != NOISE)
        rows = clustered[self.sample("silhouette", len(clustered), _SILHOUETTE_TEXTS)]
        return _silhouette(_distances(vectors[rows]), labels[rows]) if len(rows) else None

    def representatives(self, points: Vectors, rows: NDArray[np.intp]) -> tuple[str, ...]:
        """Ids of the texts nearest to the mean of these rows."""
        inside = points[rows].astype(np.float64)
        distances = np.square(inside - inside.mean(axis=0)).sum(axis=1)
        nearest = rows[np.argsort(distances, kind="stable")[:_REPRESENTATIVES]]
        return tuple(self.embeddings.ids[row] for row in nearest)

    def sample(self, purpose: str, n: int, most: int) -> NDArray[np.intp]:
        """Rows in order: all, or so many drawn without replacement."""
        if n <= most:
            return np.arange(n)
        return np.sort(np.random.default_rng(derive(self.seed, purpose)).choice(n, most, replace=False))

    def keys(self, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Row keys of the masks."""
        return masks.row_keys(self.embeddings.ids[row] for row in rows)

    def sentence(self, k: int | None, k_scores: Mapping[int, float]) -> str:
        """What was done."""
        words = [self.clusterer.sentence]
        if k_scores:
            words.append(f"k = {k} by the best silhouette on {self.names[0]} among {', '.join(map(str, k_scores))}")
        elif k is not None:
            words.append(f"k = {k}")
        words += [
            f"on {found.axes.shape[1]} principal components fitted on {found.fitted_on} "
            f"({found.explained:.0%} of its variance)"
            for found in self.reductions.values()
        ]
        return "; ".join(words)

    def sampling(self, n_resamples: int) -> str:
        """What was sampled."""
        n = len(self.embeddings)
        most = self.clusterer.most_texts
        words = []
        if most is not None and n > most:
            joins = "nearest text" if self.clusterer.gives_noise else "nearest centre"
            words.append(f"clusters were fitted on {most:,} of {n:,} texts, the others joined the {joins}")
        if n > _SILHOUETTE_TEXTS:
            words.append(f"the silhouette is over {_SILHOUETTE_TEXTS:,} clustered texts")
        if n > _STABILITY_TEXTS:
            drawn = f"resamples drew {_STABILITY_TEXTS:,} texts; " if n_resamples else ""
            words.append(f"{drawn}passes and restarts were clustered on {_STABILITY_TEXTS:,} texts")
        return "; ".join(words) or f"nothing was sampled: all {n:,} texts"


def _check_settings(clusterer: Clusterer, method: str, k: int | str, n: int, n_resamples: int, n_passes: int) -> None:
    if isinstance(k, str) and k != "auto":
        raise SettingsError(f"k is {k!r}, expected a whole number or 'auto'")
    if not isinstance(k, str) and not clusterer.needs_k:
        raise SettingsError(f"{method} finds the number of clusters itself, so it takes no k", "Leave out -k.")
    if not isinstance(k, str) and not 2 <= k <= n:
        raise SettingsError(f"k is {k}, expected from 2 to the number of texts, which is {n}")
    if n < max(2, clusterer.fewest_texts):
        raise DegenerateInputError(
            f"{method} needs at least {clusterer.fewest_texts} texts, and there are {n}", "Bring more texts."
        )
    for name, value in (("n_resamples", n_resamples), ("n_passes", n_passes)):
        if value < 0:
            raise SettingsError(f"{name} is {value}, expected 0 or more")


def _distances(vectors: Vectors) -> NDArray[np.float64]:
    from sklearn.metrics import pairwise_distances

    # float64: in float32 the distances of near vectors are rounding errors.
    apart: NDArray[np.float64] = pairwise_distances(vectors.astype(np.float64))
    return apart


def _silhouette(apart: NDArray[np.float64], labels: Labels) -> float | None:
    """Mean silhouette of the clustered ones of some texts, by the distances between them; None if it has no value."""
    from sklearn.metrics import silhouette_score

    clustered = np.flatnonzero(labels != NOISE)
    if not 2 <= len(np.unique(labels[clustered])) < len(clustered):
        return None
    some = apart if len(clustered) == len(labels) else apart[np.ix_(clustered, clustered)]
    return float(silhouette_score(some, labels[clustered], metric="precomputed"))


def _flips(labels: Labels, rows: NDArray[np.intp], drawn: Sequence[Labels]) -> NDArray[np.float64]:
    """Share of the drawn clusterings of `rows` that put each text elsewhere, once their clusters are matched."""
    flip = np.full(len(labels), np.nan)
    flip[rows] = np.mean([match(labels[rows], other) != labels[rows] for other in drawn], axis=0)
    return flip


def _mean_by_cluster(numbers: Sequence[int], found: Sequence[NDArray[np.float64]]) -> dict[int, float]:
    """Mean over the resamples that had a text of the cluster; a cluster that never had one is left out."""
    if not found:
        return {}
    values = np.stack(found)
    return {
        number: float(column[~np.isnan(column)].mean())
        for number, column in zip(numbers, values.T, strict=True)
        if not np.isnan(column).all()
    }
