"""Ears in a Keras model: its dropouts, dense layers and generators, Keras 3 and tf_keras alike.

`Instrument` replaces the ``call`` of a freshly loaded model's layers, wherever they sit (inside attention, wrappers,
sub-models), so that dropouts draw keyed masks. Randomness that Keras keeps for itself (Gaussian dropout, cells that
are not Keras' own) is seeded before each batch instead: it repeats, but follows the place in the batch.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from embedsvc.models.keyed import Call, Dense, Trace, keyed_dropout
from embedsvc.models.keyed_cells import KeyedCells
from embedsvc.models.observation import Seen, seen_mask
from embedsvc.models.watched_cells import run_watched

__all__ = ["Instrument", "walk"]

_NOISE = {"GaussianDropout", "AlphaDropout", "GaussianNoise"}
_SPATIAL = {"SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"}


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
        self._of_attention: set[int] = set()
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
        # Keras' attention layers hold the dropout of their probabilities under this name.
        self._of_attention.add(id(getattr(layer, "_dropout_layer", None)))
        if "Dropout" in kinds:
            kind = "spatial" if kinds & _SPATIAL else "attention" if id(layer) in self._of_attention else "unit"
            self._wrap_dropout(path, layer, kind)
            return
        if "RNN" in kinds:
            self._wrap_recurrent(path, layer)
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
        elif "TimeDistributed" in kinds:
            self._wrap_time_distributed(layer)

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
            x = _first(args, kwargs)
            live = bool(kwargs.get("training", args[1] if len(args) > 1 else False))
            name = trace.name(path)
            if trace.own:
                y = original(*args, **kwargs)
                trace.seen[name] = _seen(x, y)
                return y
            noise = layer._get_noise_shape(x) if hasattr(layer, "_get_noise_shape") else layer.noise_shape
            by_row = noise is None or kind == "spatial" or layer.noise_shape[0] is None
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
            if trace.keys is None and not trace.own:
                kwargs = kwargs | {"training": False}
            x = _first(args, kwargs)
            y = original(*args, **kwargs)
            if trace.own:
                trace.seen |= {trace.name(path + suffix): replace(_seen(x, y), mask=None) for suffix in rates}
                return y
            for suffix, rate in rates.items():
                trace.calls.append(Call(trace.name(path + suffix), layer, float(rate), kind, live, False, x, y))
            return y

        self._replace(layer, handler)

    def _wrap_recurrent(self, path: str, layer: Any) -> None:
        cells = KeyedCells(layer, path)
        if not cells.keyed:
            self._take_generator(layer)

        def handler(trace: Trace, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            live = bool(kwargs.get("training"))
            names = {site: trace.name(site) for site in cells.sites}
            x = _first(args, kwargs)
            if trace.own:
                y, seen = run_watched(layer, lambda: original(*args, **kwargs), x)
                trace.seen |= {names[path]: seen[site.cell][site.argument] for path, site in cells.sites.items()}
                return y
            if trace.keys is None:
                kwargs = kwargs | {"training": False}
            if live and trace.keys is not None and cells.keyed:
                with cells.during(trace, names):
                    y = original(*args, **kwargs)
            else:
                y = original(*args, **kwargs)
            for path, site in cells.sites.items():
                trace.calls.append(Call(names[path], layer, site.rate, site.kind, live, cells.keyed, x, y))
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
            trace.denses.append(Dense(trace.name(path), layer, _first(args, kwargs), y))
            return y

        self._replace(layer, handler)

    def _wrap_time_distributed(self, layer: Any) -> None:
        def handler(trace: Trace, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            x = _first(args, kwargs)
            if x.shape[1] is not None or not type(layer).__module__.startswith("keras."):
                return original(*args, **kwargs)
            # Keras 3.15 loops over as many steps as the batch has rows if a graph does not know the steps.
            inner = {"training": kwargs.get("training")} if layer.layer._call_has_training_arg else {}
            if layer.layer._call_has_mask_arg and kwargs.get("mask") is not None:
                inner["mask"] = tf.reshape(kwargs["mask"], [-1])
            steps = tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0))
            steps.set_shape([None, *x.shape[2:]])
            y = layer.layer(steps, **inner)
            whole = tf.reshape(y, tf.concat([tf.shape(x)[:2], tf.shape(y)[1:]], 0))
            whole.set_shape([*x.shape[:2], *y.shape[1:]])
            return whole

        self._replace(layer, handler)


def _first(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a layer is called on, under whatever name."""
    return args[0] if args else kwargs["inputs"] if "inputs" in kwargs else next(iter(kwargs.values()))


def _seen(x: Any, y: Any) -> Seen:
    """What a dropout did to one row, its steps first: (1, steps, d), (1, heads, steps, steps) or folded (steps, d)."""
    before, after = np.asarray(x), np.asarray(y)
    mask = seen_mask(before, after)
    if mask.ndim == 4:
        mask = mask[0].swapaxes(0, 1)
    elif mask.ndim > 2:
        mask = mask[0]
    steps = mask.ndim > 1 and len(mask) > 1
    return Seen(
        bool((before != after).any()), mask.reshape(len(mask), 1, -1), steps, "what goes in beside what comes out"
    )
