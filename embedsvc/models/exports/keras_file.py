"""A trained classifier as a .keras file made of Keras' own layers, so that safe mode loads it anywhere.

Inputs are named as `models.readers` knows them; with the vocabulary beside it the file is a model for ``keras:``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from embedsvc.head import Head
from embedsvc.models.bert import BertConfig, Weights

__all__ = ["build", "write"]


def write(path: Path, config: BertConfig, weights: Weights, head: Head) -> None:
    """Build and save the model; the file appears whole or not at all."""
    # Keras goes by the ending of the name.
    scratch = path.with_name(f".{path.name}.tmp.keras")
    build(config, weights, head).save(scratch)
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(scratch, path)


def build(config: BertConfig, weights: Weights, head: Head) -> keras.Model:
    """Token ids and padding mask (n, longest), int32, to logits (n, n_classes)."""
    assert head.kernel is not None and head.bias is not None
    d, heads = config.width, config.n_heads
    values: list[tuple[Any, list[Any]]] = []

    def own(layer: Any, *arrays: Any) -> Any:
        values.append((layer, list(arrays)))
        return layer

    def norm(x: Any, name: str) -> Any:
        layer = layers.LayerNormalization(epsilon=config.norm_epsilon, name=name.replace(".", "_"))
        return own(layer, weights[f"{name}.gamma"], weights[f"{name}.beta"])(x)

    def dense(x: Any, name: str, units: int, activation: Any = None) -> Any:
        layer = layers.Dense(units, activation=activation, name=name.replace(".", "_"))
        return own(layer, weights[f"{name}.kernel"], weights[f"{name}.bias"])(x)

    def dropout(x: Any, name: str, rate: float = config.hidden_rate) -> Any:
        return layers.Dropout(rate, name=name)(x) if rate else x

    ids = keras.Input([None], dtype="int32", name="token_ids")
    mask = keras.Input([None], dtype="int32", name="padding_mask")
    # Counting the mask gives positions without a layer of our own; what padding gets, nobody reads.
    positions = ops.maximum(ops.cumsum(mask, axis=1) - 1, 0)
    word = own(layers.Embedding(*weights["word"].shape, name="word_embedding"), weights["word"])
    # All tokens are of type 0, so its vector is part of every position's.
    places = weights["position"] + weights["type"][0] if "type" in weights else weights["position"]
    position = own(layers.Embedding(*places.shape, name="position_embedding"), places)
    x = dropout(norm(layers.Add(name="embeddings")([word(ids), position(positions)]), "embedding_norm"), "dropout")
    keys = ops.expand_dims(mask, 1)  # (n, 1, longest): which keys a query may see
    for i in range(config.n_layers):
        name, label = f"layer.{i}", f"layer_{i}"
        attention = layers.MultiHeadAttention(
            heads, d // heads, dropout=config.attention_rate, flash_attention=False, name=f"{label}_attention"
        )
        kernels, biases = (np.split(weights[f"{name}.qkv.{part}"], 3, axis=-1) for part in ("kernel", "bias"))
        parts = [
            array.reshape(shape)
            for kernel, bias in zip(kernels, biases, strict=True)
            for array, shape in ((kernel, (d, heads, -1)), (bias, (heads, -1)))
        ]
        out = weights[f"{name}.attention_out.kernel"].reshape(heads, -1, d)
        own(attention, *parts, out, weights[f"{name}.attention_out.bias"])
        attended = dropout(attention(x, x, attention_mask=keys), f"{label}_attention_dropout", config.attended_rate)
        x = norm(layers.Add(name=f"{label}_attention_add")([x, attended]), f"{name}.attention_norm")
        exact = config.activation != "gelu_tanh"
        inner = dense(x, f"{name}.ffn_in", config.intermediate, config.activation if exact else None)
        inner = inner if exact else ops.gelu(inner, approximate=True)
        fed = dropout(dense(inner, f"{name}.ffn_out", d), f"{label}_dropout")
        x = norm(layers.Add(name=f"{label}_add")([x, fed]), f"{name}.ffn_norm")
    pooled = dense(x[:, 0], "pooler", d, config.pooler_activation)
    post = layers.Dropout(head.rate, name="head_dropout")(pooled)
    logits = own(layers.Dense(len(head.bias), name="logits"), head.kernel, head.bias)(post)
    model = keras.Model([ids, mask], logits, name="bert_classifier")
    for layer, arrays in values:
        layer.set_weights(arrays)
    return model
