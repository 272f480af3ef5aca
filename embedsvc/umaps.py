"""UMAP for several variants of the same texts.

Two fits differ more by chance than variants do, `UMAP.transform` moves what has not changed, and a joint fit puts
every variant on an island of its own. So one map is fitted, on the reference, and every other variant is placed on
it: each text at the mean of its nearest reference texts, weighted as UMAP weighs neighbours. That is deterministic and
does not depend on which texts are placed together, but it pulls towards the middle of a neighbourhood. A control shows
how much: the reference itself, jittered by a millionth, placed in the same way.

References
----------
McInnes, Healy & Melville (2018), "UMAP: Uniform manifold approximation and projection", arXiv:1802.03426.
Kobak & Linderman (2021), "Initialization is critical for preserving global data structure in both t-SNE and UMAP",
Nature Biotechnology 39 (doi:10.1038/s41587-020-00809-z): why it begins at the principal axes.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import MissingExtraError, SettingsError
from embedsvc.knn import NeighborGraph, neighbor_graph
from embedsvc.nearest import nearest
from embedsvc.projectors import Layout, Method, Request
from embedsvc.threads import each, silenced
from embedsvc.types import Vectors
from embedsvc.variants import derive
from embedsvc.vectors import check_vectors, unit_rows

__all__ = ["ALIGNED_UMAP", "UMAP", "aligned_umap", "import_umap", "umap"]

_SEARCHED = 5_000  # up to here every reference text is looked at to place another
_JITTER = 1e-6  # of a vector's length: above the rounding of float32, below any dropout
_MAP = {"min_dist": 0.1, "n_epochs": None}  # umap's own defaults, written down as they are recorded
_RECALL_QUERIES = 500
_ALIGNED = {"alignment_regularisation": 1e-2, "alignment_window_size": 3, "n_epochs": 200}
_IMPORT = threading.Lock()

Indices = NDArray[np.int32]
Distances = NDArray[np.float32]


def umap(request: Request) -> Layout:
    """See `Projector`. Holds two variants in memory at a time."""
    library = import_umap()
    points = _points(request, request.reference)
    k = min(request.n_neighbors, len(points) - 1)
    graph = request.graph
    # Among three times as many neighbours those of another vector of the text are found, see `_search`.
    held = k - 1 if len(points) <= _SEARCHED else min(3 * k, len(points) - 1)
    if graph is None or graph.k < held:
        graph = neighbor_graph(points, held, seed=request.seed, name=request.reference)
    near = _with_self(graph.first(k - 1))
    parameters = _allowed(request.parameters, {**_MAP, "init": _start(points)})
    fixed = {
        "n_neighbors": k,
        "metric": "cosine",
        "precomputed_knn": (*near, None),
        "random_state": derive(request.seed, "umap"),
        "n_jobs": 1,  # what a seed means to UMAP anyway
        "disconnection_distance": np.inf,  # else opposite vectors would lose their place
    }
    with _foreign_warnings():
        base = np.ascontiguousarray(_made(library.UMAP, {**parameters, **fixed}).fit(points).embedding_, np.float32)
    search = _search(points, graph.first(held), k)
    coordinates, recalls = {request.reference: base}, []
    for name in request.others:
        placed = _points(request, name)
        found = search(placed)
        coordinates[name] = _barycentres(found, base)
        recalls.append(_recall(points, placed, found[0], request.seed))
    recall = min((each for each in recalls if each is not None), default=None)
    jittered = _barycentres(search(_jittered(points, request.seed)), base)
    control = np.linalg.norm(jittered - base, axis=1).astype(np.float64)
    among = "" if recall is None else f" (found among its own with recall {recall:.3f} or more)"
    epochs = parameters["n_epochs"]
    begun = " from its principal axes" if parameters["init"] == "pca" else ""
    begun += f" in {epochs} epochs" if epochs else ""
    sentence = (
        f"UMAP fitted once on {request.reference}{begun} ({graph.method}); each text of the other variants lies at the "
        f"weighted mean of its nearest reference texts{among}. A displacement counts above the 95th percentile of a "
        "control: the reference jittered by a millionth and placed in the same way. Distances between far groups mean "
        "little."
    )
    told = {**parameters, "n_neighbors": k, "jitter": _JITTER, "placement_recall": recall}
    return Layout(coordinates, told, sentence, control=control)


def aligned_umap(request: Request) -> Layout:
    """See `Projector`. Holds all variants in memory, and fits each: its time grows with their number."""
    library = import_umap()
    names = (request.reference, *request.others)
    points = [_points(request, name) for name in names]
    n = len(points[0])
    # The control stands beside the reference, as the first variant does.
    points.insert(1, _jittered(points[0], request.seed))
    parameters = _allowed(request.parameters, _ALIGNED)
    state = derive(request.seed, "aligned-umap")
    k = min(request.n_neighbors, n - 1)
    fixed = {"n_neighbors": k, "metric": "cosine", "random_state": state, "transform_seed": state}
    with _foreign_warnings():
        model = _made(library.AlignedUMAP, {**parameters, **fixed})
        model.fit(points, relations=[{row: row for row in range(n)}] * (len(points) - 1))
    base, jittered, *others = (np.ascontiguousarray(each, dtype=np.float32) for each in model.embeddings_)
    control = np.linalg.norm(jittered - base, axis=1).astype(np.float64)
    strength = parameters["alignment_regularisation"]
    sentence = (
        f"AlignedUMAP of {', '.join(names)} in this order, alignment strength {strength:g}. How far texts move depends "
        "on its alignment strength: a weaker one moves them more, whatever the vectors. A displacement counts above "
        "the 95th percentile of a control, the reference jittered by a millionth and aligned with it."
    )
    coordinates = dict(zip(names, (base, *others), strict=True))
    return Layout(coordinates, {**parameters, "n_neighbors": k, "jitter": _JITTER}, sentence, control=control)


def import_umap() -> Any:  # noqa: ANN401 - the module has no types
    """The module umap, without TensorFlow: its `parametric_umap`, which imports it, is hidden for the while.

    Raises
    ------
    MissingExtraError
        If umap-learn is not installed.
    """
    hidden = "umap.parametric_umap"
    with _IMPORT, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that ParametricUMAP will be unavailable
        hide = "umap" not in sys.modules and hidden not in sys.modules
        if hide:
            sys.modules[hidden] = None  # type: ignore[assignment] # None makes an import fail
        try:
            import umap
        except ModuleNotFoundError as error:
            if error.name != "umap":
                raise
            raise MissingExtraError.of("umap-learn", "report") from None
        finally:
            if hide:
                del sys.modules[hidden]
        # An epoch touches no Python object, but numba keeps other threads waiting unless it is told. Must come before
        # the first fit, which compiles it. Nothing changes where a version has no such function or numba is off.
        epoch = getattr(umap.layouts, "_nb_optimize_layout_euclidean_single_epoch", None)
        if epoch is not None and hasattr(epoch, "targetoptions") and not epoch.signatures:
            epoch.targetoptions["nogil"] = True
    return umap


def _points(request: Request, name: str) -> Vectors:
    return unit_rows(check_vectors(request.embeddings[name], name), name)


def _start(points: Vectors) -> str:
    """Where UMAP begins, as it names it.

    Beside its own spectral start, principal axes take a tenth of the time, keep neighbourhoods as well after half as
    many epochs and differ less from seed to seed (benchmarks/README.md). Equal or one-dimensional points have none.
    """
    return "pca" if points.shape[1] > 1 and np.ptp(points, axis=0).any() else "random"


def _with_self(graph: NeighborGraph) -> tuple[Indices, Distances]:
    """Neighbours as UMAP wants them: each text first among its own. Copies, since UMAP writes into them."""
    self_first = np.arange(graph.n, dtype=np.int32)[:, None]
    indices = np.concatenate([self_first, graph.indices], axis=1, dtype=np.int32)
    distances = np.concatenate([np.zeros((graph.n, 1)), graph.distances], axis=1, dtype=np.float32)
    return indices, distances


class _Search(Protocol):
    def __call__(self, queries: Vectors, /) -> tuple[Indices, Distances]:
        """The k nearest reference texts of each query, nearest first, by cosine distance."""


def _search(points: Vectors, graph: NeighborGraph, k: int) -> _Search:
    """Search among the reference texts, all of unit length, for what is another vector of each text in their order.

    Of many texts only the reference's own neighbours of a text are looked at, and the text itself: nearly always the
    nearest are among them (the recall is measured), and the search of everything again, for every variant, took
    longer than the map.
    """
    if len(points) <= _SEARCHED:
        return lambda queries: nearest(points, queries, k)
    near = np.concatenate([np.arange(len(points), dtype=np.int32)[:, None], graph.indices], axis=1)

    def search(queries: Vectors) -> tuple[Indices, Distances]:
        indices, distances = np.empty((len(points), k), np.int32), np.empty((len(points), k), np.float32)
        step = max(1, 2_000_000 // near[0].size // points.shape[1])  # 8 MB of neighbours: they are read again

        def look(start: int) -> None:
            cut = slice(start, start + step)
            cosines = np.matmul(points[near[cut]], queries[cut, :, None])[:, :, 0]
            best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            indices[cut] = np.take_along_axis(near[cut], best, axis=1)
            distances[cut] = np.maximum(1.0 - np.take_along_axis(cosines, best, axis=1), 0.0)

        each(look, range(0, len(points), step))
        return indices, distances

    return search


def _recall(points: Vectors, queries: Vectors, found: Indices, seed: int) -> float | None:
    """Share of the true nearest texts that a search found, over 500 of the queries; None where it was exact."""
    if len(points) <= _SEARCHED:
        return None
    rows = np.random.default_rng(derive(seed, "recall")).choice(len(queries), _RECALL_QUERIES, replace=False)
    truth, _ = nearest(points, queries[rows], found.shape[1])
    return float((truth[:, :, None] == found[rows][:, None, :]).any(axis=2).mean())


def _barycentres(found: tuple[Indices, Distances], base: Vectors) -> Vectors:
    """Each text at the mean of its nearest reference texts, weighted by UMAP's strength of membership.

    These are the weights of ``UMAP(transform_mode="graph").transform``, which would search the neighbours itself and
    needs an index that precomputed neighbours do not have.
    """
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    indices, distances = (np.ascontiguousarray(each) for each in found)
    k = float(indices.shape[1])
    with _foreign_warnings():
        sigmas, rhos = smooth_knn_dist(distances, k, local_connectivity=0.0)
        _, _, strengths, _ = compute_membership_strengths(indices, distances, sigmas, rhos, bipartite=True)
    weights = strengths.reshape(indices.shape).astype(np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.ascontiguousarray(np.einsum("nk,nkc->nc", weights, base[indices]), dtype=np.float32)


def _jittered(points: Vectors, seed: int) -> Vectors:
    noise = np.random.default_rng(derive(seed, "jitter")).standard_normal(points.shape, dtype=np.float32)
    return np.asarray(points + noise * np.float32(_JITTER / np.sqrt(points.shape[1])), dtype=np.float32)


def _allowed(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    ours = {"n_neighbors", "metric", "random_state", "transform_seed", "precomputed_knn", "n_components", "n_jobs"}
    taken = sorted(ours & parameters.keys())
    if taken:
        raise SettingsError(
            f"{', '.join(taken)} cannot be among the parameters", "Give n_neighbors and seed as such; the rest is set."
        )
    return {**defaults, **parameters}


def _made(kind: type, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the module has no types
    try:
        return kind(**options)
    except TypeError as error:
        raise SettingsError(f"{kind.__name__} does not take these parameters: {error}") from error


def _foreign_warnings() -> AbstractContextManager[None]:
    """Silence for what umap says of itself: one thread under a seed, no index with precomputed neighbours …"""
    return silenced(module=r"umap\.")


UMAP = Method(umap, metric="cosine", fewest_texts=4, neighborhoods=True, independent=True)
ALIGNED_UMAP = Method(aligned_umap, metric="cosine", fewest_texts=4, neighborhoods=True, independent=False)
