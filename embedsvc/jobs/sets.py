"""Where a job keeps a set: the finished one in place, the next one beside it until it is whole.

``OUT/extract`` is the finished set. A run writes ``OUT/.extract.next`` and changes the two at the end, so that there
is always a whole set, and the old one can be drawn on until then. What a killed run wrote under settings that have
changed since is kept as ``OUT/.extract.kept`` and drawn on too.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from embedsvc.errors import StoreError
from embedsvc.manifest import Manifest
from embedsvc.parts import index_of
from embedsvc.storage import disk_errors, sync_folder
from embedsvc.stored import pieces_of

__all__ = ["Shelf"]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folders of one set.

    Attributes
    ----------
    out : Path
        Of the job.
    name : str
        Of the extraction.
    """

    out: Path
    name: str

    @property
    def finished(self) -> Path:
        """The set that readers open."""
        return self.out / self.name

    @property
    def next(self) -> Path:
        """The set being written."""
        return self.out / f".{self.name}.next"

    @property
    def kept(self) -> Path:
        """What an unfinished run under other settings left."""
        return self.out / f".{self.name}.kept"

    @property
    def _old(self) -> Path:
        return self.out / f".{self.name}.old"

    @property
    def n_parts_begun(self) -> int:
        """Parts of the set being written that are there."""
        return sum(index_of(entry.name) is not None for entry in self.next.iterdir()) if self.next.is_dir() else 0

    def recover(self) -> None:
        """Finish what a run killed while it changed the sets had begun."""
        with disk_errors(self.out):
            if self._old.exists() and not self.finished.exists():
                (self.next if _complete(self.next) else self._old).rename(self.finished)
            _remove(self._old)

    def begin(self, manifest: Manifest) -> tuple[Path, ...]:
        """Make room for a run, and name the earlier sets it can draw on."""
        with disk_errors(self.out):
            begun = _manifest(self.next)
            if begun is not None and begun.identity != manifest.identity:
                # The more an unfinished run wrote, the more it is worth keeping.
                if self.n_parts_begun >= sum(1 for _ in self.kept.glob("part-*")):
                    _remove(self.kept)
                    self.next.rename(self.kept)
                else:
                    _remove(self.next)
        return tuple(path for path in (self.finished, self.kept) if path.is_dir())

    def publish(self) -> None:
        """Put the next set, now whole, in the place of the finished one."""
        with disk_errors(self.out):
            if self.finished.exists():
                self.finished.rename(self._old)
            self.next.rename(self.finished)
            sync_folder(self.out)
            _remove(self._old)
            _remove(self.kept)


def _manifest(path: Path) -> Manifest | None:
    try:
        return pieces_of(path, allow_partial=True)[0] if path.is_dir() else None
    except StoreError:
        return None


def _complete(path: Path) -> bool:
    manifest = _manifest(path)
    return manifest is not None and manifest.complete


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
