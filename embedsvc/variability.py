"""What `stability` gives: how far stochastic passes scatter for each text, and whom they move to other company."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import plots
from embedsvc.results import Columns, Result
from embedsvc.scores import write_scores
from embedsvc.tallies import ClassScores, VectorScores
from embedsvc.types import Mode

__all__ = ["ClusterFlips", "Curve", "NeighborFlips", "Stability", "Variability", "VarianceSplit"]

Floats = NDArray[np.float64]

_MOST = 10  # texts listed for each score
_RANKED = ("class_flip", "neighbor_flip", "cluster_flip", "bald")


@dataclass(frozen=True, slots=True, eq=False)
class NeighborFlips:
    """How often the nearest neighbours of a text are others in a pass than in inference.

    Attributes
    ----------
    k : int
    passes : tuple of int
        The sampled passes.
    flip : ndarray of shape (n,)
        Mean over the sampled passes of the share of the k nearest neighbours that are lost; NaN for texts that were
        not sampled.
    """

    k: int
    passes: tuple[int, ...]
    flip: Floats


@dataclass(frozen=True, slots=True, eq=False)
class ClusterFlips:
    """How often a text is in another cluster in a pass than in inference, clusters matched one to one.

    Attributes
    ----------
    method : str
        How the clusters were made, with their number.
    passes : tuple of int
        The passes that were clustered.
    flip : ndarray of shape (n,)
        Share of these passes in which the text is elsewhere; NaN for texts that were not sampled.
    """

    method: str
    passes: tuple[int, ...]
    flip: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Variability:
    """The passes of one mode.

    Attributes
    ----------
    mode : Mode
        `head`, drawn here, or `training`, as stored.
    passes : int
    vectors : VectorScores
        Of `post_dropout`.
    expected : VectorScores or None
        What the head's mask alone predicts in closed form: p/q · ‖x‖², √q - p/(8 · PR · √q) with the participation
        ratio PR, and q - p/(4 · PR). None in training mode, where the encoder draws too.
    classes : ClassScores or None
        None without a trained head.
    neighbors : NeighborFlips or None
    clusters : ClusterFlips or None
        None if not asked for, or if the texts cannot be clustered.
    """

    mode: Mode
    passes: int
    vectors: VectorScores
    expected: VectorScores | None
    classes: ClassScores | None
    neighbors: NeighborFlips | None
    clusters: ClusterFlips | None

    def columns(self) -> dict[str, Floats]:
        """Every score by its name, each of shape (n,)."""
        found = {f.name: getattr(self.vectors, f.name) for f in fields(VectorScores)}
        if self.expected is not None:
            found |= {f"expected_{f.name}": getattr(self.expected, f.name) for f in fields(VectorScores)}
        if self.classes is not None:
            found |= {f.name: getattr(self.classes, f.name) for f in fields(ClassScores)}
        if self.neighbors is not None:
            found["neighbor_flip"] = self.neighbors.flip
        if self.clusters is not None:
            found["cluster_flip"] = self.clusters.flip
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The T-curve: cosine of the mean of the first T head passes with `pre_dropout`.

    Attributes
    ----------
    passes : tuple of int
        T: powers of two, and the last.
    observed, low, high : ndarray of shape (len(passes),)
        Mean over the texts, and their 5th and 95th percentiles.
    expected : ndarray of shape (len(passes),)
        1/√(1 + p/(qT)).
    """

    passes: tuple[int, ...]
    observed: Floats
    low: Floats
    high: Floats
    expected: Floats


@dataclass(frozen=True, slots=True, eq=False)
class VarianceSplit:
    """Total variance of `post_dropout` in training mode, split by the law of total variance.

    Attributes
    ----------
    encoder : ndarray of shape (n,)
        Unbiased variance of `pre_dropout` over the stored training passes, summed over the units.
    head : ndarray of shape (n,)
        p/q · E[pre²], summed over the units.
    observed : ndarray of shape (n,)
        Unbiased variance of `post_dropout` over the same passes: an estimate of encoder + head.
    """

    encoder: Floats
    head: Floats
    observed: Floats

    @property
    def encoder_share(self) -> float:
        """Share of the encoder in the predicted total over all texts, from 0 to 1; NaN if nothing varies."""
        encoder, total = float(self.encoder.sum()), float((self.encoder + self.head).sum())
        return encoder / total if total > 0 else float("nan")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Stability(Result):
    """What `stability` found.

    Attributes
    ----------
    ids : tuple of str
    rate : float
        Dropout rate p of the head.
    seed : int
        Of the head passes, and of what was sampled.
    head : Variability
    training : Variability or None
        None where the set stores fewer than two training passes of `post_dropout`.
    curve : Curve
    split : VarianceSplit or None
        None where the set does not store `pre_dropout` of these passes too.
    restarts : ndarray of shape (n,) or None
        `ClusterFlips.flip` of other starts of the clustering on the very vectors of inference: what no pass did.
    method, sampling : str
        What was done, and on how much of the data.
    """

    ids: tuple[str, ...]
    rate: float
    seed: int
    head: Variability
    training: Variability | None
    curve: Curve
    split: VarianceSplit | None
    restarts: Floats | None
    method: str
    sampling: str

    @property
    def n(self) -> int:
        """Number of texts."""
        return len(self.ids)

    def columns(self) -> dict[str, Floats]:
        """Scores of each text by ``mode.score``, each of shape (n,)."""
        modes = [self.head, *([self.training] if self.training else [])]
        found = {f"{each.mode}.{name}": values for each in modes for name, values in each.columns().items()}
        if self.split is not None:
            found |= {"training.encoder_variance": self.split.encoder, "training.head_variance": self.split.head}
        if self.restarts is not None:
            found["restarts.cluster_flip"] = self.restarts
        return found

    def write(self, path: str | Path) -> None:
        """Write the scores of every text as Parquet, see `write_scores`."""
        facts = {"method": self.method, "sampling": self.sampling, "seed": self.seed, "rate": self.rate}
        write_scores(path, self.ids, self.columns(), facts=facts)

    def most(self, column: str, count: int = _MOST) -> list[tuple[str, float]]:
        """Ids and values of the texts that score highest, highest first; ties in the order of the set."""
        values = self.columns()[column]
        order = np.argsort(-values, kind="stable")  # NaN comes last
        return [(self.ids[row], float(values[row])) for row in order[:count] if not np.isnan(values[row])]

    def plot(self, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """The T-curve: how near the mean of T head passes comes to `pre_dropout`.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        figure = plots.canvas((7, 4), figure)
        each = self.curve
        plots.curve(figure, each.passes, observed=each.observed, low=each.low, high=each.high, expected=each.expected)
        return figure

    def _facts(self) -> dict[str, object]:
        training = {} if self.training is None else {"training passes": self.training.passes}
        return {"texts": self.n, "rate": self.rate, "head passes": self.head.passes, **training, "seed": self.seed}

    def _table(self) -> Columns:
        """A row for each text: the scores of `columns`."""
        return {"id": self.ids, **self.columns()}

    def _summary(self) -> Columns:
        """A row for each score: its mean and quantiles over the texts."""
        scores = {name: _summary(values) for name, values in self.columns().items()}
        known = dict.fromkeys(key for each in scores.values() for key in each or {})
        return {"score": list(scores), **{key: [(each or {}).get(key) for each in scores.values()] for key in known}}

    def to_json(self) -> dict[str, Any]:
        """The summary: means and quantiles of every score, the curve, the split, and the texts that change most."""
        columns = self.columns()
        modes = [each.mode for each in (self.head, self.training) if each]
        ranked = [f"{mode}.{name}" for mode in modes for name in _RANKED if f"{mode}.{name}" in columns]
        split = self.split and {
            "encoder": _mean(self.split.encoder),
            "head": _mean(self.split.head),
            "observed": _mean(self.split.observed),
            "encoder_share": _number(self.split.encoder_share),
        }
        return {
            "n": self.n,
            "rate": self.rate,
            "seed": self.seed,
            "passes": {each.mode: each.passes for each in (self.head, self.training) if each},
            "scores": {name: _summary(values) for name, values in columns.items()},
            "curve": {
                "passes": list(self.curve.passes),
                **{
                    name: [_number(value) for value in getattr(self.curve, name)]
                    for name in ("observed", "low", "high", "expected")
                },
            },
            "split": split,
            "most": {name: [{"id": id_, "value": value} for id_, value in self.most(name)] for name in ranked},
            "method": self.method,
            "sampling": self.sampling,
        }


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def _summary(values: Floats) -> Mapping[str, float | int | None]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"n": 0, "mean": None, "p5": None, "median": None, "p95": None}
    low, middle, high = np.percentile(known, [5, 50, 95])
    return {
        "n": len(known),
        "mean": float(known.mean()),
        "p5": float(low),
        "median": float(middle),
        "p95": float(high),
    }
