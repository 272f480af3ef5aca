"""One part of a set: how it is written and read, and whether what lies there is it.

A part is a Parquet file of a directory or one row group of a single file. Its footer records the run it belongs to and
the digest of its rows, which is what resuming trusts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedsvc.arrow import METADATA_KEY, columns_of, digest, numpy_values, schema_of, table_of, writer_options
from embedsvc.errors import StoreError
from embedsvc.manifest import Manifest, Part
from embedsvc.storage import ObjectPath, Place, atomic_file, readable
from embedsvc.types import Block

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Done", "Piece", "check_part", "index_of", "part_name", "record_of", "write_part"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Where one part lies: a Parquet file and its row group; the file of a part has one, number 0.

    Attributes
    ----------
    file : Place
    row_group : int
    rows : int or None
        As the manifest has it; None where that is to be found out.
    manifest : Manifest
    """

    file: Place
    row_group: int
    rows: int | None
    manifest: Manifest

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some columns, or all of them.

        Raises
        ------
        StoreError
            If the file is torn or gone, or does not hold what the manifest says.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = columns_of(self.manifest) if columns is None else columns
        try:
            with pq.ParquetFile(readable(self.file), pre_buffer=isinstance(self.file, ObjectPath)) as file:
                table = file.read_row_group(self.row_group, columns=list(names))
        # A damaged name of a column is a UnicodeDecodeError.
        except (OSError, IndexError, UnicodeDecodeError, pa.ArrowException) as error:
            raise self._damaged(f"cannot be read: {error}") from error
        if self.rows not in (None, len(table)):
            raise self._damaged(f"holds {len(table)} rows, the manifest says {self.rows}")
        expected = schema_of(self.manifest, "")
        for name in names:
            found = table.schema.field(name).type if name in table.column_names else "missing"
            if found != expected.field(name).type:
                raise self._damaged(f"does not fit its manifest: {name} is {found}")
        return table

    def _damaged(self, problem: str) -> StoreError:
        return StoreError(f"{self.file} {problem}", "Run the command that wrote it again to make it anew.")


@dataclass(frozen=True, slots=True)
class Done:
    """A part on disk, and what only its rows tell: the tokens read, and how many rows were cut short."""

    part: Part
    tokens: int
    truncated: int


def part_name(index: int) -> str:
    """File name of a part.

    >>> part_name(3)
    'part-00003.parquet'
    """
    return f"part-{index:05}.parquet"


def index_of(name: str) -> int | None:
    """Number of the part of that file name, None if it is no part's."""
    match = re.fullmatch(r"part-(\d{5,})\.parquet", name)
    return int(match[1]) if match and part_name(int(match[1])) == name else None


def write_part(folder: Place, block: Block, manifest: Manifest, *, writer: str = "") -> Done:
    """Put one block into the folder of an unfinished set; when this returns it survives a kill and a power cut.

    Several processes may write parts of one set, the same part too, if each has a name as `writer` (hexadecimal):
    whoever comes last replaces equal bytes.

    Raises
    ------
    StoreError
        If the block does not fit the manifest, or the disk refuses.
    """
    import pyarrow.parquet as pq

    size = manifest.rows_per_part
    if block.offset != block.index * size or len(block.texts) > size:
        raise StoreError(
            f"block {block.index} holds {len(block.texts)} rows from {block.offset} on, "
            f"but parts of {folder} hold {size} rows each"
        )
    table = table_of(block, manifest)
    with atomic_file(folder / part_name(block.index), writer=writer) as file:
        pq.write_table(table, file, row_group_size=max(len(table), 1), **writer_options(manifest))
    return _summary(table, block.index)


def check_part(path: Place, index: int, manifest: Manifest) -> Done | None:
    """The part at a path if it is whole and of this run, else None."""
    try:
        table = Piece(path, 0, None, manifest).read()
        record = json.loads((table.schema.metadata or {})[METADATA_KEY])
        expected = {"part": index, "rows": len(table), "sha256": digest(table), "run": manifest.identity}
    except (StoreError, KeyError, ValueError):
        return None
    return _summary(table, index) if record == expected else None


def record_of(path: Place) -> dict[str, Any] | None:
    """What the footer of a part says of it (part, rows, sha256, run); None if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        record = json.loads((pq.read_schema(readable(path)).metadata or {})[METADATA_KEY])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _summary(table: Any, index: int) -> Done:  # noqa: ANN401 - pyarrow has no types
    record = json.loads(table.schema.metadata[METADATA_KEY])
    return Done(
        Part(part_name(index), len(table), record["sha256"]),
        int(np.maximum(numpy_values(table["n_tokens"]), 0).sum()),
        int(numpy_values(table["truncated"]).sum()),
    )
