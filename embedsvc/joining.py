"""Two sets of the same texts as one: two checkpoints, or a model before and after it was tuned.

The variants of the second set are those of the first with ``other:`` before their name, for example
``other:pre_dropout.inference``; every analysis that takes a set takes a joined one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import SettingsError
from embedsvc.manifest import Manifest
from embedsvc.variants import OTHER

__all__ = ["join", "shared_rows"]


def join(one: EmbeddingSet, other: EmbeddingSet, *, how: str = "strict") -> EmbeddingSet:
    """The texts that two sets share, with the variants of both in the modes that both have.

    Texts, ids and labels are those of the first set, labels those of the second where the first has none at all. Head
    passes are drawn for the first set only. What is asked for is held in memory as a whole, never piece by piece.

    Parameters
    ----------
    one, other : EmbeddingSet
    how : {"strict", "inner"}
        Whether every text must be in both sets, or those in both are enough.

    Raises
    ------
    SettingsError
        If the sets share too few texts or no mode, or an id stands for different texts.
    """
    rows = shared_rows(one, other, how)
    return EmbeddingSet(one.path, _manifest(one, other, len(rows[0])), _Joined(one, other, *rows))


def shared_rows(one: EmbeddingSet, other: EmbeddingSet, how: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the texts that two sets share, in the order of the first.

    Raises
    ------
    SettingsError
        If they share too few, or an id stands for different texts.
    """
    if how not in ("strict", "inner"):
        raise SettingsError(f"join is {how!r}, expected 'strict' or 'inner'")
    where = {text_id: row for row, text_id in enumerate(other.ids)}
    shared = [(row, where[text_id]) for row, text_id in enumerate(one.ids) if text_id in where]
    counts = f"{one.path} has {len(one):,} texts, {other.path} {len(other):,}, and {len(shared):,} ids are in both"
    if len(shared) < 4 or (how == "strict" and not len(shared) == len(one) == len(other)):
        missing = [text_id for text_id in one.ids if text_id not in where] or sorted(where.keys() - set(one.ids))
        named = f"; not in both: {missing[0]!r}" if missing else ""
        advice = (
            "Extract both from the same texts, 4 or more, or name the column of their ids with --id-column."
            if len(shared) < 4
            else "Compare the texts that are in both with --join inner."
        )
        raise SettingsError(f"the sets are not of the same texts: {counts}{named}", advice)
    changed = [one.ids[a] for a, b in shared if one.texts[a] != other.texts[b]]
    if changed:
        raise SettingsError(
            f"{len(changed):,} of {len(shared):,} shared ids stand for different texts, the first is {changed[0]!r}",
            "Ids made of file and row match by accident: extract both with --id-column.",
        )
    pairs = np.array(shared, dtype=np.int64)
    return pairs[:, 0], pairs[:, 1]


def _manifest(one: EmbeddingSet, other: EmbeddingSet, n: int) -> Manifest:
    """That of the first set, with the taps of the second beside its own."""
    ours, theirs = one.manifest, other.manifest
    modes = tuple(mode for mode in ours.modes if mode in theirs.modes)
    if not modes:
        raise SettingsError(
            f"the sets share no mode: {one.path} has {', '.join(ours.modes)}, {other.path} {', '.join(theirs.modes)}",
            "Extract both in the same modes.",
        )
    stochastic = any(mode.stochastic for mode in modes)
    note = (
        f"{OTHER} stands for {other.path.name}: model {theirs.model.uri} ({theirs.model.digest[:12]}), head dropout "
        f"{theirs.head.rate:g}; {n:,} texts are in both sets, of {len(one):,} and {len(other):,}."
    )
    return replace(
        ours,
        model=replace(
            ours.model,
            taps={**ours.model.taps, **{f"{OTHER}{tap}": width for tap, width in theirs.model.taps.items()}},
            notes=(note, *ours.model.notes),
        ),
        taps=(*ours.taps, *(f"{OTHER}{tap}" for tap in theirs.taps)),
        modes=modes,
        passes=min(ours.passes, theirs.passes) if stochastic else 0,
        seed=ours.seed if stochastic else None,
        rows=n,
        parts=(),
    )


class _Joined:
    """Columns of both sets for the rows they share, as a single part."""

    def __init__(
        self, one: EmbeddingSet, other: EmbeddingSet, rows: NDArray[np.int64], other_rows: NDArray[np.int64]
    ) -> None:
        self._one, self._other, self._rows, self._other_rows = one, other, rows, other_rows
        self.sizes = (len(rows),)
        own = (name for name in one.variants if name in one.manifest.stored)
        self.columns = frozenset([*own, *(f"{OTHER}{name}" for name in other.variants)])

    def part(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        labels = self._one.labels
        if all(label is None for label in labels):
            labels = tuple(self._other.labels[at] for at in self._other_rows)
        else:
            labels = tuple(labels[at] for at in self._rows)
        found: dict[str, Any] = {}
        for name in columns:
            if name == "label":
                found[name] = list(labels)
            elif name in ("id", "text"):
                values = self._one.ids if name == "id" else self._one.texts
                found[name] = [values[at] for at in self._rows]
            elif name in ("n_tokens", "truncated"):
                found[name] = getattr(self._one, name)[self._rows]
            elif name.startswith(OTHER):
                found[name] = self._other[name.removeprefix(OTHER)][self._other_rows]
            else:
                found[name] = self._one[name][self._rows]
        return found
