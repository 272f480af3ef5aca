"""What a report keeps of a set: every analysis, the evidence taken from them, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import plots
from embedsvc.clusters import Clustering
from embedsvc.comparisons import Comparison
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import SettingsError
from embedsvc.knn import NeighborGraph
from embedsvc.probes import Probe
from embedsvc.projection import Projection
from embedsvc.reporting.evidence import overlaps
from embedsvc.reporting.findings import Beside, Evidence, Verdict
from embedsvc.results import Columns, Result
from embedsvc.variability import Stability

if TYPE_CHECKING:
    from embedsvc.reporting.frame import MapFrame

__all__ = ["Facts", "Report"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Facts:
    """What set the report is of: where it was read, its model, head, mask seed, sources, and texts it holds again."""

    path: str
    model: str
    digest: str
    rate: float
    n_classes: int | None
    masks: str
    mask_seed: int | None
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    n_copies: int

    @classmethod
    def of(cls, embeddings: EmbeddingSet, path: str) -> Facts:
        """Those of a set that was read there."""
        manifest = embeddings.manifest
        return cls(
            path=path,
            model=manifest.model.uri,
            digest=manifest.model.digest[:12],
            rate=manifest.head.rate,
            n_classes=manifest.head.n_classes,
            masks=manifest.model.masks,
            mask_seed=manifest.seed,
            sources=tuple(str(source.get("name")) for source in manifest.sources),
            notes=tuple(manifest.model.notes),
            n_copies=len(embeddings) - len(set(embeddings.texts)),
        )

    @property
    def about_copies(self) -> str:
        """A sentence on texts that are there more than once; empty if none is."""
        if not self.n_copies:
            return ""
        copies = (
            "1 text is a copy of another" if self.n_copies == 1 else f"{self.n_copies:,} texts are copies of others"
        )
        return (
            f"{copies}, word for word. Each is counted, and in inference mode copies are one another's nearest "
            "neighbours. Extract without them if they are no texts of their own."
        )


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
