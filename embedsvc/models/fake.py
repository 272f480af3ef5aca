"""A small honest classifier in numpy: for tests, examples and load tests that should not need TensorFlow.

It has what a BERT classifier has where it matters: a length limit, special tokens, a dropout inside the encoder, so
that `pre_dropout` in training mode is stochastic, and a trained-looking head.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.errors import ModelFormatError
from embedsvc.head import Head
from embedsvc.losses import Ending
from embedsvc.models.base import LoadOptions
from embedsvc.models.observation import OBSERVED_TEXT, Observation, Seen, observe
from embedsvc.types import DropoutSite, Mode, ModelSpec, Pass, Tokens, Vectors

__all__ = ["FakeEncoder", "load"]

_VOCABULARY = 4096
_INNER_SITE = 1


def load(location: str, options: LoadOptions) -> FakeEncoder:
    """``fake:`` or ``fake:WIDTH`` (default 16)."""
    if location and not (location.isdecimal() and int(location)):
        raise ModelFormatError(f"fake:{location} is no model", "The form is fake: or fake:WIDTH, for example fake:64")
    return FakeEncoder(width=int(location or 16), rate=0.1 if options.rate is None else options.rate)


class FakeEncoder:
    """Hashed words, embedded, dropped, averaged, squashed.

    Parameters
    ----------
    width : int
        Of every vector tap.
    n_classes : int
        Width of the logits.
    rate : float
        Of the inner dropout and of the head's.
    max_tokens : int
        With one special token at the start.
    """

    engine = "numpy"
    inference_by_tokens = True
    vocabulary = _VOCABULARY

    def __init__(self, width: int = 16, n_classes: int = 3, rate: float = 0.1, max_tokens: int = 64) -> None:
        rng = np.random.default_rng(np.random.SeedSequence([20261123, width, n_classes]))
        self._rate = rate
        self._max_tokens = max_tokens
        self._table = rng.standard_normal((_VOCABULARY, width), dtype=np.float32)
        self._kernel = rng.standard_normal((width, width), dtype=np.float32) / np.float32(np.sqrt(width))
        self.ending = Ending("linear", n_classes)
        self.head = Head(
            rate,
            rng.standard_normal((width, n_classes), dtype=np.float32),
            rng.standard_normal(n_classes, dtype=np.float32),
            tuple(f"class {i}" for i in range(n_classes)),
        )

    @cached_property
    def spec(self) -> ModelSpec:
        """See `Encoder`."""
        width = self._table.shape[1]
        digest = hashlib.sha256(self._table.tobytes() + self._kernel.tobytes() + self.head.digest().encode())
        vectors = ("pre_dropout", "post_dropout", "pooled_output", "cls", "mean", "layer.0")
        return ModelSpec(
            uri=f"fake:{width}",
            digest=digest.hexdigest(),
            vocab_digest="",
            max_tokens=self._max_tokens,
            taps={**dict.fromkeys(vectors, int(width)), "logits": self.head.n_classes or 0},
            sites=(
                DropoutSite("head/dropout", self._rate, (Mode.TRAINING, Mode.HEAD)),
                DropoutSite("embeddings/dropout", self._rate),
            ),
            special_tokens=1,
        )

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder`: words split at white space, hashed."""
        ids = tuple(
            np.array(
                [1 + zlib.crc32(word.encode("utf-8", "replace")) % (_VOCABULARY - 1) for word in text.split()],
                dtype=np.int32,
            )
            for text in texts
        )
        return Tokens(tuple(texts), ids, np.array([len(row) for row in ids], dtype=np.int64))

    def observe(self) -> list[Observation]:
        """See `Observable`."""
        tokens = self.tokenize([OBSERVED_TEXT])
        assert tokens.ids is not None
        keys, n_steps = np.ones(1, dtype=np.uint64), 1 + len(tokens.ids[0])
        how = "the output beside that of inference"
        still = self.encode(tokens, keys=keys, taps=["mean"], pass_=Pass())["mean"]

        def run(mode: Mode, number: int) -> dict[str, Seen]:
            pass_ = Pass(mode, number, 0) if mode.stochastic else Pass()
            mean = self.encode(tokens, keys=keys, taps=["mean"], pass_=pass_)["mean"]
            mask = None
            if mode.stochastic:
                units = n_steps * self._table.shape[1]
                kept = masks.keep(keys, seed=0, passes=[number], site=_INNER_SITE, units=units, rate=self._rate)
                mask = kept.reshape(n_steps, 1, -1).astype(np.float32)
            return {"embeddings/dropout": Seen(bool((mean != still).any()), mask, True, how)}

        return observe(run)

    def encode(
        self, tokens: Tokens, *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> Mapping[str, Vectors]:
        """See `Encoder`."""
        assert tokens.ids is not None
        width = self._table.shape[1]
        mean = np.empty((len(tokens), width), dtype=np.float32)
        first = np.empty_like(mean)
        for row, ids in enumerate(tokens.ids):
            x = self._table[np.concatenate([[0], ids])]
            if pass_.mode is Mode.TRAINING:
                seed, index = pass_.draw
                row_key = keys[row : row + 1]
                kept = masks.keep(row_key, seed=seed, passes=[index], site=_INNER_SITE, units=x.size, rate=self._rate)
                x = masks.dropout(x, kept.reshape(x.shape), self._rate)
            mean[row] = x.mean(axis=0)
            first[row] = x[0]
        # einsum and not @: BLAS picks its kernel by the number of rows, and then the last bits depend on the batch.
        pooled = np.tanh(np.einsum("nd,de->ne", mean, self._kernel))
        known = {"pre_dropout": pooled, "pooled_output": pooled, "mean": mean, "cls": first, "layer.0": mean}
        return {tap: known[tap] for tap in taps}
