"""The analyses of a report, how thorough each is by the number of texts, and what runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from embedsvc.clustering import cluster
from embedsvc.clusters import Clustering
from embedsvc.comparison import compare
from embedsvc.comparisons import Comparison
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import EmbedsvcError, MissingExtraError, SettingsError
from embedsvc.graphs import Graphs
from embedsvc.probes import Probe
from embedsvc.probing import probe
from embedsvc.projection import Projection, project
from embedsvc.threads import one_thread, silenced
from embedsvc.uncertainty import stability
from embedsvc.variability import Stability
from embedsvc.variants import derive, reference, space

__all__ = ["Analyses", "Analyzed"]

T = TypeVar("T")

_KS = (10, 50)
_MAP_NEIGHBORS = 15  # UMAP counts the text itself
_ALL_TEXTS = 10_000  # up to here the neighbours of every text are found
_NEIGHBOR_PASSES = 2  # each is a graph of its own
_SAMPLED = 1_000  # above, those of so many texts; as many as `compare` takes of itself
_FEW_TEXTS = 5_000  # up to here clusters, classifiers and maps are tested as thoroughly as by their own commands
_TEXTS_A_CLUSTER, _MOST_CLUSTERS = 200, 20  # above, clusters are fitted on so many; no more are tried by k="auto"
_PROBED = 2_000  # above, labelled texts are drawn, and cross-validation is not repeated
_MANY_EPOCHS = {"umap": {"n_epochs": 100}}  # for many texts: half of UMAP's own keep neighbourhoods as well
_IN_ORDER = ("similarity", "clustering", "stability", "classification", "visualisation")


@dataclass(frozen=True, slots=True, eq=False)
class Analyzed:
    """What the analyses gave: None, or for the maps nothing, where `absent` says why."""

    comparison: Comparison | None
    clustering: Clustering | None
    stability: Stability | None
    probe: Probe | None
    projections: Mapping[str, Projection]
    graphs: Graphs
    absent: Mapping[str, str]


class Analyses:
    """Those of one set, over neighbour graphs that they share.

    Parameters
    ----------
    embeddings : EmbeddingSet
    names : tuple of str
        Variants, the reference first.
    k : int
        Neighbours compared.
    seed : int
    told : callable
        Is told the name of each step as it begins.
    """

    def __init__(
        self, embeddings: EmbeddingSet, names: tuple[str, ...], *, k: int, seed: int, told: Callable[[str], object]
    ) -> None:
        n = len(embeddings)
        self.embeddings, self.names, self.k, self.seed, self.told = embeddings, names, k, seed, told
        self.few = n <= _FEW_TEXTS
        self.ks = tuple(sorted({k, *(each for each in _KS if k < each < n / 2)}))
        self.graphs = self._graphs(min(max(*self.ks, _MAP_NEIGHBORS - 1), n - 1))
        self._absent: dict[str, str] = {}

    def run(
        self, *, passes: int | None, clusters: int | Literal["auto"], cluster_method: str, map_method: str | None
    ) -> Analyzed:
        """All of them; an error of ours leaves one out."""

        def clustered_then_varied() -> tuple[Clustering | None, Stability | None]:
            made = self._attempt("clustering", "Clustering", lambda: self._clustering(cluster_method, clusters))
            return made, self._attempt("stability", "Drawing passes", lambda: self._stability(passes, made))

        with _lanes() as lane:
            mapping = lane(lambda: self._projections(map_method))
            comparing = lane(lambda: self._attempt("similarity", "Comparing variants", self._comparison))
            clustering = lane(clustered_then_varied)
            probing = lane(lambda: self._attempt("classification", "Probing labels", self._probe))
            projections, compared, probed = mapping.result(), comparing.result(), probing.result()
            clustered, varied = clustering.result()
        # In one order, whichever thread was first.
        absent = {name: self._absent[name] for name in _IN_ORDER if name in self._absent}
        return Analyzed(compared, clustered, varied, probed, projections, self.graphs, absent)

    def _attempt(self, name: str, step: str, make: Callable[[], T]) -> T | None:
        """What `make` gives, or None and the reason, where it is an error of ours."""
        self.told(step)
        try:
            return make()
        except EmbedsvcError as error:
            self._absent[name] = str(error).replace("\n", ". ")
            return None

    def _graphs(self, k: int) -> Graphs:
        """Neighbours in every variant, found when asked for."""
        n, rows = len(self.embeddings), None
        if n > _ALL_TEXTS:
            rng = np.random.default_rng(derive(self.seed, "report", "queries"))
            rows = np.sort(rng.choice(n, _SAMPLED, replace=False))
        mapped = {reference(name, self.names) for name in self.names}
        return Graphs(self.embeddings, k, seed=self.seed, rows=rows, whole=mapped)

    def _comparison(self) -> Comparison:
        if len(self.names) < 2:
            raise SettingsError(f"the set holds one variant, {self.names[0]}: there is nothing to compare it with")
        draws = 100 if self.few else 50  # of a null that spreads the less the more texts there are
        return compare(
            self.embeddings,
            variants=self.names,
            ks=self.ks,
            n_permutations=draws,
            seed=self.seed,
            graphs=self.graphs,
        )

    def _clustering(self, method: str, k: int | Literal["auto"]) -> Clustering:
        return cluster(
            self.embeddings,
            method=method,
            k=k,
            variants=self.names,
            n_resamples=20 if self.few else 5,
            n_passes=10 if self.few else 5,
            max_texts=None if self.few else _TEXTS_A_CLUSTER * (_MOST_CLUSTERS if isinstance(k, str) else k),
            seed=self.seed,
        )

    def _stability(self, passes: int | None, clustering: Clustering | None) -> Stability:
        if passes is None:
            passes = 100 if self.few else 50
        return stability(
            self.embeddings,
            passes=passes,
            k=self.k,
            neighbor_passes=_NEIGHBOR_PASSES,
            cluster_passes=0,
            clustering=clustering,
            graphs=self.graphs,
        )

    def _probe(self) -> Probe:
        labelled = sum(label is not None for label in self.embeddings.labels)
        if not labelled:
            raise SettingsError("no text has a label")
        # Many texts have narrow intervals without shuffling them again, and each repeat took a minute for 20,000.
        repeats = 4 if labelled <= _PROBED else 1
        return probe(self.embeddings, variants=self.names, repeats=repeats, max_texts=_PROBED, seed=self.seed)

    def _projections(self, method: str | None) -> dict[str, Projection]:
        """A map for each space, with the axes of its reference."""
        found = {}
        for tap in dict.fromkeys(map(space, self.names)):
            same = [name for name in self.names if space(name) == tap]
            where = f"Drawing maps of {reference(same[0], same)}"
            made = self._attempt("visualisation", where, lambda same=same: self._map(method, same))  # type: ignore[misc]
            if made is not None:
                found[tap] = made
        if found:
            self._absent.pop("visualisation", None)
        return found

    def _map(self, method: str | None, variants: Sequence[str]) -> Projection:
        def make(chosen: str) -> Projection:
            return project(
                self.embeddings,
                method=chosen,
                variants=variants,
                seed=self.seed,
                n_neighbors=_MAP_NEIGHBORS,
                quality_texts=3_000 if self.few else 2_000,
                parameters={} if self.few else _MANY_EPOCHS.get(chosen, {}),
                graphs=self.graphs,
            )

        if method is not None:
            return make(method)
        try:
            return make("umap")
        except MissingExtraError:
            return make("pca")


@contextmanager
def _lanes() -> Iterator[Callable[[Callable[[], T]], Future[T]]]:
    """All analyses at once, each in a thread: what waits for a lock or runs Python leaves the processors to the rest.

    What is set for the whole process is set here, around them: two threads would set it back in any order.
    """
    with one_thread(), silenced(module=r"umap\."), ThreadPoolExecutor(4) as pool:
        try:
            yield pool.submit
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # who interrupts a report wants no more begun
            raise
