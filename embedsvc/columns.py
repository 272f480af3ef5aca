"""Where the columns of a set come from, part by part: its Parquet files, an ``.npz`` made of them, or memory."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedsvc.arrow import columns_of, numpy_values
from embedsvc.errors import StoreError
from embedsvc.manifest import Manifest
from embedsvc.parts import Piece
from embedsvc.types import Block

__all__ = ["Arrays", "Held", "Parquet", "Source"]

# An array that unpacks to more than this many bytes, and to so many times its size in the archive, is no text.
_ROOM = 2**30
_SQUEEZED = 256


class Source(Protocol):
    """Where columns come from, part by part."""

    @property
    def columns(self) -> frozenset[str]:
        """Names of what can be read."""

    @property
    def sizes(self) -> Sequence[int]:
        """Rows of each part."""

    def part(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """Columns of one part: lists of str or None, or arrays."""


class Parquet:
    """Parts of a folder or file that `extract` wrote."""

    def __init__(self, manifest: Manifest, pieces: Sequence[Piece]) -> None:
        self.columns = frozenset(columns_of(manifest))
        self.sizes = tuple(piece.rows or 0 for piece in pieces)  # `pieces_of` knows them all
        self._pieces = pieces

    def part(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """See `Source`."""
        table = self._pieces[number].read(list(columns))
        strings = ("id", "text", "label")
        return {name: table[name].to_pylist() if name in strings else numpy_values(table[name]) for name in columns}


class Held:
    """Blocks in memory."""

    def __init__(self, manifest: Manifest, blocks: Iterable[Block]) -> None:
        self._blocks = tuple(blocks)
        self.columns = frozenset(columns_of(manifest))
        self.sizes = tuple(len(block.texts) for block in self._blocks)

    def part(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """See `Source`."""
        block = self._blocks[number]
        plain: dict[str, Callable[[], Any]] = {
            "id": lambda: [text.id for text in block.texts],
            "text": lambda: [text.text for text in block.texts],
            "label": lambda: [text.label for text in block.texts],
            "n_tokens": lambda: block.n_tokens,
            "truncated": lambda: block.truncated,
        }
        return {name: plain[name]() if name in plain else block.vectors[name] for name in columns}


class Arrays:
    """An ``.npz`` of `formats.write_npz`: vectors lie in it as they are, so they are mapped instead of read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded: dict[str, NDArray[Any]] = {}
        with self._errors(), zipfile.ZipFile(path) as file:
            self._members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
            if "manifest" not in self._members:
                raise StoreError(f"{path} was not written by embedsvc: it holds no manifest", "Choose another path.")
        self.manifest = Manifest.from_json(str(self._array("manifest")), origin=str(path))
        size, rows = self.manifest.rows_per_part, len(self._array("truncated"))
        # The parts of the set it was made from, so that whatever is drawn comes out the same.
        self.sizes = tuple(min(size, rows - start) for start in range(0, rows, size))
        self.columns = frozenset(self._members)
        kinds = {"id": "U", "text": "U", "label": "U", "labelled": "b1", "n_tokens": "i8", "truncated": "b1"}
        stored = (*self.manifest.stored, *self.columns.intersection(self.manifest.variants))
        expected = {name: (kind, (rows,)) for name, kind in kinds.items()} | {
            name: ("f4", (rows, self.manifest.width(name))) for name in stored
        }
        for name, (kind, shape) in expected.items():
            array = self._array(name) if name in self._members else None
            if array is None or array.shape != shape or not array.dtype.str[1:].startswith(kind):
                found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
                raise StoreError(f"{path} is damaged: {name} is {found}, expected shape {shape}", "Make it again.")

    def part(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """See `Source`."""
        start = number * self.manifest.rows_per_part
        rows = slice(start, start + self.sizes[number])
        values: dict[str, Any] = {}
        for name in columns:
            # A copy, since a mapped array need not be aligned, and changes must not reach the file.
            array = np.array(self._array(name)[rows])
            values[name] = array.tolist() if array.dtype.kind == "U" else array
        if "label" in values:
            known = self._array("labelled")[rows]
            values["label"] = [label if there else None for label, there in zip(values["label"], known, strict=True)]
        return values

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self._loaded:
            with self._errors():
                self._loaded[name] = self._open(self._members[name])
        return self._loaded[name]

    def _open(self, info: zipfile.ZipInfo) -> NDArray[Any]:
        if info.file_size > _ROOM and info.file_size > _SQUEEZED * info.compress_size:
            raise ValueError(f"{info.filename} unpacks to {info.file_size:,} bytes, over {_SQUEEZED} times its size")
        if info.compress_type != zipfile.ZIP_STORED or not info.file_size:
            with np.load(self._path, allow_pickle=False) as file:
                array: NDArray[Any] = file[info.filename.removesuffix(".npy")]
                return array
        with open(self._path, "rb") as file:
            file.seek(info.header_offset)
            local = struct.unpack("<4s22xHH", file.read(30))
            file.seek(local[1] + local[2], os.SEEK_CUR)
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{info.filename} is of npy version {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject:
                raise ValueError(f"{info.filename} holds pickled objects")
            if 0 in shape:
                return np.empty(shape, dtype)
            return np.memmap(self._path, dtype, "r", offset=file.tell(), shape=shape)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, struct.error, zipfile.BadZipFile) as error:
            raise StoreError(
                f"{self._path} cannot be read: {error}", "It is torn or was not written by embedsvc: make it again."
            ) from error
