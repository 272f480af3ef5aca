"""Which texts train, which decide when to stop, and which are scored at the end.

The parts are decided by a hash of the text itself, so that copies of a text are never on both sides, and so that
neither the order of the rows nor their ids matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import DegenerateInputError
from embedsvc.training.labels import Labels, Task
from embedsvc.types import Text

__all__ = ["PARTS", "Split", "fingerprint", "split_texts", "without"]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows of each part, ascending.

    Attributes
    ----------
    train, validation, test : ndarray of intp
    n_copies : int
        Rows whose text an earlier row has; they are in that row's part.
    n_conflicts : int
        Of these, rows with another label than the first.
    """

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    n_copies: int = 0
    n_conflicts: int = 0


def fingerprint(text: str) -> bytes:
    """Equal for texts that differ in case and white space only.

    >>> fingerprint("Good  morning") == fingerprint("good morning ")
    True
    """
    plain = " ".join(text.casefold().split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def split_texts(texts: Sequence[Text], labels: Labels, *, validation: float, test: float, seed: int) -> Split:
    """Split at random, but repeatably, each class in the same proportions.

    Within a class the distinct texts are ordered by a keyed hash; the first go to test, the next to validation. Classes
    of multi-label texts overlap, so these are ordered all together.

    Parameters
    ----------
    texts : sequence of Text
        All labelled.
    labels : Labels
    validation, test : float
        Shares; 0 leaves a part empty. Every other part gets at least one distinct text of each class.
    seed : int
        Key of the hash.

    Raises
    ------
    DegenerateInputError
        If a class is too small to be in every part.
    """
    prints = [fingerprint(text.text) for text in texts]
    first: dict[bytes, int] = {}
    for row, print_ in enumerate(prints):
        first.setdefault(print_, row)
    conflicts = sum(texts[first[print_]].label != text.label for print_, text in zip(prints, texts, strict=True))
    strata: dict[str, list[bytes]] = {}
    for print_, row in first.items():
        stratum = "" if labels.task is Task.MULTI_LABEL else str(texts[row].label)
        strata.setdefault(stratum, []).append(print_)
    part_of: dict[bytes, str] = {}
    for stratum, members in strata.items():
        members.sort(key=_keyed(seed))
        n_test, n_validation = (_share(len(members), share) for share in (test, validation))
        if n_test + n_validation >= len(members):
            rows = sum(text.label == stratum for text in texts) if stratum else len(texts)
            raise _too_small(stratum, rows, len(members), 1 + bool(test) + bool(validation))
        for at, member in enumerate(members):
            part_of[member] = PARTS[2] if at < n_test else PARTS[1] if at < n_test + n_validation else PARTS[0]
    parts = np.array([part_of[print_] for print_ in prints])
    train, held_out, scored = (np.flatnonzero(parts == part) for part in PARTS)
    split = Split(train, held_out, scored, len(texts) - len(first), conflicts)
    _check_classes(texts, labels, split)
    return split


def without(texts: Sequence[Text], held_out: Sequence[Text]) -> list[Text]:
    """The texts that no held-out text is a copy of."""
    taken = {fingerprint(text.text) for text in held_out}
    return [text for text in texts if fingerprint(text.text) not in taken]


def _keyed(seed: int) -> Callable[[bytes], bytes]:
    key = seed.to_bytes(8, "little")
    return lambda print_: hashlib.blake2b(print_, digest_size=16, key=key).digest()


def _share(n: int, share: float) -> int:
    return max(1, round(n * share)) if share else 0


def _check_classes(texts: Sequence[Text], labels: Labels, split: Split) -> None:
    for part in PARTS:
        rows = getattr(split, part)
        if not len(rows):
            continue
        found = {name for row in rows for name in labels.split(texts[row].label or "")}
        if missing := [name for name in labels.classes if name not in found]:
            name = missing[0]
            n = sum(name in labels.split(text.label or "") for text in texts)
            raise DegenerateInputError(
                f"the class {name!r} has {n:,} of {len(texts):,} texts, and none of them fell into the {part} part",
                "Add texts of this class, take it out, hold out a larger share, or try another --seed.",
            )


def _too_small(label: str, rows: int, distinct: int, parts: int) -> DegenerateInputError:
    copies = "" if rows == distinct else f" ({distinct} distinct)"
    what = f"the class {label!r} has {rows} text{'s' * (rows != 1)}{copies}" if label else f"there are {rows} texts"
    return DegenerateInputError(
        f"{what}, expected at least {parts}: one to train on and one in each held-out part",
        "Add texts of this class, take it out, or join it with another. If the labels are numbers with many values "
        "(ratings, prices), group them into classes first.",
    )
