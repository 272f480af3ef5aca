import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedsvc import probing
from embedsvc.errors import DegenerateInputError, SettingsError, UnknownVariantError
from embedsvc.probes import Estimate, corrected_interval
from embedsvc.probing import probe
from embedsvc.variants import derive
from tests.analysis_sets import blobs, make_set

PRE, POST, HEAD = "pre_dropout.inference", "post_dropout.inference", "post_dropout.head.0"
VECTORS, BLOBS = blobs(150, width=8, centers=3, apart=3.0)
LABELS = [f"blob {number}" for number in BLOBS]
QUICK = {"folds": 3, "repeats": 2, "seed": 5}


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("probing") / "set", VECTORS, labels=LABELS, rate=0.5)


@pytest.fixture(scope="module")
def found(embeddings):
    return probe(embeddings, **QUICK)


# --- scores ---


def directions(vectors):
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def test_scores_are_those_of_sklearn_on_the_same_folds(found, embeddings):
    head = embeddings[HEAD]
    expected = {"logistic": [], "knn": []}
    for repeat in range(2):
        folder = StratifiedKFold(3, shuffle=True, random_state=derive(5, "folds", repeat))
        for train, test in folder.split(VECTORS, BLOBS):
            logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            expected["logistic"].append(logistic.fit(VECTORS[train], BLOBS[train]).score(head[test], BLOBS[test]))
            # By cosine; a text whose every unit is dropped has no direction, and is as far from one as from another.
            knn = KNeighborsClassifier(10, algorithm="brute").fit(directions(VECTORS[train]), BLOBS[train])
            answers = knn.predict(directions(head[test]))
            answers[~head[test].any(axis=1)] = np.bincount(BLOBS[train]).argmax()
            expected["knn"].append((answers == BLOBS[test]).mean())
    at = found.variants.index(PRE), found.variants.index(HEAD)
    for name, values in expected.items():
        np.testing.assert_allclose(found.scores[name, "accuracy"][at], values, atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_accuracy_and_macro_f1_are_those_of_sklearn(pairs):
    truth, answers = (np.array(side) for side in zip(*pairs, strict=True))
    assert probing._score("accuracy", truth, answers) == pytest.approx(accuracy_score(truth, answers))
    macro = f1_score(truth, answers, average="macro", labels=np.unique(truth), zero_division=0.0)
    assert probing._score("macro_f1", truth, answers) == pytest.approx(macro)


def test_it_is_trained_on_each_variant_and_tested_on_each(found):
    assert found.variants == (PRE, POST, HEAD)
    assert found.reference == PRE
    assert found.scores["logistic", "accuracy"].shape == (3, 3, 6)
    assert not np.isnan(found.scores["knn", "macro_f1"]).any()
    own, masked = (found.estimate("logistic", "accuracy", PRE, tested) for tested in (PRE, HEAD))
    assert masked.mean < own.mean, "half of the units are dropped"
    assert found.estimate("logistic", "accuracy", PRE) == own


def test_equal_variants_are_computed_once_and_said_to_be_equal(found):
    assert found.same_as == {POST: PRE}
    for values in found.scores.values():
        np.testing.assert_array_equal(values[0], values[1])
        np.testing.assert_array_equal(values[:, 0], values[:, 1])


def test_differences_are_paired_by_fold(found):
    values = found.scores["logistic", "accuracy"]
    expected = corrected_interval(values[2, 2] - values[0, 0], folds=3)
    assert found.difference("logistic", "accuracy", HEAD) == expected
    assert expected.mean < 0
    assert found.difference("logistic", "accuracy", PRE) == Estimate(0.0, 0.0, 0.0)
    assert found.difference("knn", "macro_f1", PRE, HEAD).mean < 0


def test_the_baseline_is_the_largest_class(tmp_path):
    labels = ["rare" if row < 30 else "frequent" for row in range(150)]
    found = probe(make_set(tmp_path / "set", VECTORS, labels=labels), variants=[PRE], **QUICK)
    assert found.baseline("accuracy") == pytest.approx(0.8)
    assert found.baseline("macro_f1") == pytest.approx(0.8 / 0.9 / 2)
    assert found.classes == {"frequent": 120, "rare": 30}


def test_labels_of_nothing_are_not_read_off(tmp_path):
    shuffled = np.random.default_rng(0).permutation(LABELS).tolist()
    found = probe(make_set(tmp_path / "set", VECTORS, labels=shuffled), variants=[PRE], seed=0)
    for classifier in probing.CLASSIFIERS:
        estimate = found.estimate(classifier, "accuracy", PRE)
        assert estimate.low < 1 / 3 < estimate.high


def test_an_interval_stays_between_zero_and_one(found):
    near_one = np.broadcast_to(np.array([1, 1, 1, 1, 1, 0.9]), (3, 3, 6))
    made_up = replace(found, scores={("knn", "accuracy"): near_one, ("knn", "macro_f1"): 1 - near_one})
    assert corrected_interval(near_one[0, 0], folds=3).high > 1
    high, low = (made_up.estimate("knn", metric, PRE) for metric in ("accuracy", "macro_f1"))
    assert high.high == 1
    assert high.low < high.mean
    assert low.low == 0
    assert low.high > low.mean


def test_other_taps_are_probed_but_not_mixed(tmp_path):
    from embedsvc import EmbeddingSet, Settings, extract_files

    (tmp_path / "texts.csv").write_text(
        "text,label\n" + "".join(f"{'good' if n % 2 else 'bad'} film {n},{n % 2}\n" for n in range(40))
    )
    settings = Settings(taps=("pre_dropout", "post_dropout", "cls", "logits"))
    extract_files([str(tmp_path / "texts.csv")], tmp_path / "set", model="fake:8", settings=settings)
    found = probe(EmbeddingSet.read(tmp_path / "set"), **QUICK)
    assert found.variants == (PRE, POST, "cls.inference", "logits.inference")
    assert found.estimate("knn", "accuracy", PRE, "logits.inference") is None
    assert found.difference("knn", "accuracy", "cls.inference", PRE) is None, "equally wide, but another space"
    assert found.difference("knn", "accuracy", "logits.inference") is not None
    pairs = {(score["trained"], score["tested"]) for score in found.to_json()["scores"]}
    assert ("logits.inference", "logits.inference") in pairs
    assert (PRE, "logits.inference") not in pairs


# --- intervals ---


def test_the_interval_is_that_of_nadeau_and_bengio():
    values = np.array([0.8, 0.9, 0.7, 0.85, 0.75, 0.9])
    found = corrected_interval(values, folds=3, level=0.9)
    # Of 3 folds 2 train and 1 tests: n_test/n_train is a half.
    margin = stats.t.ppf(0.95, 5) * np.sqrt((1 / 6 + 1 / 2) * values.var(ddof=1))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - margin, values.mean() + margin))
    plain = stats.t.interval(0.9, 5, values.mean(), stats.sem(values))
    assert found.low < plain[0] < plain[1] < found.high, "folds share training texts, so it is wider than the plain one"


def test_equal_values_give_a_point():
    assert corrected_interval(np.ones(6), folds=3) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.slow
def test_the_corrected_interval_errs_about_as_often_as_it_says():
    """Two classifiers of equal worth: the plain interval of their difference excludes 0 far too often."""
    rng = np.random.default_rng(1)
    wrong = {"corrected": 0, "plain": 0}
    trials = 120
    for _ in range(trials):
        x, y = rng.standard_normal((60, 6)), np.arange(60) % 2
        differences = []
        for repeat in range(4):
            for train, test in StratifiedKFold(5, shuffle=True, random_state=repeat).split(x, y):
                scores = [
                    KNeighborsClassifier(3).fit(x[train][:, part], y[train]).score(x[test][:, part], y[test])
                    for part in (slice(0, 3), slice(3, 6))
                ]
                differences.append(scores[0] - scores[1])
        values = np.array(differences)
        corrected = corrected_interval(values, folds=5)
        plain = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        wrong["corrected"] += not corrected.low <= 0 <= corrected.high
        wrong["plain"] += not plain[0] <= 0 <= plain[1]
    assert wrong["corrected"] / trials < 0.13
    assert wrong["plain"] / trials > 0.2


# --- settings and results ---


def test_the_same_seed_gives_the_same_result(embeddings, found):
    assert probe(embeddings, **QUICK).to_json() == found.to_json()
    assert probe(embeddings, **QUICK | {"seed": 6}).to_json() != found.to_json()


def test_a_result_is_json(found):
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["seed"] == 5
    assert told["n_used"] == 150
    assert len(told["scores"]) == 2 * 2 * 9
    assert set(told["scores"][0]) == {
        *("classifier", "metric", "trained", "tested", "mean", "low", "high", "difference"),
    }
    assert any("one pass" in note for note in told["notes"])


@pytest.mark.parametrize("options", [{"folds": 1}, {"repeats": 0}, {"level": 1.0}, {"seed": -1}])
def test_settings_out_of_range_are_refused(embeddings, options):
    with pytest.raises(SettingsError, match="seed is -1" if "seed" in options else "at least 2 folds"):
        probe(embeddings, **QUICK | options)


def test_unknown_variants_are_named(embeddings, found):
    with pytest.raises(UnknownVariantError, match="cls"):
        probe(embeddings, variants=["cls.inference"], **QUICK)
    with pytest.raises(SettingsError, match=r"'cls\.inference' was not probed"):
        found.estimate("knn", "accuracy", "cls.inference")


# --- poor input ---


def test_without_labels_there_is_nothing_to_probe(tmp_path):
    with pytest.raises(SettingsError, match="no labels"):
        probe(make_set(tmp_path / "set", VECTORS), **QUICK)


def test_labels_of_half_the_texts_are_used_for_those(tmp_path):
    half = [label if row < 75 else None for row, label in enumerate(LABELS)]
    vectors = VECTORS.copy()
    found = probe(make_set(tmp_path / "set", vectors, labels=half), variants=[PRE], **QUICK)
    assert (found.n, found.n_labelled, found.n_used) == (150, 75, 75)
    assert found.notes[0] == "75 of 150 texts have a label: only they were used."


def test_classes_of_too_few_texts_are_left_out_and_named(tmp_path):
    labels = ["rare", "rare", *LABELS[2:]]
    found = probe(make_set(tmp_path / "set", VECTORS, labels=labels), variants=[PRE], **QUICK)
    assert found.dropped == {"rare": 2}
    assert found.n_used == 148
    assert "left out: rare (2)." in found.notes[0]


def test_one_class_is_an_error(tmp_path):
    labels = ["rare", "rare", *["frequent"] * 148]
    with pytest.raises(DegenerateInputError, match="two classes of at least 3 distinct texts.*frequent 148, rare 2"):
        probe(make_set(tmp_path / "set", VECTORS, labels=labels), **QUICK)


def test_copies_of_a_text_stay_in_one_fold(tmp_path):
    """Random vectors and labels, each twelve times: copies in the training part would give the answer away."""
    rng = np.random.default_rng(2)
    vectors = np.repeat(rng.standard_normal((14, 8), dtype=np.float32), 12, axis=0)
    labels = np.repeat(rng.permutation(["a", "b"] * 7), 12).tolist()
    words = [f"text {row // 12}" for row in range(168)]
    found = probe(make_set(tmp_path / "set", vectors, labels=labels, words=words), variants=[PRE], seed=1)
    assert found.n_duplicates == 154
    assert any("154 texts have the wording of another" in note for note in found.notes)
    assert found.estimate("knn", "accuracy", PRE).mean < 0.8


def test_vectors_that_are_not_finite_are_named(tmp_path):
    vectors = VECTORS.copy()
    vectors[4] = np.nan
    with pytest.raises(DegenerateInputError, match=r"pre_dropout\.inference.*1 row: 4"):
        probe(make_set(tmp_path / "set", vectors, labels=LABELS), **QUICK)


def test_constant_columns_and_zero_vectors_do_no_harm(tmp_path):
    vectors = VECTORS.copy()
    vectors[:, 2] = 1
    vectors[7] = 0
    found = probe(make_set(tmp_path / "set", vectors, labels=LABELS), variants=[PRE], **QUICK)
    assert found.estimate("logistic", "accuracy", PRE).mean > 0.6


def test_of_many_texts_a_sample_is_used_and_said(embeddings):
    found = probe(embeddings, variants=[PRE], max_texts=90, **QUICK)
    assert found.n_used == 90
    assert found.sampling == "90 of 150 labelled texts, drawn at random"


def test_a_regression_that_did_not_converge_is_told(tmp_path, monkeypatch):
    import sklearn.linear_model

    class Impatient(LogisticRegression):
        def __init__(self, max_iter=1):
            super().__init__(max_iter=1)

    monkeypatch.setattr(sklearn.linear_model, "LogisticRegression", Impatient)
    found = probe(make_set(tmp_path / "set", VECTORS, labels=LABELS), variants=[PRE], **QUICK)
    assert found.notes[-1] == "6 of 6 logistic regressions stopped before they converged."
