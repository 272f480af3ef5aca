"""A trained classifier as a TensorFlow SavedModel that needs nothing of ours: strings in, logits out.

import tensorflow as tf, tensorflow_text
model = tf.saved_model.load("model/saved_model")
model.signatures["serving_default"](text=tf.constant(["good morning"]))
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from embedsvc.head import Head
from embedsvc.models.bert import Weights, fold
from embedsvc.models.engines.tensorflow import forward_graph
from embedsvc.models.huggingface import Folder
from embedsvc.models.quiet import only_warnings
from embedsvc.models.tokenizer_graph import GraphTokenizer

__all__ = ["Classifier", "write"]

_TEXT = [tf.TensorSpec([None], tf.string, name="text")]


def write(folder: Path, source: Folder, weights: Weights, head: Head, *, multi_label: bool) -> None:
    """Save the model; the folder appears whole or not at all."""
    classifier = Classifier(source, weights, head, multi_label=multi_label)
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    with only_warnings():
        tf.saved_model.save(classifier, str(scratch), signatures={"serving_default": classifier.serve})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)


class Classifier(tf.Module):  # type: ignore[misc]
    """Tokenizer, encoder and head as one graph.

    Attributes
    ----------
    classes : tf.Variable of shape (n_classes,), string
        Their names, in the order of the logits.
    """

    def __init__(self, source: Folder, weights: Weights, head: Head, *, multi_label: bool) -> None:
        super().__init__()
        assert head.kernel is not None and head.bias is not None
        self._config = source.config
        self._special = (source.tokenizer.cls_id, source.tokenizer.sep_id)
        self._multi_label = multi_label
        self._tokenizer = GraphTokenizer(source.tokenizer)
        self._weights = {
            name: tf.Variable(value, trainable=False, name=name.replace(".", "_"))
            for name, value in fold(source.config, weights).items()
        }
        self._kernel = tf.Variable(head.kernel, trainable=False, name="head_kernel")
        self._bias = tf.Variable(head.bias, trainable=False, name="head_bias")
        self.classes = tf.Variable(list(head.classes), trainable=False, name="classes")

    @tf.function(input_signature=_TEXT, autograph=False)  # type: ignore[untyped-decorator]
    def serve(self, text: Any) -> dict[str, Any]:
        """Of texts (n,): ``logits`` and ``probabilities`` (n, n_classes), ``pre_dropout`` (n, width)."""
        ids = self._packed(text)
        out = forward_graph(self._config, self._weights, ("pooled_output",), *_pack(ids))
        pooled = out["pooled_output"]
        logits = tf.matmul(pooled, self._kernel) + self._bias
        probabilities = tf.sigmoid(logits) if self._multi_label else tf.nn.softmax(logits)
        return {"logits": logits, "probabilities": probabilities, "pre_dropout": pooled}

    @tf.function(input_signature=_TEXT, autograph=False)  # type: ignore[untyped-decorator]
    def tokenize(self, text: Any) -> Any:
        """Ragged token ids (n, None), int32, as the model reads them: [CLS] text [SEP], cut to its limit."""
        return self._packed(text)

    def _packed(self, text: Any) -> Any:
        ids = self._tokenizer(text)[:, : self._config.max_positions - 2]
        first, last = (tf.fill([tf.shape(text)[0], 1], number) for number in self._special)
        return tf.concat([first, ids, last], axis=1)


def _pack(ids: Any) -> tuple[Any, ...]:
    """`bert.pack` as a graph."""
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    flat, rows, starts = ids.flat_values, tf.cast(ids.value_rowids(), tf.int32), tf.cast(ids.row_starts(), tf.int32)
    n_rows, longest, n_tokens = tf.size(lengths), tf.reduce_max(tf.concat([lengths, [1]], 0)), tf.size(flat)
    positions = tf.range(n_tokens) - tf.gather(starts, rows)
    to_grid = rows * longest + positions
    from_grid = tf.scatter_nd(to_grid[:, None], tf.range(n_tokens), [n_rows * longest])
    padding = tf.where(tf.range(longest) < lengths[:, None], 0.0, -1e9)
    return flat, positions, rows, starts, to_grid, from_grid, padding[:, None, None, :]
