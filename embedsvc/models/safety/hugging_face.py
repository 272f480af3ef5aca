"""Hugging Face folders: safetensors with sound headers, and never a pickle."""

from __future__ import annotations

import math
from pathlib import Path

from embedsvc.errors import ModelFormatError
from embedsvc.models.safety.json_files import parse_object, read_json

__all__ = ["DOWNLOAD", "check_hugging_face_folder", "check_safetensors"]

# The limit of the safetensors library itself.
_MAX_HEADER = 100_000_000
# Bytes of one value. Types the format gains later are checked by the library alone.
_WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
DOWNLOAD = "Download a model of the Hugging Face Hub first: hf download NAME --local-dir FOLDER, then --model FOLDER."
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def check_safetensors(path: Path) -> None:
    """Check that a safetensors file is whole: its header fits, and every tensor lies inside the file.

    Raises
    ------
    ModelFormatError
        Naming expected and found sizes where they disagree.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ModelFormatError(
                    f"{path} is torn or no safetensors file: it declares a header of {length:,} bytes, "
                    f"expected at most {min(_MAX_HEADER, max(size - 8, 0)):,} in a file of {size:,}",
                    "Download it again.",
                )
            header = parse_object(file.read(length), str(path))
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error
    present = size - 8 - length
    needed = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            needed = max(needed, _end_of_tensor(path, name, tensor))
    if needed != present:
        raise ModelFormatError(
            f"{path} is torn: its header describes {needed:,} bytes of tensors, found {present:,}",
            "Download it again.",
        )


def _end_of_tensor(path: Path, name: str, tensor: object) -> int:
    try:
        begin, end = tensor["data_offsets"]  # type: ignore[index]
        shape, dtype = tensor["shape"], tensor["dtype"]  # type: ignore[index]
        numbers = [begin, end, *shape]
    except (TypeError, KeyError, ValueError) as error:
        raise ModelFormatError(f"{path}: the header entry of tensor {name!r} is malformed") from error
    if not all(type(number) is int and number >= 0 for number in numbers) or end < begin:
        raise ModelFormatError(f"{path}: tensor {name!r} has offsets {begin}, {end} and shape {shape}")
    if dtype in _WIDTHS and math.prod(shape) * _WIDTHS[dtype] != end - begin:
        raise ModelFormatError(
            f"{path}: tensor {name!r} of shape {shape} and type {dtype} takes {math.prod(shape) * _WIDTHS[dtype]:,} "
            f"bytes, found {end - begin:,}"
        )
    return int(end)


def check_hugging_face_folder(folder: Path) -> tuple[str, ...]:
    """Check a model folder of Hugging Face form: whole safetensors, no pickle that would have to be opened.

    Links to files elsewhere are allowed: the Hugging Face cache is made of them.

    Returns
    -------
    tuple of str
        What was ignored and may surprise, in plain sentences.

    Raises
    ------
    ModelFormatError
        If there are no safetensors, or something is torn.
    """
    if not folder.is_dir():
        raise ModelFormatError(f"{folder} is no folder", f"Give the folder that holds config.json. {DOWNLOAD}")
    names = sorted(entry.name for entry in folder.iterdir())
    weights = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if not weights and pickles:
        raise ModelFormatError(
            f"{folder} has its weights only as pickles, which run code when opened and are refused: "
            f"{', '.join(pickles)}",
            'Convert them to safetensors, where you trust them: python -c "from transformers import AutoModel; '
            f"AutoModel.from_pretrained('{folder}').save_pretrained('{folder}-safe', safe_serialization=True)\"",
        )
    if not weights:
        raise ModelFormatError(
            f"{folder} holds no model.safetensors: found {', '.join(names[:12]) or 'nothing'}",
            "Expected a Hugging Face model folder: config.json, model.safetensors, vocab.txt or tokenizer.json.",
        )
    notes = []
    if "config.json" in names:
        config = read_json(folder / "config.json")
        if config.get("auto_map"):
            notes.append("config.json names Python code of its own (auto_map); it is ignored and never run.")
    index = folder / "model.safetensors.index.json"
    if index.name in names:
        _check_shards(index, weights)
    for name in weights:
        check_safetensors(folder / name)
    return tuple(notes)


def _check_shards(index: Path, weights: list[str]) -> None:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise ModelFormatError(f"{index} has no weight_map")
    for shard in shards.values():
        # A plain name out of the folder's own listing: so it cannot climb out either.
        if shard not in weights:
            raise ModelFormatError(f"{index} names the file {shard!r}, found {', '.join(weights)}")
