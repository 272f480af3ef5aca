"""Keyed dropout as a TensorFlow op, and the record of what a Keras model does with it.

While a `Trace` is open (see `instrument`), each call of a dropout layer is a numbered site whose mask is drawn by
`masks.keep`: the very bits that numpy draws for the head.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.models.observation import Seen

__all__ = ["Call", "Dense", "Trace", "keyed_dropout"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a dropout layer in a trace: a dropout site.

    `x` goes in and `y` comes out; `live` says whether Keras asked for training at this place, `keyed` whether the mask
    follows the text.
    """

    path: str
    layer: Any
    rate: float
    kind: str
    live: bool
    keyed: bool
    x: Any
    y: Any


@dataclass(frozen=True, eq=False)
class Dense:
    """One call of a dense layer in a trace."""

    path: str
    layer: Any
    x: Any
    y: Any


@dataclass(eq=False)
class Trace:
    """What happens while a model is traced once.

    Attributes
    ----------
    keys : tensor of shape (n,), uint64, or None
        None: dropouts hand their input on.
    draw : tensor of shape (2,), int64
        Seed and pass number.
    numbers : mapping of str to int
        Site numbers by path of the call; other calls hand their input on.
    calls, denses : list
        In the order of execution.
    outputs : dict of str to tensor
        What the watched layers gave.
    own : bool
        Let every layer drop as it does by itself, in an eager call on one row, and see what it drops.
    seen : dict of str to Seen
        If `own`: what each call dropped, by its path.
    """

    keys: Any = None
    draw: Any = None
    numbers: dict[str, int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    denses: list[Dense] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    own: bool = False
    seen: dict[str, Seen] = field(default_factory=dict)
    _named: Counter[str] = field(default_factory=Counter)

    def name(self, path: str) -> str:
        """Path of a call: a layer called again is a site of its own, or its masks would be the same."""
        self._named[path] += 1
        return path if self._named[path] == 1 else f"{path}#{self._named[path]}"

    def call_at(self, path: str) -> Call:
        """The call of that path."""
        return next(call for call in self.calls if call.path == path)


def keyed_dropout(x: Any, rate: float, *, shape: Any, keys: Any, draw: Any, site: int) -> Any:
    """Dropout of a tensor under masks keyed by row, as a graph op.

    Parameters
    ----------
    x : tensor of shape (n, ...)
    rate : float
    shape : tensor of int32
        Shape of the mask, broadcast against `x`. Where its first axis is n, or n rows of equal parts, each row's
        mask follows its key; otherwise the whole mask follows the first row's.
    keys, draw
        See `Trace`.
    site : int
        Number of the site, see `masks.keep`.
    """

    def keep(
        keys: NDArray[np.uint64], draw: NDArray[np.int64], shape: NDArray[np.int32]
    ) -> NDArray[np.bool_]:  # pragma: no cover - runs on a thread of TensorFlow, which coverage does not see
        total = int(np.prod(shape, dtype=np.int64))
        rows = keys if len(keys) and shape[0] and shape[0] % len(keys) == 0 else keys[:1]
        if not len(rows):
            return np.ones(shape, dtype=np.bool_)
        kept = masks.keep(
            rows, seed=int(draw[0]), passes=[int(draw[1])], site=site, units=total // len(rows), rate=rate
        )
        return kept.reshape(shape)

    # Not stateful: the mask is a function of the inputs, so TensorFlow may leave out what no tap needs.
    kept = tf.numpy_function(keep, [keys, draw, shape], tf.bool, stateful=False)
    y = tf.where(tf.reshape(kept, shape), x * tf.cast(1.0 / (1.0 - rate), x.dtype), tf.zeros([], x.dtype))
    y.set_shape(x.shape)
    return y
