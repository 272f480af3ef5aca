"""The shape of a recurrent classifier, its weights and its dropout sites.

Kernels and gates are laid out as Keras has them, so that weights of ``SimpleRNN``, ``GRU`` and ``LSTM`` fit as they
are: gates z, r, h of a GRU (with ``reset_after``), i, f, g, o of an LSTM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import SettingsError
from embedsvc.models.recurrent.policy import KINDS, RecurrentDropout, parse_policy
from embedsvc.types import DropoutSite, Mode

__all__ = ["CELLS", "Direction", "RecurrentConfig", "initial_weights", "parse_config"]

# Cell to its number of gates.
CELLS = {"simple": 1, "gru": 3, "lstm": 4, "layer_norm_lstm": 4}
_MOST = {"vocabulary": 10_000_000, "embedding": 65_536, "units": 65_536, "layers": 64, "max_tokens": 1_000_000}


@dataclass(frozen=True, slots=True)
class Direction:
    """One recurrent layer in one direction: its name, the width of what it reads, the number of its first site."""

    name: str
    layer: int
    backward: bool
    width: int
    first_site: int


@dataclass(frozen=True, slots=True)
class RecurrentConfig:
    """A recurrent encoder.

    Parameters
    ----------
    cell : {"simple", "gru", "lstm", "layer_norm_lstm"}
    vocabulary : int
        Number of words, padding and the unknown word included.
    embedding, units : int
        Widths of a word's vector and of a layer's state.
    layers : int
    bidirectional : bool
        Every layer reads the text both ways.
    dropout : RecurrentDropout
        Of every layer.
    max_tokens : int
        Longer texts are cut.

    Raises
    ------
    SettingsError
        For values out of range, or an update dropout where there is no memory beside the update.
    """

    cell: str
    vocabulary: int
    embedding: int = 64
    units: int = 64
    layers: int = 1
    bidirectional: bool = False
    dropout: RecurrentDropout = field(default_factory=RecurrentDropout)
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise SettingsError(f"no cell is called {self.cell!r}", f"Known: {', '.join(CELLS)}")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise SettingsError(f"{name} is {value!r}, expected a whole number from 1 to {most:,}")
        if type(self.bidirectional) is not bool:
            raise SettingsError(f"bidirectional is {self.bidirectional!r}, expected true or false")
        if self.dropout.update and self.cell == "simple":
            raise SettingsError(
                "a simple RNN has no memory beside its update, so update dropout would erase it",
                "Use a gru, lstm or layer_norm_lstm, or drop something else.",
            )

    @property
    def gates(self) -> int:
        """Gates of the cell."""
        return CELLS[self.cell]

    @property
    def states(self) -> int:
        """Vectors carried from step to step: h, and c of an LSTM."""
        return 2 if self.cell.endswith("lstm") else 1

    @property
    def width(self) -> int:
        """Of a layer's output."""
        return self.units * (2 if self.bidirectional else 1)

    def directions(self) -> Iterator[Direction]:
        """Every layer and direction, in the order of its sites."""
        number = 1
        for layer in range(self.layers):
            width = self.width if layer else self.embedding
            for backward in (False, True) if self.bidirectional else (False,):
                way = "/backward" if backward else "/forward" if self.bidirectional else ""
                yield Direction(f"layer.{layer}{way}", layer, backward, width, number)
                number += len(KINDS)

    def sites(self, head_rate: float) -> tuple[DropoutSite, ...]:
        """Every place that a policy could drop at; a site's number is its place here, whatever the policy."""
        head = DropoutSite("head/dropout", head_rate, (Mode.TRAINING, Mode.HEAD) if head_rate else ())
        return (
            head,
            *(
                DropoutSite(f"{direction.name}/{kind}", rate, (Mode.TRAINING,) if rate else (), kind)
                for direction in self.directions()
                for kind in KINDS
                for rate in [self.dropout.rate(kind)]
            ),
        )

    def mask_shape(self, kind: str, width: int) -> tuple[int, int]:
        """Gates and units of a mask for one step; `width` is that of the layer's input."""
        if kind == "input":
            return (self.gates if self.dropout.untied else 1, width)
        if kind == "recurrent":
            return (self.gates if self.dropout.untied else 1, self.units)
        return (self.states if kind == "state" else 1, self.units)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every weight."""
        n_gates, units = self.gates, self.units
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocabulary, self.embedding)}
        for direction in self.directions():
            name = direction.name.replace("/", ".")
            shapes[f"{name}.kernel"] = (direction.width, n_gates * units)
            shapes[f"{name}.recurrent_kernel"] = (units, n_gates * units)
            if self.cell == "layer_norm_lstm":  # no bias: the norms of i, f, g, o and of the memory have one each
                shapes[f"{name}.gamma"] = shapes[f"{name}.beta"] = (5, units)
            else:
                shapes[f"{name}.bias"] = (2, n_gates * units) if self.cell == "gru" else (n_gates * units,)
        return shapes


def initial_weights(config: RecurrentConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """First weights, drawn as Keras does: Glorot uniform kernels, orthogonal recurrent ones, forget bias 1."""
    rng = np.random.Generator(np.random.Philox(seed))
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in config.shapes().items():
        part = name.rpartition(".")[2]
        if part == "embedding":
            value = rng.uniform(-0.05, 0.05, shape)
        elif part == "kernel":
            limit = np.sqrt(6 / (shape[0] + shape[1]))
            value = rng.uniform(-limit, limit, shape)
        elif part == "recurrent_kernel":
            q, r = np.linalg.qr(rng.standard_normal(shape[::-1]))
            value = (q * np.sign(np.diag(r))).T
        elif part == "gamma":
            value = np.ones(shape)
        else:
            value = np.zeros(shape)
            if part == "bias" and config.cell == "lstm":
                value[config.units : 2 * config.units] = 1
        weights[name] = value.astype(np.float32)
    return weights


def parse_config(text: str, vocabulary: int) -> RecurrentConfig:
    """A configuration out of ``lstm,units=32,layers=2,bidirectional,gal=0.25``: a cell, its sizes, and a policy.

    Raises
    ------
    SettingsError
        If a part is unknown or out of range.

    >>> parse_config("gru,units=8,update=0.1", 100).dropout
    RecurrentDropout(input=0.0, recurrent=0.0, output=0.0, update=0.1, variational=False, state=0.0, untied=False)
    """
    cell, *parts = (part.strip() for part in text.split(","))
    sizes: dict[str, Any] = {}
    policy = []
    for part in parts:
        name, _, value = part.partition("=")
        if name == "bidirectional":
            sizes[name] = True
        elif name in {"embedding", "units", "layers", "max_tokens"}:
            try:
                sizes[name] = int(value)
            except ValueError as error:
                raise SettingsError(f"{part!r} is no size", f"Expected {name}=NUMBER.") from error
        else:
            policy.append(part)
    return RecurrentConfig(cell, vocabulary, dropout=parse_policy(",".join(policy) or "none"), **sizes)
