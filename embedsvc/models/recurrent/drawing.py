"""Masks of a recurrent encoder: a function of (seed, pass, text, site, step, gate, unit), whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.models.recurrent.config import RecurrentConfig
from embedsvc.models.recurrent.policy import KINDS
from embedsvc.types import Pass

__all__ = ["draw_masks", "live_sites"]


def live_sites(config: RecurrentConfig) -> list[tuple[str, str, int, tuple[int, int]]]:
    """Direction, kind, number and mask shape (gates, units) of each site with a rate, in the order of their numbers."""
    return [
        (direction.name, kind, direction.first_site + at, config.mask_shape(kind, direction.width))
        for direction in config.directions()
        for at, kind in enumerate(KINDS)
        if config.dropout.rate(kind)
    ]


def draw_masks(
    config: RecurrentConfig, lengths: Sequence[int] | NDArray[np.integer], keys: NDArray[np.uint64], pass_: Pass
) -> tuple[NDArray[np.bool_], ...]:
    """Which units stay at every live site, for one batch.

    Returns
    -------
    tuple of ndarray of shape (n, steps, gates, units), bool
        One for each of `live_sites`; one step if the policy is variational, else as many as the longest text has. The
        steps are places in the text, also for a layer that reads it backward; those after the end keep everything.
    """
    seed, index = pass_.draw
    stream = masks.Stream(seed)
    steps = 1 if config.dropout.variational else max(lengths, default=1)
    drawn = []
    for _, kind, site, (gates, units) in live_sites(config):
        kept = np.ones((len(keys), steps, gates, units), dtype=np.bool_)
        for row, key in enumerate(keys.tolist()):
            own = 1 if config.dropout.variational else int(lengths[row])
            stream.keep_into(kept[row, :own], key=key, site=site, index=index, rate=config.dropout.rate(kind))
        drawn.append(kept)
    return tuple(drawn)
