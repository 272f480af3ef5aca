"""The whole network as a graph: embedding, recurrent layers both ways, and what can be tapped.

The weights may be arrays, for extraction, or variables, for training: the graph is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from embedsvc.models.recurrent.cells import project, run_steps
from embedsvc.models.recurrent.config import Direction, RecurrentConfig
from embedsvc.models.recurrent.drawing import live_sites

__all__ = ["forward_graph", "signature", "taps"]


def taps(config: RecurrentConfig) -> tuple[str, ...]:
    """What `forward_graph` gives: the last output, and means over the words of a text of each layer's outputs."""
    return ("pre_dropout", "mean", *(f"layer.{layer}" for layer in range(config.layers)))


def signature(config: RecurrentConfig, *, training: bool) -> list[Any]:
    """Of ids, lengths and, in training, one mask for each of `live_sites`."""
    plain = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
    steps = 1 if config.dropout.variational else None
    masks = [tf.TensorSpec([None, steps, *shape], tf.bool) for *_, shape in live_sites(config)]
    return plain + masks if training else plain


def forward_graph(
    config: RecurrentConfig, weights: Mapping[str, Any], ids: Any, lengths: Any, kept: Sequence[Any] = ()
) -> dict[str, Any]:
    """All taps of one batch.

    Parameters
    ----------
    config : RecurrentConfig
    weights : mapping of str to array, tensor or variable
        See `RecurrentConfig.shapes`.
    ids : tensor of shape (n, steps), int32
        Padded after the end.
    lengths : tensor of shape (n,), int32
        At least 1.
    kept : sequence of tensor of shape (n, 1 or steps, gates, units), bool
        One for each of `live_sites` in training mode; none in inference mode.

    Returns
    -------
    dict of str to tensor of shape (n, width)
        By tap, see `taps`.
    """
    masks: dict[tuple[str, str], Any] = {}
    if kept:
        for (name, kind, _, _), mask in zip(live_sites(config), kept, strict=True):
            # (steps, n, gates, units), as the steps take them.
            scaled = tf.cast(mask, tf.float32) * (1.0 / (1.0 - config.dropout.rate(kind)))
            masks[name, kind] = tf.transpose(scaled, [1, 0, 2, 3])
    lives = tf.cast(tf.sequence_mask(lengths, tf.shape(ids)[1]), tf.float32)[:, :, None]
    x = tf.transpose(tf.gather(tf.convert_to_tensor(weights["embedding"]), ids), [1, 0, 2])  # (steps, n, d)
    out: dict[str, Any] = {}
    lasts: list[Any] = []
    for layer in range(config.layers):
        ways = [direction for direction in config.directions() if direction.layer == layer]
        found = [_one_way(config, direction, weights, x, lengths, masks) for direction in ways]
        x, lasts = tf.concat([y for y, _ in found], -1), [last for _, last in found]
        of_rows = tf.transpose(x, [1, 0, 2])
        out[f"layer.{layer}"] = tf.reduce_sum(of_rows * lives, 1) / tf.reduce_sum(lives, 1)
    out["mean"] = out[f"layer.{config.layers - 1}"]
    out["pre_dropout"] = tf.concat(lasts, -1)
    return out


def _one_way(
    config: RecurrentConfig,
    direction: Direction,
    weights: Mapping[str, Any],
    x: Any,
    lengths: Any,
    masks: Mapping[tuple[str, str], Any],
) -> tuple[Any, Any]:
    """A layer's outputs (steps, n, units) in the order of the text, and the one after its last step."""
    prefix = f"{direction.name.replace('/', '.')}."
    own = {
        name.removeprefix(prefix): tf.convert_to_tensor(weight)
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    mine = {kind: mask for (name, kind), mask in masks.items() if name == direction.name}
    z = project(x, own["kernel"], mine.get("input"))
    inside = {kind: mask for kind, mask in mine.items() if kind in {"recurrent", "state", "update"}}
    if direction.backward:
        z = _reversed(z, lengths)
        inside = {kind: mask if mask.shape[0] == 1 else _reversed(mask, lengths) for kind, mask in inside.items()}
    y, _ = run_steps(config.cell, z, own, inside, lengths=lengths, n_states=config.states)
    if direction.backward:
        y = _reversed(y, lengths)
    if "output" in mine:
        y = y * mine["output"][:, :, 0]
    at = tf.zeros_like(lengths) if direction.backward else lengths - 1
    return y, tf.gather_nd(y, tf.stack([at, tf.range(tf.shape(lengths)[0])], 1))


def _reversed(x: Any, lengths: Any) -> Any:
    return tf.reverse_sequence(x, lengths, seq_axis=0, batch_axis=1)
