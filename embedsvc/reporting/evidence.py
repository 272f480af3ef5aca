"""What the verdict rests on, gathered from the results of the analyses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from embedsvc.clusters import Clustering
from embedsvc.comparisons import Comparison
from embedsvc.probes import Probe
from embedsvc.projection import Projection
from embedsvc.reporting.findings import Beside, Clusters, Evidence, Map, Reading
from embedsvc.types import Mode, Variant
from embedsvc.variability import Stability
from embedsvc.variants import space

__all__ = ["gather"]

_CLASSIFIER, _METRIC = "logistic", "accuracy"
_SHAKY = 0.1


def gather(
    *,
    n: int,
    k: int,
    reference: str,
    comparison: Comparison | None,
    clustering: Clustering | None,
    projections: Mapping[str, Projection],
    stability: Stability | None,
    probe: Probe | None,
    absent: Mapping[str, str],
) -> Evidence:
    """The numbers that the rules of the verdict read."""
    basis: dict[str, str] = {}
    if comparison is not None:
        basis["similarity"] = f"{comparison.n:,} texts; {comparison.sampling}; seed {comparison.seed}."
    if clustering is not None:
        passes = "; ".join(f"{len(each.passes)} passes of {each.stem}" for each in clustering.passes)
        resampled = f"{clustering.n_resamples} resamples"
        parts = filter(None, [clustering.sentence, resampled, passes, clustering.sampling])
        basis["clustering"] = f"{clustering.n:,} texts; {'; '.join(parts)}; seed {clustering.seed}."
    if projections:
        basis["visualisation"] = " ".join(dict.fromkeys(each.sampling for each in projections.values()))
    if probe is not None:
        basis["classification"] = (
            f"{probe.n_used:,} labelled texts; {probe.sentence}; {probe.sampling}; seed {probe.seed}."
        )
    return Evidence(
        n=n,
        k=k,
        reference=reference,
        identical={} if comparison is None else comparison.identical,
        overlaps=[] if comparison is None else overlaps(comparison, reference, k),
        clusters=None if clustering is None else _clusters(clustering),
        maps=[_map(each) for each in projections.values()],
        classifier="" if probe is None else f"a logistic regression ({_METRIC})",
        readings=[] if probe is None else _readings(probe),
        near=[] if probe is None else [each for each in _readings(probe, "knn") if each.trained == each.tested],
        n_labelled=0 if probe is None else probe.n_used,
        majority=None if probe is None else probe.baseline(_METRIC),
        flips=_flips(stability),
        absent=absent,
        basis=basis,
    )


def overlaps(comparison: Comparison, reference: str, k: int) -> list[Beside]:
    """Neighbours that each other variant shares with the reference."""
    found = []
    for name in comparison.variants:
        pair = None if name == reference or name in comparison.identical else comparison.pair(reference, name)
        figure = None if pair is None else pair.figures.get(f"knn_overlap_{k}")
        if pair is None or figure is None:
            continue
        encoder = pair.mechanism is not None and not pair.mechanism.whole
        found.append(
            Beside(
                name,
                figure.observed,
                figure.interval.low,
                figure.interval.high,
                figure.expected,
                max(figure.null.high, k / (comparison.n - 1)),
                encoder,
            )
        )
    return found


def _clusters(clustering: Clustering) -> Clusters:
    reference = clustering.reference
    known = [(each.stability, each.size) for each in reference.clusters if each.stability is not None]
    total = sum(size for _, size in known)
    restarts = clustering.restarts
    agreements = []
    for each in clustering.variants[1:]:
        if each.same_as is not None:
            continue
        ari = clustering.agreements[reference.variant, each.variant].ari
        mask = clustering.expected(reference.variant, each.variant)
        stochastic = mask is not None and Variant.parse(each.variant).tap == "post_dropout"
        encoder = mask is not None and Variant.parse(each.variant).mode is Mode.TRAINING
        agreements.append(
            Beside(
                each.variant,
                ari,
                ari,
                ari,
                mask.mean if stochastic and mask is not None else None,
                clustering.chance.high,
                encoder,
                mask.low if stochastic and mask is not None else None,
            )
        )
    return Clusters(
        clustering.method,
        sum(value * size for value, size in known) / total if total else None,
        (restarts.mean, restarts.low) if restarts.n else None,
        agreements,
        {
            each.variant: each.against_labels.ari
            for each in clustering.variants
            if each.against_labels and not each.same_as and Variant.parse(each.variant).mode is Mode.INFERENCE
        },
    )


def _map(projection: Projection) -> Map:
    known = {name: each for name, each in projection.movements.items() if not np.isnan(each.percentile).all()}
    return Map(
        {"pca": "PCA", "umap": "UMAP", "aligned-umap": "AlignedUMAP"}.get(projection.name, projection.name),
        projection.reference,
        projection.quality[projection.reference].trustworthiness,
        {name: float(each.moved.mean()) for name, each in known.items()},
        "texts that had not changed" if projection.control is not None else "the places the mask alone would give them",
    )


def _readings(probe: Probe, classifier: str = _CLASSIFIER) -> list[Reading]:
    found = []
    for trained in probe.variants:
        for tested in probe.variants:
            if {trained, tested} & probe.same_as.keys() or (trained != tested and trained != probe.reference):
                continue
            if space(trained) != space(tested):
                continue
            score = probe.estimate(classifier, _METRIC, trained, tested)
            difference = probe.difference(classifier, _METRIC, trained, tested)
            if score is not None and difference is not None:
                found.append(Reading(trained, tested, score.mean, difference.mean, difference.low, difference.high))
    return found


def _flips(stability: Stability | None) -> tuple[int, float, float] | None:
    if stability is None or stability.head.classes is None:
        return None
    flip = stability.head.classes.class_flip
    return stability.head.passes, float(flip.mean()), float((flip > _SHAKY).mean())
