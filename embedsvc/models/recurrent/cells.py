"""What the cells compute, step by step, with every kind of dropout in its place.

Masks come as floats that are 0 or 1 / (1 - rate), so that a step only multiplies.

References
----------
Elman (1990); Hochreiter & Schmidhuber (1997); Cho et al. (2014), in the form with ``reset_after`` that Keras and cuDNN
have; Ba, Kiros & Hinton (2016), "Layer Normalization", arXiv:1607.06450, as TF 1's ``LayerNormBasicLSTMCell`` had it:
no bias, each gate and the new memory normalised, forget bias 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

__all__ = ["STEPS", "project", "run_steps"]

_NORM_EPSILON = 1e-12  # of tf.contrib.layers.layer_norm

States = tuple[Any, ...]
Weights = Mapping[str, Any]
Step = Callable[[Any, States, Weights, Mapping[str, Any]], tuple[Any, States]]


def project(x: Any, kernel: Any, mask: Any | None) -> Any:
    """``x @ kernel`` under a mask for all gates, or one for each.

    Parameters
    ----------
    x : tensor of shape (..., d)
    kernel : tensor of shape (d, gates * units)
    mask : tensor of shape (..., 1 or gates, d), or None
    """
    if mask is None:
        return tf.tensordot(x, kernel, 1)
    if mask.shape[-2] == 1:
        return tf.tensordot(x * mask[..., 0, :], kernel, 1)
    parts = tf.split(kernel, mask.shape[-2], axis=1)
    return tf.concat([tf.tensordot(x * mask[..., gate, :], part, 1) for gate, part in enumerate(parts)], -1)


def _simple(z: Any, states: States, weights: Weights, masks: Mapping[str, Any]) -> tuple[Any, States]:
    [h] = states
    h = tf.tanh(z + weights["bias"] + project(h, weights["recurrent_kernel"], masks.get("recurrent")))
    return h, (h,)


def _gru(z: Any, states: States, weights: Weights, masks: Mapping[str, Any]) -> tuple[Any, States]:
    [h] = states
    of_x = tf.split(z + weights["bias"][0], 3, axis=1)
    of_h = tf.split(project(h, weights["recurrent_kernel"], masks.get("recurrent")) + weights["bias"][1], 3, axis=1)
    keep, reset = tf.sigmoid(of_x[0] + of_h[0]), tf.sigmoid(of_x[1] + of_h[1])
    candidate = _updated(tf.tanh(of_x[2] + reset * of_h[2]), masks)
    h = keep * h + (1 - keep) * candidate
    return h, (h,)


def _lstm(z: Any, states: States, weights: Weights, masks: Mapping[str, Any]) -> tuple[Any, States]:
    h, c = states
    z = z + weights["bias"] + project(h, weights["recurrent_kernel"], masks.get("recurrent"))
    i, f, g, o = tf.split(z, 4, axis=1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * _updated(tf.tanh(g), masks)
    h = tf.sigmoid(o) * tf.tanh(c)
    return h, (h, c)


def _layer_norm_lstm(z: Any, states: States, weights: Weights, masks: Mapping[str, Any]) -> tuple[Any, States]:
    h, c = states
    z = z + project(h, weights["recurrent_kernel"], masks.get("recurrent"))
    i, f, g, o = (_norm(part, weights, at) for at, part in enumerate(tf.split(z, 4, axis=1)))
    c = tf.sigmoid(f + 1.0) * c + tf.sigmoid(i) * _updated(tf.tanh(g), masks)
    c = _norm(c, weights, 4)
    h = tf.sigmoid(o) * tf.tanh(c)
    return h, (h, c)


STEPS: dict[str, Step] = {"simple": _simple, "gru": _gru, "lstm": _lstm, "layer_norm_lstm": _layer_norm_lstm}


def _updated(candidate: Any, masks: Mapping[str, Any]) -> Any:
    return candidate * masks["update"][:, 0] if "update" in masks else candidate


def _norm(x: Any, weights: Weights, at: int) -> Any:
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + _NORM_EPSILON) * weights["gamma"][at] + weights["beta"][at]


def run_steps(
    cell: str,
    z: Any,
    weights: Weights,
    masks: Mapping[str, Any],
    *,
    lengths: Any,
    n_states: int,
    initial: Sequence[Any] | None = None,
) -> tuple[Any, States]:
    """A layer over all steps of its rows.

    Parameters
    ----------
    cell : str
        Out of `STEPS`.
    z : tensor of shape (steps, n, gates * units)
        ``x_t @ kernel``, without the bias.
    weights : mapping
        ``recurrent_kernel``, and ``bias`` or ``gamma`` and ``beta``.
    masks : mapping of str to tensor of shape (1 or steps, n, gates, units)
        ``recurrent``, ``state``, ``update``, where they are live.
    lengths : tensor of shape (n,), int32
        After its end a row stands still.
    n_states : int
        1, or 2 for an LSTM.
    initial : sequence of tensor of shape (n, units), optional
        Zeros by default.

    Returns
    -------
    outputs : tensor of shape (steps, n, units)
    states : tuple of tensor
        The last ones of each row.
    """
    step = STEPS[cell]
    n_steps = tf.shape(z)[0]
    units = weights["recurrent_kernel"].shape[0]
    zeros = tf.zeros([tf.shape(z)[1], units], z.dtype)
    states: States = tuple(initial) if initial is not None else (zeros,) * n_states

    def at(mask: Any, t: Any) -> Any:
        return mask[0] if mask.shape[0] == 1 else mask[t]

    def body(t: Any, states: States, outputs: Any) -> tuple[Any, States, Any]:
        now = {name: at(mask, t) for name, mask in masks.items()}
        before = states
        if "state" in now:
            states = tuple(state * now["state"][:, number] for number, state in enumerate(states))
        y, after = step(z[t], states, weights, now)
        lives = (t < lengths)[:, None]
        after = tuple(tf.where(lives, new, old) for new, old in zip(after, before, strict=True))
        return t + 1, after, outputs.write(t, y)

    outputs = tf.TensorArray(z.dtype, n_steps, element_shape=zeros.shape)
    _, states, outputs = tf.while_loop(
        lambda t, *_: t < n_steps, body, (tf.constant(0), states, outputs), maximum_iterations=n_steps
    )
    return outputs.stack(), states
