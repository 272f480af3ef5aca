"""Vectors as JSON: numbers or base64, written outside the event loop where there are many."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

__all__ = ["Encoded", "dumps", "rows"]

Encoded = Literal["float", "base64"]


def rows(vectors: NDArray[np.floating[Any]], encoding: Encoded) -> list[Any]:
    """One JSON value for each vector: an array of numbers, or base64 of little-endian float32 as OpenAI has it.

    Numbers are written with as many digits as float32 needs to be read back bit for bit.
    """
    vectors = np.ascontiguousarray(vectors, dtype="<f4")
    if encoding == "base64":
        return [base64.b64encode(row.tobytes()).decode() for row in vectors]
    # Row by row, so that a large answer does not hold the interpreter lock for long.
    return [orjson.Fragment(_numbers(row)) for row in vectors]


def _numbers(row: NDArray[np.float32]) -> bytes:
    if np.isfinite(row).all():
        return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    # JSON has no NaN and no infinity; a model that gives them is told apart by null.
    return orjson.dumps([value if np.isfinite(value) else None for value in row.tolist()])


def dumps(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """JSON, lone surrogates replaced."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        return orjson.dumps(_valid(value), option=orjson.OPT_SERIALIZE_NUMPY)


def _valid(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_valid(key): _valid(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (bytes, np.ndarray)):
        return [_valid(each) for each in value]
    return value
