"""Several variants of the same texts on one plane, and how far each text moves from one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import plots
from embedsvc.embeddings import EmbeddingSet, SetOrPath, as_set
from embedsvc.errors import SettingsError
from embedsvc.graphs import Graphs
from embedsvc.map_quality import Quality, quality
from embedsvc.projectors import Layout, Method, Request
from embedsvc.registry import Registry
from embedsvc.results import Columns, Result
from embedsvc.scores import write_scores
from embedsvc.types import Vectors, check_seed
from embedsvc.variants import choose, derive, reference, space
from embedsvc.vectors import unit_rows

__all__ = ["PROJECTORS", "Movement", "Projection", "project"]

PROJECTORS: Registry[Method] = Registry(
    "projector",
    {"pca": "embedsvc.pca:PCA", "umap": "embedsvc.umaps:UMAP", "aligned-umap": "embedsvc.umaps:ALIGNED_UMAP"},
)

Floats = NDArray[np.float64]

_ABOVE = 95.0  # percentile of the control from which on a displacement counts


@dataclass(frozen=True, slots=True, eq=False)
class Movement:
    """How far each text moves on the map from the reference to a variant.

    Attributes
    ----------
    displacement : ndarray of shape (n,)
        In units of the map.
    percentile : ndarray of shape (n,)
        From 0 to 100: share of what happens without a reason that is smaller. On a UMAP, of the control's
        displacements; on a PCA, of the places that the head's mask alone would give this very text (Gaussian, by its
        noise ellipse). NaN where there is neither.
    moved : ndarray of shape (n,), bool
        Whether an arrow may be drawn: the displacement is above the 95th percentile.
    """

    displacement: Floats
    percentile: Floats
    moved: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Projection(Result):
    """What `project` found.

    Attributes
    ----------
    name : str
        Of the projector.
    ids : tuple of str
    reference : str
        The variant the map was fitted on.
    coordinates : mapping of str to ndarray of shape (n, 2), float32
        By variant, the reference first.
    identical : tuple of str
        Variants that are the reference bit for bit, and share its coordinates.
    movements : mapping of str to Movement
        Of the other variants.
    quality : mapping of str to Quality
    noise : ndarray of shape (n, 2, 2), float32, or None
        PCA only: covariance of each text's place under the head's mask; `pca.ellipses` gives axes and angles.
    control : ndarray of shape (n,), float64, or None
        UMAP only: how far each text moves that has not changed.
    seed, n_neighbors : int
        `n_neighbors` is that of the quality, and of the map where the method has one.
    parameters : mapping
        What else decided the map, JSON values.
    method, sampling : str
        What was done, and on how much of the data.
    """

    name: str
    ids: tuple[str, ...]
    reference: str
    coordinates: Mapping[str, Vectors]
    identical: tuple[str, ...]
    movements: Mapping[str, Movement]
    quality: Mapping[str, Quality]
    noise: NDArray[np.float32] | None
    control: Floats | None
    seed: int
    n_neighbors: int
    parameters: Mapping[str, Any]
    method: str
    sampling: str

    @property
    def n(self) -> int:
        """Number of texts."""
        return len(self.ids)

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants, the reference first."""
        return tuple(self.coordinates)

    @property
    def extent(self) -> float:
        """Diagonal of the box around the reference: what displacements are compared with."""
        return float(np.linalg.norm(np.ptp(self.coordinates[self.reference], axis=0)))

    def columns(self) -> dict[str, NDArray[Any]]:
        """``variant.x`` and ``variant.y`` of each variant, and ``.displacement``, ``.percentile`` where it moves."""
        found: dict[str, NDArray[Any]] = {}
        for name, places in self.coordinates.items():
            found |= {f"{name}.x": np.ascontiguousarray(places[:, 0]), f"{name}.y": np.ascontiguousarray(places[:, 1])}
            if name in self.movements:
                movement = self.movements[name]
                found |= {f"{name}.displacement": movement.displacement, f"{name}.percentile": movement.percentile}
        return found

    def write(self, path: str | Path) -> None:
        """Write the coordinates of every text as Parquet, see `write_scores`."""
        facts = {name: value for name, value in self.to_json().items() if name != "variants"}
        write_scores(path, self.ids, self.columns(), facts=facts)

    def plot(
        self,
        variants: Sequence[str] | None = None,
        *,
        color: Sequence[object] | NDArray[Any] | None = None,
        figure: plots.MplFigure = None,
    ) -> plots.MplFigure:
        """Maps of several variants side by side, on the same axes.

        Parameters
        ----------
        variants : sequence of str, optional
            By default the reference and the first two that differ from it.
        color : sequence of shape (n,), optional
            What colours the texts: names (labels, clusters) or numbers (scores).
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        others = [name for name in self.coordinates if name != self.reference and name not in self.identical]
        names = [self.reference, *others[:2]] if variants is None else list(variants)
        for name in names:
            if name not in self.coordinates:
                raise SettingsError(f"{name!r} was not projected", f"There are: {', '.join(self.coordinates)}")
        figure = plots.canvas((1 + 4.2 * len(names), 4.8), figure)
        title = f"{self.name} of {self.n:,} texts, fitted on {self.reference}"
        plots.maps(figure, {name: self.coordinates[name] for name in names}, plots.colored(color, self.n), title)
        return figure

    def _facts(self) -> dict[str, object]:
        return {"method": self.name, "texts": self.n, "fitted on": self.reference, "seed": self.seed}

    def _table(self) -> Columns:
        """A row for each text: the coordinates and movements of `columns`."""
        return {"id": self.ids, **self.columns()}

    def _summary(self) -> Columns:
        """A row for each variant."""
        listed = self.to_json()["variants"]
        return {name.replace("_", " "): [each[name] for each in listed] for name in listed[0]}

    def to_json(self) -> dict[str, Any]:
        """The summary: how well each variant is drawn, and how far its texts move. Coordinates are in `columns`."""
        extent = self.extent
        control = None if self.control is None else float(np.percentile(self.control, _ABOVE))
        listed = []
        for name in self.coordinates:
            kept, movement = self.quality[name], self.movements.get(name)
            known = movement is not None and not np.isnan(movement.percentile).all()
            listed.append(
                {
                    "variant": name,
                    "trustworthiness": kept.trustworthiness,
                    "continuity": kept.continuity,
                    "identical": name == self.reference or name in self.identical,
                    "median_displacement": 0.0 if movement is None else float(np.median(movement.displacement)),
                    "p95_displacement": 0.0 if movement is None else float(np.percentile(movement.displacement, 95)),
                    "moved": float(movement.moved.mean()) if movement is not None and known else None,
                }
            )
        return {
            "name": self.name,
            "n": self.n,
            "reference": self.reference,
            "seed": self.seed,
            "n_neighbors": self.n_neighbors,
            "parameters": dict(self.parameters),
            "extent": extent,
            "control_p95": control,
            "variants": listed,
            "method": self.method,
            "sampling": self.sampling,
        }


def project(
    embeddings: SetOrPath,
    *,
    method: str = "pca",
    variants: Sequence[str] | None = None,
    seed: int = 0,
    n_neighbors: int = 15,
    quality_texts: int = 3_000,
    parameters: Mapping[str, Any] | None = None,
    graphs: Graphs | None = None,
) -> Projection:
    """Comparable coordinates of several variants: a map fitted once, on the reference, and every variant placed on it.

    Parameters
    ----------
    embeddings : EmbeddingSet, str or Path
    method : str
        A name out of `PROJECTORS`: ``pca`` is linear and honest about displacement, ``umap`` shows groups,
        ``aligned-umap`` depends on its alignment strength.
    variants : sequence of str, optional
        By default the first pass of each tap and mode in the space of `pre_dropout`.
    seed : int
        Of the map and of what is sampled. UMAP runs in one thread under it; other versions of its libraries, or
        other hardware, may still draw another map.
    n_neighbors : int
        Size of a neighbourhood, 2 or more, the text itself included; smaller where there are not so many texts.
    quality_texts : int
        Trustworthiness and continuity are those of so many texts at most, 10,000 or less: their time grows with the
        square of the number.
    parameters : mapping, optional
        Options of the library behind the method, as it names them (``{"min_dist": 0.3}``).
    graphs : Graphs, optional
        Neighbour graphs by cosine, if there are any yet.

    Raises
    ------
    SettingsError
        For variants of different spaces, too few texts, or parameters the method does not know.
    UnknownNameError, UnknownVariantError
        If there is no such method or variant.
    DegenerateInputError
        For vectors that have no map: constant, not finite, or zero where cosines are wanted.
    MissingExtraError
        If the library behind the method is not installed.
    """
    embeddings = as_set(embeddings)
    chosen = PROJECTORS[method]
    check_seed(seed)
    n = len(embeddings)
    for name, value, least in (
        ("n_neighbors", n_neighbors, 2),
        ("quality_texts", quality_texts, 1),
        (f"{method}: the number of texts", n, chosen.fewest_texts),
    ):
        if value < least:
            raise SettingsError(f"{name} is {value}, expected {least} or more")
    if quality_texts > 10_000:
        raise SettingsError(f"quality_texts is {quality_texts:,}, expected 10,000 or less")
    names = _names(embeddings, variants)
    base = reference(names[0], names)
    identical = _identical(embeddings, base, [name for name in names if name != base])
    others = tuple(name for name in names if name != base and name not in identical)
    usable = chosen.neighborhoods and graphs is not None and graphs.metric == "cosine"
    graph = graphs.all(base) if usable and graphs is not None else None
    layout = chosen.project(Request(embeddings, base, others, seed, n_neighbors, graph, parameters or {}))
    coordinates = {base: layout.coordinates[base]}
    coordinates |= {name: layout.coordinates[base if name in identical else name] for name in names}
    rows = np.arange(n)
    if n > quality_texts:
        rows = np.sort(np.random.default_rng(derive(seed, "quality")).choice(n, quality_texts, replace=False))
    k = min(n_neighbors, (len(rows) - 1) // 2)
    measured = {
        name: _quality(embeddings, name, coordinates[name], rows, k, chosen.metric)
        for name in coordinates
        if name not in identical
    }
    measured |= dict.fromkeys(identical, measured[base])
    of = f"all {n:,} texts" if len(rows) == n else f"{len(rows):,} sampled of {n:,} texts"
    return Projection(
        method,
        embeddings.ids,
        base,
        coordinates,
        identical,
        {name: _movement(layout, base, name) for name in others},
        measured,
        layout.noise,
        layout.control,
        seed,
        n_neighbors,
        layout.parameters,
        layout.sentence,
        f"Map of all {n:,} texts; trustworthiness and continuity at {k} neighbours of {of}.",
    )


def _names(embeddings: EmbeddingSet, variants: Sequence[str] | None) -> tuple[str, ...]:
    """The variants asked for, all in one space; the reference is first where the space has one."""
    if variants is not None and not variants:
        raise SettingsError("variants is empty, expected at least one")
    names = choose(embeddings, variants)
    wanted = names if variants is None else tuple(variants)
    if variants is not None and len({space(name) for name in wanted}) > 1:
        spaces = ", ".join(f"{name} in that of {space(name)}" for name in wanted)
        raise SettingsError(
            f"the variants lie in different spaces: {spaces}", "A map has the axes of one: project them apart."
        )
    return tuple(name for name in names if space(name) == space(wanted[0]))


def _identical(embeddings: EmbeddingSet, base: str, others: Sequence[str]) -> tuple[str, ...]:
    """Those that are `base` bit for bit; most are known not to be after the first part."""
    listed = embeddings.manifest.identical
    same = [name for name in others if listed.get(name, name) != listed.get(base, base)]
    for block in embeddings.iter_blocks([base, *same]) if same else ():
        same = [name for name in same if np.array_equal(block.vectors[name], block.vectors[base])]
        if not same:
            break
    told = [name for name in others if listed.get(name, name) == listed.get(base, base)]
    return tuple(name for name in others if name in same or name in told)


def _movement(layout: Layout, base: str, name: str) -> Movement:
    step = layout.coordinates[name].astype(np.float64) - layout.coordinates[base]
    displacement = np.linalg.norm(step, axis=1)
    percentile = np.full(len(step), np.nan)
    if layout.control is not None:
        below = np.searchsorted(np.sort(layout.control), displacement, side="left")
        return Movement(displacement, 100.0 * below / len(step), displacement > np.percentile(layout.control, _ABOVE))
    if layout.noise is not None:
        percentile = _within_noise(step, layout.noise.astype(np.float64))
    return Movement(displacement, percentile, percentile > _ABOVE)


def _within_noise(step: Floats, noise: Floats) -> Floats:
    """Percentile of steps under Gaussian noise on a plane: squared Mahalanobis lengths are chi-squared of two degrees.

    NaN where the noise has no area: nothing is dropped there.
    """
    (a, b), (_, d) = noise[:, 0].T, noise[:, 1].T
    area = a * d - b * b
    x, y = step.T
    squared = np.full(len(step), np.nan)
    np.divide(d * x * x - 2 * b * x * y + a * y * y, area, out=squared, where=area > 0)
    return np.asarray(-100.0 * np.expm1(-squared / 2))


def _quality(
    embeddings: EmbeddingSet, name: str, places: Vectors, rows: NDArray[np.int64], k: int, metric: str
) -> Quality:
    vectors = embeddings[name][rows]
    if metric == "cosine":
        vectors = unit_rows(vectors, name)  # their euclidean neighbours are the nearest by cosine
    return quality(vectors, places[rows], k)
