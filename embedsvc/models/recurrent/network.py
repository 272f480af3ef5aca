"""A recurrent classifier as a network to train, from scratch: ``--encoder recurrent:lstm,units=64,gal=0.25``.

The graph, masks and words are those that `encoder` runs: a model computes the same after training as in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc import batching, masks
from embedsvc.errors import SettingsError
from embedsvc.head import Head
from embedsvc.models.network import Request
from embedsvc.models.recurrent.config import RecurrentConfig, initial_weights, parse_config
from embedsvc.models.recurrent.drawing import draw_masks
from embedsvc.models.recurrent.encoder import pad
from embedsvc.models.recurrent.folder import Recurrent, write_folder
from embedsvc.models.recurrent.graph import forward_graph, signature
from embedsvc.models.recurrent.vocabulary import Vocabulary
from embedsvc.types import Mode, ModelSpec, Pass, Text, Vectors

__all__ = ["RecurrentNetwork", "build"]


def build(location: str, request: Request) -> RecurrentNetwork:
    """A network of that cell, sizes and policy (see `config.parse_config`), its words taken from the request's texts.

    Raises
    ------
    SettingsError
        If the description is wrong, or the encoder is to be frozen: it has no weights yet.
    """
    if request.freeze:
        raise SettingsError(
            "a recurrent encoder begins with random weights, so there is nothing to freeze",
            "Leave out --freeze-encoder.",
        )
    vocabulary = Vocabulary.of_texts(text.text for text in request.texts)
    config = parse_config(location, len(vocabulary))
    return RecurrentNetwork(config, vocabulary, request)


class RecurrentNetwork:
    """See `models.network.Network`."""

    cached = None

    def __init__(self, config: RecurrentConfig, vocabulary: Vocabulary, request: Request) -> None:
        self._config = config
        self._vocabulary = vocabulary
        self._request = request
        rng = np.random.Generator(np.random.Philox(key=[request.seed, 1]))
        shape = (config.width, len(request.classes))
        limit = np.sqrt(6 / sum(shape))
        values = initial_weights(config, request.seed) | {
            "head.kernel": rng.uniform(-limit, limit, shape).astype(np.float32),
            "head.bias": np.zeros(shape[1], dtype=np.float32),
        }
        self.weights: dict[str, Any] = {
            name: keras.Variable(value, dtype="float32", name=name.replace(".", "_")) for name, value in values.items()
        }
        self.notes = (f"Trained from scratch: {config.cell}, {len(vocabulary):,} words, dropout {config.dropout}.",)

    def prepare(self, texts: Sequence[Text], vectors: Vectors | None) -> _Rows:
        """See `Network`."""
        limits = ModelSpec("recurrent", "", self._vocabulary.digest, self._config.max_tokens, {}, ())
        tokens = self._vocabulary.tokenize([text.text for text in texts])
        fitted = batching.fit(tokens, [text.id for text in texts], limits, max_tokens=self._request.max_tokens)
        return _Rows(self._config, self._request.rate, fitted)

    def signature(self, training: bool) -> list[Any]:
        """See `Network`."""
        head = [tf.TensorSpec([None, self._config.width], tf.bool)] if training else []
        return [*signature(self._config, training=training), *head]

    def logits(self, inputs: Sequence[Any], training: bool) -> Any:
        """See `Network`."""
        weights = {name: variable.value for name, variable in self.weights.items()}
        kernel, bias = weights.pop("head.kernel"), weights.pop("head.bias")
        kept = inputs[2:-1] if training else ()
        x = forward_graph(self._config, weights, inputs[0], inputs[1], kept)["pre_dropout"]
        if training and self._request.rate:
            x = tf.where(inputs[-1], x * (1.0 / (1.0 - self._request.rate)), 0.0)
        return tf.matmul(x, kernel) + bias

    def export(self, folder: Path) -> Mapping[str, str]:
        """See `Network`: a folder for ``recurrent:``."""
        values = {name: np.asarray(variable.numpy()) for name, variable in self.weights.items()}
        head = Head(self._request.rate, values.pop("head.kernel"), values.pop("head.bias"), self._request.classes)
        model = Recurrent(self._config, values, self._vocabulary, head)
        write_folder(folder, model, multi_label=self._request.multi_label)
        return {"recurrent": "."}


class _Rows:
    def __init__(self, config: RecurrentConfig, rate: float, fitted: batching.Fitted) -> None:
        self._config = config
        self._rate = rate
        self._pieces = fitted.pieces
        self._keys = fitted.keys
        self.lengths = np.maximum(fitted.n_tokens, 1)
        self.truncated = fitted.truncated

    def inputs(self, rows: NDArray[np.intp], pass_: Pass) -> tuple[NDArray[Any], ...]:
        """See `Rows`."""
        ids, lengths = pad(self._pieces.take(rows))
        if pass_.mode is Mode.INFERENCE:
            return ids, lengths
        keys = self._keys[rows]
        seed, index = pass_.draw
        head = masks.keep(
            keys, seed=seed, passes=[index], site=masks.HEAD_SITE, units=self._config.width, rate=self._rate
        )[0]
        return ids, lengths, *draw_masks(self._config, lengths, keys, pass_), head
