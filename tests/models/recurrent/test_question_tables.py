"""The tables of docs/questions are what running things gives today."""

import runpy
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tables():
    return runpy.run_path(str(ROOT / "docs" / "figures" / "question_tables.py"))


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(ROOT / "examples" / "cross_entropy.py"))


def test_the_table_of_recurrent_dropouts_is_current(tables, oracle):
    assert tables["shown"]("recurrent-dropout") == tables["table"](oracle[1])


def test_the_table_of_losses_is_current(tables, example):
    assert tables["shown"]("cross-entropy") == example["table"]()


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_where_from_logits_matters(example, library):
    def seen(way, logit):
        return example["loss_and_gradient"](library, way, logit)

    for logit in (-40.0, -17.0, -2.0, 3.0):
        exact = np.log1p(np.exp(-logit)), 1 / (1 + np.exp(-logit)) - 1
        for way in ("logits, from_logits=True", "sigmoid layer, from_logits=False"):
            assert seen(way, logit) == pytest.approx(exact, rel=1e-4)
    hidden = "sigmoid out of Keras' sight, from_logits=False"
    assert seen(hidden, -40.0) == seen(hidden, -17.0)
    assert 15.4 < seen(hidden, -40.0)[0] < 16.2, "capped"
    assert seen(hidden, -17.0)[1] == 0
    assert seen(hidden, -12.0)[1] == pytest.approx(-1, abs=0.1)
    twice = "sigmoid out of Keras' sight, from_logits=True"
    assert 0.31 < seen(twice, 40.0)[0] < 0.32
    assert seen(twice, -40.0)[0] == pytest.approx(np.log(2))
    assert abs(seen(twice, -8.0)[1]) < 2e-4
    assert seen("logits, from_logits=False", -2.0)[1] == 0


@pytest.mark.slow
def test_the_example_of_variational_dropout_runs(tmp_path, capsys):
    example = runpy.run_path(str(ROOT / "examples" / "variational_dropout.py"))
    example["main"](tmp_path / "model", epochs=1)
    rows = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(rows) == list(example["POLICIES"])
    assert rows["none"] == 0
    assert all(distance > 0.01 for policy, distance in rows.items() if policy != "none")
