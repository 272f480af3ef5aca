"""Text classifiers of keras-hub: BERT, RoBERTa, DistilBERT, ALBERT, DeBERTa … from a preset folder or handle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from embedsvc.errors import FetchError, MissingExtraError, ModelError, ModelFormatError
from embedsvc.models.base import LoadOptions
from embedsvc.models.instrument import Instrument
from embedsvc.models.keyed import Trace
from embedsvc.models.readers import PackedIds
from embedsvc.models.tapped import TappedEncoder, first_line
from embedsvc.types import Tokens

__all__ = ["load"]

_CONFIGS = ("config.json", "task.json", "preprocessor.json", "tokenizer.json")
_WEIGHTS = ("model.weights.h5", "task.weights.h5")
# Decide no vector, and differ between copies of the same preset.
_NOT_HASHED = {"metadata.json", "README.md"}


def load(location: str, options: LoadOptions) -> TappedEncoder:
    """The text classifier of a preset, tokenised by the preset's own tokenizer.

    Parameters
    ----------
    location : str
        A preset folder, or a handle that keras-hub downloads (``bert_tiny_en_uncased``,
        ``kaggle://keras/bert/keras/bert_tiny_en_uncased``). A preset of a backbone alone has no trained head: then
        there are no logits.
    options : LoadOptions

    Raises
    ------
    MissingExtraError
        Without keras-hub.
    ModelFormatError
        If the folder is torn, foreign or of a newer version.
    FetchError
        If a handle cannot be downloaded.
    UnsafeModelError
        If its configuration or weights reach outside, and it is not trusted.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise MissingExtraError.of("keras-hub", "kerashub") from error
    folder = Path(location) if Path(location).exists() else _fetch(location)
    _check(folder, trust=options.trust)
    has_head = (folder / "task.json").exists()
    try:
        # Given a number of classes, keras-hub makes a new head instead of loading one.
        classes = {} if has_head else {"num_classes": 2}
        model = keras_hub.models.TextClassifier.from_preset(location, **classes)
    except Exception as error:  # keras-hub raises every kind of exception for a preset that it cannot read
        raise ModelFormatError(
            f"{location} cannot be loaded by keras-hub {keras_hub.__version__}: {first_line(error)}",
            "A preset of a text classifier or of a text backbone is expected: classifier.save_to_preset(folder).",
        ) from error
    instrument = Instrument(model)
    layers = [layer for group in getattr(model.backbone, "transformer_layers", []) for layer in _flat(group)]
    for layer in layers:
        instrument.watch(layer, "layer")
    instrument.watch(model.backbone, "backbone")
    notes = () if has_head else ("There are no logits: the preset has no trained head.",)
    try:
        encoder = TappedEncoder(
            model,
            _reader(model, folder),
            uri=f"kerashub:{location}",
            content=_digest(folder),
            options=options,
            instrument=instrument,
            extra=_taps,
            trained_head=has_head,
            notes=notes,
        )
    except ModelError as error:
        raise type(error)(f"{location}: {error.problem}", error.hint) from error
    if not has_head:
        _check_backbone_is_enough(model, location)
    return encoder


def _fetch(handle: str) -> Path:
    """Bring a preset's files through keras-hub into its own cache; the folder they are in."""
    from keras_hub.src.utils.preset_utils import check_file_exists, get_file

    try:
        config = Path(get_file(handle, _CONFIGS[0]))
        for name in (*_CONFIGS[1:], *_WEIGHTS):
            if check_file_exists(handle, name):
                get_file(handle, name)
    except Exception as error:  # whatever the hub behind the handle raises: no network, no such handle, no licence
        raise FetchError(
            f"kerashub:{handle} is no folder here, and keras-hub cannot fetch it: {first_line(error)}",
            "Give a preset folder, or a handle that keras-hub knows and this machine can reach.",
        ) from error
    return config.parent


def _check(folder: Path, *, trust: bool) -> None:
    from embedsvc.models.safety import check_keras_weights
    from embedsvc.models.safety.json_files import parse_json
    from embedsvc.models.safety.keras_config import check_config_text

    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:12]) if folder.is_dir() else "a file"
        raise ModelFormatError(
            f"{folder} is no keras-hub preset: it has no config.json, found {found or 'nothing'}",
            "A preset folder comes from classifier.save_to_preset(folder).",
        )
    for name in _CONFIGS:
        if (folder / name).is_file():
            text = (folder / name).read_bytes()
            if trust:
                parse_json(text, str(folder / name))
            else:
                check_config_text(text, str(folder / name))
    for path in sorted(folder.glob("*.h5")):
        check_keras_weights(path, trust=trust)


def _digest(folder: Path, pattern: str = "*") -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and path.name not in _NOT_HASHED:
            digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _reader(model: Any, folder: Path) -> PackedIds:
    preprocessor = model.preprocessor
    if preprocessor is None or getattr(preprocessor, "tokenizer", None) is None:
        raise ModelError("the preset has no tokenizer", "Save it with its preprocessor.")
    names = [tensor.name.partition(":")[0] for tensor in model.inputs]
    if not PackedIds.knows(names):
        raise ModelError(f"the model's inputs are {', '.join(names)}; token_ids and padding_mask were expected")

    def tokenize(texts: Sequence[str]) -> Tokens:
        if not texts:
            return Tokens((), (), np.zeros(0, dtype=np.int64))
        rows = preprocessor.tokenizer(list(texts))
        # A ragged tensor from tokenizers of tensorflow-text, a list from those of the tokenizers library.
        rows = rows.to_list() if isinstance(rows, tf.RaggedTensor) else rows
        ids = tuple(np.array(row, dtype=np.int32) for row in rows)
        return Tokens(tuple(texts), ids, np.array([len(row) for row in ids], dtype=np.int64))

    prefix, suffix, pad = _packing(preprocessor, tokenize)
    has_mask = "padding_mask" in names
    longest = getattr(model.backbone, "max_sequence_length", None) if has_mask else None
    return PackedIds(
        model,
        names,
        tokenize,
        prefix=prefix,
        suffix=suffix,
        pad=pad,
        vocab_digest=_digest(folder, "**/tokenizer/*"),
        max_tokens=longest or preprocessor.sequence_length,
    )


def _packing(preprocessor: Any, tokenize: Any) -> tuple[list[int], list[int], int]:
    """Special tokens before and after a text, and the padding, as the preset's own preprocessor sets them."""
    text = "a"
    ids = tokenize([text]).ids[0].tolist()
    packed = np.asarray(preprocessor([text])["token_ids"])[0].tolist()
    pad = packed[-1]
    while packed and packed[-1] == pad:
        packed.pop()
    for start in range(len(packed) - len(ids) + 1):
        if packed[start : start + len(ids)] == ids:
            return packed[:start], packed[start + len(ids) :], pad
    raise ModelError(f"the preset packs {text!r}, tokens {ids}, as {packed}: its own tokens are not in there")


def _taps(trace: Trace, arrays: Sequence[Any]) -> Mapping[str, Any]:
    """`cls`, `mean` and `layer.<k>` (the mean of layer k's output); means are over all tokens but padding."""
    weights = tf.cast(arrays[1], tf.float32)[..., None]

    def mean(x: Any) -> Any:
        return tf.reduce_sum(tf.cast(x, tf.float32) * weights, axis=1) / tf.reduce_sum(weights, axis=1)

    made: dict[str, Any] = {}
    output = trace.outputs["backbone"]
    if isinstance(output, dict):
        if "pooled_output" in output:
            made["pooled_output"] = output["pooled_output"]
        output = output.get("sequence_output")
    if output is not None and output.shape.rank == 3:
        made |= {"cls": output[:, 0], "mean": mean(output)}
    layers = [value for name, value in trace.outputs.items() if name.partition("#")[0] == "layer"]
    return made | {f"layer.{k}": mean(x) for k, x in enumerate(layers) if tf.is_tensor(x)}


def _check_backbone_is_enough(model: Any, location: str) -> None:
    """Without a trained head, no layer outside the backbone may lie before the dropout: its weights are noise."""
    ours = {id(weight) for weight in (*model.backbone.weights, *model.output_dense.weights)}
    if any(id(weight) not in ours for weight in model.weights):
        raise ModelError(
            f"{location} is a backbone alone, and {type(model).__name__} has untrained layers before its dropout",
            "Fine-tune a classifier on it first and save that: classifier.save_to_preset(folder).",
        )


def _flat(group: Any) -> list[Any]:
    return list(group) if isinstance(group, (list, tuple)) else [group]
