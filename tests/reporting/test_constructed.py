"""The verdict on sets whose truth is known, because they were built so: it must say that, and no more."""

import numpy as np
import pytest

from embedsvc import masks
from embedsvc.reporting.run import report
from embedsvc.types import Mode, Pass
from tests.analysis_sets import blobs, make_set
from tests.reporting.conftest import build

PRE, WHICH = blobs(160, width=16, apart=9.0)
LABELS = [f"group {group}" for group in WHICH]


def told(made, **options):
    """The verdict, and its findings by purpose."""
    found = report(made, **{"seed": 3, "passes": 8, "map_method": "pca"} | options).verdict
    return found, {each.purpose: each for each in found.findings}


def test_where_dropout_does_nothing_no_effect_is_claimed(tmp_path):
    found, by = told(make_set(tmp_path / "set", PRE, labels=LABELS, training=[PRE, PRE], rate=0.0))
    assert found.headline == (
        "Take pre_dropout.inference (before the dropout, with every dropout off; post_dropout.inference, "
        "pre_dropout.training.0, post_dropout.training.0 and post_dropout.head.0 are the same, bit for bit). Every "
        "variant holds the very same vectors: dropout changes nothing here."
    )
    assert {each.effect for each in by.values()} == {"none"}
    assert all(each.take == "pre_dropout.inference" for each in by.values())


def test_where_it_hardly_does_anything_it_hardly_matters(tmp_path):
    rng = np.random.default_rng(0)
    nearly = [PRE + rng.normal(0, 1e-5, PRE.shape).astype(np.float32) for _ in range(2)]
    found, by = told(make_set(tmp_path / "set", PRE, labels=LABELS, training=nearly, rate=1e-9))
    assert "Dropout hardly matters here" in found.headline
    assert by["similarity"].effect == "none"
    assert "encoder's dropout hardly shows" in " ".join(by["similarity"].sentences)


def test_head_noise_alone_is_explained_by_the_mask_and_not_by_the_encoder(tmp_path):
    made = make_set(tmp_path / "plain", PRE)
    keys = masks.row_keys(made.ids)
    posts = [made.manifest.head.post(PRE, keys, Pass(Mode.HEAD, index, 99)) for index in range(2)]
    found, by = told(
        make_set(tmp_path / "set", PRE, labels=LABELS, training=posts),
        variants=["post_dropout.head.0", "post_dropout.training.0"],
    )
    assert found.headline.startswith("Take pre_dropout.inference")
    lines = [line for line in by["similarity"].sentences if "keeps" in line]
    assert len(lines) == 2
    assert all("the mask explains it" in line or "adds nothing that shows beside the mask" in line for line in lines)
    assert not any("another" in line for line in lines)
    assert by["classification"].take == "pre_dropout.inference"
    assert by["classification"].effect in ("none", "unknown")


def test_a_strong_encoder_is_blamed_with_the_size_of_what_it_does(tmp_path):
    found, by = told(build(tmp_path, 160, noise=4.0))
    assert "What live dropout changes is large for" in found.headline
    assert by["similarity"].effect == "large"
    line = next(each for each in by["similarity"].sentences if each.startswith("post_dropout.training.0 keeps"))
    assert "the encoder's dropout takes another" in line
    assert by["classification"].effect in ("moderate", "large")
    assert "worse by" in " ".join(by["classification"].sentences)


def test_labels_that_have_nothing_to_do_with_the_vectors_recommend_no_classifier(tmp_path):
    rng = np.random.default_rng(1)
    _, by = told(make_set(tmp_path / "set", PRE, labels=[str(each) for each in rng.integers(0, 4, len(PRE))]))
    assert by["classification"].take is None
    assert "cannot be read off any variant" in by["classification"].sentences[0]


def test_texts_without_any_groups_recommend_no_clusters(tmp_path):
    rng = np.random.default_rng(2)
    cloud = rng.standard_normal((160, 16)).astype(np.float32)
    found, by = told(make_set(tmp_path / "set", cloud))
    assert by["clustering"].take is None
    assert "Nothing is recommended for clustering" in found.headline


@pytest.mark.parametrize("n", [4, 9, 30])
def test_few_texts_are_a_hint_at_most(tmp_path, n):
    found, by = told(build(tmp_path, n))
    assert f"{n} texts are few: take this as a hint." in found.headline
    assert (by["similarity"].take is None) == (n < 10)


def cloud(folder):
    """Texts without groups, whose labels have nothing to do with them."""
    rng = np.random.default_rng(2)
    labels = [str(each) for each in rng.integers(0, 4, 160)]
    return make_set(folder / "set", rng.standard_normal((160, 16)).astype(np.float32), labels=labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: make_set(folder / "set", PRE, labels=LABELS),
        lambda folder: build(folder, 160, noise=4.0),
        lambda folder: build(folder, 160, noise=0.6),
        lambda folder: build(folder, 30),
        cloud,
    ],
    ids=["head noise alone", "a strong encoder", "a weak encoder", "few texts", "no groups"],
)
def test_another_seed_gives_another_draw_and_the_same_verdict(tmp_path, make):
    made = make(tmp_path)
    verdicts = [told(made, seed=seed) for seed in (0, 1, 2)]
    answers = [[(each.purpose, each.take, each.effect) for each in by.values()] for _, by in verdicts]
    assert answers[1:] == answers[:-1]
    bases = {each.basis for _, by in verdicts for each in by.values() if "seed" in each.basis}
    assert len(bases) >= 3, "the seeds differ"
