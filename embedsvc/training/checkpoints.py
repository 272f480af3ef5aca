"""Where a run stands, on disk: whole or absent, never pickled.

``best-<step>.safetensors`` holds the weights of the best epoch, ``state-<step>.safetensors`` all that the next step
depends on. The state names the best file it belongs to; a file is renamed into place once it is synced, and older
ones are deleted after that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import StoreError
from embedsvc.storage import atomic_file

__all__ = ["Checkpoint", "latest", "prune", "read_arrays", "write_arrays", "write_checkpoint"]

Arrays = Mapping[str, NDArray[Any]]

_STATE = re.compile(r"state-(\d{9})\.safetensors")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """All that the next step depends on: `arrays` by name, and `facts`, JSON values."""

    arrays: Arrays
    facts: Mapping[str, Any]


def write_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write the state after so many steps; `prune` deletes the older ones."""
    path = folder / f"state-{step:09}.safetensors"
    write_arrays(path, checkpoint.arrays, checkpoint.facts)
    return path


def latest(folder: Path) -> Checkpoint | None:
    """The last state there is, if any."""
    if not folder.is_dir():
        return None
    names = sorted(path.name for path in folder.iterdir() if _STATE.fullmatch(path.name))
    return read_arrays(folder / names[-1]) if names else None


def prune(folder: Path, keep: set[str]) -> None:
    """Delete the states, bests and torn files that nothing needs any more."""
    for path in folder.iterdir():
        if path.name not in keep and re.match(r"(state|best)-\d{9}\.safetensors|\..*", path.name):
            path.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Arrays and JSON facts as one safetensors file, whole or not at all."""
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    # asarray(order="C") and not ascontiguousarray, which makes a row of a scalar.
    content = save({name: np.asarray(value, order="C") for name, value in arrays.items()}, {"facts": json.dumps(facts)})
    with atomic_file(path) as file:
        file.write(content)


def read_arrays(path: Path) -> Checkpoint:
    """What `write_arrays` wrote.

    Raises
    ------
    StoreError
        If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged: {error}", "Delete the folder it is in, or train anew with --overwrite."
        ) from error
