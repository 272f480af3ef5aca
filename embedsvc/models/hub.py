"""``hub:`` the recipe of TensorFlow's BERT tutorials: preprocess handle, encoder handle, pooled_output, Dropout, Dense.

Texts are tokenised by the preprocess model itself and packed to their own length, never to 128. An encoder that is a
standard BERT is lifted into the fast runner, once the two have agreed on a few texts; any other is called as it is,
with its dropout keyed (`graph`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import FetchError, ModelFormatError, SettingsError
from embedsvc.head import Head
from embedsvc.models.base import LoadOptions
from embedsvc.models.bert import BertConfig, BertRunner
from embedsvc.models.draws import Draws
from embedsvc.models.engines import Precision
from embedsvc.models.graph import read_graph
from embedsvc.models.lift import lift
from embedsvc.models.observation import OBSERVED_TEXT, Observation
from embedsvc.models.runner import GraphRunner
from embedsvc.models.saved import digest_folder, open_saved_model
from embedsvc.types import ModelSpec, Pass, Tokens, Vectors

__all__ = ["HubEncoder", "HubTokenizer", "load", "resolve"]

_RATE = 0.1  # of the recipe's Dropout
_LENGTH_UNKNOWN = 512  # BERT's own limit, where the encoder does not show one
_AGREEMENT = 1e-4  # relative: exporters' GELUs differ by about as much, so the wrong one is noticed


def load(location: str, options: LoadOptions) -> HubEncoder:
    """``hub:ENCODER``, where ENCODER is a TF Hub address or a SavedModel folder.

    The preprocessing model is ``options.preprocess``, or the one folder beside the encoder's that has "preprocess" in
    its name.
    """
    return load_recipe(location, options)


def load_recipe(location: str, options: LoadOptions, *, lifting: bool = True) -> HubEncoder:
    """As `load`; `lifting` off calls the encoder's own graph even if it is a standard BERT.

    Raises
    ------
    SettingsError
        If it is not clear which preprocessing model belongs to the encoder.
    ModelFormatError
        If a folder holds no such model.
    UnsafeModelError
        If a graph could touch files or run code, and is not trusted.
    FetchError
        If an address cannot be fetched.
    """
    from embedsvc.models.safety import scan_saved_model

    encoder_folder = resolve(location, "encoder")
    preprocess_folder = (
        resolve(options.preprocess, "preprocess") if options.preprocess else _neighbour(encoder_folder, location)
    )
    for folder in (encoder_folder, preprocess_folder):
        scan_saved_model(folder, trust=options.trust)
    tokenizer = HubTokenizer(open_saved_model(preprocess_folder), preprocess_folder)
    graph = GraphRunner.open(encoder_folder)
    probes = tokenizer.probes(graph.max_tokens)
    graph.try_out(probes)
    lifted = _lifted(graph, encoder_folder, probes, options) if lifting else None
    return HubEncoder(
        tokenizer,
        lifted or graph,
        graph.draws,
        Head(_RATE if options.rate is None else options.rate),
        uri=options.name or f"hub:{location}",
        digest=f"{digest_folder(encoder_folder, preprocess_folder)} {'lifted' if lifted else 'graph'}",
        max_tokens=graph.max_tokens,
    )


class HubEncoder:
    """Preprocess model, encoder, and the head's dropout. See `models.base.Encoder`."""

    def __init__(
        self,
        tokenizer: HubTokenizer,
        runner: Any,
        draws: Draws,
        head: Head,
        *,
        uri: str,
        digest: str,
        max_tokens: int | None,
    ) -> None:
        self.head = head
        self.runner = runner
        self._tokenizer = tokenizer
        graph = runner if isinstance(runner, GraphRunner) else None
        self.engine = "tensorflow" if graph else runner.engine
        self.precision = Precision.FLOAT32 if graph else runner.precision
        width = graph.width if graph else runner.config.width
        sites = graph.sites(head.rate) if graph else runner.config.sites(head.rate)
        notes = ["The recipe's Dense layer is untrained here, so there are no logits."]
        if any(site.modes for site in sites[1:]):
            notes.append(
                "In training mode the encoder's own dropout is live, as with hub.KerasLayer(trainable=True); a frozen "
                "hub.KerasLayer would silence it."
            )
        if graph:
            notes += graph.notes
        if max_tokens is None:
            notes.append(f"The encoder shows no length limit; {_LENGTH_UNKNOWN} tokens are assumed.")
        self.keyed_sites = draws.keyed_paths
        self.remarks = (draws.remark,) if draws.remark else ()
        vectors = ("pre_dropout", "post_dropout", *runner.taps)
        self.spec = ModelSpec(
            uri=uri,
            digest=sha256(f"{digest} {head.digest()}".encode()).hexdigest(),
            vocab_digest=tokenizer.digest,
            max_tokens=max_tokens or _LENGTH_UNKNOWN,
            taps=dict.fromkeys(vectors, width),
            sites=sites,
            masks=graph.draws.masks if graph else "keyed",
            special_tokens=tokenizer.special_tokens,
            notes=tuple(notes),
        )

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """See `Encoder`."""
        ids = self._tokenizer(texts)
        return Tokens(tuple(texts), ids, np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids)))

    def observe(self) -> list[Observation]:
        """See `Observable`."""
        room = (self.spec.max_tokens or _LENGTH_UNKNOWN) - self._tokenizer.special_tokens
        observed: list[Observation] = self.runner.observe(
            self._tokenizer.pack(self._tokenizer([OBSERVED_TEXT])[0][:room])
        )
        return observed

    def encode(
        self, tokens: Tokens, *, keys: NDArray[np.uint64], taps: Sequence[str], pass_: Pass
    ) -> Mapping[str, Vectors]:
        """See `Encoder`."""
        assert tokens.ids is not None
        inner = {tap: "pooled_output" if tap == "pre_dropout" else tap for tap in taps}
        rows = [self._tokenizer.pack(ids) for ids in tokens.ids]
        vectors = self.runner.run(rows, keys=keys, taps=tuple(dict.fromkeys(inner.values())), pass_=pass_)
        return {tap: vectors[name] for tap, name in inner.items()}


class HubTokenizer:
    """The ``tokenize`` and ``bert_pack_inputs`` of a preprocess SavedModel.

    Packing is done here, with the special tokens that ``bert_pack_inputs`` puts around a text; that it gives the
    same ids is checked once.
    """

    special_tokens = 2

    def __init__(self, model: Any, folder: Path) -> None:
        import tensorflow as tf

        missing = [name for name in ("tokenize", "bert_pack_inputs") if not hasattr(model, name)]
        if missing:
            raise ModelFormatError(
                f"{folder} is no text preprocessing model: it has no {' and no '.join(missing)}",
                "Give one such as bert_en_uncased_preprocess with --preprocess.",
            )
        self._model = model
        vocabs = list((folder / "assets").glob("*vocab*"))
        self.digest = sha256(vocabs[0].read_bytes()).hexdigest() if len(vocabs) == 1 else ""

        self._ragged_rank = model.tokenize(tf.constant(["a"])).ragged_rank

        def tokenize(texts: Any) -> tuple[Any, Any]:
            tokens = model.tokenize(texts)
            if self._ragged_rank > 1:  # words, and pieces in them
                tokens = tokens.merge_dims(1, -1)
            return tf.cast(tokens.flat_values, tf.int32), tokens.row_splits

        signature = [tf.TensorSpec([None], tf.string)]
        self._tokenize = tf.function(tokenize, input_signature=signature, autograph=False)
        self._start, self._end = self._packed([]), np.empty(0, dtype=np.int32)
        if len(self._start) != self.special_tokens:
            raise ModelFormatError(
                f"{folder} puts {len(self._start)} special tokens around a text, expected {self.special_tokens}"
            )
        self._start, self._end = self._start[:1], self._start[1:]
        probe = list(self(["a b"])[0]) or [0]
        if not np.array_equal(self._packed(probe), self.pack(np.array(probe, dtype=np.int32))):
            raise ModelFormatError(f"{folder} packs texts in a way that is not [CLS] text [SEP]")

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], ...]:
        """Token ids of each text, without special tokens and not truncated."""
        if not texts:
            return ()
        # A lone surrogate has no UTF-8; "?" is what Python's own replacement gives.
        encoded = np.array([text.encode("utf-8", "replace") for text in texts], dtype=object)
        values, splits = (part.numpy() for part in self._tokenize(encoded))
        return tuple(np.split(values, splits[1:-1]))

    def pack(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """[CLS] ids [SEP]."""
        return np.concatenate([self._start, ids, self._end])

    def probes(self, limit: int | None) -> list[NDArray[np.int32]]:
        """A few rows to try an encoder on: of several lengths, so that no axis is taken for another."""
        room = min(limit or 16, 16) - self.special_tokens
        texts = ["a b", "The film was not bad at all, 7 of 10!", "x", "one two three four five six seven eight nine"]
        return [self.pack(ids[:room]) for ids in self(texts)]

    def _packed(self, ids: Sequence[int]) -> NDArray[np.int32]:
        import tensorflow as tf

        # In the ragged rank of its own tokenizer: words of one piece each, or pieces at once.
        nested = [[len(ids)], [1] * len(ids)][: self._ragged_rank]
        lengths = [tf.constant(level, tf.int64) for level in nested]
        rows = tf.RaggedTensor.from_nested_row_lengths(tf.constant(ids, tf.int32), lengths)
        out = self._model.bert_pack_inputs([rows], seq_length=tf.constant(len(ids) + 8))
        packed: NDArray[np.int32] = out["input_word_ids"].numpy()[0][out["input_mask"].numpy()[0] == 1]
        return packed


def resolve(handle: str, what: str) -> Path:
    """The local folder of a TF Hub address or path.

    Raises
    ------
    FetchError
        If an address cannot be fetched.
    ModelFormatError
        If there is no such folder.
    """
    folder = Path(handle).expanduser()
    if handle and folder.is_dir():
        return folder
    if "://" not in handle:
        raise ModelFormatError(
            f"no {what} model at {handle!r}: no such folder",
            "Give a SavedModel folder, or an address such as https://tfhub.dev/tensorflow/bert_en_uncased_L-12_H-768_A-12/4",
        )
    import tensorflow as tf
    import tensorflow_hub as hub
    from platformdirs import user_cache_dir

    # The hub's own default is the system's temporary folder, which cleaners empty halfway.
    os.environ.setdefault("TFHUB_CACHE_DIR", str(Path(user_cache_dir("embedsvc")) / "tfhub"))
    try:
        folder = Path(hub.resolve(handle))
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise _fetch_error(handle, what, str(error).partition("\n")[0]) from error
    if not folder.is_dir():
        raise _fetch_error(handle, what, f"it resolved to {folder}, which is no local folder")
    return folder


def _lifted(
    graph: GraphRunner, folder: Path, probes: Sequence[NDArray[np.int32]], options: LoadOptions
) -> BertRunner | None:
    """The fast runner with this encoder's weights if both agree, else None."""
    live = [(graph.draws.sites[number], graph.ranks[number]) for number in graph.draws.live]
    found = lift({name: variable.numpy() for name, variable in graph.variables.items()}, read_graph(folder), live)
    if found is None:
        return None
    fields, weights = found
    keys = np.arange(len(probes), dtype=np.uint64)
    expected = graph.run(probes, keys=keys, taps=graph.taps, pass_=Pass())
    for activation in ("gelu", "gelu_tanh", "relu"):
        config = BertConfig(**fields, activation=activation)
        runner = BertRunner(config, weights, engine=options.engine)
        if set(runner.taps) != set(graph.taps):
            return None
        given = runner.run(probes, keys=keys, taps=graph.taps, pass_=Pass())
        if all(_agree(given[tap], expected[tap]) for tap in graph.taps):
            if options.precision is runner.precision:
                return runner
            return BertRunner(config, weights, engine=options.engine, precision=options.precision)
    return None


def _agree(given: Vectors, expected: Vectors) -> bool:
    return bool(np.abs(given - expected).max() <= _AGREEMENT * np.abs(expected).max())


def _neighbour(encoder: Path, location: str) -> Path:
    beside = sorted(
        folder
        for folder in encoder.absolute().parent.iterdir()
        if "preprocess" in folder.name.lower() and (folder / "saved_model.pb").is_file()
    )
    if len(beside) == 1 and "://" not in location:
        return beside[0]
    found = f"found beside it: {', '.join(folder.name for folder in beside)}" if beside else "none lies beside it"
    raise SettingsError(
        f"hub:{location} needs to know its preprocessing model, and {found}",
        "Give it with --preprocess: a SavedModel folder, or an address such as "
        "https://tfhub.dev/tensorflow/bert_en_uncased_preprocess/3",
    )


def _fetch_error(handle: str, what: str, reason: str) -> FetchError:
    return FetchError(
        f"the {what} model {handle} could not be fetched: {reason}",
        "Without a network, give the folder of a local copy (saved_model.pb, variables/, assets/).",
    )
