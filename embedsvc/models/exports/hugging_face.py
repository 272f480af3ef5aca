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
        file.write(save(tensors_of(source.config, weights, head), {"format": "pt"}))
    config = {key: value for key, value in source.data.items() if not key.startswith("_")}
    config |= {"architectures": ["BertForSequenceClassification"], "torch_dtype": "float32"}
    config |= head_settings(head, multi_label=multi_label)
    with atomic_file(folder / "config.json") as file:
        file.write(json.dumps(config, indent=2, ensure_ascii=False).encode())


def head_settings(head: Head, *, multi_label: bool) -> dict[str, Any]:
    """What config.json says of a head."""
    return {
        "classifier_dropout": head.rate,
        "id2label": {str(number): name for number, name in enumerate(head.classes)},
        "label2id": {name: number for number, name in enumerate(head.classes)},
        "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
    }


def tensors_of(config: BertConfig, weights: Weights, head: Head) -> dict[str, NDArray[np.float32]]:
    """Hugging Face's tensors of a classifier: the inverse of `huggingface.read_weights`."""
    assert head.kernel is not None and head.bias is not None
    tensors: dict[str, NDArray[np.float32]] = {}

    def put(name: str, value: NDArray[np.float32]) -> None:
        tensors[name] = np.ascontiguousarray(value, dtype=np.float32)

    def norm(name: str, target: str) -> None:
        put(f"{target}.weight", weights[f"{name}.gamma"])
        put(f"{target}.bias", weights[f"{name}.beta"])

    def dense(target: str, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        put(f"{target}.weight", kernel.T)
        put(f"{target}.bias", bias)

    for name, target in (("word", "word"), ("position", "position"), ("type", "token_type")):
        put(f"bert.embeddings.{target}_embeddings.weight", weights[name])
    norm("embedding_norm", "bert.embeddings.LayerNorm")
    for i in range(config.n_layers):
        layer, target = f"layer.{i}", f"bert.encoder.layer.{i}"
        parts = [np.split(weights[f"{layer}.qkv.{kind}"], 3, axis=-1) for kind in ("kernel", "bias")]
        for part, kernel, bias in zip(("query", "key", "value"), *parts, strict=True):
            dense(f"{target}.attention.self.{part}", kernel, bias)
        for name, inner in (
            ("attention_out", "attention.output.dense"),
            ("ffn_in", "intermediate.dense"),
            ("ffn_out", "output.dense"),
        ):
            dense(f"{target}.{inner}", weights[f"{layer}.{name}.kernel"], weights[f"{layer}.{name}.bias"])
        norm(f"{layer}.attention_norm", f"{target}.attention.output.LayerNorm")
        norm(f"{layer}.ffn_norm", f"{target}.output.LayerNorm")
    dense("bert.pooler.dense", weights["pooler.kernel"], weights["pooler.bias"])
    dense("classifier", head.kernel, head.bias)
    return tensors
