import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from embedsvc.training.evaluation import BINS, calibration_error, evaluate, majority, probabilities
from embedsvc.training.labels import Task, choose_task


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_binary_scores_are_those_of_scikit_learn(rng):
    labels = choose_task(["a", "b"])
    logits, truth = rng.normal(size=(200, 2)).astype(np.float32), rng.integers(0, 2, 200).astype(np.int32)
    scores = evaluate(logits, truth, labels)
    p = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, logits.argmax(1)))
    assert scores.macro_f1 == pytest.approx(f1_score(truth, logits.argmax(1), average="macro"))
    assert scores.roc_auc == pytest.approx(roc_auc_score(truth, p[:, 1]))
    assert scores.log_loss == pytest.approx(log_loss(truth, p))


def test_multi_class_and_multi_label_scores_are_those_of_scikit_learn(rng):
    logits = rng.normal(size=(200, 3)).astype(np.float32)
    truth = rng.integers(0, 3, 200).astype(np.int32)
    scores = evaluate(logits, truth, choose_task(["a", "b", "c"]))
    p = probabilities(logits, Task.MULTI_CLASS)
    assert scores.roc_auc == pytest.approx(roc_auc_score(truth, p, multi_class="ovr"))
    assert scores.log_loss == pytest.approx(log_loss(truth, p))
    several = rng.integers(0, 2, (200, 3)).astype(np.float32)
    scores = evaluate(logits, several, choose_task(["a|b", "c"]))
    p = 1 / (1 + np.exp(-logits.astype(float)))
    assert scores.accuracy == pytest.approx(accuracy_score(several, logits >= 0))
    assert scores.macro_f1 == pytest.approx(f1_score(several, logits >= 0, average="macro"))
    assert scores.roc_auc == pytest.approx(roc_auc_score(several, p, average="macro"))
    assert scores.log_loss == pytest.approx(np.mean([log_loss(several[:, k], p[:, k]) for k in range(3)]))


def test_huge_logits_keep_their_loss(rng):
    """From probabilities it would be capped at about 16."""
    scores = evaluate(np.array([[100.0, -100.0], [0.0, 1.0]], dtype=np.float32), np.array([1, 0]), choose_task("ab"))
    assert scores.log_loss == pytest.approx((200 + np.log1p(np.e)) / 2, rel=1e-6)


def test_calibration_error_is_that_of_a_plain_loop(rng):
    confidence, right = rng.uniform(0.3, 1, 500), rng.uniform(size=500) < 0.7
    total = 0.0
    for low in np.arange(BINS) / BINS:
        inside = (confidence > low) & (confidence <= low + 1 / BINS)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(confidence, right) == pytest.approx(total)


def test_calibrated_confidence_has_a_small_error_and_overconfidence_a_large_one(rng):
    confidence = rng.uniform(0.5, 1, 100_000)
    right = rng.uniform(size=100_000) < confidence
    assert calibration_error(confidence, right) < 0.01
    assert calibration_error(np.ones(100_000), right) == pytest.approx(0.25, abs=0.01)


def test_answering_by_frequency_is_the_null():
    labels = choose_task(["a", "b"])
    scores = majority(np.array([0] * 7 + [1] * 3), np.array([0] * 6 + [1] * 4), labels)
    assert (scores.accuracy, scores.roc_auc) == (0.6, 0.5)
    assert scores.calibration_error == pytest.approx(0.1, abs=1e-6)
