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
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from embedsvc.errors import StoreError, StoreMismatchError
from embedsvc.manifest import Manifest
from embedsvc.parts import Done, check_part, index_of, record_of, write_part
from embedsvc.storage import Place, atomic_file, disk_errors, entries, is_lock, locked, place
from embedsvc.stored import MANIFEST, file_manifest, intact, partial_folder, read_manifest, write_parquet
from embedsvc.types import Block

__all__ = ["Store", "open_store"]

_REJECTED = "rejected.jsonl"

Exporter = Callable[[Place, Place], object]  # makes the second path, a file, out of the first, a finished directory


@contextmanager
def open_store(
    path: str | Place,
    manifest: Manifest,
    *,
    export: Exporter | None = None,
    overwrite: bool = False,
    lock_timeout: float = 0.0,
) -> Iterator[Store]:
    """Begin a set of embeddings, or go on with an unfinished one, under a lock.

    Parameters
    ----------
    path : str or Place
        A directory, or a file ending in ``.parquet``; on a disk or an address. Parents are made.
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
    store = Store(place(path), manifest.unfinished(), export)
    store._refuse_foreign()
    problem = f"another process is writing {store.path}"
    hint = "Wait until it is done, or write to another path."
    with locked(
        store._folder, problem, hint, timeout=lock_timeout, temporary=store._export is not None, named=store.path
    ):
        store._refuse_foreign()
        store._begin(overwrite)
        yield store


class Store:
    """A set being written; made by `open_store`.

    Attributes
    ----------
    path : Place
        The target.
    manifest : Manifest
        Without results until it is complete.
    complete : bool
        Whether the set is finished; it may have been from the start ("done already").
    damaged : tuple of str
        Names of parts found torn, changed, or of another run, and removed: they are to be written again.
    """

    def __init__(self, path: Place, manifest: Manifest, export: Exporter | None) -> None:
        self.path = path
        self.manifest = manifest
        self._parquet = export is None and path.suffix == ".parquet"
        self._export = write_parquet if self._parquet else export  # None for a directory
        self._folder = partial_folder(path) if self._export else path
        self.damaged: tuple[str, ...] = ()
        self._done: dict[int, Done] = {}

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
    def folder(self) -> Place:
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
        if record_of(path) != expected:
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
        begun = read_manifest(self._folder / MANIFEST)
        if begun.identity != self.manifest.identity:
            raise StoreError(f"{self._folder} was taken over by another run", "Let no other run work in that folder.")
        with disk_errors(self._folder):
            _remove_litter(entries(self._folder))
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
        self._write_manifest(self._folder / MANIFEST, manifest)
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
            if self._final_manifest() is None and self.path.exists() and not (self._folder / MANIFEST).exists():
                raise StoreError(f"{self.path} is a file that embedsvc did not write", "Choose another path.")
        elif self.path.exists() and not self.path.is_dir():
            raise StoreError(
                f"{self.path} is a file, expected a folder",
                "Choose a path that does not exist yet, or one ending in .parquet for a single file.",
            )
        if self._folder.is_dir() and not (self._folder / MANIFEST).exists():
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
        found = read_manifest(self._folder / MANIFEST) if (self._folder / MANIFEST).exists() else None
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
            self._write_manifest(self._folder / MANIFEST, self.manifest)
        self._take_stock()

    def _adopt(self, finished: Manifest) -> None:
        self.manifest = finished
        tokens, truncated = finished.tokens or 0, finished.truncated or 0
        for index, part in enumerate(finished.parts):
            # Totals are known for the set only; they stand with the first part.
            self._done[index] = Done(part, tokens if index == 0 else 0, truncated if index == 0 else 0)

    def _take_stock(self) -> None:
        """Keep the parts of this run that are whole, remove torn ones and temporary files."""
        with disk_errors(self._folder):
            found = entries(self._folder)
            for entry in found:
                index = index_of(entry.name)
                if index is not None:
                    done = check_part(entry, index, self.manifest)
                    if done:
                        self._done[index] = done
                    else:
                        entry.unlink()
                        self.damaged += (entry.name,)
            _remove_litter(found)

    def _remove_own(self) -> None:
        """Empty the folder of a run whose file is finished, the manifest last; what others put there stays."""
        with disk_errors(self._folder):
            found = entries(self._folder)
            for entry in found:
                if index_of(entry.name) is not None:
                    entry.unlink()
            _remove_litter(found)
            (self._folder / MANIFEST).unlink(missing_ok=True)

    def _raise_mismatch(self, found: Manifest, place: str) -> None:
        state = "a finished set" if found.complete else "an unfinished run"
        sentences = "\n".join(f"  {sentence}" for sentence in self.manifest.differences(found))
        raise StoreMismatchError(
            f"{place} holds {state} under other settings or inputs:\n{sentences}",
            "Write to another path, repeat the earlier settings, or replace it with --overwrite.",
        )

    @property
    def _sidecar(self) -> Place:
        return self.path.with_name(f"{self.path.name}.{MANIFEST}")

    def _final_manifest(self) -> Manifest | None:
        """The manifest of the finished file at the target, None if there is none or the target is a directory."""
        if not self._export or not self.path.exists():
            return None
        if self._parquet:
            return file_manifest(self.path)
        return read_manifest(self._sidecar) if self._sidecar.exists() else None

    def _write_manifest(self, path: Place, manifest: Manifest) -> None:
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


def _remove_litter(found: Iterable[Place]) -> None:
    """Remove temporary files: of an earlier run, or of a process killed beside this one while it wrote a part."""
    for entry in found:
        if _is_litter(entry.name) and not is_lock(entry.name):
            entry.unlink(missing_ok=True)


def _is_litter(name: str) -> bool:
    """Whether only a killed run of ours leaves files of that name."""
    if is_lock(name):
        return True
    match = re.fullmatch(r"\.(.+?)(\.[0-9a-f]+)?\.tmp", name)
    return match is not None and (match[1] in (MANIFEST, _REJECTED) or index_of(match[1]) is not None)
