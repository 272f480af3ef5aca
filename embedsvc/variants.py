"""Which variants an analysis takes, and what each of them is fitted on or measured against."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import SettingsError
from embedsvc.manifest import summarise
from embedsvc.types import Mode, Variant

__all__ = ["OTHER", "REFERENCE", "choose", "derive", "reference", "space"]

REFERENCE = "pre_dropout.inference"
OTHER = "other:"  # how the variants of the second of two joined sets begin


def choose(embeddings: EmbeddingSet, variants: Sequence[str] | None = None) -> tuple[str, ...]:
    """The variants to analyse, the reference of them all first.

    Parameters
    ----------
    embeddings : EmbeddingSet
    variants : sequence of str, optional
        By default every variant of the set, but of a stochastic tap and mode only the first pass: the others repeat
        it under other masks. `REFERENCE` is put first where the set can give it, asked for or not.

    Raises
    ------
    UnknownVariantError
        If the set does not hold one of them.
    SettingsError
        If there is none.
    """
    if variants is None:
        first: dict[str, str] = {}
        for variant in map(Variant.parse, embeddings.variants):
            first.setdefault(variant.kind, str(variant))
        variants = tuple(first.values())
    names = dict.fromkeys([REFERENCE, *variants] if REFERENCE in embeddings else variants)
    if not names:
        raise SettingsError("no variant was named", f"There are: {summarise(embeddings.variants)}")
    embeddings.iter_blocks(tuple(names))  # raises for a name that is unknown, and reads nothing
    return tuple(names)


def space(variant: str) -> str:
    """The tap whose axes a variant's vectors have: `pre_dropout` for both sides of the dropout, else its own.

    Only vectors of one space may be given to a projection or a classifier that was fitted on another variant.
    """
    tap = Variant.parse(variant).tap
    return tap.replace("post_dropout", "pre_dropout") if tap in ("post_dropout", f"{OTHER}post_dropout") else tap


def reference(variant: str, variants: Sequence[str]) -> str:
    """What is fitted once for all variants of one space: the first of `variants` in that space, inference before all.

    >>> reference("post_dropout.head.0", ["post_dropout.head.0", "pre_dropout.inference", "logits.inference"])
    'pre_dropout.inference'
    """
    same = [name for name in variants if space(name) == space(variant)]
    return min(same, key=lambda name: Variant.parse(name).mode is not Mode.INFERENCE)


def derive(seed: int, *path: str | int) -> int:
    """A child seed of 32 bits for one purpose, the same on every machine; seeds of different paths are unrelated.

    >>> derive(7, "resample", 0) == derive(7, "resample", 0), derive(7, "resample", 0) == derive(7, "resample", 1)
    (True, False)
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])
