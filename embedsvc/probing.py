"""How well labels can be read off each variant: the same classifiers on the same folds, trained on one, tested on any.

Practitioners mix variants: a classifier is trained on vectors from before the dropout and given vectors from after it.
So every classifier is tested on every variant of its space, not only on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from embedsvc.embeddings import EmbeddingSet, SetOrPath, as_set
from embedsvc.errors import DegenerateInputError, SettingsError
from embedsvc.nearest import nearest
from embedsvc.probes import CLASSIFIERS, METRICS, Probe
from embedsvc.threads import each, silenced
from embedsvc.types import Variant, Vectors, check_seed
from embedsvc.variants import choose, derive, space
from embedsvc.vectors import check_squares, check_vectors

__all__ = ["probe"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_NEIGHBORS = 10


def probe(
    embeddings: SetOrPath,
    *,
    variants: Sequence[str] | None = None,
    folds: int = 5,
    repeats: int = 4,
    level: float = 0.95,
    max_texts: int = 5_000,
    seed: int,
) -> Probe:
    """Cross-validate a logistic regression and a k-NN classifier on every variant, on the same folds.

    The logistic regression (L2, C = 1) sees columns standardised by the training part of the fold; k-NN takes the 10
    nearest texts by cosine. Only labelled texts are used.

    Parameters
    ----------
    embeddings : EmbeddingSet, str or Path
    variants : sequence of str, optional
        See `variants.choose`; the reference is put first.
    folds : int
        From 2 on; stratified by class. Texts of the same wording are kept in one fold, else the answer would leak.
    repeats : int
        From 1 on; each shuffles the texts into other folds.
    level : float
        Of the intervals, between 0 and 1.
    max_texts : int
        Of more labelled texts so many are drawn.
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
    embeddings = as_set(embeddings)
    from sklearn.exceptions import ConvergenceWarning

    check_seed(seed)
    if folds < 2 or repeats < 1 or not 0 < level < 1 or max_texts < 1:
        raise SettingsError(
            f"folds, repeats, level and max_texts are {folds}, {repeats}, {level} and {max_texts}",
            "Expected at least 2 folds, 1 repeat, a level between 0 and 1, and at least 1 text.",
        )
    names = choose(embeddings, variants)
    task = _Task.of(embeddings, folds, max_texts, seed)
    notes = list(task.notes)
    vectors: dict[str, Vectors] = {}
    same_as: dict[str, str] = {}
    for name in names:
        chosen = check_squares(check_vectors(embeddings[name], name), name)[task.rows]
        twin = next((other for other, known in vectors.items() if np.array_equal(known, chosen)), None)
        if twin is None:
            vectors[name] = chosen
        else:
            same_as[name] = twin

    splits = list(task.splits(folds, repeats, seed))
    with silenced(ConvergenceWarning):  # told below, once for all fits
        found = each(lambda split: _score_fold(task, vectors, names, *split), splits)
    scores = {key: np.stack([fold.scores[key] for fold in found], axis=-1) for key in product(CLASSIFIERS, METRICS)}
    majority = {metric: np.array([fold.majority[metric] for fold in found]) for metric in METRICS}
    stopped = sum(fold.stopped for fold in found)
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
    def of(cls, embeddings: EmbeddingSet, folds: int, max_texts: int, seed: int) -> _Task:
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
        if len(rows) > max_texts:
            sampling = f"{max_texts:,} of {len(rows):,} labelled texts, drawn at random"
            rows = np.sort(np.random.default_rng(derive(seed, "probe")).choice(rows, max_texts, replace=False))
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
                "Use fewer folds, or label more texts." if len(distinct) > 1 else "Label texts of another class, too.",
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


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """Scores of one fold; `stopped` counts the regressions that did not converge."""

    scores: dict[tuple[str, str], Floats]
    majority: dict[str, float]
    stopped: int


def _score_fold(task: _Task, vectors: Mapping[str, Vectors], names: Sequence[str], train: Rows, test: Rows) -> _Fold:
    """Every classifier trained on every variant, tested on every variant of its space; NaN elsewhere."""
    truth = task.classes[test]
    guess = np.full(len(test), np.bincount(task.classes[train]).argmax())
    shape = (len(names), len(names))
    scores = {key: np.full(shape, np.nan) for key in product(CLASSIFIERS, METRICS)}
    stopped = 0
    for classifier, trained in product(CLASSIFIERS, vectors):
        predict, converged = _FIT[classifier](vectors[trained][train], task.classes[train])
        stopped += not converged
        for tested in vectors:
            if space(trained) == space(tested):
                answers = predict(vectors[tested][test])
                for metric in METRICS:
                    scores[classifier, metric][names.index(trained), names.index(tested)] = _score(
                        metric, truth, answers
                    )
    return _Fold(scores, {metric: _score(metric, truth, guess) for metric in METRICS}, stopped)


Predict = Callable[[Vectors], NDArray[np.intp]]


def _logistic(vectors: Vectors, classes: NDArray[np.intp]) -> tuple[Predict, bool]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(vectors, classes)
    return model.predict, bool((model[-1].n_iter_ < model[-1].max_iter).all())


def _knn(vectors: Vectors, classes: NDArray[np.intp]) -> tuple[Predict, bool]:
    known, k = _directions(vectors), min(_NEIGHBORS, len(vectors))
    one_hot = np.eye(int(classes.max()) + 1, dtype=np.intp)

    def predict(tested: Vectors) -> NDArray[np.intp]:
        found, _ = nearest(known, _directions(tested), k)
        # The class with most neighbours; of equal ones the first, as scikit-learn has it.
        answers = np.asarray(one_hot[classes[found]].sum(axis=1).argmax(axis=1), dtype=np.intp)
        # Without a direction a text is as far from one as from another: all are its neighbours.
        answers[~tested.any(axis=1)] = np.bincount(classes).argmax()
        return answers

    return predict, True


def _directions(vectors: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


_FIT: Mapping[str, Callable[[Vectors, NDArray[np.intp]], tuple[Predict, bool]]] = {"logistic": _logistic, "knn": _knn}


def _score(metric: str, truth: Rows, answers: Rows) -> float:
    # By hand: scikit-learn's checks of so few numbers took most of the time of a probe.
    right = truth == answers
    if metric == "accuracy":
        return float(right.mean())
    n_classes = int(max(truth.max(), answers.max())) + 1
    hits, true, told = (np.bincount(each, minlength=n_classes) for each in (truth[right], truth, answers))
    present = true > 0
    # F1 of a class is 2·TP / (2·TP + FP + FN): 0, not none, for one that was never answered.
    return float((2 * hits[present] / (true + told)[present]).mean())
