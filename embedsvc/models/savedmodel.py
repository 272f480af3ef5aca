"""``savedmodel:`` a whole classifier saved by tf.keras or tf_keras: text → preprocess → encoder → Dropout → Dense.

Its Keras layers are revived and tapped like those of any Keras model (`tapped`); what the encoder keeps inside its
graph draws keyed numbers (`graph`). Length and padding are the model's own: agreement with it comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedsvc.errors import ModelError, ModelFormatError
from embedsvc.models.base import LoadOptions
from embedsvc.models.draws import Draws
from embedsvc.models.graph import read_graph, rewritten
from embedsvc.models.hub import HubTokenizer
from embedsvc.models.instrument import Instrument, walk
from embedsvc.models.keyed import Trace
from embedsvc.models.observation import OBSERVED_TEXT, Observation, Seen, observe
from embedsvc.models.readers import PackedIds, Strings
from embedsvc.models.saved import compiled_loss, digest_folder, loading_error
from embedsvc.models.tapped import Reader, TappedEncoder
from embedsvc.types import Mode, ModelSpec, Pass, Tokens, Vectors

__all__ = ["SavedModelEncoder", "load"]

_TRIAL = ("the film was good", "a very long film with no plot and not one good line in it", "bad")


def load(location: str, options: LoadOptions) -> SavedModelEncoder:
    """The classifier in that SavedModel folder.

    Raises
    ------
    ModelFormatError
        If it is torn, or has no Keras layers to tap; the message lists the outputs it does have.
    ModelError
        If it has no head to tap.
    UnsafeModelError
        If it could run code or touch files and is not trusted.
    """
    from embedsvc.models.safety import scan_saved_model

    folder = Path(location)
    if not folder.is_dir():
        raise ModelFormatError(f"savedmodel:{location} is no folder", "Give the folder that holds saved_model.pb.")
    scan_saved_model(folder, trust=options.trust)
    _check_kind(folder, read_graph(folder))
    draws = Draws()
    with rewritten(folder, draws) as copy:
        model = _revive(copy, folder)
    try:
        return SavedModelEncoder(model, draws, folder, options)
    except ModelError as error:
        raise type(error)(f"{folder}: {error.problem}", error.hint) from error


class SavedModelEncoder:
    """A revived Keras classifier whose graphs draw from `draws`. See `models.base.Encoder`."""

    def __init__(self, model: Any, draws: Draws, folder: Path, options: LoadOptions) -> None:
        encoder, preprocess = _layer_giving(model, "pooled_output"), _layer_giving(model, "input_mask")
        reader, notes = _reader(model, preprocess, folder)
        instrument = Instrument(model)
        for name, layer in (("encoder", encoder), ("preprocess", preprocess)):
            if layer is not None:
                instrument.watch(layer, name)
        self._tapped = TappedEncoder(
            _Keyed(model, instrument, draws),
            reader,
            uri=f"savedmodel:{folder}",
            content=digest_folder(folder),
            options=options,
            instrument=instrument,
            extra=None if encoder is None else _encoder_taps,
            notes=notes,
            loss=compiled_loss(folder),
        )
        self.head = self._tapped.head
        self.ending = self._tapped.ending
        self.keyed_sites = self._tapped.keyed_sites
        self._draws = draws
        self._graph_paths: dict[str, str] = {}  # path of a site to that in the graph
        has_graphs = any(_is_opaque(layer) for _, layer in walk(model) if layer is not preprocess)
        self.spec = self._describe(draws) if draws.sites and has_graphs else self._tapped.spec
        self.remarks = (draws.remark,) if has_graphs and draws.remark else ()

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder`."""
        return self._tapped.tokenize(texts)

    def encode(
        self, tokens: Tokens, *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> Mapping[str, Vectors]:
        """See `Encoder`."""
        return self._tapped.encode(tokens, keys=keys, taps=taps, pass_=pass_)

    def observe(self) -> list[Observation]:
        """See `Observable`: of its layers as they are, and of its graphs through the numbers they ask for."""
        if not self._graph_paths:
            return self._tapped.observe()
        tokens, keys = self.tokenize([OBSERVED_TEXT]), np.ones(1, dtype=np.uint64)

        def run(mode: Mode, number: int) -> dict[str, Seen]:
            with self._draws.watched() as drawn:
                self.encode(
                    tokens, keys=keys, taps=["pre_dropout"], pass_=Pass(mode, number, 0) if mode.stochastic else Pass()
                )
            seen = self._draws.seen(drawn)
            return {path: seen[own] for path, own in self._graph_paths.items()}

        return [*self._tapped.observe(), *observe(run)]

    def _describe(self, draws: Draws) -> ModelSpec:
        """The spec of the layers, and what two trial passes show of the graphs."""
        spec = self._tapped.spec
        logs = []
        for n in (2, 3):  # two row counts, so that a folded axis is not taken for the batch
            self._try_out(n)
            logs.append(draws.log)
        draws.first = len(spec.sites)
        draws.settle(logs)
        # A model that pads to the longest of the batch: its sites have a part for each row, but one of varying size.
        by_mates = not np.allclose(self._try_out(2), self._try_out(1), atol=1e-4, rtol=1e-4)
        notes = list(spec.notes)
        if not draws.live:
            notes.append(
                "The encoder's own dropout is not live in training mode: it was saved frozen "
                "(hub.KerasLayer(trainable=False)), so only the head's dropout draws."
            )
        if not draws.repeatable:
            notes.append("The model's graph draws numbers that cannot be repeated, so a training pass cannot either.")
        positional = by_mates or "positional" in {spec.masks, draws.masks}
        if positional and spec.masks == "keyed":
            notes.append("Some dropouts inside the model's graph follow the row's place in its batch, not the text.")
        taken = {site.path for site in spec.sites}
        own_sites = draws.dropout_sites()
        graph_sites = tuple(
            replace(site, path=f"graph/{site.path}") if site.path in taken else site for site in own_sites
        )
        self._graph_paths = {site.path: own.path for site, own in zip(graph_sites, own_sites, strict=True)}
        return replace(
            spec,
            sites=spec.sites + graph_sites,
            masks="positional" if positional else "keyed",
            notes=tuple(notes),
        )

    def _try_out(self, n: int) -> Vectors:
        """What the first text gives in a training pass over the first n."""
        tokens, keys = self.tokenize(_TRIAL[:n]), np.arange(n, dtype=np.uint64)
        vectors = self.encode(tokens, keys=keys, taps=["pre_dropout"], pass_=Pass(Mode.TRAINING, 0, 0))
        return vectors["pre_dropout"][:1]


class CountedStrings:
    """`Strings`, with the tokens counted by the tokenizer inside the model's own preprocessing layer."""

    def __init__(self, strings: Strings, tokenizer: HubTokenizer, max_tokens: int | None) -> None:
        self._strings = strings
        self._tokenizer = tokenizer
        self.signature = strings.signature
        self.max_tokens = max_tokens
        self.special_tokens = tokenizer.special_tokens
        self.vocab_digest = tokenizer.digest
        self.batches = strings.batches
        self.feed = strings.feed

    @property
    def alone(self) -> bool:
        """See `Reader`."""
        return self._strings.alone

    @alone.setter
    def alone(self, value: bool) -> None:
        self._strings.alone = value

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder.tokenize`; ids stay inside the model."""
        counts = np.fromiter(map(len, self._tokenizer(texts)), dtype=np.int64, count=len(texts))
        return Tokens(tuple(texts), None, counts)


class _Keyed:
    """The model, telling its graphs before each pass whose numbers to draw."""

    def __init__(self, model: Any, instrument: Instrument, draws: Draws) -> None:
        self._model = model
        self._instrument = instrument
        self._draws = draws

    def __call__(self, inputs: Any, *, training: bool) -> Any:
        trace = self._instrument._trace
        if trace is None or not self._draws.sites:
            return self._model(inputs, training=training)

        def begin(keys: NDArray[np.uint64], draw: NDArray[np.int64]) -> np.bool_:
            self._draws.begin(keys, [int(number) for number in draw])
            return np.True_

        given = (np.zeros(1, dtype=np.uint64), [0, 0]) if trace.keys is None else (trace.keys, trace.draw)
        begun = tf.numpy_function(begin, given, tf.bool)
        with tf.control_dependencies([begun]):
            # The copy makes the order a matter of data, which no optimiser undoes.
            inputs = tf.nest.map_structure(tf.identity, inputs)
            return self._model(inputs, training=training)


def _check_kind(folder: Path, message: Any) -> None:
    """Say early what this SavedModel is, if it is no Keras classifier."""
    meta_graph = message.meta_graphs[0]
    root = meta_graph.object_graph_def.nodes[0] if meta_graph.object_graph_def.nodes else None
    children = {child.local_name for child in root.children} if root is not None else set()
    inputs, outputs = set[str](), set[str]()
    described = []
    for name, signature in meta_graph.signature_def.items():
        if name != "__saved_model_init_op":
            inputs |= set(signature.inputs)
            outputs |= set(signature.outputs)
            described.append(f"{name} ({', '.join(signature.inputs)}) -> {', '.join(signature.outputs)}")
    if "bert_pack_inputs" in children:
        raise ModelFormatError(
            f"{folder} is a text preprocessing model, no classifier", f"Use hub:ENCODER --preprocess {folder}"
        )
    if {"input_word_ids", "input_mask"} <= inputs and len(outputs) > 1:
        raise ModelFormatError(f"{folder} is an encoder, no classifier", f"This is an encoder: use hub:{folder}")
    identifier = root.user_object.identifier if root is not None else ""
    if not identifier.startswith("_tf_keras_"):
        raise ModelFormatError(
            f"{folder} has no Keras layers, so there is no dropout to tap. It has: {'; '.join(described) or 'nothing'}",
            "Save the classifier with tf_keras (model.save), or as .keras. Keras 3's export keeps no layers.",
        )


def _revive(copy: Path, folder: Path) -> Any:
    import tensorflow_text  # noqa: F401  registers the ops of preprocess models
    import tf_keras

    try:
        model = tf_keras.models.load_model(str(copy), compile=False)
    except Exception as error:  # torn files raise a dozen different types
        raise loading_error(error, copy, folder) from error
    if not getattr(model, "inputs", None):
        raise ModelFormatError(
            f"{folder} holds a subclassed Keras model ({type(model).__name__}), whose layers cannot be reached",
            "Build it with the Functional or Sequential API, then save it again.",
        )
    return model


def _reader(model: Any, preprocess: Any, folder: Path) -> tuple[Reader, list[str]]:
    """How texts enter the model, and what to say about it."""
    kinds = {tensor.dtype.name for tensor in model.inputs}
    names = [tensor.name.partition(":")[0] for tensor in model.inputs]
    if len(names) > 1 and "string" not in kinds and PackedIds.knows(names):
        from embedsvc.models.wordpiece import load_tokenizer

        return PackedIds.of_wordpiece(model, names, load_tokenizer(folder / "assets")), []
    if len(names) > 1 or kinds != {"string"}:
        described = ", ".join(f"{name} {tensor.dtype.name}" for name, tensor in zip(names, model.inputs, strict=True))
        raise ModelError(f"the model takes no texts: its inputs are {described}")
    strings = Strings(model)
    length = None if preprocess is None else preprocess.output["input_mask"].shape[1]
    # hub.KerasLayer keeps what it wraps under this name, and Keras brings it back with it.
    wrapped = getattr(preprocess, "_func", None)
    if not (hasattr(wrapped, "tokenize") and hasattr(wrapped, "bert_pack_inputs")):
        return strings, []
    notes = []
    if length is not None:
        notes.append(
            f"The model pads every text to {length} tokens itself; hub: with its two parts would run each at its own "
            "length."
        )
    return CountedStrings(strings, HubTokenizer(wrapped, folder), length), notes


def _layer_giving(model: Any, output: str) -> Any:
    """The one layer of the model that gives a dict with that output, or None."""
    found = [
        layer
        for layer in model.layers
        if len(getattr(layer, "inbound_nodes", [])) == 1 and isinstance(layer.output, dict) and output in layer.output
    ]
    return found[0] if len(found) == 1 else None


def _is_opaque(layer: Any) -> bool:
    """Whether Keras knew no class for the layer, and calls the graph that was saved for it."""
    return "RevivedLayer" in {base.__name__ for base in type(layer).__mro__}


def _encoder_taps(trace: Trace, _: Sequence[Any]) -> dict[str, Any]:
    """What a BERT encoder layer gives besides the classifier's own path."""
    out = trace.outputs["encoder"]
    taps = {"pooled_output": out["pooled_output"]}
    if "sequence_output" not in out:
        return taps
    taps["cls"] = out["sequence_output"][:, 0]
    if "preprocess" in trace.outputs:
        weights = tf.cast(trace.outputs["preprocess"]["input_mask"], tf.float32)[:, :, None]

        def token_mean(layer: Any) -> Any:
            return tf.reduce_sum(layer * weights, 1) / tf.reduce_sum(weights, 1)

        taps["mean"] = token_mean(out["sequence_output"])
        taps |= {f"layer.{k}": token_mean(layer) for k, layer in enumerate(out.get("encoder_outputs") or ())}
    return taps
