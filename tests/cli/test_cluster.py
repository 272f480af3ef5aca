"""``embedsvc cluster`` and ``embedsvc probe`` as a user types them."""

import json

import pyarrow.parquet as pq
import pytest
from click import UsageError
from click.testing import CliRunner

from embedsvc.cli import cli
from embedsvc.errors import SettingsError, UnknownNameError
from tests.analysis_sets import blobs, make_set

PRE, HEAD = "pre_dropout.inference", "post_dropout.head.0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    vectors, which = blobs(120, width=8, centers=3)
    folder = tmp_path_factory.mktemp("cli") / "set"
    make_set(folder, vectors, labels=[f"blob {number}" for number in which])
    return folder


def run(*arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    assert not done.stderr
    return done.stdout


def rows(out, heading):
    """The lines of a table, from its heading to the next blank line."""
    return out.split(heading, 1)[1].split("\n\n", 1)[0].splitlines()[1:]


def test_cluster_prints_what_was_done_and_how_far_variants_agree(made):
    out = run("cluster", made, "-k", "3", "--resamples", "3", "--passes", "2")
    for words in ("texts     120", "k-means", "k = 3", "nothing was sampled: all 120 texts", "seed      0"):
        assert words in out
    table = rows(out, "Variants")
    assert table[0].split()[:3] == ["variant", "clusters", "silhouette"]
    assert table[1].split()[:2] == [PRE, "3"]
    assert table[-1] == f"post_dropout.inference is {PRE}, bit for bit."
    (pair,) = rows(out, "Agreement")[1:]
    assert pair.startswith(f"{PRE} × {HEAD}  ")
    assert "post_dropout.head, 2 passes" in out
    clusters = rows(out, f"Clusters of {PRE}")
    assert clusters[1].split()[:5] == ["0", "40", "1.000", "highly", "stable"]
    assert len(rows(out, "Nearest to the centre of each cluster")) == 3


def test_cluster_prints_json_and_writes_labels(made, tmp_path):
    out = tmp_path / "clusters.parquet"
    arguments = ["cluster", made, "--method", "hdbscan", "--variants", HEAD, "--seed", 4, "-o", out, "--json"]
    told = json.loads(run(*arguments, "--resamples", "2", "--passes", "2"))
    assert (told["method"], told["k"], told["seed"]) == ("hdbscan", None, 4)
    assert pq.read_table(out).column_names == ["id", PRE, HEAD]


def test_cluster_of_one_variant_without_resamples_or_passes(made):
    out = run("cluster", made, "-k", "3", "--resamples", "0", "--passes", "0", "--variants", PRE)
    assert "Agreement" not in out
    assert "unknown" in out


@pytest.mark.parametrize("k", ["1", "x", "-3", "2.5"])
def test_a_number_of_clusters_that_is_none_is_refused(made, k):
    with pytest.raises(UsageError, match="neither a whole number from 2 nor auto"):
        run("cluster", made, "-k", k)


def test_what_the_library_refuses_is_passed_on(made):
    with pytest.raises(SettingsError, match="hdbscan finds the number of clusters itself"):
        run("cluster", made, "--method", "hdbscan", "-k", "4")
    with pytest.raises(UnknownNameError, match="agglomerative, gmm, hdbscan, kmeans"):
        run("cluster", made, "--method", "spectral")


def test_probe_prints_scores_differences_and_the_mixed_matrix(made):
    out = run("probe", made, "--folds", "3", "--repeats", "1")
    for words in ("texts     120 of 120", "blob 0 40", "corrected resampled t-test", "Note: A stochastic variant"):
        assert words in out
    table = rows(out, "k-NN, trained and tested on the same variant")
    assert table[1].startswith("always the largest class")
    assert table[2].startswith(PRE)
    assert table[3].startswith(HEAD)
    assert table[3].count("…") == 2, "the score and the difference, with their intervals"
    matrix = rows(out, "k-NN: accuracy, trained on the row and tested on the column")
    assert matrix[0].split() == ["trained", "on", "1", "2"]
    assert [line.split()[:2] for line in matrix[1:3]] == [[PRE, "1"], [HEAD, "2"]]
    assert len(matrix[1].split()) == 4


def test_probe_prints_json(made):
    told = json.loads(run("probe", made, "--folds", "2", "--repeats", "1", "--variants", PRE, "--json", "--seed", "9"))
    assert (told["seed"], told["folds"], told["variants"]) == (9, 2, [PRE])
    assert len(told["scores"]) == 4
