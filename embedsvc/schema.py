"""What the JSON of a manifest looks like: read without trust, each field there, of its type, and no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from embedsvc.errors import StoreError

__all__ = ["FORMAT", "LISTED", "SCHEMA", "damaged", "read"]

FORMAT = "embedsvc"
SCHEMA = 1
# Fields that follow from the others, for readers without embedsvc.
LISTED: dict[str, Any] = {"format": str, "schema": int, "columns": list, "identical": dict}

_NUMBER = (int, float)
_MAYBE_INT = (int, type(None))
_MODEL_SHAPE: dict[str, Any] = {
    "uri": str,
    "digest": str,
    "vocab_digest": str,
    "max_tokens": _MAYBE_INT,
    "taps": dict,
    "sites": list,
    "masks": str,
    "special_tokens": int,
    "notes": list,
}
_HEAD_SHAPE: dict[str, Any] = {
    "rate": _NUMBER,
    "kernel": (dict, type(None)),
    "bias": (dict, type(None)),
    "classes": list,
}
_SHAPE: dict[str, Any] = {
    "model": dict,
    "head": dict,
    "taps": list,
    "modes": list,
    "passes": int,
    "seed": _MAYBE_INT,
    "max_tokens": _MAYBE_INT,
    "on_long": str,
    "precision": str,
    "token_budget": int,
    "rows_per_part": int,
    "engine": str,
    "sources": list,
    "versions": dict,
    "mask_version": int,
    "complete": bool,
    "rows": _MAYBE_INT,
    "tokens": _MAYBE_INT,
    "truncated": _MAYBE_INT,
    "rejected": _MAYBE_INT,
    "parts": list,
}
_ITEM_SHAPES: dict[str, Any] = {
    "sites": {"path": str, "rate": _NUMBER, "modes": list, "kind": str},
    "parts": {"name": str, "rows": int, "sha256": str},
    "sources": {},
}


def read(text: str | bytes, origin: str) -> dict[str, Any]:
    """The fields of a manifest, checked one by one; what they say together is for `Manifest` to check.

    Parameters
    ----------
    text : str or bytes
    origin : str
        Where it was read, for messages.

    Raises
    ------
    StoreError
        If it is torn, foreign, of a newer schema, or holds something this schema does not know.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{origin} is torn or no JSON: {error}", "Restore it from a copy, or write to another place."
        ) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise StoreError(f"{origin} was not written by embedsvc", "Choose another path.")
    schema = data.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise damaged(f"{origin} is of schema {schema!r:.60}, which does not exist")
    if schema > SCHEMA:
        raise StoreError(
            f"{origin} is of schema {schema}, this version of embedsvc reads up to {SCHEMA}",
            "Update: pip install --upgrade embedsvc",
        )
    _check_shape(data, _SHAPE | LISTED, origin)
    _check_shape(data["model"], _MODEL_SHAPE, f"{origin}: model")
    _check_shape(data["head"], _HEAD_SHAPE, f"{origin}: head")
    for name in ("sites", "parts", "sources"):
        for item in (data["model"] if name == "sites" else data)[name]:
            _check_shape(item, _ITEM_SHAPES[name], f"{origin}: {name}")
    _check_values(data["model"]["taps"], int, f"{origin}: model: taps")
    _check_values(data["versions"], str, f"{origin}: versions")
    if data["model"]["masks"] not in ("keyed", "positional"):
        raise damaged(f"{origin}: masks are {data['model']['masks']!r:.60}")
    return data


def damaged(problem: str) -> StoreError:
    """The error for a manifest that contradicts itself."""
    return StoreError(problem, "The file was changed by hand or by another program: restore it.")


def _check_shape(data: object, shape: Mapping[str, Any], where: str) -> None:
    """Every field there, of its type, and no other; an empty shape allows any object."""
    if not isinstance(data, dict):
        raise damaged(f"{where}: expected an object, found {type(data).__name__}")
    for name, kinds in shape.items():
        if name not in data:
            raise damaged(f"{where}: the field {name!r} is missing")
        # JSON true is no number, though Python's bool is an int.
        if not isinstance(data[name], kinds) or (isinstance(data[name], bool) and kinds is not bool):
            raise damaged(f"{where}: the field {name!r} is {data[name]!r:.60}")
    unknown = [name for name in data if name not in shape]
    if shape and unknown:
        raise damaged(f"{where}: unknown field {unknown[0]!r}")


def _check_values(data: Mapping[str, object], kind: type, where: str) -> None:
    for name, value in data.items():
        if type(value) is not kind:
            raise damaged(f"{where}: {name!r} is {value!r:.60}")
