"""Files that appear whole or not at all, and what the disk says when it refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from embedsvc.errors import StoreError

__all__ = ["atomic_file", "disk_errors", "sync_folder"]


@contextmanager
def atomic_file(path: Path, *, writer: str = "") -> Iterator[IO[bytes]]:
    """A file that appears under its name whole and synced, or not at all.

    Parameters
    ----------
    path : Path
    writer : str
        Tells apart the temporary files of processes that may write to one path at once.

    Raises
    ------
    StoreError
        If the disk refuses. The temporary file is removed, whatever the error.
    """
    temporary = path.with_name(f".{path.name}.{writer}.tmp" if writer else f".{path.name}.tmp")
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


@contextmanager
def disk_errors(path: object) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the path and what to do."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "Free some space and run the same command again: finished parts are kept.",
            errno.EDQUOT: "Free some of your quota and run the same command again: finished parts are kept.",
            errno.EFBIG: "Raise the limit on file sizes (ulimit -f), or use smaller parts.",
            errno.EACCES: "Allow writing there, or choose another path.",
            errno.EPERM: "Allow writing there, or choose another path.",
            errno.EROFS: "The file system is read-only: choose another path.",
            errno.ENOTDIR: "A file stands where a folder should be: choose another path.",
            errno.EEXIST: "A file stands where a folder should be: choose another path.",
        }
        # str(error) repeats the path, or names a temporary one.
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}",
            hints.get(error.errno or 0, "Check the disk, or choose another path."),
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
