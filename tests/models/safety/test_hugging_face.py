"""Hugging Face folders, hostile and torn ones made here byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from embedsvc.errors import ModelFormatError
from embedsvc.models.safety import check_hugging_face_folder, check_safetensors, hugging_face


@pytest.fixture
def folder(tmp_path):
    save_file({"a": np.ones((3, 4), "f4"), "b": np.arange(5)}, tmp_path / "model.safetensors", {"format": "np"})
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path


def write_safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(packed).to_bytes(8, "little") + packed + data)
    return path


def tensor(begin: object = 0, end: object = 4, shape: object = (1,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_an_honest_folder_passes_without_notes(folder):
    assert check_hugging_face_folder(folder) == ()


def test_scalars_empty_tensors_and_new_types_pass(tmp_path):
    header = {"a": tensor(shape=()), "b": tensor(4, 4, (0, 7)), "c": tensor(4, 7, (9,), "F2_FROM_THE_FUTURE")}
    check_safetensors(write_safetensors(tmp_path / "x.safetensors", header, bytes(7)))


def test_torn_safetensors_are_noticed_wherever_they_end(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFormatError, match="torn"):
            check_safetensors(path)


def test_the_message_names_expected_and_found_sizes(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelFormatError, match="describes 88 bytes of tensors, found 87"):
        check_safetensors(path)


def test_bytes_behind_the_tensors_are_noticed(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ModelFormatError, match="describes 88 bytes of tensors, found 92"):
        check_safetensors(path)


@pytest.mark.parametrize("length", [2**63, 200_000_000, 1000])
def test_an_oversized_header_is_refused_before_it_is_read(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelFormatError, match=f"declares a header of {length:,} bytes, expected at most 2 "):
        check_safetensors(path)


def test_a_header_over_the_limit_is_refused_even_if_the_file_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "_MAX_HEADER", 10)
    with pytest.raises(ModelFormatError, match="expected at most 10 "):
        check_safetensors(write_safetensors(tmp_path / "x.safetensors", b" " * 11))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": tensor(0, 8)}, "takes 4 bytes, found 8"),
        ({"a": tensor(4, 0)}, "offsets 4, 0"),
        ({"a": tensor(-4, 0)}, "offsets -4, 0"),
        ({"a": tensor(0, 4, (-1, -1))}, "shape"),
        ({"a": tensor(0, 4.0)}, "offsets"),
        ({"a": tensor(0, True)}, "offsets"),
        ({"a": tensor(0, 1 << 62, (1 << 60,))}, "found 4"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "malformed"),
        ({"a": 3}, "malformed"),
        ({"a": tensor(shape=None)}, "malformed"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b"{'a'}", "JSON cannot be read"),
        (b'{"\xff": 1}', "JSON cannot be read"),
        (b"[" * 200_000, "JSON cannot be read"),
        (b'{"a": 1, "a": 2}', "a key appears twice"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, header, message):
    with pytest.raises(ModelFormatError, match=message):
        check_safetensors(write_safetensors(tmp_path / "x.safetensors", header, bytes(4)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "old.ckpt"])
def test_pickles_alone_are_refused_with_the_way_to_convert_them(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(ModelFormatError, match=f"pickles.*{name}") as caught:
        check_hugging_face_folder(tmp_path)
    assert "safe_serialization=True" in caught.value.hint
    assert not (tmp_path / "executed").exists()


def test_pickles_beside_safetensors_are_ignored(folder):
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    assert check_hugging_face_folder(folder) == ()


def test_no_weights_at_all_lists_what_was_found(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFormatError, match=r"holds no model\.safetensors: found config\.json"):
        check_hugging_face_folder(tmp_path)
    with pytest.raises(ModelFormatError, match="is no folder"):
        check_hugging_face_folder(tmp_path / "nowhere")


def test_code_named_by_the_config_is_noted_and_ignored(folder):
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Evil"}}')
    (note,) = check_hugging_face_folder(folder)
    assert "never run" in note


def test_a_torn_config_is_noticed(folder):
    (folder / "config.json").write_text('{"model_type": "be')
    with pytest.raises(ModelFormatError, match=r"config\.json is torn"):
        check_hugging_face_folder(folder)


def test_every_shard_is_checked(folder):
    (folder / "model-2.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelFormatError, match=r"model-2\.safetensors"):
        check_hugging_face_folder(folder)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "missing.safetensors", 3])
def test_an_index_cannot_name_files_outside_the_folder(folder, shard):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelFormatError, match="names the file"):
        check_hugging_face_folder(folder)


def test_an_index_without_a_map_is_torn(folder):
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelFormatError, match="weight_map"):
        check_hugging_face_folder(folder)
