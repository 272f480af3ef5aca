"""Numbers for each text as a Parquet file: ids, then a column of floats for each score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.arrow import arrow_array
from embedsvc.errors import StoreError
from embedsvc.storage import atomic_file

__all__ = ["write_scores"]


def write_scores(
    path: str | Path, ids: Sequence[str], columns: Mapping[str, NDArray[Any]], *, facts: Mapping[str, Any]
) -> None:
    """Write a column ``id`` and one for each score; the file appears whole or not at all, in place of an older one.

    Parameters
    ----------
    path : str or Path
    ids : sequence of str
    columns : mapping of str to ndarray of shape (n,)
        float32, float64, int64 or bool; a NaN is written as null, since there is no number.
    facts : mapping
        What the numbers are (method, seed, …), JSON values; kept in the file's metadata under ``embedsvc.scores``.

    Raises
    ------
    StoreError
        If the path is a folder, or the disk refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if path.is_dir():
        raise StoreError(f"{path} is a folder, expected the name of a .parquet file")
    arrays = [_strings(ids), *(_numbers(values) for values in columns.values())]
    metadata = {"embedsvc.scores": json.dumps(facts, ensure_ascii=True, sort_keys=True)}
    table = pa.Table.from_arrays(arrays, names=["id", *columns]).replace_schema_metadata(metadata)
    with atomic_file(path) as file:
        pq.write_table(table, file)


def _strings(ids: Sequence[str]) -> Any:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa

    encoded = [text.encode("utf-8", "surrogatepass") for text in ids]
    ends = np.cumsum([0, *map(len, encoded)])
    buffers = [None, pa.py_buffer(ends.astype(np.int64)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(encoded), buffers)


def _numbers(values: NDArray[Any]) -> Any:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa

    if values.dtype == np.bool_:
        bits = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])
    kinds = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64()}
    known = ~np.isnan(values) if values.dtype.kind == "f" else None
    return arrow_array(kinds[values.dtype.name], values, known=known)
