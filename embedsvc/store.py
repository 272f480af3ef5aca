"""Writing a set of embeddings: part by part, each one whole or absent, so that a killed run goes on where it stopped.

A directory target holds ``manifest.json``, ``part-00000.parquet`` … and, if rows were skipped, ``rejected.jsonl``.
A target ending in ``.parquet`` is made in the folder ``.<name>.partial`` beside it, which looks the same, and becomes
one file at the end: its row groups are the parts, its schema metadata holds the manifest. Files of other formats come
about in the same way, by an exporter, with their manifest beside them in ``<name>.manifest.json``. Each part records
in its footer the run it belongs to and the digest of its rows, which is what resuming trusts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedsvc import parts
from embedsvc.errors import LockedError, StoreError, StoreMismatchError
from embedsvc.manifest import Manifest, Part
from embedsvc.parts import Piece, atomic_file, disk_errors
from embedsvc.types import Block

__all__ = ["Done", "Store", "intact", "open_store", "pieces_of", "verify", "write_parquet", "write_part"]

_MANIFEST = "manifest.json"
_REJECTED = "rejected.jsonl"
_LOCK = ".lock"

Exporter = Callable[[Path, Path], object]  # makes the second path, a file, out of the first, a finished directory


@contextmanager
def open_store(
    path: str | Path,
    manifest: Manifest,
    *,
    export: Exporter | None = None,
    overwrite: bool = False,
    lock_timeout: float = 0.0,
) -> Iterator[Store]:
    """Begin a set of embeddings, or go on with an unfinished one, under a lock.

    Parameters
    ----------
    path : str or Path
        A directory, or a file ending in ``.parquet``. Parents are made.
    manifest : Manifest
        Of this run; its results are ignored.
    export : callable, optional
        What makes the file at `path` out of a finished directory, for formats other than Parquet
        (``functools.partial(formats.convert, format="csv")``).
    overwrite : bool
        Replace a set of another identity, instead of raising. Only files of that set are removed. A set of the same
        identity is continued, or left as it is when complete: it would come out the same.
    lock_timeout : float
        Seconds to wait for another process that writes here.

    Raises
    ------
    StoreMismatchError
        If another run's set is there; the message names each difference.
    LockedError
        If another process writes there.
    StoreError
        If something else is there, or the disk refuses.

    Examples
    --------
    >>> with open_store(path, manifest) as store:             # doctest: +SKIP
    ...     for block in blocks:
    ...         if block.index not in store.done:
    ...             store.write(block)
    ...     manifest = store.finish(rows=rows, rejected=rejected)
    """
    from filelock import FileLock, Timeout

    store = Store(Path(path), manifest.unfinished(), export)
    store._refuse_foreign()
    new = not store._folder.exists()
    lock = FileLock(str(store._folder / _LOCK), timeout=lock_timeout)
    with disk_errors(store.path):
        store._folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise LockedError(
                f"another process is writing {store.path} (it holds {lock.lock_file})",
                "Wait until it is done, or write to another path.",
            ) from None
    try:
        store._refuse_foreign()
        store._begin(overwrite)
        yield store
    finally:
        # Removed while still held, so that the folder looks as if nobody had been here; a process that was waiting
        # on this very file finds it gone and takes a new one.
        with suppress(OSError):
            (store._folder / _LOCK).unlink()
        lock.release()
        if (store._export and store.complete) or (new and not store._begun):
            with suppress(OSError):  # not empty: somebody put a file there
                store._folder.rmdir()


@dataclass(frozen=True, slots=True)
class Done:
    """A part on disk, and what only its rows tell: the tokens read, and how many rows were cut short."""

    part: Part
    tokens: int
    truncated: int


class Store:
    """A set being written; made by `open_store`.

    Attributes
    ----------
    path : Path
        The target.
    manifest : Manifest
        Without results until it is complete.
    complete : bool
        Whether the set is finished; it may have been from the start ("done already").
    damaged : tuple of str
        Names of parts found torn, changed, or of another run, and removed: they are to be written again.
    """

    def __init__(self, path: Path, manifest: Manifest, export: Exporter | None) -> None:
        self.path = path
        self.manifest = manifest
        self._parquet = export is None and path.suffix == ".parquet"
        self._export = write_parquet if self._parquet else export  # None for a directory
        self._folder = _partial(path) if self._export else path
        self.damaged: tuple[str, ...] = ()
        self._done: dict[int, Done] = {}
        self._begun = False

    @property
    def complete(self) -> bool:
        """Whether the set is finished."""
        return self.manifest.complete

    @property
    def done(self) -> frozenset[int]:
        """Numbers of the blocks that are on disk, whole."""
        return frozenset(self._done)

    @property
    def rows(self) -> int:
        """Rows on disk."""
        return sum(done.part.rows for done in self._done.values())

    @property
    def tokens(self) -> int:
        """Tokens the model read for the rows on disk, where it could tell."""
        return sum(done.tokens for done in self._done.values())

    @property
    def truncated(self) -> int:
        """Rows on disk that were cut short."""
        return sum(done.truncated for done in self._done.values())

    def write(self, block: Block) -> None:
        """Put one block on disk; when this returns it survives a kill and a power cut.

        Raises
        ------
        StoreError
            If the block does not fit the manifest, is there already, or the disk refuses.
        """
        if self.complete or block.index in self._done:
            raise StoreError(f"block {block.index} of {self.path} is written already")
        self._done[block.index] = write_part(self._folder, block, self.manifest)

    @property
    def folder(self) -> Path:
        """Where parts are written."""
        return self._folder

    def record(self, index: int, done: Done) -> None:
        """Take note of a part that another process put into `folder` with `write_part`.

        Raises
        ------
        StoreError
            If what lies there is another: torn, or written by a run under other settings.
        """
        path = self._folder / done.part.name
        expected = {"part": index, "rows": done.part.rows, "sha256": done.part.sha256, "run": self.manifest.identity}
        if parts.record_of(path) != expected:
            raise StoreError(f"{path} is not the part that was written", "Let no other run work in that folder.")
        self._done[index] = done

    def finish(self, *, rows: int, rejected: Iterable[Mapping[str, Any]] = ()) -> Manifest:
        """Complete the set; on one that was complete from the start this does nothing.

        Parameters
        ----------
        rows : int
            Rows of the whole input, as a check that no block is missing.
        rejected : iterable of mapping
            The rows that were skipped, JSON values only; one line each in ``rejected.jsonl``.

        Returns
        -------
        Manifest
            With the results.

        Raises
        ------
        StoreError
            If rows are missing or the disk refuses.
        """
        if self.complete:
            return self.manifest
        missing = sorted(set(range(len(self._done))) - set(self._done))
        short = [i for i in sorted(self._done)[:-1] if self._done[i].part.rows < self.manifest.rows_per_part]
        if rows != self.rows or missing or short:
            first = f"; block {min(missing + short)} is missing or short" if missing or short else ""
            raise StoreError(f"{self.path} holds {self.rows} rows, expected {rows}{first}")
        n_rejected = self._write_rejected(rejected)
        manifest = replace(
            self.manifest,
            complete=True,
            rows=rows,
            tokens=self.tokens,
            truncated=self.truncated,
            rejected=n_rejected,
            parts=tuple(self._done[index].part for index in sorted(self._done)),
        )
        self._write_manifest(self._folder / _MANIFEST, manifest)
        if self._export:
            self._export(self._folder, self.path)
            if not self._parquet:
                self._write_manifest(self._sidecar, manifest)
            self._remove_own()
        self.manifest = manifest
        return manifest

    def _refuse_foreign(self) -> None:
        """Raise unless this place is free or ours. Changes nothing."""
        if self._export:
            if self.path.is_dir():
                raise StoreError(f"{self.path} is a folder, expected a file", "Choose a path that does not exist yet.")
            if self._final_manifest() is None and self.path.exists() and not (self._folder / _MANIFEST).exists():
                raise StoreError(f"{self.path} is a file that embedsvc did not write", "Choose another path.")
        elif self.path.exists() and not self.path.is_dir():
            raise StoreError(
                f"{self.path} is a file, expected a folder",
                "Choose a path that does not exist yet, or one ending in .parquet for a single file.",
            )
        if self._folder.is_dir() and not (self._folder / _MANIFEST).exists():
            with disk_errors(self._folder):
                found = sorted(entry.name for entry in self._folder.iterdir() if not _is_litter(entry.name))
            if found:
                some = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
                raise StoreError(
                    f"{self._folder} holds files that are no embedding set ({some})",
                    "Choose a path that does not exist yet, or an empty folder.",
                )

    def _begin(self, overwrite: bool) -> None:
        final = self._final_manifest()
        if final and final.identity == self.manifest.identity and (not self._parquet or intact(final, self.path)):
            self._adopt(final)
            self._remove_own()  # left by a run killed between its last two steps
            return
        if final and not overwrite and final.identity != self.manifest.identity:
            self._raise_mismatch(final, str(self.path))
        found = _read_manifest(self._folder / _MANIFEST) if (self._folder / _MANIFEST).exists() else None
        if found and found.identity != self.manifest.identity:
            if not overwrite:
                self._raise_mismatch(found, str(self._folder))
            found = None
        if found and found.complete and not self._export and intact(found, self.path):
            self._adopt(found)
            return
        # The manifest stands before the first part: whatever is found later has its provenance. Parts of a run that
        # is overwritten go when stock is taken.
        if found is None or found.complete:
            self._write_manifest(self._folder / _MANIFEST, self.manifest)
        self._begun = True
        self._take_stock()

    def _adopt(self, finished: Manifest) -> None:
        self.manifest = finished
        self._begun = True
        tokens, truncated = finished.tokens or 0, finished.truncated or 0
        for index, part in enumerate(finished.parts):
            # Totals are known for the set only; they stand with the first part.
            self._done[index] = Done(part, tokens if index == 0 else 0, truncated if index == 0 else 0)

    def _take_stock(self) -> None:
        """Keep the parts of this run that are whole, remove torn ones and temporary files."""
        with disk_errors(self._folder):
            for entry in sorted(self._folder.iterdir()):
                index = parts.index_of(entry.name)
                if index is not None:
                    done = _check_part(entry, index, self.manifest)
                    if done:
                        self._done[index] = done
                    else:
                        entry.unlink()
                        self.damaged += (entry.name,)
                elif _is_litter(entry.name) and entry.name != _LOCK:
                    entry.unlink()

    def _remove_own(self) -> None:
        """Empty the folder of a run whose file is finished, the manifest last; what others put there stays."""
        with disk_errors(self._folder):
            for entry in sorted(self._folder.iterdir()):
                if parts.index_of(entry.name) is not None or (_is_litter(entry.name) and entry.name != _LOCK):
                    entry.unlink()
            (self._folder / _MANIFEST).unlink(missing_ok=True)

    def _raise_mismatch(self, found: Manifest, place: str) -> None:
        state = "a finished set" if found.complete else "an unfinished run"
        sentences = "\n".join(f"  {sentence}" for sentence in self.manifest.differences(found))
        raise StoreMismatchError(
            f"{place} holds {state} under other settings or inputs:\n{sentences}",
            "Write to another path, repeat the earlier settings, or replace it with --overwrite.",
        )

    @property
    def _sidecar(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{_MANIFEST}")

    def _final_manifest(self) -> Manifest | None:
        """The manifest of the finished file at the target, None if there is none or the target is a directory."""
        if not self._export or not self.path.exists():
            return None
        if self._parquet:
            return parts.file_manifest(self.path)
        return _read_manifest(self._sidecar) if self._sidecar.exists() else None

    def _write_manifest(self, path: Path, manifest: Manifest) -> None:
        with atomic_file(path) as file:
            file.write(manifest.to_json().encode())

    def _write_rejected(self, rejected: Iterable[Mapping[str, Any]]) -> int:
        path = self.path.with_name(f"{self.path.stem}.{_REJECTED}") if self._export else self.path / _REJECTED
        count = 0
        with atomic_file(path) as file:
            for row in rejected:
                file.write(json.dumps(dict(row), ensure_ascii=True).encode() + b"\n")
                count += 1
        if not count:
            with disk_errors(path):
                path.unlink()
        return count


def write_part(folder: Path, block: Block, manifest: Manifest, *, writer: str = "") -> Done:
    """Put one block into the folder of an unfinished set; when this returns it survives a kill and a power cut.

    Several processes may write parts of one set, the same part too, if each has a name as `writer` (hexadecimal):
    whoever comes last replaces equal bytes.

    Raises
    ------
    StoreError
        If the block does not fit the manifest, or the disk refuses.
    """
    import pyarrow.parquet as pq

    size = manifest.rows_per_part
    if block.offset != block.index * size or len(block.texts) > size:
        raise StoreError(
            f"block {block.index} holds {len(block.texts)} rows from {block.offset} on, "
            f"but parts of {folder} hold {size} rows each"
        )
    table = parts.table_of(block, manifest)
    with atomic_file(folder / parts.part_name(block.index), writer=writer) as file:
        pq.write_table(table, file, row_group_size=max(len(table), 1), **parts.writer_options(manifest))
    return _summary(table, block.index)


def write_parquet(source: Path, path: Path) -> None:
    """Write a finished set as one Parquet file, a row group for each part."""
    import pyarrow.parquet as pq

    manifest, pieces = pieces_of(source)
    schema = parts.schema_of(manifest, manifest.to_json())
    with (
        atomic_file(path) as file,
        pq.ParquetWriter(file, schema, **parts.writer_options(manifest)) as writer,
    ):
        for piece in pieces:
            table = piece.read()
            writer.write_table(table, row_group_size=max(len(table), 1))


def pieces_of(path: str | Path, *, allow_partial: bool = False) -> tuple[Manifest, tuple[Piece, ...]]:
    """The manifest of a stored set and where its parts are.

    Raises
    ------
    StoreError
        If there is no set, or it is unfinished and `allow_partial` is not set.
    """
    path = Path(path)
    if path.is_file():
        manifest = parts.file_manifest(path)
        return manifest, tuple(Piece(path, number, part.rows, manifest) for number, part in enumerate(manifest.parts))
    folder = path if path.exists() else _partial(path)
    if not (folder / _MANIFEST).exists():
        problem = "holds no embedding set: it has no manifest.json" if path.exists() else "does not exist"
        raise StoreError(f"{path} {problem}", "Give a folder or file that embedsvc extract wrote.")
    manifest = _read_manifest(folder / _MANIFEST)
    if manifest.complete:
        return manifest, tuple(Piece(folder / part.name, 0, part.rows, manifest) for part in manifest.parts)
    whole = sorted((index, entry) for entry in folder.iterdir() if (index := parts.index_of(entry.name)) is not None)
    if not allow_partial:
        count = "1 part is" if len(whole) == 1 else f"{len(whole)} parts are"
        raise StoreError(
            f"{path} is unfinished: {count} there, of {manifest.rows_per_part} rows each",
            "Run the same command again to finish it, or read what is there with allow_partial=True.",
        )
    checked = ((entry, _check_part(entry, index, manifest)) for index, entry in whole)
    return manifest, tuple(Piece(entry, 0, done.part.rows, manifest) for entry, done in checked if done)


def verify(path: str | Path) -> Manifest:
    """Read a finished set completely and compare every part with its digest.

    Raises
    ------
    StoreError
        Naming each part that is torn, missing or changed.
    """
    manifest, pieces = pieces_of(path)
    bad = []
    for part, piece in zip(manifest.parts, pieces, strict=True):
        try:
            table = piece.read()
        except StoreError:
            bad.append(f"{part.name} is torn or missing")
            continue
        if parts.digest(table) != part.sha256:
            bad.append(f"{part.name} was changed after it was written")
    if bad:
        what = "the file" if Path(path).is_file() else "those parts"
        raise StoreError(
            f"{path} is damaged: {'; '.join(bad)}",
            f"Delete {what} and run the command that wrote it again.",
        )
    return manifest


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _read_manifest(path: Path) -> Manifest:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}", "Check its permissions.") from error
    return Manifest.from_json(text, origin=str(path))


def _is_litter(name: str) -> bool:
    """Whether only a killed run of ours leaves files of that name."""
    if name == _LOCK:
        return True
    match = re.fullmatch(r"\.(.+?)(\.[0-9a-f]+)?\.tmp", name)
    return match is not None and (match[1] in (_MANIFEST, _REJECTED) or parts.index_of(match[1]) is not None)


def intact(manifest: Manifest, path: Path) -> bool:
    """Whether every part of a finished set is there with all its rows; a look at the footers, not at the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.is_file():
            metadata = pq.read_metadata(path)
            found = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        else:
            found = [pq.read_metadata(path / part.name).num_rows for part in manifest.parts]
    except (OSError, UnicodeDecodeError, pa.ArrowException):
        return False
    return found == [part.rows for part in manifest.parts]


def _check_part(path: Path, index: int, manifest: Manifest) -> Done | None:
    """The part at a path if it is whole and of this run, else None."""
    try:
        table = Piece(path, 0, None, manifest).read()
        record = json.loads((table.schema.metadata or {})[parts.METADATA_KEY])
        expected = {"part": index, "rows": len(table), "sha256": parts.digest(table), "run": manifest.identity}
    except (StoreError, KeyError, ValueError):
        return None
    return _summary(table, index) if record == expected else None


def _summary(table: Any, index: int) -> Done:  # noqa: ANN401 - pyarrow has no types
    record = json.loads(table.schema.metadata[parts.METADATA_KEY])
    return Done(
        Part(parts.part_name(index), len(table), record["sha256"]),
        int(np.maximum(parts.numpy_values(table["n_tokens"]), 0).sum()),
        int(parts.numpy_values(table["truncated"]).sum()),
    )
