"""What an encoder is, and one forward pass through encoder and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedsvc import batching, masks
from embedsvc.errors import UnknownTapError
from embedsvc.head import Head
from embedsvc.models.engines import AUTO, Precision
from embedsvc.types import Forward, Mode, ModelSpec, Pass, Text, Tokens, Vectors

__all__ = ["HEAD_TAPS", "Encoder", "LoadOptions", "check_taps", "encoder_taps", "forward", "head_vectors"]

HEAD_TAPS = ("post_dropout", "logits")  # made from pre_dropout by the head, outside the encoder


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a user can say about a model.

    Attributes
    ----------
    trust : bool
        Load it although it could run code or touch files.
    rate : float or None
        Rate of the head's dropout; None takes the model's own, or 0.1 where it has no head.
    dropout_layer : str or None
        Name or path of the head's dropout layer, where several qualify.
    preprocess : str or None
        Handle or folder of the text preprocessing model, for ``hub:``.
    name : str or None
        The catalogue name it was asked for by; becomes the uri of its spec.
    head_file : Path or None
        A trained pooler and classifier to put onto the encoder, for named models that have one.
    engine : str
        What runs a BERT: out of `engines.ENGINES`, or "auto" for the fastest that is installed. Other models run on
        TensorFlow always.
    precision : Precision
        Of a BERT's matrix products.
    """

    trust: bool = False
    rate: float | None = None
    dropout_layer: str | None = None
    preprocess: str | None = None
    name: str | None = None
    head_file: Path | None = None
    engine: str = AUTO
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision(self.precision))  # a plain "bfloat16" is accepted


class Encoder(Protocol):
    """A text classifier up to the input of its head's dropout, and that head.

    `encode` gives every tap but those of the head (`HEAD_TAPS`). A pass in head mode reaches it as an inference
    pass: only the head draws then.
    """

    @property
    def spec(self) -> ModelSpec:
        """What the model is and offers."""

    @property
    def head(self) -> Head:
        """The dropout, and the dense layer where it is trained."""

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokens of each text, without special tokens and not truncated. Safe to call from another thread."""

    def encode(
        self, tokens: Tokens, *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> Mapping[str, Vectors]:
        """One pass over one batch.

        Parameters
        ----------
        tokens : Tokens
            Already cut to the model's limit (`batching.fit`).
        keys : ndarray of shape (n,), uint64
            Key of each row for the encoder's masks.
        taps : sequence of str
            Any of ``spec.taps`` outside `HEAD_TAPS`.
        pass_ : Pass
            In inference or training mode.

        Returns
        -------
        mapping of str to ndarray of shape (n, width), float32
            One entry a tap, all from the same forward pass.
        """


def check_taps(spec: ModelSpec, taps: Sequence[str]) -> None:
    """Raise UnknownTapError for the first tap that the model lacks."""
    for tap in taps:
        if tap not in spec.taps:
            note = f" {' '.join(spec.notes)}" if tap == "logits" and spec.notes else ""
            raise UnknownTapError(f"{spec.uri} has no tap {tap!r}.{note}", f"It has: {', '.join(spec.taps)}")


def encoder_taps(taps: Sequence[str]) -> tuple[str, ...]:
    """What the encoder must hand out so that these taps can be made: head taps need `pre_dropout`."""
    body = [tap for tap in taps if tap not in HEAD_TAPS]
    if len(body) < len(taps) and "pre_dropout" not in body:
        body.append("pre_dropout")
    return tuple(body)


def head_vectors(
    head: Head, pre: Vectors, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
) -> dict[str, Vectors]:
    """The head's taps of one pass, from that pass's own `pre_dropout`."""
    if not set(taps) & set(HEAD_TAPS):
        return {}
    post = head.post(pre, keys, pass_)
    made = {"post_dropout": post} if "post_dropout" in taps else {}
    if "logits" in taps:
        made["logits"] = head.logits(post)
    return made


def forward(
    encoder: Encoder,
    texts: Sequence[Text],
    *,
    taps: Sequence[str],
    pass_: Pass | None = None,
    max_tokens: int | None = None,
    on_long: batching.OnLong = batching.OnLong.TRUNCATE,
) -> Forward:
    """All taps of one pass over some texts, run as a single batch.

    Parameters
    ----------
    encoder : Encoder
    texts : sequence of Text
        Their ids decide the masks.
    taps : sequence of str
        Names out of ``encoder.spec.taps``.
    pass_ : Pass, optional
        Inference by default.
    max_tokens, on_long
        See `batching.fit`.

    Raises
    ------
    UnknownTapError
        For a tap the model lacks.
    """
    pass_ = pass_ or Pass()
    check_taps(encoder.spec, taps)
    ids = [text.id for text in texts]
    fitted = batching.fit(
        encoder.tokenize([text.text for text in texts]), ids, encoder.spec, max_tokens=max_tokens, on_long=on_long
    )
    body = Pass() if pass_.mode is Mode.HEAD else pass_
    encoded = encoder.encode(fitted.pieces, keys=fitted.keys, taps=encoder_taps(taps), pass_=body)
    vectors = {tap: fitted.merge(value) for tap, value in encoded.items()}
    if "pre_dropout" in vectors:
        vectors |= head_vectors(encoder.head, vectors["pre_dropout"], masks.row_keys(ids), taps, pass_)
    return Forward({tap: vectors[tap] for tap in taps}, fitted.n_tokens, fitted.truncated)
