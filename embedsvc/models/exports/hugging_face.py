"""A trained classifier as a Hugging Face folder: what `huggingface.load` reads, and transformers too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.head import Head
from embedsvc.models.bert import BertConfig, Weights
from embedsvc.models.families import Family
from embedsvc.models.huggingface import Folder
from embedsvc.storage import atomic_file

__all__ = ["head_settings", "tensors_of", "write"]

_VOCABULARY = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write(folder: Path, source: Folder, weights: Weights, head: Head, *, multi_label: bool) -> None:
    """config.json, model.safetensors and the vocabulary of the source."""
    from safetensors.numpy import save

    for name in _VOCABULARY:
        if (source.path / name).exists() and folder.resolve() != source.path.resolve():
            shutil.copyfile(source.path / name, folder / name)
    with atomic_file(folder / "model.safetensors") as file:
        file.write(save(tensors_of(source.family, source.config, weights, head), {"format": "pt"}))
    config = {key: value for key, value in source.data.items() if not key.startswith("_")}
    config |= {"architectures": [source.family.classifier_class], "torch_dtype": "float32"}
    config |= head_settings(source.family, head, multi_label=multi_label)
    with atomic_file(folder / "config.json") as file:
        file.write(json.dumps(config, indent=2, ensure_ascii=False).encode())


def head_settings(family: Family, head: Head, *, multi_label: bool) -> dict[str, Any]:
    """What config.json says of a head."""
    return {
        family.head_rate: head.rate,
        "id2label": {str(number): name for number, name in enumerate(head.classes)},
        "label2id": {name: number for number, name in enumerate(head.classes)},
        "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
    }


def tensors_of(family: Family, config: BertConfig, weights: Weights, head: Head) -> dict[str, NDArray[np.float32]]:
    """Hugging Face's tensors of a classifier: the inverse of `huggingface.read_weights`."""
    assert head.kernel is not None and head.bias is not None
    tensors: dict[str, NDArray[np.float32]] = {}

    def put(name: str, value: NDArray[np.float32]) -> None:
        tensors[name] = np.ascontiguousarray(value, dtype=np.float32)

    def norm(ours: str, theirs: str) -> None:
        put(f"{theirs}.weight", weights[f"{ours}.gamma"])
        put(f"{theirs}.bias", weights[f"{ours}.beta"])

    def dense(theirs: str, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        put(f"{theirs}.weight", kernel.T)
        put(f"{theirs}.bias", bias)

    names = {ours: family.prefix + theirs for ours, theirs in family.weights.items()}
    for table in ("word", "position", "type"):
        if table in names:
            put(f"{names[table]}.weight", weights[table])
    norm("embedding_norm", names["embedding_norm"])
    for i in range(config.n_layers):
        layer, of = f"layer.{i}", {ours: theirs.format(i=i) for ours, theirs in names.items()}
        parts = [np.split(weights[f"{layer}.qkv.{kind}"], 3, axis=-1) for kind in ("kernel", "bias")]
        for part, kernel, bias in zip(("query", "key", "value"), *parts, strict=True):
            dense(of[part], kernel, bias)
        for part in ("attention_out", "ffn_in", "ffn_out"):
            dense(of[part], weights[f"{layer}.{part}.kernel"], weights[f"{layer}.{part}.bias"])
        for part in ("attention_norm", "ffn_norm"):
            norm(f"{layer}.{part}", of[part])
    dense(family.poolers[0].name, weights["pooler.kernel"], weights["pooler.bias"])
    dense(family.classifier, head.kernel, head.bias)
    return tensors
