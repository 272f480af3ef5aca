"""Look through all sources first, then stream their texts."""

from __future__ import annotations

import itertools
import os
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from embedsvc.errors import DuplicateIdError, InputError
from embedsvc.storage import size_of
from embedsvc.texts.base import READERS, Bad, OnError, ReadOptions, Rows
from embedsvc.texts.faults import checked
from embedsvc.texts.sources import File, find, opened
from embedsvc.types import Text

__all__ = ["Rejected", "Scan", "Source", "read", "scan"]


@dataclass(frozen=True, slots=True)
class Source:
    """One file, as the manifest of a set remembers it.

    Attributes
    ----------
    name : str
        The path as given, or ``stdin``.
    sha256 : str
        Hex, of the raw bytes (of the .gz itself where it is one).
    rows : int
        Rows that can be read.
    rejected : int
        Rows left out.
    """

    name: str
    sha256: str
    rows: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row left out, and why; the reason never quotes the text."""

    source: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in the sources: all that `read` needs.

    Attributes
    ----------
    sources : tuple of Source
    rejected : tuple of Rejected
        In the order of the sources; empty under `OnError.FAIL`.
    options : ReadOptions
    files, sizes : tuple
        Where the sources are, and their raw bytes.
    """

    sources: tuple[Source, ...]
    rejected: tuple[Rejected, ...]
    options: ReadOptions
    files: tuple[File, ...] = field(repr=False)
    sizes: tuple[int, ...] = field(repr=False)

    @property
    def rows(self) -> int:
        """How many texts `read` gives."""
        return sum(source.rows for source in self.sources)

    @property
    def n_bytes(self) -> int:
        """Raw bytes of all sources."""
        return sum(self.sizes)


_HINT_SKIP = "Use --on-error skip to leave such rows out; they are then listed in rejected.jsonl beside the output."
_HINT_ENCODING = f"If the whole file is in another encoding, convert it: iconv -f WINDOWS-1252 -t UTF-8. {_HINT_SKIP}"


def scan(
    sources: Iterable[str | os.PathLike[str]],
    options: ReadOptions | None = None,
    *,
    spool: Path | None = None,
    stdin: BinaryIO | None = None,
) -> Scan:
    """Check every row of every source, in one pass over each.

    Memory does not grow with the rows, save for 8 bytes a row where there is an id column, and for the rejected ones.

    Parameters
    ----------
    sources : iterable of path
        Files, addresses (``s3://bucket/name``), globs (``**`` goes into folders), folders (the files in it, not those
        further down) and ``-``. In globs and folders, files that no reader knows and hidden ones are passed over.
    options : ReadOptions, optional
    spool : Path, optional
        Folder in which standard input is kept as ``stdin`` plus suffix; it must last until `read` is done.
    stdin : binary stream, optional
        What ``-`` reads; the process's own standard input by default.

    Raises
    ------
    InputError
        For the first bad row under `OnError.FAIL`; under either policy for faults of a file as a whole (missing, torn,
        without the column), and if no row is left.
    DuplicateIdError
        If two rows share an id. Names both places.
    """
    options = options or ReadOptions()
    files = find(sources, options, spool, stdin)
    found: list[Source] = []
    sizes: list[int] = []
    rejected: list[Rejected] = []
    hashes = _Hashes()
    for file in files:
        rows = bad = 0
        reading = _Reading(file, options)
        for item in reading:
            if isinstance(item, Bad):
                if options.on_error is OnError.FAIL:
                    raise InputError(
                        f"{_place(file, item.row, options)}: {item.reason}",
                        _HINT_ENCODING if "is not UTF-8" in item.reason else _HINT_SKIP,
                    )
                rejected.append(Rejected(file.name, item.row, item.reason))
                bad += 1
            else:
                rows += len(item.texts)
                if item.ids is not None:
                    hashes.add(item.ids)
        found.append(Source(file.name, reading.sha256, rows, bad))
        sizes.append(reading.size)
    result = Scan(tuple(found), tuple(rejected), options, files, tuple(sizes))
    if not result.rows:
        names = ", ".join(file.name for file in files[:5]) + (" …" if len(files) > 5 else "")
        first = f"; all {len(rejected)} rows are bad, the first: {rejected[0].reason}" if rejected else ""
        raise InputError(f"no texts in {names}{first}")
    _check_ids(result, hashes.repeated())
    return result


def read(scanned: Scan, *, start: int = 0) -> Iterator[Text]:
    """Stream the good rows of a scan, in the same order.

    Parameters
    ----------
    scanned : Scan
    start : int
        The first row wanted; files that end before it are not opened.

    Raises
    ------
    InputError
        If a source changed since the scan. Its size is looked at first, its content (SHA-256) at its end.
    """
    return itertools.islice(_rows(scanned, start), _before_file(scanned, start), None)


def _before_file(scanned: Scan, start: int) -> int:
    """How many rows stand before row `start` in its own file."""
    for source in scanned.sources:
        if start < source.rows:
            break
        start -= source.rows
    return start


def _rows(scanned: Scan, start: int) -> Iterator[Text]:
    """Rows from the beginning of the file on that holds row `start`."""
    options = scanned.options
    for file, source, size in zip(scanned.files, scanned.sources, scanned.sizes, strict=True):
        if start and start >= source.rows:
            start -= source.rows
            continue
        start = 0
        reading = _Reading(file, options, size)
        for item in reading:
            if isinstance(item, Bad):
                if options.on_error is OnError.FAIL:
                    raise _changed(file)
                continue
            ids = item.ids or [_place(file, number, options) for number in item.numbers]
            yield from map(Text, ids, item.texts, item.labels or itertools.repeat(None))
        if reading.sha256 != source.sha256:
            raise _changed(file)


def _place(file: File, row: int, options: ReadOptions) -> str:
    """Where a row is, and its id without an id column."""
    return file.name if options.whole_files else f"{file.name}:{row}"


def _changed(file: File) -> InputError:
    return InputError(f"{file.name}: the file changed while it was being used", "Run again when it is complete.")


class _Reading:
    """One pass over one file; `sha256` and `size` are known after it."""

    def __init__(self, file: File, options: ReadOptions, size: int | None = None) -> None:
        self._file = file
        self._options = options
        self._expected_size = size
        self.sha256 = ""
        self.size = 0

    def __iter__(self) -> Iterator[Rows | Bad]:
        file, options = self._file, self._options
        if options.whole_files and file.suffix != ".txt":
            raise InputError(
                f"{file.name}: only .txt files can be read as whole files",
                "Leave out --whole-files, or name the .txt files only.",
            )
        reader = READERS[file.suffix]
        reached = 0
        try:
            if self._expected_size is not None and size_of(file.path) != self._expected_size:
                raise _changed(file)
            with opened(file, seeks=reader.seeks) as (stream, hashed):
                for item in reader.rows(stream, file.name, options):
                    if isinstance(item, Bad):
                        yield item
                        reached = item.row
                    else:
                        yield from checked(item, options.max_text_bytes)
                        reached = item.numbers[-1]
                self.sha256 = hashed.finish()
                self.size = hashed.size
        except (EOFError, zlib.error, OSError) as error:
            # A BadGzipFile has no errno, and quotes bytes of the file.
            torn = not isinstance(error, OSError) or (file.gzipped and error.errno is None)
            what = "the gzip data is torn or damaged" if torn else f"cannot be read: {_system_message(error)}"
            raise InputError(
                f"{file.name}:{reached}: {what} after this row" if reached else f"{file.name}: {what}"
            ) from error


def _system_message(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


class _Hashes:
    """Hashes of all ids, 8 bytes each."""

    def __init__(self) -> None:
        self._every = array("q")

    def add(self, ids: Sequence[str]) -> None:
        # Python's own hash: it need not last beyond this process, and ids that share one are compared themselves.
        self._every.extend(map(hash, ids))

    def repeated(self) -> frozenset[int]:
        """Hashes that occur more than once; sorts what was added."""
        every = np.frombuffer(self._every, dtype=np.int64)
        every.sort()
        return frozenset(every[1:][every[1:] == every[:-1]].tolist())


def _check_ids(scanned: Scan, suspects: frozenset[int]) -> None:
    """Read again those ids whose hashes met, and raise DuplicateIdError if ids did, too."""
    if not suspects:
        return
    places: dict[str, str] = {}
    for file in scanned.files:
        for item in _Reading(file, scanned.options):
            if isinstance(item, Bad) or item.ids is None:
                continue
            for number, id_ in zip(item.numbers, item.ids, strict=True):
                if hash(id_) in suspects:
                    here = f"{file.name}:{number}"
                    if id_ in places:
                        raise DuplicateIdError(
                            f"{here}: the id {id_[:80]!r} is taken already, by {places[id_]}",
                            "Give each row an id of its own, or leave out --id-column: ids are then <file>:<row>.",
                        )
                    places[id_] = here
