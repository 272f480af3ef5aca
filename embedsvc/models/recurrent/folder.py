"""A recurrent classifier on disk: config.json, model.safetensors, vocab.txt. No code, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.errors import ModelFormatError, SettingsError
from embedsvc.head import Head
from embedsvc.models.recurrent.config import RecurrentConfig
from embedsvc.models.recurrent.policy import RecurrentDropout
from embedsvc.models.recurrent.vocabulary import Vocabulary
from embedsvc.models.safety import check_safetensors
from embedsvc.models.safety.json_files import read_json

__all__ = ["MODEL_TYPE", "Recurrent", "read_folder", "write_folder"]

MODEL_TYPE = "embedsvc-recurrent"
_VERSION = 1
_FILES = ("config.json", "model.safetensors", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Recurrent:
    """All of a recurrent classifier: what is in its folder."""

    config: RecurrentConfig
    weights: Mapping[str, NDArray[np.float32]]
    vocabulary: Vocabulary
    head: Head


def write_folder(folder: Path, model: Recurrent, *, multi_label: bool = False) -> None:
    """Write a new folder, or over the files of an old one."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "model_type": MODEL_TYPE,
        "version": _VERSION,
        **asdict(model.config),
        "head_dropout": model.head.rate,
        "classes": list(model.head.classes),
        "multi_label": multi_label,
    }
    tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in model.weights.items()}
    for name, value in (("head.kernel", model.head.kernel), ("head.bias", model.head.bias)):
        if value is not None:
            tensors[name] = np.ascontiguousarray(value, dtype=np.float32)
    (folder / "vocab.txt").write_text("\n".join(model.vocabulary.words) + "\n", encoding="utf-8")
    save_file(tensors, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_folder(folder: Path) -> Recurrent:
    """The classifier in a folder.

    Raises
    ------
    ModelFormatError
        If a file is missing, torn, of a newer version, or does not fit the others.
    """
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise ModelFormatError(
            f"{folder} is no recurrent classifier: it has no {' and no '.join(missing)}",
            f"Expected a folder with {', '.join(_FILES)}, as `embedsvc train --encoder recurrent:lstm` writes it.",
        )
    data = read_json(folder / "config.json")
    if data.get("model_type") != MODEL_TYPE:
        raise ModelFormatError(
            f"{folder}: config.json says model_type {data.get('model_type')!r}, expected {MODEL_TYPE!r}"
        )
    if data.get("version") != _VERSION:
        raise ModelFormatError(
            f"{folder} is of version {data.get('version')!r}, expected {_VERSION}", "Update embedsvc."
        )
    try:
        config = _config(data)
        rate, classes = data["head_dropout"], tuple(str(name) for name in data["classes"])
        tensors = _tensors(folder / "model.safetensors")
        kernel, bias = tensors.pop("head.kernel", None), tensors.pop("head.bias", None)
        head = Head(rate, kernel, bias, classes)
    except (SettingsError, KeyError, TypeError) as error:
        problem = error.problem if isinstance(error, SettingsError) else f"it lacks or garbles {error}"
        raise ModelFormatError(f"{folder}: config.json is wrong: {problem}") from error
    _check(folder, config, tensors, head)
    try:
        words = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{folder}: vocab.txt is torn: it is no UTF-8") from error
    if len(words) != config.vocabulary:
        raise ModelFormatError(f"{folder}: vocab.txt has {len(words):,} words, config.json says {config.vocabulary:,}")
    return Recurrent(config, tensors, Vocabulary(words), head)


def _config(data: Mapping[str, Any]) -> RecurrentConfig:
    names = {field.name for field in fields(RecurrentConfig)}
    values = {name: data[name] for name in names}
    return RecurrentConfig(**(values | {"dropout": RecurrentDropout.from_json(data["dropout"])}))


def _tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    check_safetensors(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelFormatError(f"{path} is torn or foreign: {error}", "Copy it again.") from error


def _check(folder: Path, config: RecurrentConfig, tensors: Mapping[str, NDArray[np.float32]], head: Head) -> None:
    expected = config.shapes()
    found = {name: value.shape for name, value in tensors.items()}
    for name in (*expected, *found):
        if expected.get(name) != found.get(name):
            raise ModelFormatError(
                f"{folder}: the tensor {name} has shape {found.get(name)}, config.json implies {expected.get(name)}"
            )
    if any(value.dtype != np.float32 for value in tensors.values()):
        raise ModelFormatError(f"{folder}: model.safetensors holds other numbers than float32")
    if head.kernel is not None and len(head.kernel) != config.width:
        raise ModelFormatError(f"{folder}: head.kernel has {len(head.kernel)} rows, config.json implies {config.width}")
