"""BERT as a network to train: the graph, masks and packing of the fast runner, with variables for weights.

So a model computes the same after training as in it. Masks are keyed by seed, epoch and text: they do not depend on
the batches, and a resumed run draws those of an unbroken one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc import batching, masks
from embedsvc.head import Head
from embedsvc.models import huggingface
from embedsvc.models.base import LoadOptions
from embedsvc.models.bert import BertConfig, draw_masks, fold, pack
from embedsvc.models.engines.tensorflow import ACTIVATIONS, forward_graph
from embedsvc.models.exports import export
from embedsvc.models.network import Cached, Request
from embedsvc.models.wordpiece import WordPiece
from embedsvc.types import Mode, ModelSpec, Pass, Text, Tokens, Vectors

__all__ = ["BertNetwork", "HeadNetwork", "build"]

_INITIAL = 0.02  # standard deviation of BERT's first weights (Devlin et al. 2019)


def build(location: str, request: Request) -> BertNetwork | HeadNetwork:
    """A network from a Hugging Face folder; its classifier, if it has one, is replaced by a new head.

    Where it has no pooler, as a bare DistilBERT, it gets a new one.

    Raises
    ------
    ModelFormatError
        If the folder cannot be loaded.
    """
    source = huggingface.read_folder(Path(location), request.head_file)
    if "pooler.kernel" not in source.weights:
        source = _with_pooler(source, request.seed)
    return HeadNetwork(source, request) if request.freeze else BertNetwork(source, request)


def _with_pooler(source: huggingface.Folder, seed: int) -> huggingface.Folder:
    pooler, width = source.family.poolers[0], source.config.width
    # The second of the seed's streams: the first is the head's.
    rng = np.random.Generator(np.random.Philox(seed).jumped())
    kernel = (_INITIAL * rng.standard_normal((width, width))).astype(np.float32)
    return replace(
        source,
        config=replace(source.config, pooler_activation=pooler.activation),
        weights={**source.weights, "pooler.kernel": kernel, "pooler.bias": np.zeros(width, dtype=np.float32)},
    )


class _Head:
    """What both networks share: the head's weights, and what comes out at the end."""

    def __init__(self, source: huggingface.Folder, request: Request) -> None:
        self._source = source
        self._request = request
        shape = (source.config.width, len(request.classes))
        rng = np.random.Generator(np.random.Philox(request.seed))
        self.weights: dict[str, Any] = {
            "head.kernel": _variable("head.kernel", (_INITIAL * rng.standard_normal(shape)).astype(np.float32)),
            "head.bias": _variable("head.bias", np.zeros(shape[1], dtype=np.float32)),
        }

    def _apply_head(self, pooled: Any, kept: Any) -> Any:
        if kept is not None and self._request.rate:
            pooled = tf.where(kept, pooled * (1.0 / (1.0 - self._request.rate)), 0.0)
        return tf.matmul(pooled, self.weights["head.kernel"].value) + self.weights["head.bias"].value

    def head_masks(self, keys: NDArray[np.uint64], pass_: Pass) -> NDArray[np.bool_]:
        """Which units of the head stay, (n, width)."""
        seed, index = pass_.draw
        width, rate = self._source.config.width, self._request.rate
        kept: NDArray[np.bool_] = masks.keep(
            keys, seed=seed, passes=[index], site=masks.HEAD_SITE, units=width, rate=rate
        )[0]
        return kept

    def export(self, folder: Path) -> Mapping[str, str]:
        """See `Network`: a Hugging Face folder, a SavedModel and a .keras file."""
        values = {name: np.asarray(variable.numpy()) for name, variable in self.weights.items()}
        head = Head(self._request.rate, values.pop("head.kernel"), values.pop("head.bias"), self._request.classes)
        weights = {**self._source.weights, **values}
        return export(folder, self._source, weights, head, multi_label=self._request.multi_label)


class BertNetwork(_Head):
    """Every weight is trained: embeddings, layers, pooler, head."""

    cached = None
    notes: tuple[str, ...] = ()

    def __init__(self, source: huggingface.Folder, request: Request) -> None:
        super().__init__(source, request)
        self._precision = tf.as_dtype(request.precision)
        self.weights = {name: _variable(name, value) for name, value in source.weights.items()} | self.weights

    def prepare(self, texts: Sequence[Text], vectors: Vectors | None) -> _BertRows:
        """See `Network`."""
        config, request, tokenizer = self._source.config, self._request, self._source.tokenizer
        limits = ModelSpec(
            request.name or str(self._source.path), "", tokenizer.digest, config.max_positions, {}, (), special_tokens=2
        )
        ids = [text.id for text in texts]
        tokens = tokenizer.tokenize([text.text for text in texts])
        fitted = batching.fit(tokens, ids, limits, max_tokens=request.max_tokens)
        return _BertRows(self, config, tokenizer, fitted)

    def signature(self, training: bool) -> list[Any]:
        """See `Network`."""
        config = self._source.config
        plain = [tf.TensorSpec([None], tf.int32)] * 6 + [tf.TensorSpec([None, 1, 1, None], tf.float32)]
        if not training:
            return plain
        hidden = tf.TensorSpec([config.hidden_rows, None, config.width], tf.bool)
        attention = tf.TensorSpec([config.n_layers, None, config.n_heads, None, None], tf.bool)
        return [*plain, hidden, attention, tf.TensorSpec([None, config.width], tf.bool)]

    def logits(self, inputs: Sequence[Any], training: bool) -> Any:
        """See `Network`."""
        encoder = {name: self.weights[name].value for name in self._source.weights}
        batch, drawn = inputs[:7], inputs[7:9]
        out = forward_graph(
            self._source.config,
            fold(self._source.config, encoder),
            ("pooled_output",),
            *batch,
            *drawn,
            precision=self._precision,
        )
        return self._apply_head(out["pooled_output"], inputs[9] if training else None)


class _BertRows:
    def __init__(self, network: BertNetwork, config: BertConfig, tokenizer: WordPiece, fitted: batching.Fitted) -> None:
        self._network = network
        self._config = config
        self._tokenizer = tokenizer
        self._pieces: Tokens = fitted.pieces
        self._keys = fitted.keys
        self.lengths = fitted.n_tokens
        self.truncated = fitted.truncated

    def inputs(self, rows: NDArray[np.intp], pass_: Pass) -> tuple[NDArray[Any], ...]:
        """See `Rows`."""
        assert self._pieces.ids is not None
        ids = [self._tokenizer.with_special(self._pieces.ids[row]) for row in rows]
        lengths = np.array([len(row) for row in ids], dtype=np.int32)
        batch = pack(ids, lengths)
        if pass_.mode is Mode.INFERENCE:
            return batch
        keys = self._keys[rows]
        return (*batch, *draw_masks(self._config, lengths, keys, pass_), self._network.head_masks(keys, pass_))


class HeadNetwork(_Head):
    """The encoder is frozen: the head is trained on its cached vectors, and the pooler where it is to be."""

    def __init__(self, source: huggingface.Folder, request: Request) -> None:
        super().__init__(source, request)
        untrained = not source.weights["pooler.bias"].any()  # what initialisation leaves and training does not
        self._has_pooler = untrained if request.train_pooler is None else request.train_pooler
        encoder = huggingface.encoder_of(source, LoadOptions(rate=request.rate, name=request.name))
        self.cached = Cached(encoder, "cls" if self._has_pooler else "pooled_output")
        self.notes = (
            ("The encoder is frozen; its pooler is trained with the head" + ", as it was untrained." * untrained,)
            if self._has_pooler
            else ("The encoder is frozen, pooler included: the head alone is trained.",)
        )
        if self._has_pooler:
            pooler = {name: source.weights[name] for name in ("pooler.kernel", "pooler.bias")}
            self.weights = {name: _variable(name, value) for name, value in pooler.items()} | self.weights

    def prepare(self, texts: Sequence[Text], vectors: Vectors | None) -> _VectorRows:
        """See `Network`."""
        assert vectors is not None
        return _VectorRows(self, vectors, masks.row_keys(text.id for text in texts))

    def signature(self, training: bool) -> list[Any]:
        """See `Network`."""
        width = self._source.config.width
        kept = [tf.TensorSpec([None, width], tf.bool)] if training else []
        return [tf.TensorSpec([None, width], tf.float32), *kept]

    def logits(self, inputs: Sequence[Any], training: bool) -> Any:
        """See `Network`."""
        x = inputs[0]
        if self._has_pooler:
            x = tf.matmul(x, self.weights["pooler.kernel"].value) + self.weights["pooler.bias"].value
            x = ACTIVATIONS[self._source.config.pooler_activation](x)
        return self._apply_head(x, inputs[1] if training else None)


class _VectorRows:
    def __init__(self, network: HeadNetwork, vectors: Vectors, keys: NDArray[np.uint64]) -> None:
        self._network = network
        self._vectors = vectors
        self._keys = keys
        self.lengths = np.ones(len(vectors), dtype=np.int64)  # any two vectors cost the same
        self.truncated = np.zeros(len(vectors), dtype=np.bool_)

    def inputs(self, rows: NDArray[np.intp], pass_: Pass) -> tuple[NDArray[Any], ...]:
        """See `Rows`."""
        x = self._vectors[rows]
        return (x,) if pass_.mode is Mode.INFERENCE else (x, self._network.head_masks(self._keys[rows], pass_))


def _variable(name: str, value: NDArray[np.float32]) -> Any:
    return keras.Variable(value, dtype="float32", name=name.replace(".", "_"))
