"""One training step: gradients by TensorFlow, the update by Keras' AdamW, and all state as arrays.

Losses take logits (see `loss`). Gradients of a batch may come in pieces; they are sums over texts, so that it makes no
difference to the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc.errors import ModelError, StoreMismatchError
from embedsvc.models.network import Network

__all__ = ["Learner", "Piece", "best_precision", "loss"]

Piece = tuple[Sequence[NDArray[Any]], NDArray[Any], NDArray[np.float32]]
"""Inputs, targets and weights of some texts; weights have the shape of the targets."""

_CLIP = 1.0  # norm of all gradients together (Devlin et al. 2019's own code)
_NO_DECAY = ("bias", "beta", "gamma")


class Learner:
    """A network and its optimizer.

    Parameters
    ----------
    network : Network
    multi_label : bool
        Chooses the loss.
    weight_decay : float
    """

    def __init__(self, network: Network, *, multi_label: bool, weight_decay: float) -> None:
        if keras.backend.backend() != "tensorflow":
            raise ModelError(
                f"Keras runs on {keras.backend.backend()} here, embedsvc needs TensorFlow",
                "Set KERAS_BACKEND=tensorflow",
            )
        if tf.config.list_physical_devices("GPU"):
            # A GPU adds up in whatever order its threads end, unless told otherwise; then no two runs are equal.
            tf.config.experimental.enable_op_determinism()
        self._network = network
        self._names = list(network.weights)
        self._variables = [network.weights[name] for name in self._names]
        self._optimizer = keras.optimizers.AdamW(learning_rate=0.0, weight_decay=weight_decay, global_clipnorm=_CLIP)
        self._optimizer.exclude_from_weight_decay(
            var_list=[network.weights[name] for name in self._names if name.endswith(_NO_DECAY)]
        )
        self._optimizer.build(self._variables)
        shape = [None, None] if multi_label else [None]
        targets = tf.TensorSpec(shape, tf.float32 if multi_label else tf.int32)
        weights = tf.TensorSpec(shape, tf.float32)
        scale = tf.TensorSpec([], tf.float32)

        def gradients(targets: Any, weights: Any, scale: Any, *inputs: Any) -> Any:
            with tf.GradientTape() as tape:
                logits = network.logits(inputs, training=True)
                value = tf.reduce_sum(loss(logits, targets, weights, multi_label=multi_label)) * scale
            found = tape.gradient(value, [variable.value for variable in self._variables])
            return value, [tf.convert_to_tensor(gradient) for gradient in found]

        self._gradients = tf.function(
            gradients, [targets, weights, scale, *network.signature(training=True)], autograph=False
        )
        self._add = tf.function(lambda left, right: [a + b for a, b in zip(left, right, strict=True)], autograph=False)
        self._apply = tf.function(self._optimizer.apply, autograph=False)
        self._infer = tf.function(
            lambda *inputs: network.logits(inputs, training=False), network.signature(training=False), autograph=False
        )

    def step(self, pieces: Iterable[Piece], *, n: int, learning_rate: float) -> float:
        """Move the weights by one batch of `n` texts, handed over in pieces; its mean loss before the move."""
        total: Any = None
        value = 0.0
        scale = np.float32(1.0 / n)
        for inputs, targets, weights in pieces:
            part, found = self._gradients(targets, weights, scale, *inputs)
            value += float(part)
            total = found if total is None else self._add(total, found)
        self._optimizer.learning_rate.assign(learning_rate)
        self._apply(total)
        return value

    def logits(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Logits (n, n_classes) in inference mode."""
        found: NDArray[np.float32] = self._infer(*inputs).numpy()
        return found

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of what is trained."""
        return {name: variable.numpy().copy() for name, variable in zip(self._names, self._variables, strict=True)}

    def set_weights(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Put weights back."""
        _check_names(values, self._names)
        for name, variable in zip(self._names, self._variables, strict=True):
            variable.assign(values[name])

    def state(self) -> dict[str, NDArray[Any]]:
        """Weights and optimizer: with the same batches, a learner in this state takes the very same steps."""
        slots = {f"optimizer/{at}": variable.numpy() for at, variable in enumerate(self._optimizer.variables)}
        return {f"weights/{name}": value for name, value in self.weights().items()} | {
            name: np.asarray(value) for name, value in slots.items()
        }

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Put back what `state` gave."""
        prefix = "weights/"
        self.set_weights({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
        slots = {f"optimizer/{at}": variable for at, variable in enumerate(self._optimizer.variables)}
        _check_names([name for name in state if not name.startswith(prefix)], list(slots))
        for name, variable in slots.items():
            variable.assign(state[name])


def loss(logits: Any, targets: Any, weights: Any, *, multi_label: bool) -> Any:
    """Weighted cross-entropy of each text, from logits: (n,). For multi-label the mean over its labels.

    Never from probabilities: those are clipped near 0 and 1, and beyond |logit| of about 16 the gradient is lost.
    """
    if multi_label:
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits) * weights, axis=1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits) * weights


def best_precision() -> str:
    """``bfloat16`` where every GPU multiplies in it (compute capability 8.0 and up), else ``float32``.

    bfloat16 has the range of float32, so that no loss needs scaling; older GPUs have float16 alone, which does.
    """
    found = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return "bfloat16" if found and all(capability >= (8, 0) for capability in found) else "float32"


def _check_names(found: Iterable[str], expected: Sequence[str]) -> None:
    if set(found) != set(expected):
        raise StoreMismatchError(
            "the checkpoint holds other weights than this model has",
            "Train anew with --overwrite, or into another folder.",
        )
