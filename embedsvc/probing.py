"""How well labels can be read off each variant: the same classifiers on the same folds, trained on one, tested on any.

Practitioners mix variants: a classifier is trained on vectors from before the dropout and given vectors from after it.
So every classifier is tested on every variant of its space, not only on its own.

Intervals are those of the corrected resampled t-test: training sets of folds overlap, so the plain standard error of
the mean over folds is too small. Its 1/R becomes 1/R + n_test/n_train (Nadeau & Bengio 2003, Inference for the
generalization error, Machine Learning 52, 239-281; for repeated cross-validation Bouckaert & Frank 2004).
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import plots
from embedsvc.colors import BLUE
from embedsvc.embeddings import EmbeddingSet
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.knn import check_vectors
from embedsvc.results import Columns, Result
from embedsvc.threads import one_thread
from embedsvc.types import Variant, Vectors, check_seed
from embedsvc.variants import choose, derive, space

__all__ = ["CLASSIFIERS", "METRICS", "Estimate", "Probe", "corrected_interval", "probe"]

Floats = NDArray[np.float64]

CLASSIFIERS = ("logistic", "knn")
METRICS = ("accuracy", "macro_f1")
_MOST_TEXTS = 5_000
_NEIGHBORS = 10


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


def probe(
    embeddings: EmbeddingSet,
    *,
    variants: Sequence[str] | None = None,
    folds: int = 5,
    repeats: int = 4,
    level: float = 0.95,
    seed: int,
) -> Probe:
    """Cross-validate a logistic regression and a k-NN classifier on every variant, on the same folds.

    The logistic regression (L2, C = 1) sees columns standardised by the training part of the fold; k-NN takes the 10
    nearest texts by cosine. Only labelled texts are used, at most 5,000 of them.

    Parameters
    ----------
    embeddings : EmbeddingSet
    variants : sequence of str, optional
        See `variants.choose`; the reference is put first.
    folds : int
        From 2 on; stratified by class. Texts of the same wording are kept in one fold, else the answer would leak.
    repeats : int
        From 1 on; each shuffles the texts into other folds.
    level : float
        Of the intervals, between 0 and 1.
    seed : int
        Of the folds, and of the sample where there is one.

    Raises
    ------
    SettingsError
        For settings out of range, or a set without labels.
    UnknownVariantError
        If the set does not hold a variant.
    DegenerateInputError
        For vectors that are not finite, or fewer than two classes of enough texts.
    """
    check_seed(seed)
    if folds < 2 or repeats < 1 or not 0 < level < 1:
        raise SettingsError(
            f"folds, repeats and level are {folds}, {repeats} and {level}",
            "Expected at least 2 folds, at least 1 repeat, and a level between 0 and 1.",
        )
    names = choose(embeddings, variants)
    task = _Task.of(embeddings, folds, seed)
    notes = list(task.notes)
    vectors: dict[str, Vectors] = {}
    same_as: dict[str, str] = {}
    for name in names:
        chosen = check_vectors(embeddings[name], name)[task.rows]
        twin = next((other for other, known in vectors.items() if np.array_equal(known, chosen)), None)
        if twin is None:
            vectors[name] = chosen
        else:
            same_as[name] = twin

    splits = list(task.splits(folds, repeats, seed))
    shape = (len(names), len(names), len(splits))
    scores = {(classifier, metric): np.full(shape, np.nan) for classifier in CLASSIFIERS for metric in METRICS}
    majority = {metric: np.empty(len(splits)) for metric in METRICS}
    stopped = 0
    for at, (train, test) in enumerate(splits):
        guess = np.full(len(test), np.bincount(task.classes[train]).argmax())
        for metric in METRICS:
            majority[metric][at] = _score(metric, task.classes[test], guess)
        for classifier in CLASSIFIERS:
            for trained in vectors:
                predict, converged = _FIT[classifier](vectors[trained][train], task.classes[train])
                stopped += not converged
                for tested in vectors:
                    if space(trained) == space(tested):
                        answers = predict(vectors[tested][test])
                        cell = (names.index(trained), names.index(tested), at)
                        for metric in METRICS:
                            scores[classifier, metric][cell] = _score(metric, task.classes[test], answers)
    canonical = [names.index(same_as.get(name, name)) for name in names]
    if any(Variant.parse(name).mode.stochastic for name in names):
        notes.append(
            "A stochastic variant is one pass: its interval is over folds, not over the masks of other passes."
        )
    if stopped:
        notes.append(f"{stopped} of {len(splits) * len(vectors)} logistic regressions stopped before they converged.")
    return Probe(
        variants=names,
        same_as=same_as,
        # A variant that equals an earlier one has the row and the column of that one.
        scores={key: values[np.ix_(canonical, canonical)] for key, values in scores.items()},
        majority=majority,
        classes=task.sizes,
        dropped=task.dropped,
        n=len(embeddings),
        n_labelled=task.n_labelled,
        n_used=len(task.rows),
        n_duplicates=task.n_duplicates,
        folds=folds,
        repeats=repeats,
        seed=seed,
        level=level,
        sentence=(
            f"{repeats} × {folds}-fold stratified cross-validation, the same folds for every variant; logistic "
            f"regression (standardised, L2) and {_NEIGHBORS}-NN (cosine); {level:.0%} intervals by the corrected "
            "resampled t-test"
        ),
        sampling=task.sampling,
        notes=tuple(notes),
    )


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


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """The texts that take part, and their classes."""

    rows: NDArray[np.intp]
    classes: NDArray[np.intp]
    groups: NDArray[np.intp]  # texts of the same wording share a number
    sizes: dict[str, int]
    dropped: dict[str, int]
    n_labelled: int
    n_duplicates: int
    sampling: str
    notes: list[str]

    @classmethod
    def of(cls, embeddings: EmbeddingSet, folds: int, seed: int) -> _Task:
        labels = embeddings.labels
        labelled = [row for row, value in enumerate(labels) if value is not None]
        if not labelled:
            raise SettingsError(
                "the set has no labels, and without them there is nothing to probe for",
                "Extract it with --label-column.",
            )
        notes, sampling = [], f"nothing was sampled: all {len(labelled):,} labelled texts"
        if len(labelled) < len(labels):
            notes.append(f"{len(labelled):,} of {len(labels):,} texts have a label: only they were used.")
        rows = np.array(labelled, dtype=np.intp)
        if len(rows) > _MOST_TEXTS:
            sampling = f"{_MOST_TEXTS:,} of {len(rows):,} labelled texts, drawn at random"
            rows = np.sort(np.random.default_rng(derive(seed, "probe")).choice(rows, _MOST_TEXTS, replace=False))
        wording: dict[str, int] = {}
        texts = embeddings.texts
        groups = np.array([wording.setdefault(texts[row], len(wording)) for row in rows], dtype=np.intp)
        values = [str(labels[row]) for row in rows]
        # Copies stay in one fold, so a class reaches as many folds as it has distinct texts.
        distinct = Counter(value for value, _ in set(zip(values, groups.tolist(), strict=True)))
        sizes = Counter(values)
        kept = sorted(value for value in sizes if distinct[value] >= folds)
        dropped = {value: sizes[value] for value in sorted(sizes) if distinct[value] < folds}
        if len(kept) < 2:
            found = ", ".join(f"{value} {count}" for value, count in sorted(distinct.items())[:10])
            raise DegenerateInputError(
                f"{folds} folds need two classes of at least {folds} distinct texts, and there are: {found}",
                "Use fewer folds, or label more texts.",
            )
        if dropped:
            listed = ", ".join(f"{value} ({count})" for value, count in dropped.items())
            notes.append(f"Classes with fewer distinct texts than the {folds} folds were left out: {listed}.")
        number = {value: at for at, value in enumerate(kept)}
        stay = np.array([value in number for value in values])
        classes = np.array([number[value] for value in values if value in number], dtype=np.intp)
        groups = groups[stay]
        duplicates = len(groups) - len(np.unique(groups))
        if duplicates:
            notes.append(f"{duplicates:,} texts have the wording of another; copies were kept in one fold.")
        left = {value: sizes[value] for value in kept}
        return cls(rows[stay], classes, groups, left, dropped, len(labelled), duplicates, sampling, notes)

    def splits(self, folds: int, repeats: int, seed: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Training and test rows of every fold of every repeat."""
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

        # Without copies the plain one does the same, a hundred times faster.
        kind, groups = (StratifiedGroupKFold, self.groups) if self.n_duplicates else (StratifiedKFold, None)
        for repeat in range(repeats):
            folder = kind(folds, shuffle=True, random_state=derive(seed, "folds", repeat))
            yield from folder.split(np.zeros(len(self.rows)), self.classes, groups)


Predict = Callable[[Vectors], NDArray[np.intp]]


def _logistic(vectors: Vectors, classes: NDArray[np.intp]) -> tuple[Predict, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    # Its products are too small to share: threads of BLAS that wait for each other cost more than they give.
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the caller tells, once for all fits
        model.fit(vectors, classes)
    return model.predict, bool((model[-1].n_iter_ < model[-1].max_iter).all())


def _knn(vectors: Vectors, classes: NDArray[np.intp]) -> tuple[Predict, bool]:
    from sklearn.neighbors import KNeighborsClassifier

    # Directions order by euclidean distance as by cosine, and scikit-learn has a fast path for the former only.
    model = KNeighborsClassifier(min(_NEIGHBORS, len(vectors)), algorithm="brute").fit(_directions(vectors), classes)
    return lambda tested: model.predict(_directions(tested)), True


def _directions(vectors: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


_FIT: Mapping[str, Callable[[Vectors, NDArray[np.intp]], tuple[Predict, bool]]] = {"logistic": _logistic, "knn": _knn}


def _score(metric: str, truth: NDArray[np.intp], answers: NDArray[np.intp]) -> float:
    from sklearn.metrics import accuracy_score, f1_score

    if metric == "accuracy":
        return float(accuracy_score(truth, answers))
    # A class that was never answered has an F1 of 0, not none.
    return float(f1_score(truth, answers, average="macro", labels=np.unique(truth), zero_division=0.0))
