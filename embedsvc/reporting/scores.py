"""The numbers a text has in a report: how much it changed, how far its passes scatter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.reporting.report import Report
from embedsvc.variability import Variability

__all__ = ["Score", "scores"]

Floats = NDArray[np.float64]

_BINS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One number for each text.

    Attributes
    ----------
    name : str
    values : ndarray of shape (n,)
        NaN where a text has none.
    about : str
        What it is, on how many texts, by what method.
    null : ndarray of shape (m,) or None
        What comes of the mask alone, for the outline over the histogram.
    null_name : str
    """

    name: str
    values: NDArray[np.floating[Any]]
    about: str = ""
    null: NDArray[np.floating[Any]] | None = None
    null_name: str = "the head's mask alone"

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None]:
        """Edges, texts in each bin, and how many there would be by the null, if there is one."""
        known, null = (
            np.asarray(values, dtype=np.float64)[np.isfinite(values)]
            for values in (self.values, np.empty(0) if self.null is None else self.null)
        )
        edges = _edges(np.concatenate([known, null]))
        expected = np.histogram(null, edges)[0] * (len(known) / len(null)) if len(null) else None
        return edges, np.histogram(known, edges)[0], expected


def scores(report: Report) -> list[Score]:
    """Numbers for each text, what changed beyond the mask first."""
    found: list[Score] = []
    n = report.n
    searched = n if report.comparison is None else len(report.comparison.queries)
    of = f"all {n:,} texts" if searched == n else f"{searched:,} sampled of {n:,} texts"
    drawn = [each.variant for each in report.overlaps]
    head = next((name for name in drawn if ".head." in name), None)
    null = None if head is None else report.excess(head)
    for variant in sorted(drawn, key=lambda name: name != report.focus):
        excess = report.excess(variant)
        if excess is not None:
            about = (
                f"Share of a text's {report.k} nearest neighbours lost from {report.reference} to {variant}, less the "
                f"share that drawn head masks lose: 0 is what the mask alone does. {of[0].upper()}{of[1:]}."
            )
            alone = None if variant == head else null
            found.append(Score(f"excess change {variant}", excess, about, alone, f"a head mask alone ({head})"))
    change = None if report.focus is None else report.change(report.focus)
    if report.focus is not None and change is not None:
        about = (
            f"Share of a text's {report.k} nearest neighbours in {report.reference} that are others in "
            f"{report.focus}, of {of}."
        )
        changed = Score(f"neighbours changed {report.focus}", change, about)
        # Between two models no mask predicts anything, so that there is no excess to begin with.
        found.insert(0 if report.excess(report.focus) is None else len(found), changed)
    if report.stability is not None:
        made = report.stability.head
        over = f"over {made.passes:,} head passes, all {n:,} texts; dropout variability, not calibrated uncertainty."
        if made.classes is not None:
            found += [
                Score("entropy", made.classes.predictive_entropy, f"Predictive entropy in nats {over}"),
                Score("BALD", made.classes.bald, f"Mutual information of class and mask in nats {over}"),
                Score(
                    "class flips",
                    made.classes.class_flip,
                    f"Share of passes whose class is not that of inference {over}",
                ),
            ]
        training = report.stability.training
        for each in (made, training):
            found += [] if each is None else _flips(report, each)
        if training is not None:
            about = (
                f"1 less the mean cosine of two training passes, over {training.passes} stored passes, all {n:,} texts."
            )
            found.append(Score("scatter of training passes", 1.0 - training.vectors.cosine_between, about))
        about = f"1 less the mean cosine of two head passes {over}"
        null = None if made.expected is None else 1.0 - made.expected.cosine_between
        found.append(Score("scatter of head passes", 1.0 - made.vectors.cosine_between, about, null, "closed form"))
    return found


def _flips(report: Report, made: Variability) -> list[Score]:
    """How often neighbours and clusters are others than in inference."""
    found = []
    if made.neighbors is not None:
        about = (
            f"Share of a text's {made.neighbors.k} nearest neighbours in inference that {made.mode} passes lose, mean "
            f"over {len(made.neighbors.passes)} of them, of {_of(made.neighbors.flip)}."
        )
        found.append(Score(f"neighbour flips {made.mode}", made.neighbors.flip, about))
    if made.clusters is not None:
        about = (
            f"Share of {len(made.clusters.passes)} {made.mode} passes that put a text into another cluster than "
            f"inference does, of {_of(made.clusters.flip)}; clusters matched one to one. {made.clusters.method}."
        )
        restarts = None if report.stability is None else report.stability.restarts
        found.append(
            Score(f"cluster flips {made.mode}", made.clusters.flip, about, restarts, "other starts of the method alone")
        )
    return found


def _of(values: Floats) -> str:
    known = int(np.isfinite(values).sum())
    return f"all {len(values):,} texts" if known == len(values) else f"{known:,} sampled of {len(values):,} texts"


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bins that hold equally many of the values that shares of k neighbours can take, or evenly wide ones."""
    distinct = np.unique(values.round(6))
    if len(distinct) < 2:
        middle = float(distinct[0]) if len(distinct) else 0.0
        return np.array([middle - 0.5, middle + 0.5])
    if len(distinct) > 4 * _BINS:
        return np.histogram_bin_edges(values, bins=_BINS)
    gap = float(np.diff(distinct).min())
    width = gap * np.ceil((distinct[-1] - distinct[0]) / gap / (_BINS / 2))
    return np.arange(distinct[0] - gap / 2, distinct[-1] + width, width)
