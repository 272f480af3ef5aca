"""The clusters of every variant of a set, how far they agree, and how stable they are: what `cluster` gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import plots
from embedsvc.agreement import NOISE, Agreement, Labels, Spread
from embedsvc.clusterers import Reduction
from embedsvc.errors import SettingsError
from embedsvc.results import Columns, Result
from embedsvc.scores import write_scores
from embedsvc.types import Variant
from embedsvc.variants import space

__all__ = ["Cluster", "Clustering", "PassStability", "VariantClusters"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster of one variant.

    Attributes
    ----------
    number : int
        The same number in two variants means matched clusters, see `agreement.match`.
    size : int
    stability : float or None
        Mean over bootstrap resamples of the Jaccard similarity to the most similar cluster found there, 0 to 1;
        None without resamples.
    verdict : str
        `stability` in words, see `agreement.verdict`.
    representatives : tuple of str
        Ids of the texts nearest to the mean of the cluster.
    """

    number: int
    size: int
    stability: float | None
    verdict: str
    representatives: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class VariantClusters:
    """The clusters of one variant.

    Attributes
    ----------
    variant : str
    same_as : str or None
        An earlier variant that is equal bit for bit; the clusters are those.
    labels : ndarray of shape (n,), int32
        -1 is noise.
    clusters : tuple of Cluster
        By number.
    silhouette : float or None
        Mean over a sample of at most 2,000 clustered texts, -1 to 1, in the space of the vectors, noise left out;
        None where it has no value (fewer than two clusters, or every text its own).
    against_labels : Agreement or None
        With the labels of the texts that have one; None if none has.
    """

    variant: str
    same_as: str | None
    labels: Labels
    clusters: tuple[Cluster, ...]
    silhouette: float | None
    against_labels: Agreement | None

    @property
    def n_noise(self) -> int:
        """Texts in no cluster."""
        return int(np.count_nonzero(self.labels == NOISE))


@dataclass(frozen=True, slots=True, eq=False)
class PassStability:
    """What the stochastic passes of one tap and mode do to the clusters of the reference.

    Attributes
    ----------
    stem : str
        ``post_dropout.head`` or, say, ``post_dropout.training``; the pass numbers follow.
    passes : tuple of int
    mask_seed : int
        Of the masks.
    to_reference : Spread
        ARI of each pass with the reference (noise as singletons).
    between : Spread or None
        ARI of every two passes; None with a single pass. For ``post_dropout.head`` it is what the mask alone does.
    stability : mapping of int to float
        For each cluster of the reference, the mean Jaccard similarity to the most similar cluster of a pass.
    flip : ndarray of shape (n,)
        Share of the passes that put each text into another cluster than the reference does, with clusters matched one
        to one (see `agreement.match`); being noise on one side only counts. NaN for texts that were not sampled.
    """

    stem: str
    passes: tuple[int, ...]
    mask_seed: int
    to_reference: Spread
    between: Spread | None
    stability: Mapping[int, float]
    flip: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Clustering(Result):
    """The clusters of every variant, and how far they agree.

    Attributes
    ----------
    method : str
        Name in `CLUSTERERS`.
    sentence : str
        What was done, in words.
    k : int or None
        Clusters asked for; None where the method finds their number.
    k_scores : mapping of int to float
        Silhouette of each candidate where `k` was chosen, else empty.
    variants : tuple of VariantClusters
        The reference first.
    agreements : mapping of (str, str) to Agreement
        For every two variants, in their order.
    passes : tuple of PassStability
    restarts : Spread
        ARI of the reference's clusters with those of other seeds on the same vectors: what the algorithm alone does.
    restart_flip : ndarray of shape (n,)
        `PassStability.flip` of those other starts, on the very vectors of the reference.
    chance : Spread
        ARI of the reference's clusters with themselves under shuffled texts.
    reductions : tuple of Reduction
        The PCA of each space that was too wide for the method.
    n, n_labelled, n_duplicates : int
        Texts; those with a label; those whose reference vector an earlier text has too.
    n_resamples : int
    sampling : str
        What was sampled, in words.
    notes : tuple of str
        What a reader must know.
    seed : int
    ids : tuple of str
    """

    method: str
    sentence: str
    k: int | None
    k_scores: Mapping[int, float]
    variants: tuple[VariantClusters, ...]
    agreements: Mapping[tuple[str, str], Agreement]
    passes: tuple[PassStability, ...]
    restarts: Spread
    restart_flip: NDArray[np.float64] = field(repr=False)
    chance: Spread
    reductions: tuple[Reduction, ...]
    n: int
    n_labelled: int
    n_duplicates: int
    n_resamples: int
    sampling: str
    notes: tuple[str, ...]
    seed: int
    ids: tuple[str, ...] = field(repr=False)

    @property
    def reference(self) -> VariantClusters:
        """What the others are matched to."""
        return self.variants[0]

    def __getitem__(self, variant: str) -> VariantClusters:
        for found in self.variants:
            if found.variant == variant:
                return found
        raise SettingsError(
            f"{variant!r} was not clustered", f"There are: {', '.join(v.variant for v in self.variants)}"
        )

    def expected(self, a: str, b: str) -> Spread | None:
        """ARI that the head's mask alone leaves between two such variants; None where no mask lies between them.

        With `post_dropout` of a stochastic pass on one side it is that of a head pass and the reference, on both sides
        that of two head passes.
        """
        head = next((found for found in self.passes if found.stem == "post_dropout.head"), None)
        if head is None or {space(a), space(b)} != {"pre_dropout"}:
            return None
        masked = [Variant.parse(self._twin(name)) for name in (a, b)]
        masks = sum(variant.tap == "post_dropout" and variant.mode.stochastic for variant in masked)
        return (None, head.to_reference, head.between)[masks]

    def _twin(self, name: str) -> str:
        return self[name].same_as or name

    def write(self, path: str | Path) -> None:
        """Write a Parquet file: ``id``, then a column of cluster numbers for each variant; -1 is noise."""
        columns = {found.variant: found.labels.astype(np.int64) for found in self.variants}
        facts = {"method": self.sentence, "k": self.k, "seed": self.seed, "sampling": self.sampling}
        write_scores(path, self.ids, columns, facts=facts)

    def plot(self, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """ARI between the clusters of every two variants, in brackets what the mask alone leaves.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        names = [found.variant for found in self.variants]
        values, words = np.eye(len(names)), {(at, at): "1.00" for at in range(len(names))}
        for (a, b), found in self.agreements.items():
            alone = self.expected(a, b)
            for at in ((names.index(a), names.index(b)), (names.index(b), names.index(a))):
                values[at] = found.ari
                words[at] = f"{found.ari:.2f}" + ("" if alone is None else f"\n({alone.mean:.2f})")
        side = 3 + 0.7 * len(names)
        figure = plots.canvas((side + 1.5, side), figure)
        axes = plots.matrix(figure, names, values, words)
        axes.set_title(f"ARI of clusters ({self.method}); in brackets: the mask alone", fontsize=10)
        return figure

    def _facts(self) -> dict[str, object]:
        return {"texts": self.n, "method": self.sentence, "reference": self.reference.variant, "seed": self.seed}

    def _table(self) -> Columns:
        """A row for each text: its cluster in each variant."""
        return {"id": self.ids, **{found.variant: found.labels for found in self.variants}}

    def _summary(self) -> Columns:
        """A row for each variant."""
        agreed = [found.against_labels for found in self.variants]
        return {
            "variant": [found.variant for found in self.variants],
            "clusters": [len(found.clusters) for found in self.variants],
            "noise": [found.n_noise for found in self.variants],
            "silhouette": [found.silhouette for found in self.variants],
            "ARI with labels": [None if each is None else each.ari for each in agreed],
        }

    def to_json(self) -> dict[str, Any]:
        """JSON values; the labels of the texts are in the file of `write`."""
        return {
            "method": self.method,
            "sentence": self.sentence,
            "k": self.k,
            "k_scores": {str(k): score for k, score in self.k_scores.items()},
            "n": self.n,
            "n_labelled": self.n_labelled,
            "n_duplicates": self.n_duplicates,
            "n_resamples": self.n_resamples,
            "seed": self.seed,
            "sampling": self.sampling,
            "notes": list(self.notes),
            "reference": self.reference.variant,
            "variants": [
                {
                    "variant": found.variant,
                    "same_as": found.same_as,
                    "n_clusters": len(found.clusters),
                    "n_noise": found.n_noise,
                    "silhouette": found.silhouette,
                    "against_labels": found.against_labels and found.against_labels.to_json(),
                    "clusters": [asdict(each) for each in found.clusters],
                }
                for found in self.variants
            ],
            "agreements": [
                {"a": a, "b": b, **found.to_json(), "dropout_alone": _spread(self.expected(a, b))}
                for (a, b), found in self.agreements.items()
            ],
            "passes": [
                {
                    "stem": found.stem,
                    "passes": list(found.passes),
                    "mask_seed": found.mask_seed,
                    "to_reference": _spread(found.to_reference),
                    "between": _spread(found.between),
                    "stability": {str(number): value for number, value in found.stability.items()},
                    "flip": _mean(found.flip),
                }
                for found in self.passes
            ],
            "restarts": _spread(self.restarts),
            "restart_flip": _mean(self.restart_flip),
            "chance": _spread(self.chance),
            "reductions": [
                {"fitted_on": found.fitted_on, "n_components": found.axes.shape[1], "explained": found.explained}
                for found in self.reductions
            ],
        }


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _spread(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else asdict(spread)
