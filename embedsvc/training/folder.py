"""The folder of a training run: whose it is, what is finished, and what a kill left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedsvc.errors import StoreError, StoreMismatchError
from embedsvc.storage import atomic_file

__all__ = ["CHECKPOINTS", "RECORD", "begin", "finish", "locked"]

RECORD = "training.json"
CHECKPOINTS = "checkpoint"


@contextmanager
def locked(path: Path) -> Iterator[Path]:
    """The folder of a run, made and locked.

    Raises
    ------
    StoreError
        If something else is there, another process trains in it, or the disk refuses.
    """
    from filelock import FileLock, Timeout

    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file, expected a folder", "Choose another path.")
    if path.is_dir() and any(path.iterdir()) and not ((path / RECORD).exists() or (path / CHECKPOINTS).exists()):
        raise StoreError(f"{path} holds files that are no training run", "Choose an empty or a new folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / CHECKPOINTS).mkdir(exist_ok=True)
        lock = FileLock(str(path / ".lock"), timeout=0)
        with lock:
            yield path
    except Timeout:
        raise StoreError(f"another process is training in {path}", "Wait for it, or choose another folder.") from None
    except OSError as error:
        raise StoreError(
            f"cannot write in {path}: {error.strerror or error}",
            "Give the same command again once that is mended: what is done is kept.",
        ) from error


def begin(folder: Path, identity: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """The record of the same run, if it is finished; another run's files are removed if they may be.

    Parameters
    ----------
    folder : Path
    identity : mapping
        All that decides the weights, JSON values.
    overwrite : bool

    Raises
    ------
    StoreMismatchError
        If a finished run under another identity is there, and may not be overwritten.
    StoreError
        If its record is damaged.
    """
    record_path = folder / RECORD
    if not record_path.exists():
        if overwrite:
            shutil.rmtree(folder / CHECKPOINTS)
            (folder / CHECKPOINTS).mkdir()
        return None
    try:
        record: dict[str, Any] = json.loads(record_path.read_text("utf-8"))
        before = record["identity"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{record_path} is damaged", "Delete the folder, and train anew.") from error
    if before == json.loads(json.dumps(identity)):
        shutil.rmtree(folder / CHECKPOINTS)
        return record
    if not overwrite:
        changed = [name for name in identity if before.get(name) != json.loads(json.dumps(identity[name]))]
        told = ", ".join(f"{name} was {before.get(name)!r}, is {identity[name]!r}" for name in changed[:3])
        shutil.rmtree(folder / CHECKPOINTS)
        raise StoreMismatchError(
            f"{folder} holds a model trained otherwise: {told}",
            "Use --overwrite to replace it, or another folder.",
        )
    record_path.unlink()
    for entry in (folder / CHECKPOINTS).iterdir():
        entry.unlink()
    return None


def finish(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record, which makes the run a finished one, and drop its checkpoints."""
    with atomic_file(folder / RECORD) as file:
        file.write(json.dumps(record, indent=2, ensure_ascii=False).encode())
    shutil.rmtree(folder / CHECKPOINTS)
