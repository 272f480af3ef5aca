"""JSON out of a model's folder: small, whole, nested no deeper than can be read, and the same to every reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embedsvc.errors import ModelFormatError

__all__ = ["parse_json", "parse_object", "read_json"]

_MAX_SIZE = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a small file.

    Raises
    ------
    ModelFormatError
        If it is torn, no object, nested without end or larger than 64 MB.
    """
    try:
        if path.stat().st_size > _MAX_SIZE:
            raise ModelFormatError(f"{path} has {path.stat().st_size:,} bytes, expected at most {_MAX_SIZE:,}")
        return parse_object(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error


def parse_object(content: bytes | str, where: str) -> dict[str, Any]:
    """As `parse_json`, of an object."""
    found = parse_json(content, where)
    if not isinstance(found, dict):
        raise ModelFormatError(f"{where}: expected a JSON object, found {type(found).__name__}")
    return found


def parse_json(content: bytes | str, where: str) -> Any:
    """What a JSON text holds.

    Parameters
    ----------
    content : bytes or str
        Bytes are UTF-8.
    where : str
        Names file and place in messages.

    Raises
    ------
    ModelFormatError
        If it is torn, nested without end, or an object names a key twice.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        return json.loads(text, object_pairs_hook=_without_repeats)
    # Deep nesting ends in RecursionError, bad UTF-8 in a ValueError like bad JSON.
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{where} is torn: its JSON cannot be read ({error})") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        # Two readers may each believe another of the two.
        raise ValueError("a key appears twice")
    return made
