"""Rows of earlier sets whose vectors can be taken over, found by content, so that only new texts are encoded.

A stored vector of inference mode depends on the text alone; one of training mode on the row's id as well, since its
masks do, and on the seed and the number of its pass, but not on how many passes there are. So rows are found by a hash
of the text, and of the id where anything of training mode is taken, and then compared themselves. What else decides
vectors (model, limits, versions …) must be equal for the set as a whole; passes that an earlier set lacks are encoded.
A vector taken over was computed in a batch of that earlier run: where batches differ, a model may differ in the last
bits, below 1e-6 of a unit.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.arrow import digest, numpy_values
from embedsvc.errors import StoreError
from embedsvc.manifest import Manifest
from embedsvc.parts import Piece
from embedsvc.storage import Place
from embedsvc.stored import pieces_of
from embedsvc.streaming import Recalled
from embedsvc.types import Mode, Text, Variant

__all__ = ["Recall", "obstacle", "shared"]

_CACHED = 4  # parts in memory: rows of one block tend to come from one or two


def obstacle(manifest: Manifest, earlier: Manifest) -> str | None:
    """Why no vector of an earlier set can be taken over, None where they can."""

    def limit(of: Manifest) -> int | None:
        return of.max_tokens or of.model.max_tokens

    for what, ours, theirs in (
        ("model", manifest.model.digest, earlier.model.digest),
        ("vocabulary", manifest.model.vocab_digest, earlier.model.vocab_digest),
        ("head", manifest.head.digest(), earlier.head.digest()),
        ("longest text", limit(manifest), limit(earlier)),
        ("on-long", manifest.on_long, earlier.on_long),
        ("precision", manifest.precision, earlier.precision),
        ("engine", manifest.engine, earlier.engine),
        ("versions", _deciding(manifest), _deciding(earlier)),
    ):
        if ours != theirs:
            return f"its {what} differ{'' if what.endswith('s') else 's'}"
    if not shared(manifest, earlier):
        return f"it has no {manifest.stored[0]} of these masks"
    return None


def shared(manifest: Manifest, earlier: Manifest) -> tuple[str, ...]:
    """Stored variants that an earlier set has too, where `obstacle` finds none: all but those under other masks."""
    masks = manifest.model.masks == "keyed" and (manifest.seed, manifest.mask_version) == (
        earlier.seed,
        earlier.mask_version,
    )
    return tuple(name for name in manifest.stored if name in earlier.stored and (masks or not _is_training(name)))


@dataclass(frozen=True, slots=True)
class _Shelf:
    """A part of an earlier set, and the digest that its rows must have; None where that was just checked."""

    piece: Piece
    sha256: str | None


class Recall:
    """Answers `streaming.Known` out of earlier sets. Takes 16 bytes of memory for each of their rows.

    Attributes
    ----------
    names : tuple of str
        The variants that are taken over.
    complete : bool
        Whether these are all that the run stores, so that rows found need not be encoded at all.
    rows, tokens : int
        Rows handed out so far that need not be encoded, and their tokens.
    damaged : dict of str to None
        Parts that did not agree with their digests, in the order they were met; their rows are encoded again.
    """

    def __init__(
        self,
        keys: NDArray[np.uint64],
        places: NDArray[np.int64],
        shelves: Sequence[_Shelf],
        names: tuple[str, ...],
        *,
        complete: bool,
    ) -> None:
        self._keys = keys
        self._places = places
        self._shelves = tuple(shelves)
        self.names = names
        self.complete = complete
        self._by_id = any(map(_is_training, names))
        self._cache: OrderedDict[int, _Columns | None] = OrderedDict()
        self.rows = self.tokens = 0
        self.damaged: dict[str, None] = {}

    @classmethod
    def of(
        cls, earlier: Iterable[Place], manifest: Manifest, told: Callable[[str], object] = lambda why: None
    ) -> Recall | None:
        """What of earlier sets, finished or not, serves a run; None if nothing does.

        Parameters
        ----------
        earlier : iterable of Place
            The first to hold a row gives it.
        manifest : Manifest
            Of the run.
        told : callable
            Told why a set serves nothing.
        """
        shelves: list[_Shelf] = []
        keys: list[NDArray[np.uint64]] = []
        places: list[NDArray[np.int64]] = []
        damaged: list[str] = []
        usable: list[tuple[Manifest, tuple[Piece, ...]]] = []
        for path in earlier:
            try:
                theirs, pieces = pieces_of(path, allow_partial=True)
            except StoreError as error:
                told(error.problem)
                continue
            why = obstacle(manifest, theirs)
            if why:
                told(f"{path} cannot be drawn on: {why}")
                continue
            usable.append((theirs, pieces))
        names = _most(manifest, usable)
        by_id = any(map(_is_training, names))
        for theirs, pieces in usable:
            if not set(names) <= set(shared(manifest, theirs)):
                continue
            for number, piece in enumerate(pieces):
                try:
                    table = piece.read(["id", "text"])
                except StoreError:
                    damaged.append(str(piece.file))
                    continue
                pairs = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
                found = _keys_of((Text(*pair) for pair in pairs), by_id, len(table))
                keys.append(found)
                places.append((len(shelves) << 32) + np.arange(len(found)))
                shelves.append(_Shelf(piece, theirs.parts[number].sha256 if theirs.complete else None))
        if not shelves and not damaged:
            return None
        every = np.concatenate([np.empty(0, np.uint64), *keys])
        order = np.argsort(every, kind="stable")
        where = np.concatenate([np.empty(0, np.int64), *places])[order]
        recall = cls(every[order], where, shelves, names, complete=names == manifest.stored)
        recall.damaged |= dict.fromkeys(damaged)
        return recall

    def count(self, texts: Iterable[Text]) -> int:
        """How many of some texts would be taken over, going by their hashes: nothing is read."""
        stream = iter(texts)
        count = 0
        while run := list(islice(stream, 4096)):
            count += len(self._hits(_keys_of(run, self._by_id, len(run)))[0])
        return count

    def __call__(self, texts: Sequence[Text]) -> Recalled | None:
        """See `streaming.Known`."""
        hits, place = self._hits(_keys_of(texts, self._by_id, len(texts)))
        if not len(hits):
            return None
        shelf, inner = place >> 32, place & 0xFFFFFFFF
        good = np.zeros(len(hits), dtype=np.bool_)
        gathered: dict[str, NDArray[Any]] = {}
        for number in np.unique(shelf):
            columns = self._open(int(number))
            if columns is None:
                continue
            here = np.flatnonzero(shelf == number)
            same = [self._same(texts[hits[each]], columns, int(inner[each])) for each in here]
            here = here[np.array(same, dtype=np.bool_)]
            good[here] = True
            for name in (*self.names, "n_tokens", "truncated"):
                values = columns.values[name]
                if name not in gathered:
                    gathered[name] = np.empty((len(hits), *values.shape[1:]), dtype=values.dtype)
                gathered[name][here] = values[inner[here]]
        if not good.any():
            return None
        if self.complete:
            self.rows += int(good.sum())
            self.tokens += int(gathered["n_tokens"][good].clip(0).sum())
        return Recalled(
            rows=hits[good],
            vectors={name: gathered[name][good] for name in self.names},
            n_tokens=gathered["n_tokens"][good],
            truncated=gathered["truncated"][good],
        )

    def _hits(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Positions of the keys that are known, and the place of each."""
        if not len(self._keys):
            return np.empty(0, np.intp), np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        hits = np.flatnonzero(self._keys[at] == keys)
        return hits, self._places[at[hits]]

    def _same(self, text: Text, columns: _Columns, row: int) -> bool:
        return columns.texts[row] == text.text and (not self._by_id or columns.ids[row] == text.id)

    def _open(self, number: int) -> _Columns | None:
        """A part's columns if it is what was written."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        shelf = self._shelves[number]
        columns = None
        try:
            table = shelf.piece.read()
            if shelf.sha256 in (None, digest(table)):
                columns = _Columns(
                    table["id"].to_pylist(),
                    table["text"].to_pylist(),
                    {name: numpy_values(table[name]) for name in (*self.names, "n_tokens", "truncated")},
                )
        except StoreError:
            pass
        if columns is None:
            self.damaged[str(shelf.piece.file)] = None
        self._cache[number] = columns
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return columns


@dataclass(frozen=True, slots=True)
class _Columns:
    ids: list[str]
    texts: list[str]
    values: dict[str, NDArray[Any]]


def _most(manifest: Manifest, usable: Iterable[tuple[Manifest, Sequence[Piece]]]) -> tuple[str, ...]:
    """The variants to take over: those of one of the sets, so that most vectors of all of them are."""
    sets = [(shared(manifest, theirs), sum(piece.rows or 0 for piece in pieces)) for theirs, pieces in usable]

    def vectors(names: tuple[str, ...]) -> int:
        return len(names) * sum(rows for theirs, rows in sets if set(names) <= set(theirs))

    return max((names for names, _ in sets), key=vectors, default=())


def _is_training(name: str) -> bool:
    return Variant.parse(name).mode is Mode.TRAINING


def _deciding(manifest: Manifest) -> dict[str, str]:
    """Versions that decide vectors; pyarrow decides the bytes they are packed in."""
    return {name: version for name, version in manifest.versions.items() if name != "pyarrow"}


def _keys_of(texts: Iterable[Text], by_id: bool, count: int) -> NDArray[np.uint64]:
    """64 bits for each text; which rows really are the same is decided by comparing them."""
    digests = bytearray()
    for text in texts:
        content = f"{text.id}\0{text.text}" if by_id else text.text
        digests += hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.frombuffer(bytes(digests), dtype="<u8", count=count)
