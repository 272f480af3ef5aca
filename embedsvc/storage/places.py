"""Places: paths on a disk and addresses of objects, and what is done alike with both."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

from embedsvc.storage import disk
from embedsvc.storage.objects import ObjectPath, is_address

__all__ = [
    "Place",
    "atomic_file",
    "entries",
    "folder_bytes",
    "open_raw",
    "place",
    "put_into",
    "readable",
    "remove_folder",
    "size_of",
    "staging",
]

Place: TypeAlias = Path | ObjectPath


def place(where: str | Place) -> Place:
    """The place that a user names: an address if it looks like one, else a path.

    Raises
    ------
    SettingsError, MissingExtraError
        See `ObjectPath`.

    >>> str(place("out/reviews"))
    'out/reviews'
    """
    if isinstance(where, str):
        return ObjectPath(where) if is_address(where) else Path(where)
    return where


@contextmanager
def atomic_file(path: Place, *, writer: str = "") -> Iterator[IO[bytes]]:
    """A file that appears under its name whole and synced, or not at all; an object is made on the disk and then put.

    See `disk.atomic_file`.
    """
    if isinstance(path, Path):
        with disk.atomic_file(path, writer=writer) as file:
            yield file
        return
    with disk.disk_errors(Path(tempfile.gettempdir())), tempfile.NamedTemporaryFile(prefix="embedsvc-") as local:
        yield local.file
        local.flush()
        path.put_file(Path(local.name))


def readable(path: Place) -> Path | io.RawIOBase:
    """What pyarrow reads it by: on a disk it does so faster itself."""
    return path if isinstance(path, Path) else path.open()


def open_raw(path: Place) -> io.RawIOBase:
    """A stream without a buffer."""
    return path.open("rb", buffering=0) if isinstance(path, Path) else path.open()


def size_of(path: Place) -> int:
    """Bytes of a file or object."""
    return path.stat().st_size if isinstance(path, Path) else path.size


def entries(folder: Place) -> list[Place]:
    """What lies in a folder, by name."""
    return sorted(folder.iterdir(), key=lambda entry: entry.name)


def folder_bytes(folder: Place) -> int:
    """Bytes of the files in a folder."""
    return sum(size_of(entry) for entry in folder.iterdir())


def remove_folder(folder: Place, *, last: str = "") -> None:
    """Remove a folder and all that is in it, if it is there.

    Parameters
    ----------
    folder : Place
    last : str
        Name of the object that goes after all others, so that a removal cut short is known for one.
    """
    if isinstance(folder, Path):
        if folder.exists():
            shutil.rmtree(folder)
        return
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == last):
        entry.unlink(missing_ok=True)


@contextmanager
def staging(folder: Place, name: str) -> Iterator[Path]:
    """An empty folder on the disk for files that `put_into` then moves into another; it is gone afterwards."""
    if not isinstance(folder, Path):
        with tempfile.TemporaryDirectory(prefix="embedsvc-") as local:
            yield Path(local)
        return
    local_folder = folder / f".{name}.tmp"
    with disk.disk_errors(folder):
        remove_folder(local_folder)  # of a killed run
        local_folder.mkdir()
    yield local_folder
    with disk.disk_errors(folder):
        local_folder.rmdir()
        disk.sync_folder(folder)


def put_into(folder: Place, file: Path) -> None:
    """Move a finished file out of `staging`, in the place of one of that name."""
    if isinstance(folder, Path):
        with disk.disk_errors(folder):
            file.replace(folder / file.name)
    else:
        (folder / file.name).put_file(file)
