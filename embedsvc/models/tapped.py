"""A Keras classifier as an encoder: compiled twice, once without masks and once with."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc import masks
from embedsvc.errors import ModelError
from embedsvc.head import Head
from embedsvc.losses import Ending, read_loss
from embedsvc.models.base import LoadOptions
from embedsvc.models.heads import FoundHead, find_head, reached
from embedsvc.models.instrument import Instrument
from embedsvc.models.keyed import Call, Trace
from embedsvc.models.observation import OBSERVED_TEXT, Observation, Seen, observe
from embedsvc.types import DropoutSite, Mode, ModelSpec, Pass, Tokens, Vectors

__all__ = ["Reader", "TappedEncoder", "first_line"]

ExtraTaps = Callable[[Trace, Sequence[Any]], Mapping[str, Any]]

# The first two have equally many tokens and so run together; the third is longer.
_PROBE = ("good the film was", "the film was good", "not one good line in a very long film without any plot")


class Reader(Protocol):
    """How texts become inputs of a model.

    Attributes
    ----------
    signature : tuple of TensorSpec
        Of one batch's arrays.
    """

    signature: tuple[Any, ...]
    max_tokens: int | None
    special_tokens: int
    vocab_digest: str
    alone: bool

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder.tokenize`."""

    def batches(self, tokens: Tokens) -> list[tuple[NDArray[np.intp], tuple[Any, ...]]]:
        """Rows that may run together, each with the arrays of `signature`.

        Which shape a row runs in must follow from the row alone, or its masks and vectors would follow its neighbours.
        There may be more rows in the arrays than named: the rest is padding.
        """

    def feed(self, arrays: Sequence[Any]) -> Any:
        """The model's input structure, from the tensors of a batch."""


class TappedEncoder:
    """See `Encoder`.

    Parameters
    ----------
    model : Model
        Keras 3 or tf_keras, freshly loaded; it is changed.
    reader : Reader
    uri, content : str
        Its name, and the SHA-256 of what decides its weights and graph.
    options : LoadOptions
    instrument : Instrument, optional
        Of that model, if some layers are watched already.
    extra : callable, optional
        Further taps from the trace and the batch's tensors.
    trained_head : bool
        Whether the last dense layer holds weights worth applying.
    notes : sequence of str
        To be shown before those found here.
    loss : object
        What Keras wrote about the loss it was compiled with.

    Raises
    ------
    ModelError
        If there is no head to tap.
    """

    def __init__(
        self,
        model: Any,
        reader: Reader,
        *,
        uri: str,
        content: str,
        options: LoadOptions,
        instrument: Instrument | None = None,
        extra: ExtraTaps | None = None,
        trained_head: bool = True,
        notes: Sequence[str] = (),
        loss: object = None,
    ) -> None:
        self._model = model
        self._reader = reader
        self._extra = extra
        self._instrument = instrument or Instrument(model)
        # Generators that Keras keeps are shared state: one pass at a time sets and uses them.
        self._lock = threading.Lock()
        analysis = self._analyse(options.dropout_layer)
        found = analysis.found
        self.head = found.head(options.rate) if trained_head else Head(found.head(options.rate).rate)
        name, from_logits = read_loss(loss)
        self.ending = replace(found.ending if trained_head else Ending(), loss=name, from_logits=from_logits)
        self._head_path, self._is_pooled = found.call.path, found.is_pooled
        self._numbers = {call.path: number for number, call in enumerate(analysis.others, start=1)}
        self._inference = self._compile(live=False)
        self._training = self._compile(live=True)
        by_place = [call.path for call in analysis.live if not call.keyed]
        keyed = self._looks_keyed(bool(analysis.live)) and not by_place
        if not keyed:
            which = ", ".join(by_place) or "some layer"
            notes = (*notes, f"Masks of {which} follow the row's place in its batch, not the text.")
        # Where no site is known to draw by place, but the rows do, any may be the one.
        self.keyed_sites = frozenset(call.path for call in analysis.live if call.keyed and by_place)
        widths = {tap: int(tensor.shape[-1]) for tap, tensor in self._inference.structured_outputs.items()}
        logits = {} if self.head.n_classes is None else {"logits": self.head.n_classes}
        digest = hashlib.sha256(f"{content} {found.call.path} {self.head.digest()}".encode())
        self.spec = ModelSpec(
            uri=options.name or uri,
            digest=digest.hexdigest(),
            vocab_digest=reader.vocab_digest,
            max_tokens=reader.max_tokens,
            taps={"pre_dropout": widths["pre_dropout"], "post_dropout": widths["pre_dropout"]} | widths | logits,
            sites=(
                DropoutSite(found.call.path, self.head.rate, (Mode.TRAINING, Mode.HEAD) if self.head.rate else ()),
                *(
                    DropoutSite(call.path, call.rate, (Mode.TRAINING,) if call in analysis.live else (), call.kind)
                    for call in analysis.others
                ),
            ),
            masks="keyed" if keyed else "positional",
            special_tokens=reader.special_tokens,
            notes=(*notes, *self._instrument.notes, *found.notes),
        )

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder`."""
        return self._reader.tokenize(texts)

    def encode(
        self, tokens: Tokens, *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> Mapping[str, Vectors]:
        """See `Encoder`."""
        vectors = {
            tap: np.empty((len(tokens), int(self._inference.structured_outputs[tap].shape[-1])), dtype=np.float32)
            for tap in taps
        }
        with self._lock:
            for rows, arrays in self._reader.batches(tokens):
                try:
                    outputs = self._run(arrays, keys[rows], pass_)
                except tf.errors.OpError as error:
                    raise ModelError(f"the model fails in {pass_.mode} mode: {first_line(error)}") from error
                for tap in taps:
                    vectors[tap][rows] = outputs[tap].numpy()[: len(rows)]
        return vectors

    def observe(self) -> list[Observation]:
        """See `Observable`: the model called as it is, its layers drawing for themselves."""
        [(_, arrays)] = self._reader.batches(self._cut(self._reader.tokenize([OBSERVED_TEXT])))
        tensors = [tf.constant(array, spec.dtype) for array, spec in zip(arrays, self._reader.signature, strict=True)]

        def run(mode: Mode, _: int) -> dict[str, Seen]:
            with self._lock, self._instrument.trace(Trace(own=True)) as trace:
                self._model(self._reader.feed(tensors), training=mode is Mode.TRAINING)
            trace.seen.pop(self._head_path, None)
            return trace.seen

        return observe(run)

    def _run(self, arrays: Sequence[Any], keys: NDArray[np.uint64], pass_: Pass) -> Mapping[str, Any]:
        tensors = [tf.constant(array, spec.dtype) for array, spec in zip(arrays, self._reader.signature, strict=True)]
        if pass_.mode is Mode.INFERENCE:
            return self._inference(*tensors)  # type: ignore[no-any-return]
        seed, index = pass_.draw
        self._instrument.seed(seed, index, int(keys[0]))
        padding = np.zeros(tensors[0].shape[0] - len(keys), dtype=np.uint64)
        return self._training(  # type: ignore[no-any-return]
            *tensors, tf.constant(np.concatenate([keys, padding])), tf.constant([seed, index], tf.int64)
        )

    def _analyse(self, wanted: str | None) -> _Analysis:
        """Trace the model once, in training mode but without masks, to see what is there."""
        result: list[_Analysis] = []

        def look(*arrays: Any) -> None:
            with self._instrument.trace(Trace()) as trace:
                outputs = self._model(self._reader.feed(arrays), training=True)
            found = find_head(trace, tf.nest.flatten(outputs), wanted)
            before = reached(found.call.x)
            others = [call for call in trace.calls if call is not found.call]
            # A dropout behind the head's tap decides nothing that is handed out.
            live = [call for call in others if call.live and call.rate and _leads_to(call, before)]
            result.append(_Analysis(found, others, live))

        try:
            # No autograph: it would wrap our errors in its own.
            tf.function(look, input_signature=self._reader.signature, autograph=False).get_concrete_function()
        except ModelError:
            raise
        except Exception as error:  # layers raise every kind of exception for inputs that they were not made for
            raise ModelError(f"the model cannot run on a batch of texts: {first_line(error)}") from error
        return result[0]

    def _compile(self, *, live: bool) -> Any:
        """One graph for all taps, traced now and never again."""
        n = len(self._reader.signature)

        def taps(*tensors: Any) -> dict[str, Any]:
            arrays, (keys, draw) = tensors[:n], tensors[n:] or (None, None)
            with self._instrument.trace(Trace(keys, draw, self._numbers)) as trace:
                self._model(self._reader.feed(arrays), training=live)
            made = {"pre_dropout": trace.call_at(self._head_path).x}
            if self._is_pooled:
                made["pooled_output"] = made["pre_dropout"]
            if self._extra is not None:
                made |= self._extra(trace, arrays)
            return {tap: tf.cast(tensor, tf.float32) for tap, tensor in made.items()}

        signature = [*self._reader.signature]
        if live:
            signature += [tf.TensorSpec([None], tf.uint64), tf.TensorSpec([2], tf.int64)]
        return tf.function(taps, input_signature=signature, autograph=False).get_concrete_function()

    def _looks_keyed(self, live: bool) -> bool:
        """Try whether a row alone and the row among others agree; sets the reader to run rows alone if they must.

        What a layer draws for itself, or does across the batch, shows here and nowhere in its configuration.
        """
        tokens = self._cut(self._reader.tokenize(_PROBE))
        if self._differs(tokens, Pass()):
            self._reader.alone = True
        return not live or not self._differs(tokens, Pass(Mode.TRAINING, 0, 1))

    def _cut(self, tokens: Tokens) -> Tokens:
        if tokens.ids is None or self._reader.max_tokens is None:
            return tokens
        room = self._reader.max_tokens - self._reader.special_tokens
        return Tokens(tokens.texts, tuple(ids[:room] for ids in tokens.ids), np.minimum(tokens.counts, room))

    def _differs(self, tokens: Tokens, pass_: Pass) -> bool:
        """Whether the second text alone gives another vector than between the others."""
        keys = masks.row_keys(tokens.texts)
        second = np.array([1])
        together = self.encode(tokens, keys=keys, taps=["pre_dropout"], pass_=pass_)["pre_dropout"][1]
        alone = self.encode(tokens.take(second), keys=keys[second], taps=["pre_dropout"], pass_=pass_)["pre_dropout"][0]
        return not np.allclose(alone, together, atol=1e-4, rtol=1e-4)


def first_line(error: Exception) -> str:
    """What a library's long message begins with."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


@dataclass(frozen=True)
class _Analysis:
    """The head, the other dropout calls, and those of them that are live in training mode."""

    found: FoundHead
    others: list[Call]
    live: list[Call]


def _leads_to(call: Call, ops: set[Any]) -> bool:
    return any(tf.is_tensor(tensor) and tensor.op in ops for tensor in tf.nest.flatten(call.y))
