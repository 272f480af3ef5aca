"""How long a training step of Keras' recurrent layers takes on this machine, and which implementation ran.

An LSTM does four times the arithmetic of a simple RNN. It can still be faster, where Keras hands the whole sequence to
a fused cuDNN kernel: there is one for LSTM and GRU, on a GPU, under conditions; SimpleRNN always loops over the steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

__all__ = ["CELLS", "SETTINGS", "Setting", "Timing", "time_steps"]


@dataclass(frozen=True, slots=True)
class Setting:
    """Sizes of a classifier and its batches."""

    name: str
    steps: int
    vocabulary: int
    embedding: int
    units: int
    batch: int


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("question", steps=80, vocabulary=2_000, embedding=128, units=8, batch=32),
        Setting("medium", steps=80, vocabulary=20_000, embedding=128, units=128, batch=64),
        Setting("large", steps=200, vocabulary=20_000, embedding=256, units=512, batch=64),
    )
}

CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "simple": ("SimpleRNN", {}),
    "gru": ("GRU", {}),
    "lstm": ("LSTM", {}),
    "lstm, recurrent_dropout": ("LSTM", {"recurrent_dropout": 0.2}),
    "simple, unrolled": ("SimpleRNN", {"unroll": True}),
}


@dataclass(frozen=True, slots=True)
class Timing:
    """One layer in one setting on one device.

    Attributes
    ----------
    setting, cell, device : str
    implementation : {"fused cuDNN kernel", "loop", "unrolled"}
        Read off the graph of the training step.
    why : str
    seconds : float
        Of a training step: the median over rounds.
    ratio, low, high : float
        Seconds over those of the simple RNN in the same round: median, smallest, largest.
    """

    setting: str
    cell: str
    device: str
    implementation: str
    why: str
    seconds: float
    ratio: float
    low: float
    high: float


def time_steps(
    settings: Sequence[Setting],
    *,
    cells: Sequence[str] = tuple(CELLS),
    rounds: int = 5,
    seconds: float = 0.3,
    told: Callable[[str], None] | None = None,
) -> list[Timing]:
    """Time training steps of all layers, interleaved, on every device of this machine.

    Parameters
    ----------
    settings : sequence of Setting
    cells : sequence of str
        Out of `CELLS`; "simple", which the others are compared with, is always among them.
    rounds : int
        In each, every layer gets its turn.
    seconds : float
        About as long as a turn.
    told : callable, optional
        Gets a line for each layer that is made ready.
    """
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices() if device.device_type in {"CPU", "GPU"}]
    cells = list(dict.fromkeys(("simple", *cells)))
    found = []
    for setting in settings:
        for device in devices:
            runs: dict[str, tuple[Callable[[int], float], str, int]] = {}
            for cell in cells:
                if told is not None:
                    told(f"{setting.name}, {device.rpartition('device:')[2]}: {cell}")
                run, implementation = _prepare(setting, cell, device)
                runs[cell] = run, implementation, max(1, round(seconds / run(3) * 3))
            turns = [{cell: run(count) / count for cell, (run, _, count) in runs.items()} for _ in range(rounds)]
            for cell, (_, implementation, _) in runs.items():
                ratios = sorted(turn[cell] / turn["simple"] for turn in turns)
                found.append(
                    Timing(
                        setting.name,
                        cell,
                        device.rpartition("device:")[2],
                        implementation,
                        _why(cell, device, implementation),
                        median(turn[cell] for turn in turns),
                        median(ratios),
                        ratios[0],
                        ratios[-1],
                    )
                )
    return found


def _prepare(setting: Setting, cell: str, device: str) -> tuple[Callable[[int], float], str]:
    """A function that takes so many training steps and gives their seconds; and what the graph holds."""
    import keras
    import tensorflow as tf

    rng = np.random.Generator(np.random.Philox(0))
    layer, arguments = CELLS[cell]
    with tf.device(device):
        x = tf.constant(rng.integers(1, setting.vocabulary, (setting.batch, setting.steps)), tf.int32)
        y = tf.constant(rng.integers(0, 2, (setting.batch, 1)), tf.float32)
        model = keras.Sequential(
            [
                keras.Input((setting.steps,), dtype="int32"),
                keras.layers.Embedding(setting.vocabulary, setting.embedding),
                getattr(keras.layers, layer)(setting.units, **arguments),
                keras.layers.Dense(1),
            ]
        )
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)

        def step(x: Any, y: Any) -> Any:
            with tf.device(device):
                with tf.GradientTape() as tape:
                    value = loss(y, model(x, training=True))
                weights = [variable.value for variable in model.trainable_variables]
                gradients = tape.gradient(value, weights)
                optimizer.apply(gradients, model.trainable_variables)
                return value

        graph = tf.function(step, autograph=False, reduce_retracing=True).get_concrete_function(x, y)

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            value = graph(x, y)
        value.numpy()  # a GPU may lag behind
        return time.perf_counter() - began

    run(2)  # the first call allocates
    return run, _implementation(graph)


def _implementation(graph: Any) -> str:
    functions = graph.graph.as_graph_def().library.function
    kinds = {op.type for op in graph.graph.get_operations()} | {node.op for f in functions for node in f.node_def}
    if any(kind.startswith("CudnnRNN") for kind in kinds):
        return "fused cuDNN kernel"
    return "loop" if kinds & {"While", "StatelessWhile"} else "unrolled"


def _why(cell: str, device: str, implementation: str) -> str:
    layer, arguments = CELLS[cell]
    if implementation.startswith("fused"):
        return "a GPU, and none of recurrent_dropout, unroll, other activations"
    if arguments.get("unroll"):
        return "unroll=True: the steps are written out in the graph"
    if layer == "SimpleRNN":
        return "Keras has no fused kernel for SimpleRNN on any device"
    if "GPU" not in device:
        return "no GPU: the fused kernel is cuDNN's"
    return "recurrent_dropout: cuDNN has none" if arguments.get("recurrent_dropout") else "cuDNN could not be used"
