"""Every command that analyses a set, on every kind of bad set: one clear error or an answer, never a traceback."""

import json

import click
import numpy as np
import pytest
from click.testing import CliRunner

from embedsvc.cli import cli
from embedsvc.errors import DegenerateInputError, EmbedsvcError, SettingsError
from tests.analysis_sets import blobs, make_set

PRE, WHICH = blobs(40, width=8)
LABELS = [f"group {group}" for group in WHICH]


def changed(rows, value):
    vectors = PRE.copy()
    vectors[rows] = value
    return vectors


def constant_columns():
    vectors = PRE.copy()
    vectors[:, 2:5] = 1.0
    return vectors


SETS = {
    "nan": (changed((3, 1), np.nan), LABELS),
    "infinite": (changed((7, 0), np.inf), LABELS),
    "constant columns": (constant_columns(), LABELS),
    "all the same": (np.ones_like(PRE), LABELS),
    "a zero vector": (changed(5, 0.0), LABELS),
    "duplicates": (np.concatenate([PRE[:20], PRE[:20]]), LABELS),
    "half labelled": (PRE, [label if row % 2 else None for row, label in enumerate(LABELS)]),
    "five texts": (PRE[:5], LABELS[:5]),
    "two texts": (PRE[:2], None),
    "one text": (PRE[:1], None),
    "no text": (PRE[:0], None),
}
COMMANDS = {
    "compare": ["--permutations", "20", "--bootstrap", "20", "--json"],
    "cluster": ["--resamples", "2", "--passes", "2", "--json"],
    "project": ["--method", "pca", "--json"],
    "stability": ["--passes", "4", "--json"],
    "probe": ["--json"],
    "neighbors": ["--id", "t0", "--json"],
    "report": ["--passes", "4", "--map-method", "pca", "-q", "--json", "-o", "{folder}/report.md"],
    "export": ["--to", "embedding-atlas", "-o", "{folder}/atlas.parquet"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    return {
        name: str(make_set(folder / name.replace(" ", "-"), vectors, labels=labels).path)
        for name, (vectors, labels) in SETS.items()
    }


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def run(command, path, folder):
    """What came out, or the error of ours; anything else is raised."""
    arguments = [each.format(folder=folder) for each in COMMANDS[command]]
    try:
        done = CliRunner().invoke(cli, [command, path, *arguments], catch_exceptions=False)
    except EmbedsvcError as error:
        return error
    assert done.exit_code == 0, done.output
    if "--json" in arguments:
        return json.loads(done.stdout, parse_constant=no_constant)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", SETS)
def test_a_bad_set_gives_an_answer_or_one_clear_error(made, tmp_path, name, command):
    found = run(command, made[name], tmp_path)
    if isinstance(found, EmbedsvcError):
        assert found.problem
        assert "Error" not in found.problem


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("name", "row"), [("nan", 3), ("infinite", 7)])
def test_vectors_that_are_not_finite_are_refused_by_every_command_with_their_rows(made, tmp_path, command, name, row):
    found = run(command, made[name], tmp_path)
    assert isinstance(found, DegenerateInputError)
    assert f"NaN or infinite numbers in 1 row: {row} (counted from 0)" in found.problem
    assert found.hint


@pytest.mark.parametrize("command", ["compare", "cluster", "project", "export"])
def test_vectors_that_are_all_the_same_are_called_so(made, tmp_path, command):
    found = run(command, made["all the same"], tmp_path)
    assert isinstance(found, DegenerateInputError)
    assert "40" in found.problem


@pytest.mark.parametrize("command", ["compare", "cluster", "report"])
def test_too_few_texts_are_counted(made, tmp_path, command):
    found = run(command, made["one text"], tmp_path)
    assert isinstance(found, SettingsError | DegenerateInputError)
    assert "1 text" in found.problem or "is 1" in found.problem or "there are 1" in found.problem


def test_half_of_the_labels_are_enough_and_said_to_be_half(made, tmp_path):
    assert run("cluster", made["half labelled"], tmp_path)["n_labelled"] == 20


def test_fewer_texts_than_neighbours_are_refused(made):
    with pytest.raises(SettingsError, match="k is 10, expected 1 to 4"):
        CliRunner().invoke(cli, ["neighbors", made["five texts"], "--id", "t0"], catch_exceptions=False)


def test_a_single_variant_is_nothing_to_compare(made):
    one = ["--variants", "pre_dropout.inference"]
    with pytest.raises(SettingsError, match="one variant to compare"):
        CliRunner().invoke(cli, ["compare", made["duplicates"], *one], catch_exceptions=False)
    found = CliRunner().invoke(cli, ["cluster", made["duplicates"], *one, "--json", "--resamples", "2"])
    assert json.loads(found.stdout)["n_duplicates"] == 20


def test_a_mistyped_command_is_told_which_is_like_it():
    with pytest.raises(click.UsageError, match=r"'repot'.* Did you mean 'report'\?"):
        CliRunner().invoke(cli, ["repot"], catch_exceptions=False, standalone_mode=False)
