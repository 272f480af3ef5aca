"""Scores of texts as Parquet."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedsvc.errors import StoreError
from embedsvc.scores import write_scores

IDS = ("a", "שלום", "")


def test_every_kind_of_number_is_read_back_as_it_was(tmp_path):
    columns = {
        "half": np.array([0.5, np.nan, -np.inf]),
        "single": np.array([0.1, 0.2, 0.3], np.float32),
        "count": np.array([1, 2**40, -3]),
        "moved": np.array([True, False, True]),
    }
    write_scores(tmp_path / "s.parquet", IDS, columns, facts={"seed": 7})
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names == ["id", *columns]
    assert table["id"].to_pylist() == list(IDS)
    assert table["half"].to_pylist() == [0.5, None, -np.inf], "a NaN is no number"
    assert table["single"].to_numpy().dtype == np.float32
    np.testing.assert_array_equal(table["single"].to_numpy(), columns["single"])
    assert table["count"].to_pylist() == [1, 2**40, -3]
    assert table["moved"].to_pylist() == [True, False, True]
    assert json.loads(table.schema.metadata[b"embedsvc.scores"]) == {"seed": 7}


def test_equal_scores_give_equal_files(tmp_path):
    for name in ("a", "b"):
        write_scores(tmp_path / name, IDS, {"x": np.arange(3.0)}, facts={"b": 1, "a": [2]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_older_file_is_replaced_and_nothing_else_is_left(tmp_path):
    for value in (1.0, 2.0):
        write_scores(tmp_path / "s.parquet", IDS, {"x": np.full(3, value)}, facts={})
    assert pq.read_table(tmp_path / "s.parquet")["x"].to_pylist() == [2.0] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_a_folder_or_a_place_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is a folder"):
        write_scores(tmp_path, IDS, {}, facts={})
    with pytest.raises(StoreError, match="cannot write"):
        write_scores(tmp_path / "no" / "s.parquet", IDS, {}, facts={})


def test_a_set_of_no_texts_is_a_table_without_rows(tmp_path):
    write_scores(tmp_path / "s.parquet", (), {"x": np.zeros(0)}, facts={})
    assert pq.read_table(tmp_path / "s.parquet").num_rows == 0
