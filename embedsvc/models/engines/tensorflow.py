"""BERT as a TensorFlow graph: the engine that is always there, and the graph that training and exports share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc.models.bert import BertConfig
from embedsvc.models.engines import Batch, Masks, Precision
from embedsvc.types import Vectors

__all__ = ["ACTIVATIONS", "TensorFlowEngine", "forward_graph"]


class TensorFlowEngine:
    """One compiled graph for each set of taps, traced once for every batch shape. See `Engine`."""

    def __init__(self, config: BertConfig, weights: Mapping[str, NDArray[np.float32]], precision: Precision) -> None:
        assert precision is Precision.FLOAT32, "choose() lets no other pass"
        self._config = config
        self._weights = {name: tf.constant(value, tf.float32) for name, value in weights.items()}
        self._graphs: dict[tuple[tuple[str, ...], bool], Any] = {}

    def run(self, batch: Batch, masks: Masks | None, taps: Sequence[str]) -> dict[str, Vectors]:
        """See `Engine`."""
        wanted = tuple(sorted(set(taps)))
        graph = self._graphs.get((wanted, masks is not None))
        if graph is None:
            graph = self._graphs[wanted, masks is not None] = self._compile(wanted, training=masks is not None)
        out = graph(*batch, *(masks or ()))
        return {tap: out[tap].numpy() for tap in taps}

    def _compile(self, taps: tuple[str, ...], *, training: bool) -> Any:
        config, weights = self._config, self._weights
        vector, matrix = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 1, 1, None], tf.float32)
        signature = [vector] * 6 + [matrix]
        if training:
            hidden = tf.TensorSpec([config.hidden_rows, None, config.width], tf.bool)
            signature += [hidden, tf.TensorSpec([config.n_layers, None, config.n_heads, None, None], tf.bool)]

        # A lambda and not a partial: TensorFlow would bind the masks' defaults of a partial as missing inputs.
        graph = tf.function(lambda *inputs: forward_graph(config, weights, taps, *inputs), signature, autograph=False)
        return graph.get_concrete_function()


def forward_graph(
    config: BertConfig,
    weights: Mapping[str, Any],
    taps: tuple[str, ...],
    ids: Any,  # (N,) N tokens in all, rows end to end
    positions: Any,  # (N,)
    rows: Any,  # (N,) the row of each token
    starts: Any,  # (B,) where each row's [CLS] is
    to_grid: Any,  # (N,) token -> cell of the (B, T) grid
    from_grid: Any,  # (B * T,) cell -> token
    padding: Any,  # (B, 1, 1, T) 0 or -1e9
    hidden: Any = None,  # (hidden rows, N, d) bool
    attention: Any = None,  # (layers, B, heads, T, T) bool
    *,
    precision: Any = tf.float32,  # of the matrix products; everything else is float32
) -> dict[str, Any]:
    """Every tap asked for, (B, d) each; the graph that runs here, in training and in what it exports."""
    heads, width = config.n_heads, config.width
    n_rows, longest = tf.shape(padding)[0], tf.shape(padding)[3]
    cls_only = not {"mean", f"layer.{config.n_layers - 1}"} & set(taps)

    def dropped(x: Any, kept: Any, rate: float) -> Any:
        return x if kept is None or not rate else tf.where(kept, x * (1.0 / (1.0 - rate)), 0.0)

    def site(number: int, chosen: Any = None) -> Any:
        if hidden is None:
            return None
        return hidden[number] if chosen is None else tf.gather(hidden[number], chosen)

    def product(x: Any, y: Any, **how: bool) -> Any:
        if precision == tf.float32:
            return tf.matmul(x, y, **how)
        return tf.cast(tf.matmul(tf.cast(x, precision), tf.cast(y, precision), **how), tf.float32)

    def dense(x: Any, name: str) -> Any:
        return product(x, weights[f"{name}.kernel"]) + weights[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
        scale = tf.math.rsqrt(variance + config.norm_epsilon) * weights[f"{name}.gamma"]
        return x * scale + (weights[f"{name}.beta"] - mean * scale)

    def attend(qkv: Any, kept: Any) -> Any:
        """Context of every cell of the grid, (B * T, d)."""
        parts = tf.reshape(qkv, [n_rows, longest, 3, heads, width // heads])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))  # (B, h, T, d / h)
        probabilities = tf.nn.softmax(product(query, key, transpose_b=True) + padding)
        context = product(dropped(probabilities, kept, config.attention_rate), value)
        return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, width])

    def attend_first(name: str, first: Any, tokens: Any, kept: Any) -> Any:
        """Context of [CLS] alone, (B, d), without a key or a value of any token: see `_attention_of_first`."""
        kernel, bias = weights[f"{name}.qkv.kernel"], weights[f"{name}.qkv.bias"]
        # (h, d, d / h)
        of_key, of_value = (
            tf.transpose(tf.reshape(kernel[:, at * width : (at + 1) * width], [width, heads, -1]), [1, 0, 2])
            for at in (1, 2)
        )

        def by_head(x: Any, kernels: Any, **how: bool) -> Any:  # (B, h, m) -> (B, h, n)
            return tf.transpose(product(tf.transpose(x, [1, 0, 2]), kernels, **how), [1, 0, 2])

        query = tf.reshape(product(first, kernel[:, :width]) + bias[:width], [-1, heads, width // heads])
        scores = product(by_head(query, of_key, transpose_b=True), tokens, transpose_b=True) + padding[:, :, 0]
        probabilities = tf.nn.softmax(scores)  # (B, h, T)
        if kept is not None:
            probabilities = dropped(probabilities, kept[:, :, 0], config.attention_rate)
        context = by_head(product(probabilities, tokens), of_value)
        left = tf.reduce_sum(probabilities, -1, keepdims=True)
        return tf.reshape(context + left * tf.reshape(bias[2 * width :], [heads, -1]), [-1, width])

    def token_mean(x: Any) -> Any:
        return tf.math.segment_mean(x, rows)

    out: dict[str, Any] = {}
    x = norm(tf.gather(weights["word"], ids) + tf.gather(weights["position"], positions), "embedding_norm")
    x = dropped(x, site(0), config.hidden_rate)
    for layer in range(config.n_layers):
        name = f"layer.{layer}"
        only = starts if cls_only and layer == config.n_layers - 1 else None
        kept = None if attention is None else attention[layer]
        if only is None:
            qkv = tf.gather(dense(x, f"{name}.qkv"), from_grid)  # (B * T, 3d)
            context = tf.gather(attend(qkv, kept), to_grid)  # (N, d) again
        else:
            tokens = tf.reshape(tf.gather(x, from_grid), [n_rows, longest, width])
            x = tf.gather(x, only)
            context = attend_first(name, x, tokens, kept)
        attended = dropped(dense(context, f"{name}.attention_out"), site(1 + 2 * layer, only), config.attended_rate)
        x = norm(attended + x, f"{name}.attention_norm")
        inner = ACTIVATIONS[config.activation](dense(x, f"{name}.ffn_in"))
        fed = dropped(dense(inner, f"{name}.ffn_out"), site(2 + 2 * layer, only), config.hidden_rate)
        x = norm(fed + x, f"{name}.ffn_norm")
        if name in taps:
            out[name] = token_mean(x)
    cls = x if cls_only else tf.gather(x, starts)
    if "mean" in taps:
        out["mean"] = out[name] if name in out else token_mean(x)
    if "cls" in taps:
        out["cls"] = cls
    if "pooled_output" in taps:
        seen = dropped(cls, site(-1, starts), config.pooler_rate) if config.pooler_rate else cls
        out["pooled_output"] = ACTIVATIONS[config.pooler_activation](dense(seen, "pooler"))
    return out


ACTIVATIONS: dict[str, Any] = {
    # Written out, so that TensorFlow's remapper finds it and fuses product, bias and GELU into one oneDNN call.
    "gelu": lambda x: 0.5 * x * (1.0 + tf.math.erf(x * np.float32(1 / np.sqrt(2)))),
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
}
