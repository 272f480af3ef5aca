"""Files for other programs, made from a finished set. They carry every variant, since their readers draw no masks.

``npz`` holds arrays by name and can be read back as a set; ``csv`` has a row for each text and a column for each
number, ``jsonl`` an object a line. Floats are written in the shortest form that reads back as the same float32.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.arrow import arrow_array
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import StoreError
from embedsvc.registry import Registry
from embedsvc.storage import Place, atomic_file, place
from embedsvc.stored import write_parquet
from embedsvc.types import Block

__all__ = ["FORMATS", "convert", "write_csv", "write_jsonl", "write_npz"]

Format = Callable[[Place, Place], None]  # makes the second path, a file, out of the first, a finished set

_ROWS = 256  # held as text at one time


def convert(source: str | Place, path: str | Place, *, format: str | None = None, overwrite: bool = False) -> None:
    """Write a finished set in another format.

    Parameters
    ----------
    source : str or Place
        Whatever `EmbeddingSet.read` reads.
    path : str or Place
        The file to make; it appears whole or not at all.
    format : str, optional
        A name out of `FORMATS`; the suffix of `path` by default.
    overwrite : bool
        Replace a file that is there, instead of raising.

    Raises
    ------
    UnknownNameError
        If there is no such format.
    StoreError
        If the source is no finished set, the path is taken, or the format cannot hold the texts.
    """
    path = place(path)
    write = FORMATS[format or path.suffix.removeprefix(".")]
    if path.is_dir() or (path.exists() and not overwrite):
        raise StoreError(f"{path} exists already", "Choose another path, or replace the file with overwrite=True.")
    write(place(source), path)


def write_npz(source: Place, path: Place) -> None:
    """One array a column and variant, for ``np.load``: id, text, label, labelled, n_tokens, truncated, then vectors.

    Strings are unicode arrays, as wide as the longest. A text without a label has "" in `label` and False in
    `labelled`; unknown token counts are -1. `manifest` is the manifest's JSON.

    Raises
    ------
    StoreError
        If a string ends in NUL, which numpy drops, or one very long text would blow up the array.
    """
    embeddings = EmbeddingSet.read(source)
    n = len(embeddings)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        manifest = np.array(embeddings.manifest.to_json())
        _write_array(archive, "manifest", manifest.dtype, (), [manifest], zipfile.ZIP_DEFLATED)
        for name in ("id", "text", "label"):
            width = _text_width(embeddings, name, path)
            dtype = np.dtype(f"<U{width}")
            chunks = (np.array([s or "" for s in strings], dtype) for strings in _strings(embeddings, name))
            _write_array(archive, name, dtype, (n,), chunks, zipfile.ZIP_DEFLATED)
        columns: dict[str, tuple[str, Callable[[Block], Any]]] = {
            "labelled": ("|b1", lambda block: [text.label is not None for text in block.texts]),
            "n_tokens": ("<i8", lambda block: block.n_tokens),
            "truncated": ("|b1", lambda block: block.truncated),
        }
        for name, (code, values) in columns.items():
            arrays = (np.asarray(values(block), code) for block in embeddings.iter_blocks([]))
            _write_array(archive, name, np.dtype(code), (n,), arrays)
        for name in embeddings.variants:
            arrays = (np.asarray(block.vectors[name], "<f4") for block in embeddings.iter_blocks([name]))
            _write_array(archive, name, np.dtype("<f4"), (n, embeddings.manifest.width(name)), arrays)


def write_csv(source: Place, path: Place) -> None:
    """A row a text, quoted as RFC 4180 says, lines ending in CRLF, UTF-8.

    Columns: id, text, label, n_tokens, truncated, then ``variant[0]``, ``variant[1]`` … for each variant. An empty
    cell is a missing value, ``""`` an empty string. Cells that begin with ``=`` are data and stay as they are.
    """
    embeddings = EmbeddingSet.read(source)
    widths = {name: embeddings.manifest.width(name) for name in embeddings.variants}
    header = ["id", "text", "label", "n_tokens", "truncated"]
    header += [f"{name}[{at}]" for name, width in widths.items() for at in range(width)]
    with atomic_file(path) as file:
        file.write((",".join(header) + "\r\n").encode())
        for block in embeddings.iter_blocks(rows=_ROWS):
            numbers = [_joined(block.vectors[name]) for name in widths]
            for row, text in enumerate(block.texts):
                n_tokens = block.n_tokens[row]
                cells = [_cell(text.id), _cell(text.text), _cell(text.label)]
                cells += ["" if n_tokens < 0 else str(n_tokens), "true" if block.truncated[row] else "false"]
                file.write((",".join([*cells, *(column[row] for column in numbers)]) + "\r\n").encode())


def write_jsonl(source: Place, path: Place) -> None:
    """An object a line: id, text, label, n_tokens, truncated, and a list of numbers for each variant. UTF-8.

    What is missing is null. Floats that are not finite are the words NaN, Infinity and -Infinity, as Python's `json`
    reads and writes them.
    """
    embeddings = EmbeddingSet.read(source)
    names = {name: json.dumps(name) for name in embeddings.variants}
    with atomic_file(path) as file:
        for block in embeddings.iter_blocks(rows=_ROWS):
            numbers = {key: _joined(block.vectors[name], as_json=True) for name, key in names.items()}
            for row, text in enumerate(block.texts):
                n_tokens = int(block.n_tokens[row])
                plain = {
                    "id": text.id,
                    "text": text.text,
                    "label": text.label,
                    "n_tokens": None if n_tokens < 0 else n_tokens,
                    "truncated": bool(block.truncated[row]),
                }
                start = json.dumps(plain, ensure_ascii=False).removesuffix("}")
                vectors = "".join(f", {key}: [{column[row]}]" for key, column in numbers.items())
                file.write(f"{start}{vectors}}}\n".encode())


def _joined(vectors: NDArray[np.float32], *, as_json: bool = False) -> list[str]:
    """Each row as numbers with commas between them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow writes the shortest decimal that reads back as the same float32, some fifty times faster than numpy.
    words = pc.cast(arrow_array(pa.float32(), vectors.reshape(-1)), pa.string()).to_pylist()
    if as_json and not (np.isfinite(vectors).all() and not np.signbit(vectors[vectors == 0]).any()):
        # JSON's -0 is an integer without a sign to Python.
        special = {"-0": "-0.0", "nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        words = [special.get(word, word) for word in words]
    width = vectors.shape[1]
    return [",".join(words[at : at + width]) for at in range(0, len(words), width)]


def _cell(value: str | None) -> str:
    if value is None:
        return ""
    if value and not any(mark in value for mark in ',"\r\n'):
        return value
    return '"' + value.replace('"', '""') + '"'


def _strings(embeddings: EmbeddingSet, name: str) -> Iterator[Sequence[str | None]]:
    for block in embeddings.iter_blocks([]):
        yield [getattr(text, name) for text in block.texts]


def _text_width(embeddings: EmbeddingSet, name: str, path: Place) -> int:
    """Characters of the widest string, at least 1."""
    width, characters = 1, 0
    for strings in _strings(embeddings, name):
        for string in filter(None, strings):
            width, characters = max(width, len(string)), characters + len(string)
            if string.endswith("\0"):
                raise StoreError(
                    f"{path}: a {name} ends in NUL, which numpy's unicode arrays drop", "Use parquet, jsonl or csv."
                )
    padded = 4 * width * len(embeddings)
    if padded > 2**30 and width * len(embeddings) > 16 * characters:
        raise StoreError(
            f"{path}: the longest {name} has {width} characters, and as an array all {len(embeddings)} would take "
            f"{padded / 2**30:.1f} GiB",
            "Use parquet, jsonl or csv, which hold long texts as they are.",
        )
    return width


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    chunks: Iterator[NDArray[Any]] | list[NDArray[Any]],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write an array that need not fit into memory; the time in the archive is fixed, so that bytes repeat."""
    info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type = compression
    info.external_attr = 0o644 << 16
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    member: IO[bytes]
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(header.getvalue())
        for chunk in chunks:
            member.write(np.ascontiguousarray(chunk).tobytes())


FORMATS: Registry[Format] = Registry(
    "format", {"csv": write_csv, "jsonl": write_jsonl, "npz": write_npz, "parquet": write_parquet}
)
