"""Hugging Face folders of BERT and its families, safetensors only.

Bare encoders, classifiers of texts and sentence-transformers models of them: all run on the fast runner. How a family
names what it has: `families`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import ModelFormatError
from embedsvc.head import Head
from embedsvc.losses import Ending
from embedsvc.models import safety
from embedsvc.models.base import LoadOptions
from embedsvc.models.bert import BertConfig, BertEncoder, BertRunner, Weights
from embedsvc.models.families import Family, family_of
from embedsvc.models.safety.json_files import read_json
from embedsvc.models.wordpiece import WordPiece, load_tokenizer

__all__ = [
    "HEAD_TENSORS",
    "Folder",
    "encoder_of",
    "load",
    "read_config",
    "read_folder",
    "read_head",
    "read_weights",
    "write_head",
]

_SIZES = ("n_layers", "n_heads", "width", "intermediate", "max_positions")
_NUMBERS = ("norm_epsilon", "hidden_rate", "attention_rate")
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}

HEAD_TENSORS = ("classifier.weight", "classifier.bias")


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """What a Hugging Face folder holds.

    Attributes
    ----------
    path : Path
    data : mapping
        Of config.json.
    family : Family
    config : BertConfig
    tensors : mapping of str to ndarray
        Under Hugging Face's names.
    weights : Weights
        The encoder's, as `BertRunner` takes them.
    tokenizer : WordPiece
    notes : tuple of str
    """

    path: Path
    data: dict[str, Any]
    family: Family
    config: BertConfig
    tensors: dict[str, NDArray[np.float32]]
    weights: Weights
    tokenizer: WordPiece
    notes: tuple[str, ...]


def load(location: str, options: LoadOptions) -> BertEncoder:
    """A classifier from a folder with config.json, model.safetensors and vocab.txt or tokenizer.json.

    The head is pooled_output → Dropout(the classifier's rate) → classifier. Where the folder has no classifier the
    head has no dense layer and offers no logits; where it has no pooler either, the head stands on the first token's
    vector of the last layer.

    Raises
    ------
    ModelFormatError
        If the folder is of no known family, is torn, or holds pickled weights only.
    """
    return encoder_of(read_folder(Path(location), options.head_file), options)


def read_folder(path: Path, head_file: Path | None = None) -> Folder:
    """The files of a folder; `head_file` is a safetensors file with another pooler and classifier (`write_head`).

    Raises
    ------
    ModelFormatError
        See `load`.
    """
    notes = safety.check_hugging_face_folder(path)
    data = read_json(path / "config.json")
    tensors = _read_tensors(path)
    if head_file is not None:
        settings, found = read_head(head_file)
        data |= settings
        prefix = family_of(data, path).prefix_in(tensors)
        tensors |= {(name if name in HEAD_TENSORS else prefix + name): found[name] for name in found}
    family = family_of(data, path)
    config = read_config(data, family, path)
    pooler = family.pooler_in(tensors)
    if pooler is not None:
        rate = _head_rate(data, family, config, path) if pooler.has_dropout else None
        config = replace(config, pooler_activation=pooler.activation, pooler_rate=rate)
    weights = read_weights(tensors, config, family, path)
    tokenizer = load_tokenizer(path)
    if tokenizer.size > len(weights["word"]):
        raise ModelFormatError(
            f"{path}: the vocabulary has ids up to {tokenizer.size - 1}, but there are {len(weights['word'])} word "
            "embeddings",
            "The vocabulary belongs to another model.",
        )
    return Folder(path, data, family, config, tensors, weights, tokenizer, tuple(notes))


def encoder_of(folder: Folder, options: LoadOptions) -> BertEncoder:
    """The encoder that runs what was read."""
    has_pooler = "pooler.kernel" in folder.weights
    head = _read_head(folder, options, has_pooler=has_pooler)
    notes = folder.notes if head.kernel is not None else (*folder.notes, _untrained_note(folder))
    return BertEncoder(
        BertRunner(folder.config, folder.weights, engine=options.engine, precision=options.precision),
        folder.tokenizer,
        head,
        uri=options.name or f"hf:{folder.path}",
        pre_dropout="pooled_output" if has_pooler else "cls",
        notes=notes,
        ending=_ending(folder.data, head),
        family=folder.family.name,
    )


def read_config(data: dict[str, Any], family: Family, folder: Path) -> BertConfig:
    """Shape and rates out of a config.json.

    Raises
    ------
    ModelFormatError
        For one of BERT's rarer options that would give other vectors, or sizes that cannot be.
    """
    keys = family.settings
    activation = data.get(keys["activation"], "gelu")
    if activation not in _ACTIVATIONS:
        raise ModelFormatError(
            f"{folder}: unknown {keys['activation']} {activation!r}", f"Known: {', '.join(_ACTIVATIONS)}"
        )
    for key, usual in (("position_embedding_type", "absolute"), ("is_decoder", False), ("add_cross_attention", False)):
        if data.get(key, usual) != usual:
            raise ModelFormatError(f"{folder}: config.json says {key} {data[key]!r}, only {usual!r} is supported")
    try:
        sizes: dict[str, Any] = {field: int(data[keys[field]]) for field in _SIZES}
        numbers: dict[str, Any] = {field: float(data[keys[field]]) for field in _NUMBERS if keys.get(field) in data}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFormatError(f"{folder}: config.json lacks or garbles {error}") from error
    config = BertConfig(
        **sizes,
        **numbers,
        activation=_ACTIVATIONS[activation],  # type: ignore[arg-type]
        drops_attended=family.drops_attended,
    )
    if config.n_heads <= 0 or config.width % config.n_heads:
        raise ModelFormatError(f"{folder}: width {config.width} cannot be split into {config.n_heads} heads")
    if config.n_layers <= 0:
        raise ModelFormatError(f"{folder}: config.json says {keys['n_layers']} {config.n_layers}, expected at least 1")
    _check_rate(config.hidden_rate, keys["hidden_rate"], folder)
    _check_rate(config.attention_rate, keys["attention_rate"], folder)
    return config


def read_weights(tensors: dict[str, NDArray[np.float32]], config: BertConfig, family: Family, folder: Path) -> Weights:
    """Hugging Face's tensors under the names and in the orientation of `BertRunner`.

    Raises
    ------
    ModelFormatError
        If a tensor is missing or of another shape than the config says.
    """
    prefix, names = family.prefix_in(tensors), family.weights
    d, f = config.width, config.intermediate

    def tensor(name: str, *shape: int | None) -> NDArray[np.float32]:
        value = tensors.get(name)
        if value is None:
            # Checkpoints converted from TensorFlow 1 name the norms so.
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            value = tensors.get(old)
        if value is None:
            raise ModelFormatError(f"{folder}: model.safetensors has no tensor {name!r}", "Is the download whole?")
        if len(value.shape) != len(shape) or any(
            want not in (None, got) for want, got in zip(shape, value.shape, strict=True)
        ):
            raise ModelFormatError(f"{folder}: {name} has shape {value.shape}, config.json implies {shape}")
        return value

    def norm(ours: str, theirs: str) -> dict[str, NDArray[np.float32]]:
        return {f"{ours}.gamma": tensor(f"{theirs}.weight", d), f"{ours}.beta": tensor(f"{theirs}.bias", d)}

    def dense(ours: str, theirs: str, n_in: int, n_out: int) -> dict[str, NDArray[np.float32]]:
        return {
            f"{ours}.kernel": tensor(f"{theirs}.weight", n_out, n_in).T,
            f"{ours}.bias": tensor(f"{theirs}.bias", n_out),
        }

    rows = {"word": None, "position": config.max_positions, "type": None}
    weights = {
        table: tensor(f"{prefix}{names[table]}.weight", size, d) for table, size in rows.items() if table in names
    } | norm("embedding_norm", prefix + names["embedding_norm"])
    for i in range(config.n_layers):
        of = {part: prefix + name.format(i=i) for part, name in names.items()}
        parts = [dense(part, of[part], d, d) for part in ("query", "key", "value")]
        for kind in ("kernel", "bias"):
            joined = [part[f"{name}.{kind}"] for part, name in zip(parts, ("query", "key", "value"), strict=True)]
            weights[f"layer.{i}.qkv.{kind}"] = np.concatenate(joined, axis=-1)
        weights |= dense(f"layer.{i}.attention_out", of["attention_out"], d, d)
        weights |= norm(f"layer.{i}.attention_norm", of["attention_norm"])
        weights |= dense(f"layer.{i}.ffn_in", of["ffn_in"], d, f)
        weights |= dense(f"layer.{i}.ffn_out", of["ffn_out"], f, d)
        weights |= norm(f"layer.{i}.ffn_norm", of["ffn_norm"])
    pooler = family.pooler_in(tensors)
    return weights if pooler is None else weights | dense("pooler", pooler.name, d, d)


def write_head(path: Path, tensors: Mapping[str, NDArray[np.float32]], settings: Mapping[str, Any]) -> None:
    """Pooler and classifier alone, under Hugging Face's names, with the keys of config.json that go with them."""
    from safetensors.numpy import save_file

    plain = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
    save_file(plain, path, {"format": "pt", "config": json.dumps(settings)})


def read_head(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Settings and tensors that `write_head` wrote."""
    from safetensors import safe_open

    tensors = _read_file(path)
    with safe_open(str(path), framework="np") as file:
        return json.loads(file.metadata()["config"]), tensors


def _read_head(folder: Folder, options: LoadOptions, *, has_pooler: bool) -> Head:
    data, family, width = folder.data, folder.family, folder.config.width
    rate = _head_rate(data, family, folder.config, folder.path) if options.rate is None else options.rate
    name = family.classifier
    kernel, bias = folder.tensors.get(f"{name}.weight"), folder.tensors.get(f"{name}.bias")
    if kernel is None or not has_pooler:  # without a pooler the classifier is one of tokens
        return Head(rate)
    if kernel.ndim != 2 or kernel.shape[1] != width:
        raise ModelFormatError(
            f"{folder.path}: {name}.weight has shape {kernel.shape}, config.json implies (classes, {width})"
        )
    if bias is not None and bias.shape != kernel.shape[:1]:
        raise ModelFormatError(f"{folder.path}: {name}.bias has shape {bias.shape}, expected {kernel.shape[:1]}")
    names = data.get("id2label")
    numbers = [str(number) for number in range(len(kernel))]
    if not isinstance(names, dict) or names.keys() != set(numbers):
        return Head(rate, np.ascontiguousarray(kernel.T), bias)
    return Head(rate, np.ascontiguousarray(kernel.T), bias, tuple(str(names[number]) for number in numbers))


def _ending(data: dict[str, Any], head: Head) -> Ending:
    """What transformers trains such a classifier with: losses of logits, chosen by problem_type."""
    if head.n_classes is None:
        return Ending()
    kind = data.get("problem_type") or ("regression" if head.n_classes == 1 else "single_label_classification")
    losses = {"single_label_classification": "CrossEntropy", "multi_label_classification": "BCEWithLogits"}
    return Ending("linear", head.n_classes, losses.get(str(kind), str(kind)), kind in losses)


def _head_rate(data: dict[str, Any], family: Family, config: BertConfig, folder: Path) -> float:
    """The classifier's rate by transformers' rule: its own key, and where that is null the family's default."""
    rate = data.get(family.head_rate)
    if rate is None:
        rate = config.hidden_rate if family.default_head_rate is None else family.default_head_rate
    _check_rate(rate, family.head_rate, folder)
    return float(rate)


def _check_rate(rate: object, key: str, folder: Path) -> None:
    if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ModelFormatError(f"{folder}: config.json says {key} {rate!r}, expected a rate from 0 to below 1")


def _untrained_note(folder: Folder) -> str:
    bias = folder.weights.get("pooler.bias")
    if bias is None and "classifier.weight" in folder.tensors:
        return (
            "The model's classifier labels tokens and not texts (it has no pooler): pre_dropout is the [CLS] vector, "
            "and there are no logits."
        )
    if bias is None:
        return "The model has no pooler and no classifier: pre_dropout is the [CLS] vector, and there are no logits."
    if not bias.any():  # exactly 0 is what initialisation leaves and training does not
        return (
            "The pooler and the head are untrained (the pooler's bias is exactly 0): pooled_output is close to a random"
            " projection of [CLS], the tap 'mean' carries what the model learned, and there are no logits."
        )
    return "The model has no trained classifier behind its dropout, so there are no logits."


def _read_tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Every floating tensor as float32, from one file or from the shards that an index names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists() or not index.exists():
        return _read_file(whole)
    # check_hugging_face_folder has looked at the names: plain files of this folder.
    shards = sorted(set(read_json(index)["weight_map"].values()))
    return {name: tensor for shard in shards for name, tensor in _read_file(folder / shard).items()}


def _read_file(path: Path) -> dict[str, NDArray[np.float32]]:
    import ml_dtypes  # noqa: F401 - teaches numpy bfloat16; comes with TensorFlow, and is small
    from safetensors import SafetensorError, safe_open

    safety.check_safetensors(path)
    tensors: dict[str, NDArray[np.float32]] = {}
    try:
        with safe_open(str(path), framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                # Half precision is widened exactly; integers (position ids) are no weights.
                if file.get_slice(name).get_dtype() in ("F16", "BF16", "F32", "F64"):
                    tensors[name] = file.get_tensor(name).astype(np.float32)
    except (SafetensorError, OSError) as error:
        raise ModelFormatError(f"{path} is torn or foreign: {error}", "Fetch the file again.") from error
    return tensors
