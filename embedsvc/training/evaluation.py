"""How good the logits of a classifier are on texts it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.training.labels import Labels, Task

__all__ = ["BINS", "Scores", "calibration_error", "evaluate", "majority", "probabilities"]

BINS = 15  # equal-width bins of the confidence (Guo et al. 2017)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of a classifier on some texts.

    Attributes
    ----------
    n : int
        Texts.
    accuracy : float
        Share of texts whose class (multi-label: whose every label) is right.
    macro_f1 : float
        Mean of the classes' F1; 0 for a class never answered.
    roc_auc : float
        Binary: of the second class. Multi-class: one against the rest, mean of the classes. Multi-label: mean.
    calibration_error : float
        Expected calibration error over `BINS` equal-width bins of the confidence: the probability of the answer, where
        each label of a multi-label text is an answer.
    log_loss : float
        Mean cross-entropy, in nats; multi-label: mean over the labels too.
    f1 : mapping of str to float
        By class.
    """

    n: int
    accuracy: float
    macro_f1: float
    roc_auc: float
    calibration_error: float
    log_loss: float
    f1: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def probabilities(logits: NDArray[np.float32], task: Task) -> Floats:
    """Softmax, or for multi-label the sigmoid of each logit; float64."""
    z = logits.astype(np.float64)
    if task is Task.MULTI_LABEL:
        return np.asarray(np.exp(-np.logaddexp(0.0, -z)))
    return np.asarray(np.exp(_log_softmax(z)))


def evaluate(logits: NDArray[np.float32], targets: NDArray[Any], labels: Labels) -> Scores:
    """Score logits (n, n_classes) against `Labels.encode`'s targets; every class must occur among them."""
    from sklearn.metrics import f1_score, roc_auc_score

    z = logits.astype(np.float64)
    p = probabilities(logits, labels.task)
    if labels.task is Task.MULTI_LABEL:
        answers, truth = (p >= 0.5).astype(np.int64), targets.astype(np.int64)
        right = answers == truth
        accuracy, confidence = right.all(axis=1).mean(), np.where(answers == 1, p, 1.0 - p)
        log_loss = np.logaddexp(0.0, np.where(truth == 1, -z, z)).mean()
        # A class that every text has (or none) has no ROC; the mean is over the others.
        varied = (truth.min(axis=0) == 0) & (truth.max(axis=0) == 1)
        auc = roc_auc_score(truth[:, varied], z[:, varied], average="macro") if varied.any() else np.nan
        f1 = f1_score(truth, answers, average=None, zero_division=0.0)
    else:
        answers, truth = p.argmax(axis=1), targets
        right = answers == truth
        accuracy, confidence = right.mean(), p.max(axis=1)
        log_loss = -_log_softmax(z)[np.arange(len(z)), truth].mean()
        # By the logit's margin, not by p: p is 1.0 for many once the margin is wide, and ties cost.
        binary = z.shape[1] == 2
        auc = (
            roc_auc_score(truth, z[:, 1] - z[:, 0])
            if binary
            else roc_auc_score(truth, p / p.sum(axis=1, keepdims=True), multi_class="ovr", average="macro")
        )
        f1 = f1_score(truth, answers, average=None, labels=np.arange(z.shape[1]), zero_division=0.0)
    return Scores(
        n=len(z),
        accuracy=float(accuracy),
        macro_f1=float(np.mean(f1)),
        roc_auc=float(auc),
        calibration_error=calibration_error(confidence.ravel(), right.ravel()),
        log_loss=float(log_loss),
        f1={name: float(value) for name, value in zip(labels.classes, f1, strict=True)},
    )


def majority(train: NDArray[Any], targets: NDArray[Any], labels: Labels) -> Scores:
    """What answering by the frequencies of the training part alone scores: the null of every number beside it."""
    if labels.task is Task.MULTI_LABEL:
        share = np.clip(train.mean(axis=0, dtype=np.float64), 1e-6, 1 - 1e-6)
        logits = np.log(share) - np.log1p(-share)
    else:
        logits = np.log(np.bincount(train, minlength=len(labels.classes)) / len(train))
    return evaluate(np.repeat(logits[None].astype(np.float32), len(targets), axis=0), targets, labels)


def calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy, over equal-width bins of the confidence, weighted by their texts.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", arXiv:1706.04599, equation 3. Bins are (a, b].

    >>> calibration_error(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False]))
    0.15
    """
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    gap = np.abs(np.bincount(bin_of, right, minlength=bins) - np.bincount(bin_of, confidence, minlength=bins))
    return round(float(gap[count > 0].sum() / len(confidence)), 12)


def _log_softmax(z: Floats) -> Floats:
    shifted = z - z.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
