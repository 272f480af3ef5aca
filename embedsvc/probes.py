"""What `probe` gives: scores of classifiers by fold, with their intervals and differences.

Intervals are those of the corrected resampled t-test: training sets of folds overlap, so the plain standard error of
the mean over folds is too small. Its 1/R becomes 1/R + n_test/n_train (Nadeau & Bengio 2003, Inference for the
generalization error, Machine Learning 52, 239-281; for repeated cross-validation Bouckaert & Frank 2004).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import plots
from embedsvc.colors import BLUE
from embedsvc.errors import SettingsError
from embedsvc.results import Columns, Result

__all__ = ["CLASSIFIERS", "METRICS", "Estimate", "Probe", "corrected_interval"]

Floats = NDArray[np.float64]

CLASSIFIERS = ("logistic", "knn")
METRICS = ("accuracy", "macro_f1")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over folds, and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Probe(Result):
    """Scores of every classifier, trained on each variant and tested on each.

    Attributes
    ----------
    variants : tuple of str
        The reference first.
    same_as : mapping of str to str
        Variants that are equal bit for bit to an earlier one; their scores are those.
    scores : mapping of (str, str) to ndarray of shape (n_variants, n_variants, n_scores), float64
        By classifier and metric: trained on the first axis, tested on the second, a score for each fold of each repeat.
        NaN where the two variants are of different taps, so that a classifier of one cannot read the other.
    majority : mapping of str to ndarray of shape (n_scores,)
        By metric: always answering the most frequent class of the training part.
    classes : mapping of str to int
        Texts of each class.
    dropped : mapping of str to int
        Classes left out, with their texts: fewer distinct texts than folds.
    n, n_labelled, n_used : int
        Texts of the set; with a label; in the folds.
    n_duplicates : int
        Texts in the folds whose wording an earlier one has; copies are kept in one fold.
    folds, repeats, seed : int
    level : float
        Of the intervals.
    sentence, sampling : str
    notes : tuple of str
    """

    variants: tuple[str, ...]
    same_as: Mapping[str, str]
    scores: Mapping[tuple[str, str], Floats]
    majority: Mapping[str, Floats]
    classes: Mapping[str, int]
    dropped: Mapping[str, int]
    n: int
    n_labelled: int
    n_used: int
    n_duplicates: int
    folds: int
    repeats: int
    seed: int
    level: float
    sentence: str
    sampling: str
    notes: tuple[str, ...]

    @property
    def reference(self) -> str:
        """What differences are taken to."""
        return self.variants[0]

    def estimate(self, classifier: str, metric: str, trained: str, tested: str | None = None) -> Estimate | None:
        """Score of a classifier trained on one variant and tested on another; None where it cannot read it.

        `tested` is `trained` by default. The interval is cut at 0 and 1.
        """
        values = self._values(classifier, metric, trained, trained if tested is None else tested)
        if np.isnan(values).any():
            return None
        found = corrected_interval(values, folds=self.folds, level=self.level)
        return Estimate(found.mean, max(found.low, 0.0), min(found.high, 1.0))

    def difference(self, classifier: str, metric: str, trained: str, tested: str | None = None) -> Estimate | None:
        """The same score minus that of the reference trained and tested on itself, paired by fold."""
        values = self._values(classifier, metric, trained, trained if tested is None else tested)
        if np.isnan(values).any():
            return None
        base = self._values(classifier, metric, self.reference, self.reference)
        return corrected_interval(values - base, folds=self.folds, level=self.level)

    def baseline(self, metric: str) -> float:
        """Mean score of always answering the most frequent class."""
        return float(self.majority[metric].mean())

    def plot(
        self, classifier: str = "logistic", metric: str = "accuracy", *, figure: plots.MplFigure = None
    ) -> plots.MplFigure:
        """Score of a classifier trained and tested on each variant, beside always answering the largest class.

        Parameters
        ----------
        classifier : {"logistic", "knn"}
        metric : {"accuracy", "macro_f1"}
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        rows = []
        for name in self.variants:
            found = self.estimate(classifier, metric, name)
            if found is not None:
                rows.append((name, found.mean, found.low, found.high, BLUE))
        figure = plots.canvas((7, 1 + 0.35 * len(rows)), figure)
        label = f"{metric} of {classifier}, {self.level:.0%} intervals; dashed: the most frequent class"
        plots.intervals(figure, rows, line=self.baseline(metric), label=label)
        return figure

    def _facts(self) -> dict[str, object]:
        return {
            **{"labelled texts": self.n_used, "classes": len(self.classes), "reference": self.reference},
            **{"folds": self.folds, "repeats": self.repeats, "seed": self.seed},
        }

    def _table(self) -> Columns:
        """A row for each classifier, metric, and pair of variants trained and tested on."""
        rows = self.to_json()["scores"]
        plain = ("classifier", "metric", "trained", "tested", "mean", "low", "high")
        return {
            **{name: [row[name] for row in rows] for name in plain},
            **{f"difference_{name}": [row["difference"][name] for row in rows] for name in ("mean", "low", "high")},
        }

    def _summary(self) -> Columns:
        """A row for each variant, trained and tested on itself: score, in brackets its interval."""
        columns: dict[str, list[object]] = {"variant": list(self.variants)}
        for classifier, metric in self.scores:
            found = [self.estimate(classifier, metric, name) for name in self.variants]
            columns[f"{classifier} {metric}"] = [
                f"{e.mean:.3f} ({e.low:.3f} to {e.high:.3f})" if e else "–" for e in found
            ]
        return columns

    def to_json(self) -> dict[str, Any]:
        """JSON values: every estimate and difference, and what they rest on."""
        plain = {
            name: getattr(self, name)
            for name in ("n", "n_labelled", "n_used", "n_duplicates", "folds", "repeats", "seed", "level")
        }
        return plain | {
            "sentence": self.sentence,
            "sampling": self.sampling,
            "notes": list(self.notes),
            "reference": self.reference,
            "variants": list(self.variants),
            "same_as": dict(self.same_as),
            "classes": dict(self.classes),
            "dropped": dict(self.dropped),
            "majority": {metric: self.baseline(metric) for metric in METRICS},
            "scores": [
                {
                    "classifier": classifier,
                    "metric": metric,
                    "trained": trained,
                    "tested": tested,
                    **asdict(score),
                    "difference": asdict(difference),
                }
                for classifier, metric in self.scores
                for trained in self.variants
                for tested in self.variants
                if (score := self.estimate(classifier, metric, trained, tested))
                and (difference := self.difference(classifier, metric, trained, tested))
            ],
        }

    def _values(self, classifier: str, metric: str, trained: str, tested: str) -> Floats:
        for name in (trained, tested):
            if name not in self.variants:
                raise SettingsError(f"{name!r} was not probed", f"There are: {', '.join(self.variants)}")
        values: Floats = self.scores[classifier, metric][self.variants.index(trained), self.variants.index(tested)]
        return values


def corrected_interval(values: Floats, *, folds: int, level: float = 0.95) -> Estimate:
    """Mean and interval of scores of repeated cross-validation: mean ± t · √((1/R + n_test/n_train) · s²).

    Parameters
    ----------
    values : ndarray of shape (n_scores,)
        R scores, one for each fold of each repeat, or their differences to others on the same folds.
    folds : int
        With it n_test/n_train is 1/(folds - 1).
    level : float

    Returns
    -------
    Estimate
        With equal values the interval is a point: they leave nothing to estimate a spread from.

    References
    ----------
    Nadeau & Bengio (2003), Machine Learning 52, 239-281, section 3.
    """
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    spread = math.sqrt((1 / count + 1 / (folds - 1)) * float(np.var(values, ddof=1)))
    margin = float(t.ppf((1 + level) / 2, count - 1)) * spread
    return Estimate(mean, mean - margin, mean + margin)
