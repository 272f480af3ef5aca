"""Two sets as one, and what every analysis makes of them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from embedsvc import EmbeddingSet, cluster, compare, probe, project, report, stability
from embedsvc.cli.report import report as report_command
from embedsvc.errors import SettingsError
from embedsvc.joining import join
from tests.analysis_sets import blobs, make_set

PRE, WHICH = blobs(60, width=8)
LABELS = [f"group {group}" for group in WHICH]
TURN = np.linalg.qr(np.random.default_rng(4).standard_normal((8, 8)))[0].astype(np.float32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model, and another that sees the same but for some noise and a turn of its axes."""
    folder = tmp_path_factory.mktemp("pair")
    noisy = PRE + 0.5 * np.random.default_rng(1).standard_normal(PRE.shape, dtype=np.float32)
    return make_set(folder / "before", PRE, labels=LABELS), make_set(folder / "after", noisy @ TURN, labels=LABELS)


@pytest.fixture(scope="module")
def joined(pair):
    return join(*pair)


def test_a_joined_set_holds_the_vectors_of_both(pair, joined):
    one, other = pair
    assert joined.ids == one.ids
    assert joined.labels == one.labels
    for name in ("pre_dropout.inference", "post_dropout.inference", "post_dropout.head.1"):
        np.testing.assert_array_equal(joined[name], one[name])
    for name in ("pre_dropout.inference", "post_dropout.inference", "post_dropout.head.1"):
        np.testing.assert_array_equal(joined[f"other:{name}"], other[name])
    assert "other:pre_dropout.inference" in joined.variants
    assert "60 texts are in both sets, of 60 and 60" in joined.manifest.model.notes[0]


def test_rows_are_matched_by_id_whatever_their_order(tmp_path, pair):
    backwards = make_set(tmp_path / "less", PRE[::-1][:40].copy(), labels=None)
    texts = [f"t{row}" for row in range(40)]
    assert list(backwards.ids) == texts
    made = join(pair[0], backwards, how="inner")
    assert list(made.ids) == texts
    np.testing.assert_array_equal(made["pre_dropout.inference"], PRE[:40])
    np.testing.assert_array_equal(made["other:pre_dropout.inference"], PRE[::-1][:40])
    np.testing.assert_array_equal(made["post_dropout.head.0"], pair[0]["post_dropout.head.0"][:40])


def test_sets_that_do_not_share_their_texts_are_counted_and_named(tmp_path, pair):
    fewer = make_set(tmp_path / "fewer", PRE[:40])
    with pytest.raises(
        SettingsError, match=r"has 60 texts, .* 40, and 40 ids are in both; not in both: 't40'"
    ) as error:
        join(pair[0], fewer)
    assert "--join inner" in error.value.hint
    with pytest.raises(SettingsError, match="stand for different texts, the first is 't0'"):
        join(pair[0], make_set(tmp_path / "others", PRE, words=["elsewhere"] * 60))
    with pytest.raises(SettingsError, match="expected 'strict' or 'inner'"):
        join(*pair, how="outer")


def test_the_labels_of_the_second_serve_where_the_first_has_none(tmp_path, pair):
    bare = make_set(tmp_path / "bare", PRE)
    assert join(bare, pair[1]).labels == pair[1].labels


def test_every_analysis_takes_a_joined_set(joined):
    names = ["pre_dropout.inference", "other:pre_dropout.inference"]
    found = compare(joined, variants=names, n_permutations=20, n_bootstrap=20)
    assert found.pairs[0].mechanism is None, "no mask lies between two models"
    clusters = cluster(joined, k=4, variants=names, n_resamples=2, n_passes=2, seed=0)
    assert clusters.agreements[tuple(names)].ari > 0.9
    assert project(joined, method="pca", variants=names[1:]).reference == names[1]
    scores = probe(joined, variants=names, repeats=1, seed=0)
    assert scores.estimate("logistic", "accuracy", names[1], names[1]).mean > 0.9
    assert stability(joined, passes=4).n == 60


def test_a_report_over_two_sets_tells_the_models_apart(pair):
    found = report(pair[0], other=pair[1], passes=4, map_method="pca", seed=1)
    assert found.focus == "other:pre_dropout.inference"
    assert found.facts.path == "before and after"
    assert "The other model keeps" in found.verdict.headline
    assert "it is another model, and no mask explains" in " ".join(found.verdict.findings[0].sentences)
    assert set(found.projections) == {"pre_dropout", "other:pre_dropout"}


def test_the_command_reports_on_two_sets(pair, tmp_path):
    paths = [str(each.path) for each in pair]
    arguments = [*paths, "-o", str(tmp_path / "two.md"), "--passes", "4", "--map-method", "pca", "--json", "-q"]
    facts = json.loads(CliRunner().invoke(report_command, arguments, catch_exceptions=False).stdout)
    assert "other:pre_dropout.inference" in facts["variants"]
    text = (tmp_path / "two.md").read_text()
    assert "Groups by change" in text
    assert EmbeddingSet.read(paths[0]).path.name in text
