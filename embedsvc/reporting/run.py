"""Run every analysis of a set once, side by side, and draw the verdict from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from embedsvc import joining
from embedsvc.embeddings import EmbeddingSet, SetOrPath, as_set
from embedsvc.errors import SettingsError
from embedsvc.reporting.analyses import Analyses, Analyzed
from embedsvc.reporting.evidence import gather, overlaps
from embedsvc.reporting.report import Facts, Report
from embedsvc.reporting.topics import topics
from embedsvc.reporting.verdict import verdict
from embedsvc.types import Mode, Variant, check_seed
from embedsvc.variants import OTHER, REFERENCE, choose
from embedsvc.vectors import check_vectors

__all__ = ["report"]

_OF_DROPOUT = ("pre_dropout.inference", "post_dropout.inference", "post_dropout.training.0", "post_dropout.head.0")
_OF_TWO = (*_OF_DROPOUT, f"{OTHER}pre_dropout.inference", f"{OTHER}post_dropout.training.0")
_MOST_VARIANTS = 8  # the work and the matrix grow with the square of their number


def report(
    embeddings: SetOrPath,
    *,
    other: SetOrPath | None = None,
    join: str = "strict",
    variants: Sequence[str] | None = None,
    seed: int = 0,
    k: int = 10,
    passes: int | None = None,
    clusters: int | Literal["auto"] = "auto",
    cluster_method: str = "kmeans",
    map_method: str | None = None,
    told: Callable[[str], object] = lambda step: None,
) -> Report:
    """Compare, cluster, project, measure stability and probe, each once, and draw the verdict.

    Analyses that the set does not allow (no labels, no second variant, a package not installed) are left out, and the
    report says why. Neighbour graphs are computed once a variant: of all texts up to 10,000, above of 1,000 sampled
    ones among all, and of all texts of the variant that a map is fitted on. Analyses run side by side; what they give
    does not depend on that.

    Parameters
    ----------
    embeddings : EmbeddingSet, str or Path
    other : EmbeddingSet, str or Path, optional
        Of the same texts, see `joining.join`; its variants begin with ``other:``.
    join : {"strict", "inner"}
        Whether every text must be in both sets, or those in both are enough.
    variants : sequence of str, optional
        By default the first pass of every tap and mode, at most 8, of two sets those of the dropout alone;
        `pre_dropout.inference` comes first.
    seed : int
        Of everything that is drawn, but the masks of the set.
    k : int
        Neighbours compared; at most a fifth of the texts.
    passes : int, optional
        Head passes drawn for dropout variability; 100 by default, above 5,000 texts 50.
    clusters : int or "auto"
    cluster_method : str
        A name in `CLUSTERERS`.
    map_method : str, optional
        A name in `PROJECTORS`; by default umap where it is installed, else pca.
    told : callable
        Is told the name of each step as it begins.

    Raises
    ------
    SettingsError
        For settings out of range, or fewer than 4 texts.
    UnknownVariantError
        If the set does not hold a variant.
    DegenerateInputError
        For vectors that are not finite.
    """
    embeddings, other = as_set(embeddings), None if other is None else as_set(other)
    check_seed(seed)
    path = embeddings.path.name
    if other is not None:
        path = f"{path} and {other.path.name}"
        embeddings = joining.join(embeddings, other, how=join)
        variants = variants or [name for name in _OF_TWO if name in embeddings]
    n = len(embeddings)
    if n < 4:
        raise SettingsError(f"the set holds {n} texts, expected 4 or more for a report", "Bring more texts.")
    if k < 1:
        raise SettingsError(f"k is {k}, expected 1 or more")
    names = choose(embeddings, variants)
    names = names if variants is not None else names[:_MOST_VARIANTS]
    embeddings = embeddings.keeping()
    for name in names:
        check_vectors(embeddings[name], name)
    k = min(k, max(1, n // 5))  # chance alone would give 20 % of them
    analyses = Analyses(embeddings, names, k=k, seed=seed, told=told)
    made = analyses.run(passes=passes, clusters=clusters, cluster_method=cluster_method, map_method=map_method)
    return _reported(embeddings, made, names, Facts.of(embeddings, path), k, seed)


def _reported(
    embeddings: EmbeddingSet, made: Analyzed, names: tuple[str, ...], facts: Facts, k: int, seed: int
) -> Report:
    compared, clustered = made.comparison, made.clustering
    same = {} if compared is None else compared.identical
    shown = names[:1] if compared is None else (names[0], *(each.variant for each in overlaps(compared, names[0], k)))
    evidence = gather(
        n=len(embeddings),
        k=k,
        reference=names[0],
        comparison=compared,
        clustering=clustered,
        projections=made.projections,
        stability=made.stability,
        probe=made.probe,
        absent=made.absent,
    )
    return Report(
        facts=facts,
        variants=names,
        focus=_focus([name for name in names[1:] if name not in same]),
        comparison=compared,
        clustering=clustered,
        projections=made.projections,
        stability=made.stability,
        probe=made.probe,
        graphs={} if compared is None else {name: made.graphs[name] for name in shown},
        topics={} if clustered is None else topics(embeddings.texts, clustered.reference.labels),
        evidence=evidence,
        verdict=verdict(evidence),
        absent=made.absent,
        ids=embeddings.ids,
        texts=embeddings.texts,
        labels=embeddings.labels,
        k=k,
        seed=seed,
    )


def _focus(others: Sequence[str]) -> str | None:
    """The variant where most is to be seen: another model, training before head, after the dropout before before it."""

    def rank(name: str) -> tuple[bool, bool, bool]:
        variant = Variant.parse(name)
        return name != f"{OTHER}{REFERENCE}", variant.tap != "post_dropout", variant.mode is not Mode.TRAINING

    return min(others, key=rank, default=None)
