"""Which files are meant, and how they are opened: paths, addresses, globs, folders, stdin, named data sets, gzip."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from embedsvc import catalog, fetching
from embedsvc.errors import InputError, SettingsError, UnknownNameError
from embedsvc.storage import ObjectPath, Place, is_address, open_raw, place
from embedsvc.texts.base import READERS, ReadOptions

__all__ = ["File", "Hashed", "find", "opened"]

STDIN = "-"
DATA = "data:"  # followed by the name of a data set of the catalogue
_CHUNK = 2**20
_FETCHED = 2**23  # bytes of an object asked for at once: a request takes some 50 ms, whatever its size


@dataclass(frozen=True, slots=True)
class File:
    """One file to read; `name` is what the user called it and what ids begin with."""

    name: str
    path: Place
    suffix: str
    gzipped: bool


def find(
    sources: Iterable[str | os.PathLike[str]], options: ReadOptions, spool: Path | None, stdin: BinaryIO | None
) -> tuple[File, ...]:
    """The files behind paths, globs, folders, ``-`` and ``data:NAME``, in the order given, globs and folders sorted.

    Raises
    ------
    InputError
        For what is not there, has no reader, or is given twice. Reading a file twice would be as surprising as
        quietly reading it once, and the usual reason is a glob and a folder that overlap.
    """
    files: list[File] = []
    places: dict[tuple[int, int] | str, str] = {}
    for source in [sources] if isinstance(sources, (str, os.PathLike)) else sources:
        for file in _files(os.fspath(source), options, spool, stdin):
            # The same file under two names, and two sources with one name: `-` and a file called "stdin".
            for key in {_identity(file), file.name}:
                if key in places:
                    raise InputError(
                        f"{file.name}: given twice, the first time as {places[key]}", "Leave one of them out."
                    )
                places[key] = file.name
            files.append(file)
    if not files:
        raise InputError("no source is given", "Name files, folders or globs, or - for standard input.")
    return tuple(files)


def _identity(file: File) -> tuple[int, int] | str:
    """What a file is, whatever it is called."""
    if isinstance(file.path, ObjectPath):
        return str(file.path)
    found = _status(file.name, file.path)
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{file.name}: this is not a regular file", "Pipe it in, and read it with -")
    return found.st_dev, found.st_ino


def _files(source: str, options: ReadOptions, spool: Path | None, stdin: BinaryIO | None) -> Iterator[File]:
    if source == STDIN:
        yield _spooled(options, spool, stdin)
    elif is_address(source):
        yield from _objects(source)
    elif source.startswith(DATA) and not os.path.lexists(source):
        named = catalog.DATA[source.removeprefix(DATA)]
        path = fetching.fetch(named) / named.table.name
        yield File(source, path, *_suffix(named.table.name))
    elif os.path.isdir(source):
        with _reported(source):
            entries = sorted(entry.name for entry in os.scandir(source) if entry.is_file())
        names = [os.path.join(source, entry) for entry in entries if not entry.startswith(".")]
        yield from map(_file, _known_in_folder(source, names))
    elif not os.path.lexists(source) and any(sign in source for sign in "*?["):
        names = sorted(name for name in glob.glob(source, recursive=True) if os.path.isfile(name))
        yield from map(_file, _known_matches(source, names))
    else:
        yield _file(source)


def _objects(source: str) -> Iterator[File]:
    """The objects that an address names: itself, those in a folder, or those that match."""
    path = ObjectPath(source)
    if path.is_file():
        yield _file(source)
    elif any(sign in source for sign in "*?["):
        with _reported(source):  # a pattern may have no meaning
            names = [str(entry) for entry in path.glob()]
        yield from map(_file, _known_matches(source, names))
    elif entries := [entry for entry in path.iterdir() if not entry.name.startswith(".")]:
        yield from map(_file, _known_in_folder(source, [str(entry) for entry in entries]))
    else:
        raise InputError(f"{source}: no such object, folder or bucket")


def _known_in_folder(folder: str, names: Iterable[str]) -> list[str]:
    known = [name for name in names if _known(name)]
    if not known:
        raise InputError(
            f"{folder}: no file in this folder ends in {_suffixes()}",
            f"For files in folders further down use {os.path.join(folder, '**')!r}",
        )
    return known


def _known_matches(pattern: str, names: Iterable[str]) -> list[str]:
    known = [name for name in names if _known(name)]
    if not known:
        raise InputError(f"{pattern}: no file that ends in {_suffixes()} matches")
    return known


def _file(name: str) -> File:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{os.fsencode(name)!r}: the file name is not UTF-8, so it can be no part of an id", "Rename the file."
        ) from None
    path = place(name)
    if isinstance(path, Path):
        _status(name, path)
    suffix, gzipped = _suffix(name)
    try:
        READERS[suffix]
    except UnknownNameError as error:
        what = f"files that end in {suffix!r}" if suffix else "files without a suffix"
        raise InputError(f"{name}: there is no reader for {what}", f"{error.hint} (each also with .gz)") from None
    return File(name, path, suffix, gzipped)


def _suffix(name: str) -> tuple[str, bool]:
    stem, suffix = os.path.splitext(name.lower())
    return (os.path.splitext(stem)[1], True) if suffix == ".gz" else (suffix, False)


def _known(name: str) -> bool:
    return _suffix(name)[0] in READERS


def _suffixes() -> str:
    return f"{', '.join(sorted(READERS))} or one of these with .gz"


def _status(name: str, path: Path) -> os.stat_result:
    with _reported(name):
        return path.stat()


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """What the operating system says, as an InputError that names the source."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: no such file or folder") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _spooled(options: ReadOptions, spool: Path | None, stdin: BinaryIO | None) -> File:
    """Standard input as a file: it is read twice, and a pipe can be read once."""
    if spool is None:
        raise SettingsError("standard input needs a folder to be spooled to", "Give one as spool.")
    suffix, gzipped = _suffix("stdin" + options.stdin_suffix)
    try:
        READERS[suffix]
    except UnknownNameError as error:
        raise SettingsError(f"stdin_suffix is {options.stdin_suffix!r}, which no reader reads", error.hint) from None
    path = spool / f"stdin{suffix}{'.gz' if gzipped else ''}"
    with _reported("stdin"):
        spool.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(stdin or sys.stdin.buffer, file, _CHUNK)
    return File("stdin", path, suffix, gzipped)


class Hashed(io.RawIOBase):
    """A stream that hashes the raw bytes that are read from it."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._sha = hashlib.sha256()
        self._digest: str | None = None
        self.size = 0

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        count = self._raw.readinto(buffer) or 0
        self._sha.update(memoryview(buffer)[:count])
        self.size += count
        return count

    def finish(self) -> str:
        """SHA-256 (hex) of the whole file, the part after what was read included."""
        if self._digest is None:  # once: later the file may be read at random
            rest = bytearray(_CHUNK)
            while self.readinto(rest):
                pass
            self._digest = self._sha.hexdigest()
        return self._digest


@contextmanager
def opened(file: File, *, seeks: bool) -> Iterator[tuple[io.BufferedIOBase, Hashed]]:
    """The decompressed stream of a file, and the hash of its raw bytes (complete after `Hashed.finish`)."""
    with ExitStack() as stack:
        remote = isinstance(file.path, ObjectPath)
        raw = stack.enter_context(open_raw(file.path))
        hashed = Hashed(raw)
        stream: io.BufferedIOBase = io.BufferedReader(hashed, _FETCHED if remote else _CHUNK)
        if file.gzipped:
            stream = stack.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))
        if seeks and (file.gzipped or remote):
            # Random access into gzip decompresses from the start each time, and into an object fetches it piece by
            # piece; a file on disk costs no memory.
            copy = stack.enter_context(tempfile.TemporaryFile(prefix="embedsvc-"))
            shutil.copyfileobj(stream, copy, _CHUNK)
            copy.seek(0)
            stream = cast(io.BufferedIOBase, copy)
        elif seeks:
            hashed.finish()
            stream = io.BufferedReader(raw)
            stream.seek(0)
        yield stream, hashed
