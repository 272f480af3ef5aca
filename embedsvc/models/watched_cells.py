"""Seeing the masks of a recurrent Keras layer, whoever draws them, by running it step by step.

A weight that multiplies a dropped unit has no gradient. So the gradient of a step's output with respect to the cell's
two kernels shows, row by row and gate by gate, which inputs and which states that step dropped, whatever code
dropped them. Where the layer does not call its cell (fused kernels), the gradient with respect to the layer's input
shows the same for the input alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc.models.observation import Mask, Seen

__all__ = ["run_watched"]

_STEPS = "gradients of the cell's kernels, step by step"
_INPUT = "gradient of the layer's input"


def run_watched(layer: Any, run: Callable[[], Any], x: Any) -> tuple[Any, list[dict[str, Seen]]]:
    """Call a layer, and tell what each of its cells dropped.

    Parameters
    ----------
    layer : layer
        Recurrent, of Keras 3 or tf_keras.
    run : callable
        Calls it, eagerly, on one row.
    x : tensor of shape (1, steps, width)
        What it is called on.

    Returns
    -------
    y : what `run` gave
    seen : list of dict
        One for each cell: ``dropout`` and ``recurrent_dropout`` to what was seen.
    """
    cells = getattr(layer.cell, "cells", [layer.cell])
    watches = [_Watch(cell) for cell in cells]
    try:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = run()
            total = _sum(tf.nest.flatten(y)[0])
    finally:
        for watch in watches:
            watch.end()
    seen = [watch.seen() for watch in watches]
    if not watches[0].inputs:
        gradient = tape.gradient(total, x)
        if gradient is not None:
            mask = _known(gradient.numpy()[0] != 0, np.ones(x.shape[1:]))[:, None]  # (steps, 1, width)
            seen[0]["dropout"] = Seen(bool((mask == 0).any()), mask, True, _INPUT)
    return y, seen


class _Watch:
    """Stands in for the `call` of one cell."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell
        self._call = cell.call
        self.inputs: list[Mask] = []
        self.states: list[Mask] = []

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def call(inputs: Any, states: Any, *args: Any, **kwargs: Any) -> Any:
            kernels = [_variable(getattr(cell, name, None)) for name in ("kernel", "recurrent_kernel")]
            if not all(isinstance(kernel, tf.Variable) for kernel in kernels) or not tf.executing_eagerly():
                return self._call(inputs, states, *args, **kwargs)
            with tf.GradientTape(persistent=False) as tape:
                tape.watch(kernels)
                out = self._call(inputs, states, *args, **kwargs)
                total = _sum(out[0])
            of_kernel, of_recurrent = tape.gradient(total, kernels)
            state = tf.nest.flatten(states)[0]
            self.inputs.append(_by_gate(of_kernel, inputs, len(of_recurrent)))
            self.states.append(_by_gate(of_recurrent, state, len(of_recurrent)))
            return out

        cell.call = call

    def end(self) -> None:
        self._cell.call = self._call

    def seen(self) -> dict[str, Seen]:
        both = {"dropout": self.inputs, "recurrent_dropout": self.states}
        return {
            name: Seen(any(bool((mask == 0).any()) for mask in steps), np.stack(steps) if steps else None, True, _STEPS)
            for name, steps in both.items()
        }


def _by_gate(gradient: Any, x: Any, units: int) -> Mask:
    """The mask of one step, shape (gates, width), from a gradient of shape (width, gates * units)."""
    moved = gradient.numpy().reshape(len(gradient), -1, units).any(axis=2).T
    # A gate that moved by nothing at all was shut; a unit that was 0 shows nothing either.
    return _known(moved, (x.numpy()[0] != 0) & moved.any(axis=1, keepdims=True))


def _known(moved: NDArray[np.bool_], known: NDArray[Any]) -> Mask:
    return np.where(known, moved, np.nan).astype(np.float32)


def _variable(weight: Any) -> Any:
    return weight if weight is None or isinstance(weight, tf.Variable) else getattr(weight, "value", None)


def _sum(y: Any) -> Any:
    """A sum in which no two units cancel each other out."""
    size = tf.size(y)
    weights = tf.cast(tf.range(1, size + 1), y.dtype) / tf.cast(size, y.dtype)
    return tf.reduce_sum(y * tf.reshape(weights, tf.shape(y)))
