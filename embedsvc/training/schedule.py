"""The learning rate of each step: warm-up, then decay."""

from __future__ import annotations

import math

from embedsvc.training.settings import Decay

__all__ = ["learning_rate"]


def learning_rate(step: int, *, steps: int, peak: float, warmup: float, decay: Decay) -> float:
    """Of one step, counted from 0.

    It rises linearly over the first ``round(warmup * steps)`` steps, so that the first is not lost at rate 0, and
    decays over the others.

    >>> [round(learning_rate(step, steps=10, peak=1.0, warmup=0.2, decay=Decay.LINEAR), 3) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.125]
    """
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    left = 1.0 - (step - rising) / max(steps - rising, 1)
    if decay is Decay.LINEAR:
        return peak * left
    if decay is Decay.COSINE:
        return peak * 0.5 * (1.0 - math.cos(math.pi * left))
    return peak
