import numpy as np
import pytest

from embedsvc.errors import StoreError
from embedsvc.training.checkpoints import Checkpoint, latest, prune, read_arrays, write_arrays, write_checkpoint


def checkpoint(value):
    arrays = {"weights/a": np.full((2, 3), value, dtype=np.float32), "optimizer/0": np.array(value, dtype=np.int64)}
    return Checkpoint(arrays, {"step": value, "name": "bär"})


def test_what_was_written_is_read_bit_for_bit(tmp_path):
    write_checkpoint(tmp_path, 7, checkpoint(7))
    found = latest(tmp_path)
    assert found.facts == {"step": 7, "name": "bär"}
    for name, value in checkpoint(7).arrays.items():
        np.testing.assert_array_equal(found.arrays[name], value)
        assert found.arrays[name].dtype == value.dtype
        assert found.arrays[name].shape == value.shape


def test_the_latest_counts_and_the_older_are_pruned(tmp_path):
    for step in (2, 10, 9):
        kept = write_checkpoint(tmp_path, step, checkpoint(step))
    assert latest(tmp_path).facts["step"] == 10
    (tmp_path / ".state-000000003.safetensors.tmp").write_bytes(b"torn")
    (tmp_path / "vectors.safetensors").write_bytes(b"not ours to delete")
    prune(tmp_path, {kept.name})
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name, "vectors.safetensors"]


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path):
    write_arrays(tmp_path / "x.safetensors", {"a": np.ones(3)}, {})
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:-4])
    with pytest.raises(StoreError, match=r"x\.safetensors is damaged"):
        read_arrays(tmp_path / "x.safetensors")
