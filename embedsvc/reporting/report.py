"""Run every analysis of a set once, and keep what a report needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedsvc import joining, plots
from embedsvc.clustering import cluster
from embedsvc.clusters import Clustering
from embedsvc.comparison import Comparison, compare
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import EmbedsvcError, MissingExtraError, SettingsError
from embedsvc.knn import Graphs, NeighborGraph, check_vectors
from embedsvc.probes import Probe
from embedsvc.probing import probe
from embedsvc.projection import Projection, project
from embedsvc.reporting.evidence import gather, overlaps
from embedsvc.reporting.findings import Beside, Evidence, Verdict
from embedsvc.reporting.topics import topics
from embedsvc.reporting.verdict import verdict
from embedsvc.results import Columns, Result
from embedsvc.threads import one_thread, silenced
from embedsvc.types import Mode, Variant, check_seed
from embedsvc.uncertainty import stability
from embedsvc.variability import Stability
from embedsvc.variants import OTHER, REFERENCE, choose, derive, reference, space

if TYPE_CHECKING:
    from embedsvc.reporting.frame import MapFrame

__all__ = ["Facts", "Report", "report"]

Floats = NDArray[np.float64]
T = TypeVar("T")

_KS = (10, 50)
_MAP_NEIGHBORS = 15  # UMAP counts the text itself
_ALL_TEXTS = 10_000  # up to here the neighbours of every text are found
_NEIGHBOR_PASSES = 2  # each is a graph of its own
_SAMPLED = 1_000  # above, those of so many texts; as many as `compare` takes of itself
_FEW_LABELS = 2_000  # up to here cross-validation is repeated
_FEW_TEXTS = 5_000  # up to here clusters, classifiers and maps are tested as thoroughly as by their own commands
_PROBED = 3_000
_MANY_EPOCHS = {"umap": {"n_epochs": 100}}  # for many texts: half of UMAP's own keep neighbourhoods as well
_OF_DROPOUT = ("pre_dropout.inference", "post_dropout.inference", "post_dropout.training.0", "post_dropout.head.0")
_OF_TWO = (*_OF_DROPOUT, f"{OTHER}pre_dropout.inference", f"{OTHER}post_dropout.training.0")
_ANALYSES = ("similarity", "clustering", "stability", "classification", "visualisation")
_MOST_VARIANTS = 8  # the work and the matrix grow with the square of their number


@dataclass(frozen=True, slots=True)
class Facts:
    """What set the report is of: where it was read, its model, head, mask seed and sources."""

    path: str
    model: str
    digest: str
    rate: float
    n_classes: int | None
    masks: str
    mask_seed: int | None
    sources: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Report(Result):
    """Everything that was found out about a set, ready to be rendered.

    Attributes
    ----------
    facts : Facts
    variants : tuple of str
        The reference first, identical ones included.
    focus : str or None
        The variant that the page opens with beside the reference; None if there is no other.
    comparison, clustering, stability, probe
        What those functions gave; None if `absent` says why.
    projections : mapping of str to Projection
        By space, see `variants.space`.
    graphs : mapping of str to NeighborGraph
        Of the reference and the variants whose neighbours are compared with it.
    topics : mapping of int to str
        The words that set each cluster of the reference apart.
    verdict : Verdict
    absent : mapping of str to str
        Analyses there are none of, and why.
    ids, texts, labels : tuple
    k, seed : int
        Neighbours compared; seed of everything drawn but the masks of the set.
    """

    facts: Facts
    variants: tuple[str, ...]
    focus: str | None
    comparison: Comparison | None
    clustering: Clustering | None
    projections: Mapping[str, Projection]
    stability: Stability | None
    probe: Probe | None
    graphs: Mapping[str, NeighborGraph]
    topics: Mapping[int, str]
    evidence: Evidence
    verdict: Verdict
    absent: Mapping[str, str]
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str | None, ...]
    k: int
    seed: int

    @property
    def n(self) -> int:
        """Number of texts."""
        return len(self.ids)

    @property
    def reference(self) -> str:
        """What the others are held against."""
        return self.variants[0]

    @property
    def overlaps(self) -> list[Beside]:
        """Neighbours that each other variant shares with the reference."""
        return [] if self.comparison is None else overlaps(self.comparison, self.reference, self.k)

    def excess(self, variant: str) -> Floats | None:
        """Share of each text's k neighbours that a variant loses beyond what the mask alone would, -1 to 1; or None."""
        pair = None if self.comparison is None else self.comparison.pair(self.reference, variant)
        return None if pair is None else pair.scores.get(f"knn_excess_change_{self.k}")

    def change(self, variant: str) -> Floats | None:
        """Share of each text's k neighbours that are others in a variant, 0 to 1; None if it was not compared."""
        pair = None if self.comparison is None else self.comparison.pair(self.reference, variant)
        kept = None if pair is None else pair.scores.get(f"knn_overlap_{self.k}")
        return None if kept is None else 1.0 - kept

    def plot(self, name: str = "maps", *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """One of the figures that the PNG renderer writes.

        Parameters
        ----------
        name : str
            ``"maps"``, ``"change"``, ``"curve"``, ``"groups"``, ``"matrix-cka"`` and so on.
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        from embedsvc.reporting.drawings import drawings

        known = drawings(self)
        if name not in known:
            raise SettingsError(f"the report has no figure {name!r}", f"There are: {', '.join(known)}")
        size, draw = known[name]
        figure = plots.canvas(size, figure)
        draw(figure)
        return figure

    def explore(self, *, height: int = 900) -> MapFrame:
        """The page's two linked maps for a notebook: select, zoom, search; point at a text to read it.

        Parameters
        ----------
        height : int
            Of the frame, in pixels.

        Raises
        ------
        SettingsError
            If there are no maps.
        """
        from embedsvc.reporting.frame import MapFrame

        return MapFrame(self, height)

    def _facts(self) -> dict[str, object]:
        return {"texts": self.n, "model": self.facts.model, "verdict": self.verdict.headline}

    def _table(self) -> Columns:
        """A row for each purpose: what to take, how much it matters, and why."""
        found = self.verdict.findings
        return {
            "purpose": [each.purpose for each in found],
            "take": [each.take for each in found],
            "effect": [str(each.effect) for each in found],
            "why": [" ".join(each.sentences) for each in found],
        }

    def to_json(self) -> dict[str, Any]:
        """JSON values: the verdict, and what each analysis gave."""
        names = ("comparison", "clustering", "stability", "probe")
        parts = {name: getattr(self, name) for name in names}
        return {
            "n": self.n,
            "set": {name: getattr(self.facts, name) for name in Facts.__slots__},
            "variants": list(self.variants),
            "k": self.k,
            "seed": self.seed,
            "verdict": self.verdict.to_json(),
            "absent": dict(self.absent),
            "topics": {str(number): words for number, words in self.topics.items()},
            **{name: part and part.to_json() for name, part in parts.items()},
            "projections": {name: each.to_json() for name, each in self.projections.items()},
        }


def report(
    embeddings: EmbeddingSet,
    *,
    other: EmbeddingSet | None = None,
    join: str = "strict",
    variants: Sequence[str] | None = None,
    seed: int = 0,
    k: int = 10,
    passes: int = 100,
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
    embeddings : EmbeddingSet
    other : EmbeddingSet, optional
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
    passes : int
        Head passes drawn for dropout variability.
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
    ks = tuple(sorted({k, *(each for each in _KS if k < each < n / 2)}))
    work = _Work(embeddings, names, seed, told)
    graphs = work.graphs(min(max(*ks, _MAP_NEIGHBORS - 1), n - 1))
    few = n <= _FEW_TEXTS

    def clustered_then_varied() -> tuple[Clustering | None, Stability | None]:
        clustered = work.attempt(
            "clustering",
            "Clustering",
            lambda: cluster(
                embeddings,
                method=cluster_method,
                k=clusters,
                variants=names,
                n_resamples=20 if few else 10,
                n_passes=10 if few else 5,
                seed=seed,
            ),
        )
        varied = work.attempt(
            "stability",
            "Drawing passes",
            lambda: stability(
                embeddings,
                passes=passes,
                k=k,
                neighbor_passes=_NEIGHBOR_PASSES,
                cluster_passes=0,
                clustering=clustered,
                graphs=graphs,
            ),
        )
        return clustered, varied

    with work.lanes() as lane:
        # The map first: it takes longest, in one thread.
        mapping = lane(lambda: work.projections(map_method, graphs))
        comparing = lane(
            lambda: work.attempt(
                "similarity", "Comparing variants", lambda: _compared(embeddings, names, ks, seed, graphs)
            )
        )
        clustering = lane(clustered_then_varied)
        probing = lane(
            lambda: work.attempt("classification", "Probing labels", lambda: _probed(embeddings, names, seed))
        )
        projections, compared, probed = mapping.result(), comparing.result(), probing.result()
        clustered, varied = clustering.result()
    # In one order, whichever thread was first.
    absent = {name: work.absent[name] for name in _ANALYSES if name in work.absent}
    same = {} if compared is None else compared.identical
    others = [name for name in names[1:] if name not in same]
    focus = _focus(others)
    shown = names[:1] if compared is None else (names[0], *(each.variant for each in overlaps(compared, names[0], k)))
    evidence = gather(
        n=n,
        k=k,
        reference=names[0],
        comparison=compared,
        clustering=clustered,
        projections=projections,
        stability=varied,
        probe=probed,
        absent=absent,
    )
    return Report(
        facts=_facts(embeddings, path),
        variants=names,
        focus=focus,
        comparison=compared,
        clustering=clustered,
        projections=projections,
        stability=varied,
        probe=probed,
        graphs={} if compared is None else {name: graphs[name] for name in shown},
        topics={} if clustered is None else topics(embeddings.texts, clustered.reference.labels),
        evidence=evidence,
        verdict=verdict(evidence),
        absent=absent,
        ids=embeddings.ids,
        texts=embeddings.texts,
        labels=embeddings.labels,
        k=k,
        seed=seed,
    )


class _Work:
    """One run: what is told of it, and what was left out."""

    def __init__(
        self, embeddings: EmbeddingSet, names: tuple[str, ...], seed: int, told: Callable[[str], object]
    ) -> None:
        self.embeddings, self.names, self.seed, self.told = embeddings, names, seed, told
        self.absent: dict[str, str] = {}

    def attempt(self, name: str, step: str, make: Callable[[], T]) -> T | None:
        """What `make` gives, or None and the reason, where it is an error of ours."""
        self.told(step)
        try:
            return make()
        except EmbedsvcError as error:
            self.absent[name] = str(error).replace("\n", ". ")
            return None

    @contextmanager
    def lanes(self) -> Iterator[Callable[[Callable[[], T]], Future[T]]]:
        """Two analyses at a time, each in a thread; what takes a processor for itself leaves the other to the rest.

        What is set for the whole process is set here, around them: two threads would set it back in any order.
        """
        with one_thread(), silenced(module=r"umap\."), ThreadPoolExecutor(2) as pool:
            try:
                yield pool.submit
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # who interrupts a report wants no more begun
                raise

    def graphs(self, k: int) -> Graphs:
        """Neighbours in every variant, found when asked for."""
        n, rows = len(self.embeddings), None
        if n > _ALL_TEXTS:
            rng = np.random.default_rng(derive(self.seed, "report", "queries"))
            rows = np.sort(rng.choice(n, _SAMPLED, replace=False))
        mapped = {reference(name, self.names) for name in self.names}
        return Graphs(self.embeddings, k, seed=self.seed, rows=rows, whole=mapped)

    def projections(self, method: str | None, graphs: Graphs) -> dict[str, Projection]:
        """A map for each space, with the axes of its reference."""
        found = {}
        few = len(self.embeddings) <= _FEW_TEXTS
        for tap in dict.fromkeys(map(space, self.names)):
            same = [name for name in self.names if space(name) == tap]

            def make(chosen: str, same: Sequence[str] = tuple(same)) -> Projection:
                return project(
                    self.embeddings,
                    method=chosen,
                    variants=same,
                    seed=self.seed,
                    n_neighbors=_MAP_NEIGHBORS,
                    quality_texts=3_000 if few else 2_000,
                    parameters={} if few else _MANY_EPOCHS.get(chosen, {}),
                    graphs=graphs,
                )

            where = f"Drawing maps of {reference(same[0], same)}"
            made = self.attempt("visualisation", where, lambda make=make: _either(method, make))  # type: ignore[misc]
            if made is not None:
                found[tap] = made
        if found:
            self.absent.pop("visualisation", None)
        return found


def _either(method: str | None, make: Callable[[str], Projection]) -> Projection:
    if method is not None:
        return make(method)
    try:
        return make("umap")
    except MissingExtraError:
        return make("pca")


def _compared(
    embeddings: EmbeddingSet, names: tuple[str, ...], ks: Sequence[int], seed: int, graphs: Graphs
) -> Comparison:
    if len(names) < 2:
        raise SettingsError(f"the set holds one variant, {names[0]}: there is nothing to compare it with")
    draws = 100 if len(embeddings) <= _FEW_TEXTS else 50  # of a null that spreads the less the more texts there are
    return compare(embeddings, variants=names, ks=ks, n_permutations=draws, seed=seed, graphs=graphs)


def _probed(embeddings: EmbeddingSet, names: tuple[str, ...], seed: int) -> Probe:
    if not any(label is not None for label in embeddings.labels):
        raise SettingsError("no text has a label")
    # Many texts have narrow intervals without shuffling them again, and each repeat took a minute for 20,000.
    labelled = sum(label is not None for label in embeddings.labels)
    few = labelled <= _FEW_LABELS
    return probe(embeddings, variants=names, repeats=4 if few else 1, max_texts=_PROBED, seed=seed)


def _focus(others: Sequence[str]) -> str | None:
    """The variant where most is to be seen: another model, training before head, after the dropout before before it."""

    def rank(name: str) -> tuple[bool, bool, bool]:
        variant = Variant.parse(name)
        return name != f"{OTHER}{REFERENCE}", variant.tap != "post_dropout", variant.mode is not Mode.TRAINING

    return min(others, key=rank, default=None)


def _facts(embeddings: EmbeddingSet, path: str) -> Facts:
    manifest = embeddings.manifest
    return Facts(
        path=path,
        model=manifest.model.uri,
        digest=manifest.model.digest[:12],
        rate=manifest.head.rate,
        n_classes=manifest.head.n_classes,
        masks=manifest.model.masks,
        mask_seed=manifest.seed,
        sources=tuple(str(source.get("name")) for source in manifest.sources),
        notes=tuple(manifest.model.notes),
    )
