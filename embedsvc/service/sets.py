"""The stored sets of a service: held in memory, with a map of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from embedsvc import pca
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.projection import Projection, project
from embedsvc.retrieval import default_variants
from embedsvc.service import answers
from embedsvc.service.problems import Problem

__all__ = ["Sets", "Shown"]

_POINTS = 20_000
_CUT = 200  # characters of a text on the map


@dataclass(eq=False)
class Shown:
    """One set.

    Attributes
    ----------
    name : str
    embeddings : EmbeddingSet
        Its stored variants are in memory.
    """

    name: str
    embeddings: EmbeddingSet

    @cached_property
    def axes(self) -> pca.Axes | None:
        """The principal axes its map is drawn along, so that other texts can be placed on it."""
        try:
            return pca.fit_axes(self.embeddings, self.projection.reference) if self.projection else None
        except DegenerateInputError:
            return None

    @cached_property
    def projection(self) -> Projection | None:
        """Its PCA; None where there is none."""
        try:
            names = [name for name in default_variants(self.embeddings) if not name.startswith("logits")]
            return project(self.embeddings, variants=names, quality_texts=500)
        except (DegenerateInputError, SettingsError):
            return None

    def facts(self) -> dict[str, object]:
        """What the list of sets says."""
        manifest = self.embeddings.manifest
        return {
            "name": self.name,
            "texts": len(self.embeddings),
            "variants": list(self.embeddings.variants),
            "model": manifest.model.uri,
            "digest": manifest.model.digest,
            "seed": manifest.seed,
        }

    @cached_property
    def map(self) -> bytes:
        """JSON of the map: coordinates by variant, and which texts move further than the head's mask explains.

        Raises
        ------
        Problem
            If the set has no map.
        """
        projection = self.projection
        if projection is None:
            raise Problem(400, f"the set {self.name} has no map: its vectors span no plane", param="name")
        every = max(1, -(-projection.n // _POINTS))
        rows = slice(None, None, every)
        return answers.dumps(
            {
                "set": self.name,
                "texts_in_all": projection.n,
                "reference": projection.reference,
                "method": projection.to_json()["method"],
                "ids": list(projection.ids[rows]),
                "texts": [text[:_CUT] for text in self.embeddings.texts[rows]],
                "labels": list(self.embeddings.labels[rows]),
                "variants": {name: answers.rows(at[rows], "float") for name, at in projection.coordinates.items()},
                "moved": {name: each.moved[rows].tolist() for name, each in projection.movements.items()},
                "identical": list(projection.identical),
            }
        )


class Sets:
    """All sets that were named at the start.

    Parameters
    ----------
    paths : mapping of str to str
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths
        self._shown: dict[str, Shown] = {}

    def __iter__(self) -> Iterator[Shown]:
        return iter(self._shown.values())

    def load(self) -> None:
        """Read them all.

        Raises
        ------
        StoreError
            For what is no set.
        """
        for name, path in self._paths.items():
            read = EmbeddingSet.read(path)
            held = EmbeddingSet.hold(read.manifest, read.iter_blocks(read.manifest.stored), name=f"the set {name}")
            self._shown[name] = Shown(name, held)
            self._shown[name].axes  # noqa: B018 - now, and not when the first request comes

    def __getitem__(self, name: str | None) -> Shown:
        if name is None and self._shown:
            return next(iter(self._shown.values()))
        if name not in self._shown:
            known = ", ".join(self._shown) or "none: start the service with --set NAME=PATH"
            raise Problem(404, f"there is no set {name!r}", f"Sets: {known}", code="set_not_found", param="set")
        return self._shown[name]
