"""Tiny models on disk, one function a loader. A loader joins the contracts by one function and one line in ENCODERS.

A builder gets an empty folder and a seed for its weights, writes a model there and says how to load it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENCODERS", "WORDS", "Built"]

WORDS = ("the", "a", "film", "was", "good", "bad", "very", "plot", "actor", "und", "café", "日", "本", "?", "!", ".")


@dataclass(frozen=True)
class Built:
    """What a builder wrote.

    `plain` runs the model as its makers would, in inference mode, and gives the same numbers as the tap `plain_tap`.
    """

    uri: str
    options: dict[str, Any] = field(default_factory=dict)
    plain: Callable[[Sequence[str]], NDArray[np.float32]] | None = None
    plain_tap: str = "logits"


def fake(folder: Path, seed: int) -> Built:
    return Built(f"fake:{16 + seed}")


ENCODERS: dict[str, Callable[[Path, int], Built]] = {
    "fake": fake,
}
