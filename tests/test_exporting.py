import csv
import io
import json
import os
import shutil
import subprocess
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import DegenerateInputError, MissingExtraError, SettingsError, StoreError, UnknownNameError
from embedsvc.exporting import EXPORTERS, export
from embedsvc.knn import neighbor_graph
from tests.analysis_sets import blobs, make_set

WORDS = ["plain", "tab\there", 'a "quote"\nand a line', "=1+1", "שלום 👩‍👩‍👧", "<b>x</b>"]
VARIANTS = ["pre_dropout.inference", "post_dropout.head.0"]


@pytest.fixture
def small(tmp_path) -> EmbeddingSet:
    pre, which = blobs(24, width=8)
    words = [WORDS[row % len(WORDS)] for row in range(24)]
    labels = [None if row == 3 else f"group {group}" for row, group in enumerate(which)]
    return make_set(tmp_path / "set.parquet", pre, labels=labels, words=words)


def test_the_projector_folder_has_a_line_of_numbers_for_every_line_of_metadata(small, tmp_path):
    written = export(small, "tensorboard", tmp_path / "projector", variants=VARIANTS)
    names = ["metadata.tsv", *(f"{variant}.tsv" for variant in VARIANTS), "projector_config.pbtxt"]
    assert [path.name for path in written] == names
    lines = (tmp_path / "projector" / "metadata.tsv").read_text(encoding="utf-8").split("\n")
    rows = [line.split("\t") for line in lines[:-1]]
    assert rows[0] == ["id", "label", "text"]
    assert len(rows) == 25
    assert {len(row) for row in rows} == {3}
    assert rows[2] == ["t1", "group 1", "tab here"]
    assert rows[4][1] == ""
    for variant in VARIANTS:
        numbers = np.loadtxt(tmp_path / "projector" / f"{variant}.tsv", delimiter="\t", dtype=np.float32)
        assert np.array_equal(numbers, small[variant]), "every float32 reads back as itself"


def test_the_projector_of_tensorboard_reads_its_folder(small, tmp_path):
    pytest.importorskip(
        "tensorboard", reason="pip install tensorboard to open the folder with it, as the test group has it"
    )
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_plugin
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    export(small, "tensorboard", tmp_path / "projector", variants=VARIANTS)
    text = (tmp_path / "projector" / "projector_config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, ProjectorConfig())
    assert [each.tensor_name for each in config.embeddings] == VARIANTS
    assert list(config.embeddings[0].tensor_shape) == [24, 8]
    for each in config.embeddings:
        read = projector_plugin._read_tensor_tsv_file(str(tmp_path / "projector" / each.tensor_path))
        assert np.array_equal(read.astype(np.float32), small[each.tensor_name])
        assert (tmp_path / "projector" / each.metadata_path).exists()


def test_a_faiss_index_finds_the_neighbours_that_we_find(small, tmp_path):
    faiss = pytest.importorskip("faiss", reason='pip install "embedsvc[faiss]" to search the index')
    index_file, ids_file = export(small, "faiss", tmp_path / "index.faiss", variants=VARIANTS[:1])
    index = faiss.read_index(str(index_file))
    vectors = small[VARIANTS[0]]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines, rows = index.search(unit, 6)
    assert rows[:, 0].tolist() == list(range(24))
    graph = neighbor_graph(vectors, 5)
    assert np.array_equal(rows[:, 1:], graph.indices)
    assert 1 - cosines[:, 1:] == pytest.approx(graph.distances, abs=1e-5)
    assert json.loads(ids_file.read_text()) == list(small.ids)


def test_several_variants_get_an_index_each(small, tmp_path):
    pytest.importorskip("faiss", reason='pip install "embedsvc[faiss]"')
    names = [path.name for path in export(small, "faiss", tmp_path / "index.faiss", variants=VARIANTS)]
    assert names == ["index.pre_dropout.inference.faiss", "index.post_dropout.head.0.faiss", "index.ids.json"]


def test_without_faiss_the_error_names_the_command(small, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"embedsvc\[faiss\]"):
        export(small, "faiss", tmp_path / "index.faiss")
    assert not (tmp_path / "index.faiss").exists()


def test_embedding_atlas_gets_text_coordinates_and_neighbours_as_its_manual_says(small, tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="it is what Embedding Atlas reads Parquet with")
    [path] = export(small, "embedding-atlas", tmp_path / "atlas.parquet", variants=VARIANTS)
    table = duckdb.sql(f"select * from '{path}'")
    kinds = dict(zip(table.columns, map(str, table.types), strict=True))
    assert kinds["neighbors"] == "STRUCT(ids BIGINT[], distances DOUBLE[])"
    assert {"x", "y", "x.post_dropout.head.0", "neighbors.post_dropout.head.0"} <= kinds.keys()
    rows = duckdb.sql(f"select text, label, x, y, neighbors from '{path}'").fetchall()
    graph = neighbor_graph(small[VARIANTS[0]], 10)
    assert [row[0] for row in rows] == list(small.texts)
    assert rows[3][1] is None
    assert [row[4]["ids"] for row in rows] == graph.indices.tolist()
    assert all(len(row[4]["distances"]) == 10 for row in rows)


def test_embedding_atlas_itself_opens_the_file(small, tmp_path):
    program = os.environ.get("EMBEDDING_ATLAS") or shutil.which("embedding-atlas")
    if not program:
        pytest.skip("pip install embedding-atlas in an environment of its own, and EMBEDDING_ATLAS=/path/to/it")
    [path] = export(small, "embedding-atlas", tmp_path / "atlas.parquet", variants=VARIANTS)
    columns = ["--text", "text", "--x", "x", "--y", "y", "--neighbors", "neighbors"]
    subprocess.run(
        [program, str(path), *columns, "--export-application", str(tmp_path / "app.zip")],
        check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "app.zip") as app:
        told = json.loads(app.read("data/metadata.json"))["props"]["data"]
        table = pq.read_table(io.BytesIO(app.read("data/dataset.parquet")))
    assert told["projection"] == {"x": "x", "y": "y"}, "it took our map and made none of its own"
    assert (told["text"], told["neighbors"]) == ("text", "neighbors")
    assert table["text"].to_pylist() == list(small.texts)
    assert table["neighbors"].to_pylist()[0]["ids"] == neighbor_graph(small[VARIANTS[0]], 10).indices[0].tolist()


@pytest.mark.parametrize("to", ["csv", "jsonl", "npz", "parquet"])
def test_plain_files_hold_every_variant(small, tmp_path, to):
    [path] = export(small, to, tmp_path / f"all.{to}")
    if to == "csv":
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        assert len(rows) == 24
        assert {name.split("[")[0] for name in header[5:]} == set(small.variants)
    elif to == "jsonl":
        assert set(small.variants) <= json.loads(path.read_text(encoding="utf-8").splitlines()[0]).keys()
    else:
        again = EmbeddingSet.read(path)
        assert np.array_equal(again["post_dropout.head.1"], small["post_dropout.head.1"])


def test_variants_cannot_be_chosen_for_plain_files(small, tmp_path):
    with pytest.raises(SettingsError, match="csv holds every variant"):
        export(small, "csv", tmp_path / "all.csv", variants=VARIANTS)


def test_nothing_is_replaced_unasked(small, tmp_path):
    (tmp_path / "atlas.parquet").write_text("mine")
    with pytest.raises(StoreError, match="exists already"):
        export(small, "embedding-atlas", tmp_path / "atlas.parquet")
    assert (tmp_path / "atlas.parquet").read_text() == "mine"
    export(small, "embedding-atlas", tmp_path / "atlas.parquet", overwrite=True)
    assert (tmp_path / "atlas.parquet").read_bytes().startswith(b"PAR1")


def test_an_unknown_tool_is_guessed(small, tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'tensorboard'"):
        export(small, "tensorbord", tmp_path / "x")


def test_numbers_that_are_none_are_not_handed_on(tmp_path):
    pre, _ = blobs(12)
    pre[5, 0] = np.nan
    broken = make_set(tmp_path / "broken", pre)
    for to in ("tensorboard", "embedding-atlas"):
        with pytest.raises(DegenerateInputError, match="5"):
            export(broken, to, tmp_path / to)


def test_the_exporters_are_those_that_are_told_of():
    assert sorted(EXPORTERS) == ["csv", "embedding-atlas", "faiss", "jsonl", "npz", "parquet", "tensorboard"]
