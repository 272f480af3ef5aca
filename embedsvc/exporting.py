"""Hand a set to the tools people already have: TensorBoard's projector, FAISS, Embedding Atlas, or plain files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from embedsvc.embeddings import EmbeddingSet, SetOrPath, as_set
from embedsvc.errors import MissingExtraError, SettingsError, StoreError
from embedsvc.formats import convert
from embedsvc.graphs import Graphs
from embedsvc.projection import project
from embedsvc.registry import Registry
from embedsvc.storage import atomic_file
from embedsvc.types import Vectors, check_seed
from embedsvc.variants import choose, reference, space
from embedsvc.vectors import check_vectors, unit_rows

__all__ = ["EXPORTERS", "Exporter", "Order", "export"]

_NEIGHBORS = 10


@dataclass(frozen=True, slots=True)
class Order:
    """What to export, where to.

    Attributes
    ----------
    embeddings : EmbeddingSet
    variants : tuple of str
    path : Path
        A file or, where the tool wants several, a folder.
    seed : int
        Of approximate neighbours and of maps.
    overwrite : bool
    """

    embeddings: EmbeddingSet
    variants: tuple[str, ...]
    path: Path
    seed: int
    overwrite: bool


class Exporter(Protocol):
    """One tool's form."""

    def __call__(self, order: Order, /) -> list[Path]:
        """Write it, and give what was written."""


def export(
    embeddings: SetOrPath,
    to: str,
    path: str | Path,
    *,
    variants: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> list[Path]:
    """Write a set for another tool.

    Parameters
    ----------
    embeddings : EmbeddingSet, str or Path
    to : str
        A name out of `EXPORTERS`. ``tensorboard`` makes a folder for its projector; ``faiss`` an index of cosines for
        each variant, with the ids beside it; ``embedding-atlas`` a Parquet file with a map and neighbours; ``npz``,
        ``csv``, ``jsonl`` and ``parquet`` hold every variant.
    path : str or Path
    variants : sequence of str, optional
        By default the first pass of every tap and mode. The plain files always hold every variant.
    seed : int
    overwrite : bool
        Replace what is there, instead of raising.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    UnknownNameError, UnknownVariantError
        If there is no such tool or variant.
    SettingsError
        If `variants` are given where all are written.
    DegenerateInputError
        For vectors that the tool cannot take: not finite, or zero where cosines are wanted.
    MissingExtraError
        If the library that writes the form is not installed.
    StoreError
        If something is at the path, or the disk refuses.
    """
    embeddings = as_set(embeddings)
    exporter = EXPORTERS[to]
    check_seed(seed)
    path = Path(path)
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists already", "Choose another path, or replace it with --overwrite.")
    names = choose(embeddings) if variants is None else tuple(dict.fromkeys(variants))
    embeddings.iter_blocks(names)  # raises for an unknown name, and reads nothing
    if not names:
        raise SettingsError("no variant was named")
    if variants is not None and exporter in _PLAIN.values():
        raise SettingsError(f"{to} holds every variant of the set, so none can be chosen", "Leave out --variants.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return exporter(Order(embeddings, names, path, seed, overwrite))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}", "Choose another path.") from error


def tensorboard(order: Order) -> list[Path]:
    """A folder that ``tensorboard --logdir`` shows under *Projector*: vectors as TSV, metadata, configuration."""
    order.path.mkdir(exist_ok=True)
    metadata = order.path / "metadata.tsv"
    with atomic_file(metadata) as file:
        file.write(b"id\tlabel\ttext\n")
        for block in order.embeddings.iter_blocks([]):
            for text in block.texts:
                cells = (text.id, text.label or "", text.text)
                file.write(("\t".join(map(_cell, cells)) + "\n").encode("utf-8", "replace"))
    written, entries = [metadata], []
    for name in order.variants:
        vectors = order.path / f"{name}.tsv"
        with atomic_file(vectors) as file:
            for block in order.embeddings.iter_blocks([name]):
                np.savetxt(file, check_vectors(block.vectors[name], name), fmt="%.9g", delimiter="\t")
        shape = f"tensor_shape: {len(order.embeddings)} tensor_shape: {order.embeddings.manifest.width(name)}"
        entries.append(
            f"embeddings {{\n  tensor_name: {json.dumps(name)}\n  tensor_path: {json.dumps(vectors.name)}\n"
            f'  metadata_path: "{metadata.name}"\n  {shape}\n}}\n'
        )
        written.append(vectors)
    config = order.path / "projector_config.pbtxt"
    with atomic_file(config) as file:
        file.write("".join(entries).encode())
    return [*written, config]


def faiss(order: Order) -> list[Path]:
    """An exact index of inner products of unit rows, which are cosines, for each variant; ids by row in JSON beside."""
    try:
        import faiss as library
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise MissingExtraError.of("faiss-cpu", "faiss") from None
    written = []
    for name in order.variants:
        path = order.path if len(order.variants) == 1 else order.path.with_name(f"{order.path.stem}.{name}.faiss")
        if path != order.path and path.exists() and not order.overwrite:
            raise StoreError(f"{path} exists already", "Choose another path, or replace it with --overwrite.")
        vectors = unit_rows(check_vectors(order.embeddings[name], name), name)
        index = library.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        with atomic_file(path) as file:
            file.write(library.serialize_index(index).tobytes())
        written.append(path)
    ids = order.path.with_suffix(".ids.json")
    with atomic_file(ids) as file:
        file.write(json.dumps(list(order.embeddings.ids), ensure_ascii=True).encode())
    return [*written, ids]


def embedding_atlas(order: Order) -> list[Path]:
    """A Parquet file for ``embedding-atlas FILE --text text --x x --y y --neighbors neighbors``.

    `x`, `y` and `neighbors` are those of the first variant, the others' follow under ``x.<variant>`` and so on. All
    variants of a space lie on the map of its reference (PCA). Neighbours are ``{"ids": rows, "distances": cosines}``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    embeddings, names = order.embeddings, order.variants
    columns = {
        "id": pa.array(list(map(_utf8, embeddings.ids))),
        "text": pa.array(list(map(_utf8, embeddings.texts))),
        "label": pa.array([None if label is None else _utf8(label) for label in embeddings.labels], pa.string()),
    }
    places: dict[str, Vectors] = {}
    for tap in dict.fromkeys(map(space, names)):
        same = [name for name in names if space(name) == tap]
        places |= project(embeddings, method="pca", variants=[reference(same[0], same), *same]).coordinates
    k = min(_NEIGHBORS, len(embeddings) - 1)
    graphs = Graphs(embeddings, k, seed=order.seed)
    for at, name in enumerate(names):
        end = f".{name}" if at else ""
        columns[f"x{end}"], columns[f"y{end}"] = (pa.array(np.ascontiguousarray(c)) for c in places[name].T)
        graph = graphs[name]
        ends = pa.array(np.arange(len(embeddings) + 1, dtype=np.int32) * k)
        near = [pa.array(graph.indices.astype(np.int64).ravel()), pa.array(graph.distances.astype(np.float64).ravel())]
        lists = [pa.ListArray.from_arrays(ends, values) for values in near]
        columns[f"neighbors{end}"] = pa.StructArray.from_arrays(lists, names=["ids", "distances"])
    with atomic_file(order.path) as file:
        pq.write_table(pa.table(columns), file)
    return [order.path]


def _plain(name: str) -> Exporter:
    def write(order: Order) -> list[Path]:
        convert(order.embeddings.path, order.path, format=name, overwrite=order.overwrite)
        return [order.path]

    return write


def _cell(text: str) -> str:
    """One cell of a TSV file, which knows no quoting."""
    return " ".join(text.split())


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


_PLAIN = {name: _plain(name) for name in ("csv", "jsonl", "npz", "parquet")}
EXPORTERS: Registry[Exporter] = Registry(
    "exporter", {"tensorboard": tensorboard, "faiss": faiss, "embedding-atlas": embedding_atlas, **_PLAIN}
)
