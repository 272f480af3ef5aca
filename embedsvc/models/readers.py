"""How texts enter a Keras model: as strings, or as packed token ids.

Both split a batch so that a row's shape follows from the row alone (see `Reader.batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc.errors import ModelError
from embedsvc.models.instrument import walk
from embedsvc.models.wordpiece import WordPiece
from embedsvc.types import Tokens

__all__ = ["PackedIds", "Strings"]

_BUCKET = 8  # token counts are rounded up to a multiple of this

_ROLES = {
    "ids": {"token_ids", "input_ids", "input_word_ids"},
    "mask": {"padding_mask", "attention_mask", "input_mask"},
    "types": {"segment_ids", "token_type_ids", "input_type_ids"},
}


class Strings:
    """For a model that takes strings and splits them inside.

    Where it splits them with a TextVectorization layer, that layer counts the tokens; rows run with those of equal
    count if it pads to the longest of the batch.
    """

    special_tokens = 0
    vocab_digest = ""

    def __init__(self, model: Any) -> None:
        rank = len(model.inputs[0].shape)
        if rank not in {1, 2}:
            raise ModelError(f"the model takes strings of shape {tuple(model.inputs[0].shape)}, expected one a text")
        self._as_column = rank == 2
        self._wrap = _structure(model)
        layers = [layer for _, layer in walk(model) if type(layer).__name__ == "TextVectorization"]
        self._splitter = layers[0] if len(layers) == 1 and layers[0]._split is not None else None
        self.max_tokens: int | None = None
        self._pads_to_longest = False
        if self._splitter is not None and self._splitter._output_mode == "int":
            self.max_tokens = self._splitter._output_sequence_length
            self._pads_to_longest = self.max_tokens is None
        self.alone = False
        self.signature = (tf.TensorSpec([None], tf.string),)
        counts = self.tokenize(["a", "1"]).counts
        self._one_token = next((text for text, count in zip(["a", "1"], counts, strict=True) if count == 1), None)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder.tokenize`; ids stay inside the model."""
        counts = np.full(len(texts), -1, dtype=np.int64)
        if self._splitter is not None and len(texts):
            counts[:] = self._splitter._preprocess(tf.constant(list(texts))).row_lengths().numpy()
        return Tokens(tuple(texts), None, counts)

    def batches(self, tokens: Tokens) -> list[tuple[NDArray[np.intp], tuple[Any, ...]]]:
        """See `Reader.batches`."""
        if self.alone:
            groups = [np.array([row]) for row in range(len(tokens))]
        elif self._pads_to_longest:
            groups = _groups(np.maximum(tokens.counts, 1))
        else:
            groups = [np.arange(len(tokens))] if len(tokens) else []
        return [(rows, (self._texts(tokens, rows),)) for rows in groups]

    def feed(self, arrays: Sequence[Any]) -> Any:
        """See `Reader.feed`."""
        return self._wrap([arrays[0][:, None] if self._as_column else arrays[0]])

    def _texts(self, tokens: Tokens, rows: NDArray[np.intp]) -> list[str]:
        texts = [tokens.texts[row] for row in rows]
        # The mean over no tokens at all is 0/0: "?" runs beside a text of one token, as it would in most batches.
        if self._pads_to_longest and self._one_token and (tokens.counts[rows] == 0).any():
            texts.append(self._one_token)
        return texts


class PackedIds:
    """For a model that takes token ids with a padding mask, as BERT does.

    Parameters
    ----------
    model : Model
    names : sequence of str
        Of its inputs, in order; each has a role by its name.
    tokenize : callable
        Texts to `Tokens`.
    prefix, suffix : sequence of int
        Special tokens around a text.
    pad : int
    vocab_digest : str
    max_tokens : int, optional
        What the model can read; found in its layers if not given.
    """

    def __init__(
        self,
        model: Any,
        names: Sequence[str],
        tokenize: Callable[[Sequence[str]], Tokens],
        *,
        prefix: Sequence[int],
        suffix: Sequence[int],
        pad: int,
        vocab_digest: str,
        max_tokens: int | None = None,
    ) -> None:
        self.tokenize = tokenize
        self.special_tokens = len(prefix) + len(suffix)
        self.vocab_digest = vocab_digest
        self.alone = False
        self._prefix, self._suffix, self._pad = list(prefix), list(suffix), pad
        self._roles = [_role(name) for name in names]
        self._dtypes = [tf.as_dtype(tensor.dtype) for tensor in model.inputs]
        self._wrap = _structure(model)
        fixed = {size for tensor in model.inputs if (size := tensor.shape[1]) is not None}
        limits = fixed | {size for _, layer in walk(model) if (size := _positions(layer))}
        self.max_tokens = min(limits | ({max_tokens} if max_tokens else set()), default=None)
        # Some models take one length only; and one without a mask reads its padding, so that length is part of it.
        self._fixed = self.max_tokens if fixed or "mask" not in self._roles else None
        self.signature = (tf.TensorSpec([None, self._fixed], tf.int32),) * 2

    @staticmethod
    def knows(names: Sequence[str]) -> bool:
        """Whether each input has a role, the ids among them."""
        roles = [_role(name) for name in names]
        return "ids" in roles and "" not in roles

    @classmethod
    def of_wordpiece(cls, model: Any, names: Sequence[str], wordpiece: WordPiece) -> Self:
        """With BERT's packing: [CLS] text [SEP]."""
        return cls(
            model,
            names,
            wordpiece.tokenize,
            prefix=[wordpiece.cls_id],
            suffix=[wordpiece.sep_id],
            pad=wordpiece.pad_id,
            vocab_digest=wordpiece.digest,
        )

    def batches(self, tokens: Tokens) -> list[tuple[NDArray[np.intp], tuple[Any, ...]]]:
        """See `Reader.batches`."""
        assert tokens.ids is not None
        counts = np.array([len(ids) for ids in tokens.ids], dtype=np.int64) + self.special_tokens
        sizes = -(-counts // _BUCKET) * _BUCKET
        if self.max_tokens is not None:
            sizes = np.minimum(sizes, self.max_tokens)
        if self._fixed is not None:
            sizes[:] = self._fixed
        if self.alone:
            return [self._packed(tokens, np.array([row]), int(sizes[row])) for row in range(len(tokens))]
        return [self._packed(tokens, rows, int(sizes[rows[0]])) for rows in _groups(sizes)]

    def feed(self, arrays: Sequence[Any]) -> Any:
        """See `Reader.feed`."""
        ids, mask = arrays
        by_role = {"ids": ids, "mask": mask, "types": tf.zeros_like(ids)}
        return self._wrap(
            [tf.cast(by_role[role], dtype) for role, dtype in zip(self._roles, self._dtypes, strict=True)]
        )

    def _packed(
        self, tokens: Tokens, rows: NDArray[np.intp], size: int
    ) -> tuple[NDArray[np.intp], tuple[NDArray[np.int32], NDArray[np.int32]]]:
        assert tokens.ids is not None
        ids = np.full((len(rows), size), self._pad, dtype=np.int32)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            packed = [*self._prefix, *tokens.ids[row], *self._suffix]
            ids[at, : len(packed)] = packed
            mask[at, : len(packed)] = 1
        return rows, (ids, mask)


def _groups(sizes: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Rows of equal size, ascending."""
    return [np.flatnonzero(sizes == size) for size in np.unique(sizes)]


def _role(name: str) -> str:
    return next((role for role, names in _ROLES.items() if name in names), "")


def _positions(layer: Any) -> int | None:
    """How many positions a layer knows, if it embeds positions."""
    kind = type(layer).__name__
    if kind == "Embedding" and "position" in layer.name:
        return int(layer.input_dim)
    if "Position" not in kind:
        return None
    size = getattr(layer, "sequence_length", None) or getattr(layer, "max_length", None)
    return size if isinstance(size, int) else None


def _structure(model: Any) -> Callable[[list[Any]], Any]:
    """From tensors in the order of ``model.inputs`` to what the model is called with."""
    try:
        declared = model.input
    except (AttributeError, ValueError):  # a Keras 3 Sequential, as loaded
        return lambda tensors: tensors[0]
    if isinstance(declared, dict):
        order = {id(tensor): at for at, tensor in enumerate(model.inputs)}
        places = {name: order[id(tensor)] for name, tensor in declared.items()}
        return lambda tensors: {name: tensors[at] for name, at in places.items()}
    return lambda tensors: tensors if isinstance(declared, (list, tuple)) else tensors[0]
