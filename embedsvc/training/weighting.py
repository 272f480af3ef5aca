"""How much each text weighs in the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.training.labels import Labels, Task
from embedsvc.training.settings import ClassWeights

__all__ = ["text_weights"]


def text_weights(targets: NDArray[Any], train: NDArray[np.intp], labels: Labels, kind: ClassWeights) -> Any:  # noqa: ANN401
    """Weights in the shape of the targets, float32, by the frequencies of the rows to train on; their mean is 1.

    Balanced, a text weighs ``n / (n_classes * n_of_its_class)`` (scikit-learn's "balanced"). Each label of a
    multi-label text is a class of its own, there or not there.
    """
    if kind is ClassWeights.NONE:
        return np.ones(targets.shape, dtype=np.float32)
    seen = targets[train]
    if labels.task is Task.MULTI_LABEL:
        n_with = seen.sum(axis=0, dtype=np.float64)
        there, absent = len(seen) / (2 * n_with), len(seen) / (2 * np.maximum(len(seen) - n_with, 1))
        return np.where(targets == 1, there, absent).astype(np.float32)
    counts = np.bincount(seen, minlength=len(labels.classes))
    return (len(seen) / (len(labels.classes) * counts))[targets].astype(np.float32)
