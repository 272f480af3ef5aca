"""``embedsvc stability``."""

import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from embedsvc import Settings, extract_files
from embedsvc.cli.stability import stability
from embedsvc.types import Mode


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stability")
    (folder / "texts.txt").write_text("".join(f"word{row % 7} word{row % 5} word{row % 3}\n" for row in range(40)))
    settings = Settings(modes=tuple(Mode), passes=3, seed=5)
    extract_files([str(folder / "texts.txt")], folder / "set.parquet", model="fake:32", settings=settings)
    return folder / "set.parquet"


def told(*arguments):
    return CliRunner().invoke(stability, [*map(str, arguments)], catch_exceptions=False).stdout


def test_people_get_tables_with_what_the_mask_predicts_beside(made):
    out = told(made, "--passes", 16, "-k", 3)
    for words in (
        "not calibrated epistemic uncertainty",
        "All 40 texts; 3 exact cosine neighbours among 40 texts in head passes",
        "head, 16 passes  mask alone predicts  training, 3 passes",
        "BALD (nats)",
        "1/√(1 + p/(qT))",
        "head mask",
        "Highest in head passes: nearest neighbours lost",
        "Highest in training passes: cluster is not that of inference",
        "Other starts of the clustering",
        "texts.txt:",
        "word3 word3 word0",
    ):
        assert words in out
    assert "nan" not in out.lower()


def test_machines_get_json(made):
    facts = json.loads(told(made, "--passes", 16, "--seed", 3, "--json"))
    assert facts["passes"] == {"head": 16, "training": 3}
    assert facts["seed"] == 3
    assert facts["curve"]["passes"] == [1, 2, 4, 8, 16]
    assert facts["scores"]["head.bald"]["n"] == 40


def test_scores_of_every_text_go_to_a_file(made, tmp_path):
    out = told(made, "--passes", 4, "--neighbor-passes", 0, "--out", tmp_path / "scores.parquet")
    assert str(tmp_path / "scores.parquet") in out
    assert "neighbours were not compared" in out
    table = pq.read_table(tmp_path / "scores.parquet")
    assert len(table) == 40
    assert "head.bald" in table.column_names


def test_one_pass_is_refused_as_a_wrong_command_line(made):
    done = CliRunner().invoke(stability, [str(made), "--passes", "1"])
    assert done.exit_code == 2
    assert "--passes" in done.stderr
