"""Where a job keeps a set: the finished one in place, the next one beside it until it is whole.

``OUT/extract`` is the finished set. A run writes ``OUT/.extract.next`` and changes the two at the end, so that there
is always a whole set, and the old one can be drawn on until then. What a killed run wrote under settings that have
changed since is kept as ``OUT/.extract.kept`` and drawn on too.

On a disk folders change places by renaming. An object store has no folders to rename: there the store itself copies the
parts and then the manifest, whose presence is what makes a set. The old manifest goes first, so that while parts are
copied readers find no set, and never a mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedsvc.errors import StoreError
from embedsvc.manifest import Manifest
from embedsvc.parts import index_of
from embedsvc.storage import ObjectPath, Place, disk_errors, is_lock, remove_folder, sync_folder
from embedsvc.stored import MANIFEST, pieces_of

__all__ = ["Shelf"]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folders of one set.

    Attributes
    ----------
    out : Place
        Of the job.
    name : str
        Of the extraction.
    """

    out: Place
    name: str

    @property
    def finished(self) -> Place:
        """The set that readers open."""
        return self.out / self.name

    @property
    def next(self) -> Place:
        """The set being written."""
        return self.out / f".{self.name}.next"

    @property
    def kept(self) -> Place:
        """What an unfinished run under other settings left."""
        return self.out / f".{self.name}.kept"

    @property
    def _old(self) -> Place:
        return self.out / f".{self.name}.old"

    @property
    def n_parts_begun(self) -> int:
        """Parts of the set being written that are there."""
        return _n_parts(self.next)

    def recover(self) -> None:
        """Finish what a run killed while it changed the sets had begun."""
        with disk_errors(self.out):
            if isinstance(self.next, ObjectPath):
                begun = _manifest(self.next)
                if begun is None or not begun.complete:
                    return
                if not (self.finished / MANIFEST).exists() and self.finished.is_dir():
                    self.publish()
                elif begun == _manifest(self.finished):
                    _remove(self.next)
                return
            if self._old.exists() and not self.finished.exists():
                _rename(self.next if _complete(self.next) else self._old, self.finished)
            _remove(self._old)

    def begun(self, manifest: Manifest) -> frozenset[int]:
        """Numbers of the parts that a run of that manifest need not make again."""
        theirs = _manifest(self.next)
        if theirs is None or theirs.identity != manifest.identity:
            return frozenset()
        return frozenset(index for entry in self.next.iterdir() if (index := index_of(entry.name)) is not None)

    def earlier(self, manifest: Manifest) -> tuple[Place, ...]:
        """The sets that a run of that manifest can draw on, where they lie before it begins."""
        spare = self.next if self._is_worth_keeping(manifest) else self.kept
        return tuple(path for path in (self.finished, spare) if path.is_dir())

    def begin(self, manifest: Manifest) -> tuple[Place, ...]:
        """Make room for a run, and name the earlier sets it can draw on."""
        with disk_errors(self.out):
            begun = _manifest(self.next)
            if self._is_worth_keeping(manifest):
                _remove(self.kept)
                _rename(self.next, self.kept)
            elif begun is not None and begun.identity != manifest.identity:
                _remove(self.next)
        return tuple(path for path in (self.finished, self.kept) if path.is_dir())

    def _is_worth_keeping(self, manifest: Manifest) -> bool:
        """Whether what was begun is another run's. The more an unfinished run wrote, the more it is worth."""
        begun = _manifest(self.next)
        other = begun is not None and begun.identity != manifest.identity
        return other and self.n_parts_begun >= _n_parts(self.kept)

    def publish(self) -> None:
        """Put the next set, now whole, in the place of the finished one."""
        with disk_errors(self.out):
            if isinstance(self.finished, ObjectPath):
                (self.finished / MANIFEST).unlink(missing_ok=True)
                _rename(self.next, self.finished)
            else:
                if self.finished.exists():
                    _rename(self.finished, self._old)
                _rename(self.next, self.finished)
                if isinstance(self.out, Path):
                    sync_folder(self.out)
            _remove(self._old)
            _remove(self.kept)


def _rename(source: Place, target: Place) -> None:
    """Move a set; where that means copying, the manifest comes last and goes last."""
    if isinstance(source, Path) and isinstance(target, Path):
        source.rename(target)
        return
    assert isinstance(source, ObjectPath) and isinstance(target, ObjectPath)
    moved = [entry for entry in source.iterdir() if not is_lock(entry.name)]
    names = {entry.name for entry in moved}
    for entry in target.iterdir():
        if entry.name not in names:
            entry.unlink(missing_ok=True)
    target.copy_from([entry for entry in moved if entry.name != MANIFEST])
    target.copy_from([source / MANIFEST])
    _remove(source)


def _n_parts(folder: Place) -> int:
    return sum(index_of(entry.name) is not None for entry in folder.iterdir()) if folder.is_dir() else 0


def _manifest(path: Place) -> Manifest | None:
    try:
        return pieces_of(path, allow_partial=True)[0] if path.is_dir() else None
    except StoreError:
        return None


def _complete(path: Place) -> bool:
    manifest = _manifest(path)
    return manifest is not None and manifest.complete


def _remove(folder: Place) -> None:
    remove_folder(folder, last=MANIFEST)
