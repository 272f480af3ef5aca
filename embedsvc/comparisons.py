"""What a comparison found: the figures of every pair of variants, as matrix, table, picture and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc import plots
from embedsvc.errors import SettingsError
from embedsvc.figures import Figure, Pair
from embedsvc.metrics import METRICS
from embedsvc.results import Columns, Result

__all__ = ["Comparison"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Comparison(Result):
    """What `compare` found.

    Attributes
    ----------
    variants : tuple of str
        Compared, identical ones included. With a second set they begin with ``this:`` or ``other:``.
    pairs : tuple of Pair
        Every two of those that differ.
    identical : mapping of str to str
        Variants and the earlier one they equal bit for bit.
    left_out : tuple of str
        Variants of the set that were not asked for.
    ids : tuple of str
        Texts compared.
    queries : ndarray of shape (m,)
        Rows whose neighbours were searched.
    ks : tuple of int
    seed, n_permutations, n_bootstrap, n_simulations : int
    sampling, method : str
    notes : tuple of str
    """

    variants: tuple[str, ...]
    pairs: tuple[Pair, ...]
    identical: Mapping[str, str]
    left_out: tuple[str, ...]
    ids: tuple[str, ...]
    queries: NDArray[np.int64]
    ks: tuple[int, ...]
    seed: int
    n_permutations: int
    n_bootstrap: int
    n_simulations: int
    sampling: str
    method: str
    notes: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int:
        """Texts compared."""
        return len(self.ids)

    def pair(self, a: str, b: str) -> Pair | None:
        """The pair of two variants in either order, through what they are identical to; None if they are the same.

        Raises
        ------
        SettingsError
            If one was not compared.
        """
        for name in (a, b):
            if name not in self.variants:
                raise SettingsError(f"{name} was not compared", f"Compared: {', '.join(self.variants)}")
        wanted = {self.identical.get(a, a), self.identical.get(b, b)}
        return next((pair for pair in self.pairs if {pair.a, pair.b} == wanted), None)

    def matrix(self, measure: str) -> Floats:
        """Observed values between all `variants`, NaN where there is none."""
        own = METRICS[measure if measure in METRICS else measure.rpartition("_")[0]].on_identical
        values = np.full((len(self.variants),) * 2, np.nan)
        for i, a in enumerate(self.variants):
            for j, b in enumerate(self.variants):
                pair = self.pair(a, b)
                if pair is None:
                    values[i, j] = own
                elif measure in pair.figures:
                    values[i, j] = pair.figures[measure].observed
        return values

    def scores(self) -> dict[str, Floats]:
        """Per-text scores of all pairs, by ``score(a,b)``: the columns of the scores file."""
        return {f"{name}({p.a},{p.b})": values for p in self.pairs for name, values in p.scores.items()}

    def plot(self, measure: str | None = None, *, figure: plots.MplFigure = None) -> plots.MplFigure:
        """One measure between every two variants, in brackets what the mask alone gives.

        Parameters
        ----------
        measure : str, optional
            A name out of the pairs' figures (``"cka"``, ``"knn_overlap_10"``); by default the first there is.
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; by default a new one, which shows itself in a notebook.
        """
        known = list(dict.fromkeys(name for pair in self.pairs for name in pair.figures))
        measure = measure or next(iter(known), "cka")
        if known and measure not in known:
            raise SettingsError(f"{measure!r} was not measured", f"There are: {', '.join(known)}")
        words = {}
        values = self.matrix(measure)
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                pair = self.pair(self.variants[row], self.variants[column])
                alone = None if pair is None else pair.figures[measure].expected
                words[row, column] = f"{value:.2f}" + ("" if alone is None else f"\n({alone:.2f})")
        side = 3 + 0.7 * len(self.variants)
        figure = plots.canvas((side + 1.5, side), figure)
        axes = plots.matrix(figure, self.variants, values, words)
        told = "; in brackets: the mask alone" if any("(" in word for word in words.values()) else ""
        axes.set_title(f"{measure}{told}", fontsize=10)
        return figure

    def _facts(self) -> dict[str, object]:
        return {
            "texts": self.n,
            "variants": len(self.variants),
            "pairs that differ": len(self.pairs),
            "seed": self.seed,
        }

    def _table(self) -> Columns:
        """A row for each measure of each pair."""
        rows = [
            (
                *(pair.a, pair.b, measure, figure.observed, figure.interval.low, figure.interval.high),
                *(figure.expected, figure.expected_by, figure.null.mean, figure.null.low, figure.null.high),
            )
            for pair in self.pairs
            for measure, figure in pair.figures.items()
        ]
        names = (
            *("a", "b", "measure", "observed", "low", "high"),
            *("expected", "expected_by", "null_mean", "null_low", "null_high"),
        )
        return {name: [row[at] for row in rows] for at, name in enumerate(names)}

    def _summary(self) -> Columns:
        """A row for each pair: observed, in brackets the mask alone."""

        def word(figure: Figure | None) -> str:
            if figure is None:
                return "–"
            alone = "" if figure.expected is None else f" ({figure.expected:.3f})"
            return f"{figure.observed:.3f}{alone}"

        measures = dict.fromkeys(name for pair in self.pairs for name in pair.figures)
        return {
            "a": [pair.a for pair in self.pairs],
            "b": [pair.b for pair in self.pairs],
            **{name: [word(pair.figures.get(name)) for pair in self.pairs] for name in measures},
        }

    def to_json(self) -> dict[str, Any]:
        """JSON values only; per-text scores stay out."""
        return {
            "n": self.n,
            "variants": list(self.variants),
            "identical": dict(self.identical),
            "left_out": list(self.left_out),
            "ks": list(self.ks),
            "seed": self.seed,
            "n_permutations": self.n_permutations,
            "n_bootstrap": self.n_bootstrap,
            "n_simulations": self.n_simulations,
            "sampling": self.sampling,
            "method": self.method,
            "notes": list(self.notes),
            "pairs": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "dropout_alone": pair.mechanism and str(pair.mechanism),
                    "figures": {name: figure.to_json() for name, figure in pair.figures.items()},
                    "omitted": dict(pair.omitted),
                }
                for pair in self.pairs
            ],
        }
