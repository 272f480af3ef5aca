"""The nearest texts of one text in each variant, side by side: which neighbours dropout costs, and which it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedsvc import plots
from embedsvc.colors import BLUE, GREY, RED
from embedsvc.comparison import DEFAULT_VARIANTS
from embedsvc.embeddings import EmbeddingSet, SetOrPath, as_set
from embedsvc.errors import ModelError, SettingsError, did_you_mean
from embedsvc.knn import Metric, neighbor_graph
from embedsvc.results import Columns, Result
from embedsvc.types import Pass, Text, Variant, Vectors
from embedsvc.variants import REFERENCE

if TYPE_CHECKING:
    from embedsvc.models.base import LoadOptions

__all__ = ["QUERY_ID", "Hit", "Retrieval", "default_variants", "neighbors"]

QUERY_ID = "query"  # the id under which a text that is not in the set gets its masks


@dataclass(frozen=True, slots=True)
class Hit:
    """One near text.

    Attributes
    ----------
    rank : int
        From 1. Of a lost text: its rank in the reference.
    id, text, label
    distance : float
        In the variant it is listed for; 1 - cos by default. Of a lost text: in the reference.
    mark : {"kept", "gained", "lost"}
        Beside the k nearest of the reference.
    """

    rank: int
    id: str
    text: str
    label: str | None
    distance: float
    mark: Literal["kept", "gained", "lost"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Retrieval(Result):
    """What is near a text, variant by variant.

    Attributes
    ----------
    query : Text
        A member of the set, or a text encoded for the purpose.
    reference : str
        What kept, gained and lost refer to: the first variant.
    hits, lost : mapping of str to tuple of Hit
        By variant: the k nearest, nearest first; and those of the reference that are not among them.
    k, n : int
        Neighbours, and texts searched.
    metric : {"cosine", "euclidean"}
    seed : int or None
        Of the set's masks.
    sampling, method : str
    """

    query: Text
    reference: str
    hits: Mapping[str, tuple[Hit, ...]]
    lost: Mapping[str, tuple[Hit, ...]]
    k: int
    n: int
    metric: Metric
    seed: int | None
    sampling: str
    method: str

    def plot(self, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """Distances of the nearest texts, a row for each variant: kept ones blue, gained ones red, lost ones hollow.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        figure = plots.canvas((8, 1.2 + 0.35 * len(self.hits)), figure)
        axes = figure.subplots()
        for at, (name, hits) in enumerate(self.hits.items()):
            for hit in hits:
                axes.plot(hit.distance, at, "o", color=BLUE if hit.mark == "kept" else RED, markersize=6, alpha=0.8)
            for hit in self.lost[name]:
                axes.plot(hit.distance, at, "o", color=GREY, markersize=6, fillstyle="none")
        axes.set_yticks(range(len(self.hits)), list(self.hits), fontsize=8)
        axes.set_ylim(len(self.hits) - 0.5, -0.5)
        axes.set_xlabel(
            f"{self.metric} distance of the {self.k} nearest; hollow: lost ones, as far as in {self.reference}"
        )
        plots.clean(axes)
        return figure

    def _facts(self) -> dict[str, object]:
        return {"query": self.query.text, "k": self.k, "texts": self.n, "reference": self.reference}

    def _table(self) -> Columns:
        """A row for each near text of each variant, the lost ones after the kept and gained."""
        rows = [(name, hit) for name, hits in self.hits.items() for hit in (*hits, *self.lost[name])]
        fields = ("mark", "rank", "distance", "id", "label", "text")
        return {
            "variant": [name for name, _ in rows],
            **{field: [getattr(hit, field) for _, hit in rows] for field in fields},
        }

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "query": asdict(self.query),
            "reference": self.reference,
            "k": self.k,
            "n": self.n,
            "metric": self.metric,
            "seed": self.seed,
            "sampling": self.sampling,
            "method": self.method,
            "variants": {
                name: {"hits": [asdict(hit) for hit in hits], "lost": [asdict(hit) for hit in self.lost[name]]}
                for name, hits in self.hits.items()
            },
        }


def neighbors(
    embeddings: SetOrPath,
    *,
    text: str | None = None,
    id: str | None = None,
    k: int = 10,
    variants: Sequence[str] | None = None,
    metric: Metric = "cosine",
    load_options: LoadOptions | None = None,
    encoded: Mapping[str, Vectors] | None = None,
) -> Retrieval:
    """The nearest texts of a member of the set, or of any text, in each variant.

    Parameters
    ----------
    embeddings : EmbeddingSet, str or Path
    text : str, optional
        Encoded by the model of the set, under the id "query"; this loads the model.
    id : str, optional
        Of a text of the set. Exactly one of the two is needed.
    k : int
    variants : sequence of str, optional
        By default one of each kind that the set holds. The first is the reference, `pre_dropout.inference` by default.
    metric : {"cosine", "euclidean"}
    load_options : LoadOptions, optional
        What the model needs to load again, as it was given to `extract`.
    encoded : mapping of str to ndarray of shape (1, width), float32, optional
        Vectors of `text` by variant, under the id "query", where they are known: then no model is loaded.

    Raises
    ------
    SettingsError
        For neither or both of text and id, an id that is not there, or too few texts for k.
    ModelError
        If the model that loads is not that of the set.
    UnknownVariantError, DegenerateInputError
    """
    embeddings = as_set(embeddings)
    if (text is None) == (id is None):
        raise SettingsError("expected a text or an id, and not both", 'Give "some text", or --id ID.')
    if text is not None and not text.strip():
        raise SettingsError("the text is empty", 'Give "some text", or --id ID.')
    names = default_variants(embeddings) if variants is None else tuple(dict.fromkeys(variants))
    if not names:
        raise SettingsError("no variant was named")
    embeddings.iter_blocks(names)  # raises for an unknown name, and reads nothing
    n = len(embeddings)
    if text is None:
        assert id is not None
        row, query = _member(embeddings, id)
        added: Mapping[str, Vectors] = {}
    else:
        row, query = n, Text(QUERY_ID, text)
        added = _encoded(embeddings, query, names, load_options) if encoded is None else encoded
    found: dict[str, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}
    for name in names:
        vectors = embeddings[name]
        if name in added:
            vectors = np.concatenate([vectors, added[name]])
        graph = neighbor_graph(vectors, k, metric=metric, rows=np.array([row]), name=name)
        found[name] = graph.indices[0], graph.distances[0]
    reference = found[names[0]]
    kept = set(reference[0].tolist())
    ids, texts, labels = embeddings.ids, embeddings.texts, embeddings.labels

    def hit(rank: int, at: int, distance: float, mark: Literal["kept", "gained", "lost"]) -> Hit:
        return Hit(rank, ids[at], texts[at], labels[at], float(distance), mark)

    hits = {
        name: tuple(
            hit(rank, at, distance, "kept" if at in kept else "gained")
            for rank, (at, distance) in enumerate(zip(rows.tolist(), distances, strict=True), 1)
        )
        for name, (rows, distances) in found.items()
    }
    lost = {
        name: tuple(
            hit(rank, at, distance, "lost")
            for rank, (at, distance) in enumerate(zip(reference[0].tolist(), reference[1], strict=True), 1)
            if at not in set(rows.tolist())
        )
        for name, (rows, _) in found.items()
    }
    return Retrieval(
        query=query,
        reference=names[0],
        hits=hits,
        lost=lost,
        k=k,
        n=n,
        metric=metric,
        seed=embeddings.manifest.seed,
        sampling=f"all {n:,} texts",
        method=f"exact {metric} neighbours; kept, gained and lost beside the {k} nearest in {names[0]}",
    )


def default_variants(embeddings: EmbeddingSet) -> tuple[str, ...]:
    """One variant of each kind that the set holds, the reference first."""
    same = embeddings.manifest.identical
    names = [name for name in DEFAULT_VARIANTS if name in embeddings.variants and name not in same]
    # One pass of each: more of them say the same about one text.
    first = {Variant.parse(name).kind: name for name in reversed(names)}
    chosen = tuple(reversed(first.values())) or embeddings.variants[:4]
    return (REFERENCE, *(name for name in chosen if name != REFERENCE)) if REFERENCE in embeddings else chosen


def _member(embeddings: EmbeddingSet, text_id: str) -> tuple[int, Text]:
    try:
        row = embeddings.ids.index(text_id)
    except ValueError:
        guess = did_you_mean(text_id, embeddings.ids[:10_000])
        raise SettingsError(
            f"{embeddings.path} holds no text with the id {text_id!r}",
            f"{guess}Its ids look like {', '.join(map(repr, embeddings.ids[:3]))}.",
        ) from None
    return row, Text(text_id, embeddings.texts[row], embeddings.labels[row])


def _encoded(
    embeddings: EmbeddingSet, query: Text, names: Sequence[str], options: LoadOptions | None
) -> dict[str, Vectors]:
    """The query's vector in each variant, shape (1, width)."""
    from dataclasses import replace

    from embedsvc.batching import OnLong
    from embedsvc.models.base import LoadOptions, forward
    from embedsvc.models.load import load_model

    manifest = embeddings.manifest
    options = options or LoadOptions()
    if options.rate is None:
        # The rate may have been given to `extract`, and the set knows it.
        options = replace(options, rate=manifest.head.rate)
    encoder = load_model(manifest.model.uri, options)
    if encoder.spec.digest != manifest.model.digest:
        raise ModelError(
            f"{manifest.model.uri} is not the model of this set: its digest is {encoder.spec.digest[:12]}, "
            f"the set was made with {manifest.model.digest[:12]}",
            "Bring back the weights it was made with, give the options it was loaded with, or extract again.",
        )
    vectors = {}
    for name in names:
        variant = Variant.parse(name)
        pass_ = Pass(variant.mode, variant.index, manifest.seed if variant.mode.stochastic else None)
        made = forward(
            encoder,
            [query],
            taps=[variant.tap],
            pass_=pass_,
            max_tokens=manifest.max_tokens,
            on_long=OnLong(manifest.on_long),
        )
        vectors[name] = made.vectors[variant.tap]
    return vectors
