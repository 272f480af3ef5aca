"""Keyed dropout masks for Keras' recurrent layers: SimpleRNN, LSTM, GRU and what is built of them.

Keras draws the masks of a recurrent cell once a call of its layer and keeps them for every step (Gal & Ghahramani 2016,
arXiv:1512.05287), one for each gate where the cell multiplies gate by gate (``implementation=1``, which
``recurrent_dropout`` forces). One exception: LSTM and GRU of tf_keras without ``recurrent_dropout`` drop their whole
input before the kernel, each step under a mask of its own. Here masks are drawn for the same places, keyed by the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from embedsvc.models.keyed import Trace, keyed_dropout

__all__ = ["CellSite", "KeyedCells"]

# Argument of the layer, and the kind of site it makes: what goes in, and the state that comes back.
_KINDS = {"dropout": "input", "recurrent_dropout": "recurrent"}


@dataclass(frozen=True, slots=True)
class CellSite:
    """A dropout of one cell of a layer: `cell` is its number, `argument` what Keras calls it."""

    rate: float
    kind: str
    cell: int
    argument: str


class KeyedCells:
    """The cells of one recurrent layer, with their masks drawn by us while a pass is open.

    Parameters
    ----------
    layer : layer
        Keras 3 or tf_keras; its cells are changed.
    path : str

    Attributes
    ----------
    sites : dict of str to CellSite
        By path.
    keyed : bool
        Whether every cell is one whose masks can be set; a cell of somebody else draws by itself.
    """

    def __init__(self, layer: Any, path: str) -> None:
        cells = getattr(layer.cell, "cells", [layer.cell])
        self.sites: dict[str, CellSite] = {}
        self.keyed = True
        self._pass: tuple[Trace, dict[str, str]] | None = None
        self._drawn: dict[str, Any] = {}
        for number, cell in enumerate(cells):
            where = path if len(cells) == 1 else f"{path}/{cell.name}"
            for argument, kind in _KINDS.items():
                if rate := getattr(cell, argument, None):
                    self.sites[f"{where}/{argument}"] = CellSite(float(rate), kind, number, argument)
            self._take_over(cell, where)
            if len(cells) == 1:
                self._take_over(layer, where)
            if not any(hasattr(cell, name) for name in _GETTERS):
                self.keyed = self.keyed and not any(getattr(cell, argument, None) for argument in _KINDS)

    @contextmanager
    def during(self, trace: Trace, names: dict[str, str]) -> Iterator[None]:
        """Draw for a call of the layer meanwhile; `names` maps each path to that of its site in the trace."""
        self._pass = (trace, names)
        self._drawn = {}
        try:
            yield
        finally:
            self._pass = None
            self._drawn = {}

    def _take_over(self, owner: Any, where: str) -> None:
        for getter, argument in _GETTERS.items():
            original = getattr(owner, getter, None)
            if original is not None:
                setattr(owner, getter, self._getter(original, owner, f"{where}/{argument}"))

    def _getter(self, original: Callable[..., Any], owner: Any, path: str) -> Callable[..., Any]:
        def get(x: Any, *args: Any, **kwargs: Any) -> Any:
            if self._pass is None or path not in self.sites:
                return original(x, *args, **kwargs)
            # Asked for at each step, and in a loop's body: made once, in the graph around the loop.
            if path not in self._drawn:
                # Keras 3 keeps the number of masks in the cell, tf_keras hands it over.
                count = kwargs.get("count", args[1] if len(args) > 1 else getattr(owner, "dropout_mask_count", None))
                if x.shape.rank > 2 and "count" in kwargs:
                    # LSTM and GRU of tf_keras, before a kernel that may be fused: the whole sequence, a mask for each
                    # step, and of several only the first is used.
                    self._drawn[path] = [self._draw(x, path, None)] * kwargs["count"]
                else:
                    self._drawn[path] = self._draw(x, path, None if count == 1 else count)
            return self._drawn[path]

        unconverted: Callable[..., Any] = tf.autograph.experimental.do_not_convert(get)
        return unconverted

    def _draw(self, x: Any, path: str, count: int | None) -> Any:
        assert self._pass is not None
        trace, names = self._pass
        name = names[path]
        ones = tf.ones_like(x)
        if name not in trace.numbers:  # no live site
            return ones if count is None else [ones] * count
        stacked = tf.stack([ones] * (count or 1), axis=1)
        mask = keyed_dropout(
            stacked,
            self.sites[path].rate,
            shape=tf.shape(stacked),
            keys=trace.keys,
            draw=trace.draw,
            site=trace.numbers[name],
        )
        masks = tf.unstack(mask, axis=1)
        return masks[0] if count is None else masks


_GETTERS = {
    "get_dropout_mask": "dropout",
    "get_recurrent_dropout_mask": "recurrent_dropout",
    "get_dropout_mask_for_cell": "dropout",
    "get_recurrent_dropout_mask_for_cell": "recurrent_dropout",
}
