"""Keyed dropout in a Keras model, Keras 3 and tf_keras alike.

`Instrument` replaces the ``call`` of a freshly loaded model's dropout layers, wherever they sit (inside attention,
wrappers, sub-models). While a `Trace` is open, each call is a numbered site whose mask is drawn by `masks.keep`, the
very bits that numpy draws for the head. Randomness that Keras keeps for itself (recurrent cells, Gaussian dropout)
is seeded before each batch instead: it repeats, but follows the place in the batch.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc import masks

__all__ = ["Call", "Dense", "Instrument", "Trace", "keyed_dropout", "walk"]

_NOISE = {"GaussianDropout", "AlphaDropout", "GaussianNoise"}
_SPATIAL = {"SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"}


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
    """

    keys: Any = None
    draw: Any = None
    numbers: dict[str, int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    denses: list[Dense] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    _seen: Counter[str] = field(default_factory=Counter)

    def name(self, path: str) -> str:
        """Path of a call: a layer called again is a site of its own, or its masks would be the same."""
        self._seen[path] += 1
        return path if self._seen[path] == 1 else f"{path}#{self._seen[path]}"

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


def walk(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every layer below, with its path of names, each once."""
    seen: set[int] = set()

    def below(layer: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for child in layer._flatten_layers(include_self=False, recursive=False):
            if id(child) in seen:
                continue
            seen.add(id(child))
            # A model's layers keep their names in its file. Other layers name their parts when they are made, and then
            # Keras counts up over the whole process: dropout, dropout_1, …
            name = child.name if hasattr(layer, "get_layer") else re.sub(r"_\d+$", "", child.name)
            path = f"{prefix}{name}"
            yield path, child
            yield from below(child, f"{path}/")

    yield from below(layer, prefix)


class Instrument:
    """A model whose dropouts, batch normalisations and dense layers report to the open trace.

    Outside of a trace the model behaves as before.

    Parameters
    ----------
    model : Model
        Keras 3 or tf_keras; it is changed, so hand in one of your own.

    Attributes
    ----------
    notes : list of str
        What a user should know of layers that `training` would switch as well.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.notes: list[str] = []
        self._trace: Trace | None = None
        self._generators: list[Any] = []
        taken: Counter[str] = Counter()
        for path, layer in list(walk(model)):
            taken[path] += 1
            self._wrap(path if taken[path] == 1 else f"{path}:{taken[path]}", layer)

    @contextmanager
    def trace(self, trace: Trace) -> Iterator[Trace]:
        """Send the calls of the layers to that trace meanwhile."""
        self._trace = trace
        try:
            yield trace
        finally:
            self._trace = None

    def watch(self, layer: Any, name: str) -> None:
        """Keep what the layer gives, as ``trace.outputs[name]``; of a second call, as ``name#2``."""

        def handler(trace: Trace, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            trace.outputs[trace.name(name)] = output
            return output

        self._replace(layer, handler)

    def seed(self, seed: int, pass_index: int, key: int) -> None:
        """Set the generators that Keras keeps, so that a pass over a batch repeats; `key` is its first row's."""
        for number, generator in enumerate(self._generators):
            packed = np.array([seed, pass_index, number, 0], dtype=np.uint64)
            packed[3] = key
            digest = hashlib.blake2b(packed.astype("<u8").tobytes(), digest_size=8).digest()
            if hasattr(generator, "reset_from_seed"):
                generator.reset_from_seed(int.from_bytes(digest, "little") >> 1)
            else:
                generator.state.assign(np.frombuffer(digest, "<u4").astype(generator.state.dtype))

    def _replace(
        self,
        layer: Any,
        handler: Callable[[Trace, Callable[..., Any], Sequence[Any], dict[str, Any]], Any],
    ) -> None:
        """Set the `call` of this one layer. Both Keras versions look it up on the instance at each call."""
        original = layer.call

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._trace is None:
                return original(*args, **kwargs)
            return handler(self._trace, original, args, kwargs)

        layer.call = call

    def _wrap(self, path: str, layer: Any) -> None:
        kinds = {base.__name__ for base in type(layer).__mro__}
        if "Dropout" in kinds:
            self._wrap_dropout(path, layer, "feature" if kinds & _SPATIAL else "unit")
            return
        self._take_generator(layer)
        if kinds & _NOISE:
            rates = {} if "GaussianNoise" in kinds else {"": float(layer.rate)}
            self._wrap_own(path, layer, rates, "noise")
            if not rates:
                self.notes.append(f"The noise layer {path} is live in training mode too.")
        elif "BatchNormalization" in kinds:
            self._wrap_batch_normalization(path, layer)
        elif "Dense" in kinds:
            self._wrap_dense(path, layer)
        elif "RNN" in kinds:
            cells = getattr(layer.cell, "cells", [layer.cell])
            rates = {
                f"/{name}" if len(cells) == 1 else f"/{cell.name}/{name}": float(rate)
                for cell in cells
                for name in ("dropout", "recurrent_dropout")
                if (rate := getattr(cell, name, None))
            }
            self._wrap_own(path, layer, rates, "recurrent")

    def _take_generator(self, layer: Any) -> None:
        """Remember where the layer keeps its randomness, in a form that can be seeded."""
        if hasattr(layer, "seed_generator"):
            self._generators.append(layer.seed_generator)
        elif hasattr(layer, "_random_generator"):
            from tf_keras.src.backend import RandomGenerator

            # tf_keras draws from graph ops that cannot be seeded again; this kind keeps its state in a variable.
            layer._random_generator = RandomGenerator(seed=0, rng_type="stateful")
            layer._random_generator._maybe_init()
            self._generators.append(layer._random_generator._generator)

    def _wrap_dropout(self, path: str, layer: Any, kind: str) -> None:
        rate = float(layer.rate)

        def handler(trace: Trace, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            x = args[0] if args else kwargs["inputs"]
            live = bool(kwargs.get("training", args[1] if len(args) > 1 else False))
            name = trace.name(path)
            noise = layer._get_noise_shape(x) if hasattr(layer, "_get_noise_shape") else layer.noise_shape
            by_row = noise is None or kind == "feature" or layer.noise_shape[0] is None
            if live and 0 < rate < 1 and trace.keys is not None and name in trace.numbers:
                shape = tf.shape(x)
                if noise is not None and not tf.is_tensor(noise):
                    shape = tf.stack([shape[axis] if size is None else size for axis, size in enumerate(noise)])
                elif noise is not None:
                    shape = noise
                y = keyed_dropout(x, rate, shape=shape, keys=trace.keys, draw=trace.draw, site=trace.numbers[name])
            else:
                y = tf.identity(x)  # a node of its own, which the search for the head can recognise
            trace.calls.append(Call(name, layer, rate, kind, live, by_row, x, y))
            return y

        self._replace(layer, handler)

    def _wrap_own(self, path: str, layer: Any, rates: dict[str, float], kind: str) -> None:
        """A layer that draws by itself, at several rates."""

        def handler(trace: Trace, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            live = bool(kwargs.get("training"))
            if trace.keys is None:
                kwargs = kwargs | {"training": False}
            x = args[0] if args else kwargs["inputs"]
            y = original(*args, **kwargs)
            for suffix, rate in rates.items():
                trace.calls.append(Call(trace.name(path + suffix), layer, float(rate), kind, live, False, x, y))
            return y

        self._replace(layer, handler)

    def _wrap_batch_normalization(self, path: str, layer: Any) -> None:
        self.notes.append(f"Batch normalisation {path} keeps its moving averages in every mode.")

        def handler(_: Trace, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            # In training mode it would mix the rows of a batch: that is no dropout.
            return original(*args[:1], **(kwargs | {"training": False}))

        self._replace(layer, handler)

    def _wrap_dense(self, path: str, layer: Any) -> None:
        def handler(trace: Trace, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            y = tf.identity(original(*args, **kwargs))
            trace.denses.append(Dense(trace.name(path), layer, args[0] if args else kwargs["inputs"], y))
            return y

        self._replace(layer, handler)
