"""``embedsvc project``, by PCA: what differs between methods is the library's."""

import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from embedsvc import Settings, extract_files
from embedsvc.cli.project import project
from embedsvc.errors import UnknownNameError
from embedsvc.types import Mode


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "texts.txt").write_text("".join(f"word{row % 7} word{row % 5} word{row % 3}\n" for row in range(40)))
    settings = Settings(modes=tuple(Mode), passes=3, seed=5)
    extract_files([str(folder / "texts.txt")], folder / "set.parquet", model="fake:32", settings=settings)
    return folder / "set.parquet"


def told(*arguments):
    return CliRunner().invoke(project, [*map(str, arguments)], catch_exceptions=False).stdout


def test_people_get_a_row_a_variant(made):
    out = told(made)
    for words in (
        "PCA fitted once on pre_dropout.inference",
        "trustworthiness and continuity at 15 neighbours of all 40 texts",
        "the same bits",
        "post_dropout.head.0 ",
        "post_dropout.training.0 ",
        "Shifts are shares of the map's diagonal",
    ):
        assert words in out
    assert "logits" not in out
    assert "nan" not in out


def test_machines_get_json(made):
    facts = json.loads(told(made, "--variants", "post_dropout.head.1,post_dropout.head.9", "--seed", 3, "--json"))
    names = ["pre_dropout.inference", "post_dropout.head.1", "post_dropout.head.9"]
    assert [each["variant"] for each in facts["variants"]] == names
    assert facts["seed"] == 3
    assert 0 <= facts["variants"][1]["moved"] < 0.3


def test_coordinates_go_to_a_file(made, tmp_path):
    out = told(made, "--variants", "post_dropout.head.1", "-o", tmp_path / "map.parquet")
    assert str(tmp_path / "map.parquet") in out
    table = pq.read_table(tmp_path / "map.parquet")
    assert len(table) == 40
    assert table.column_names[:3] == ["id", "pre_dropout.inference.x", "pre_dropout.inference.y"]


def test_an_unknown_method_is_named_with_those_there_are(made):
    with pytest.raises(UnknownNameError, match="no projector named 'tsne'") as raised:
        told(made, "--method", "tsne")
    assert "aligned-umap, pca, umap" in raised.value.hint
