"""Every figure of the report as a PNG, drawn by matplotlib without a display."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedsvc import plots
from embedsvc.colors import BLUE, GREY, GROUPS, RED, by_group, by_score
from embedsvc.reporting.explorer import Explorer
from embedsvc.reporting.panels import (
    Flow,
    Group,
    Matrix,
    explored,
    flow_ends,
    flows,
    groups,
    matrices,
    moved,
    ribbons,
)
from embedsvc.reporting.report import Report
from embedsvc.reporting.scores import Score, scores
from embedsvc.reporting.tables import tables

__all__ = ["drawings", "write_png"]

Axes = Any  # matplotlib has no types here

# Tables of the report whose words are those of the figures of a kind.
_TOLD_BY = {
    "maps": "maps",
    "change": "maps",
    "flow": "clusters",
    "groups": "groups",
    "matrix": "pairs",
    "curve": "curve",
}
_QUIET = "#545d69"


def write_png(report: Report, path: Path) -> list[Path]:
    """Write each figure next to the others: ``report-maps.png``, ``report-curve.png`` and so on for ``report.png``."""
    found, listed = [], tables(report)
    histograms = {f"histogram-{at}": score.about for at, score in enumerate(scores(report))}
    for name, (size, draw) in drawings(report).items():
        # A picture travels without its report, and takes along what it is of.
        table = listed.get(_TOLD_BY.get(name.partition("-")[0], ""))
        about = textwrap.wrap(histograms.get(name, "" if table is None else table.about), int(size[0] * 19))
        width, height, foot = *size, 0.13 * (len(about) + 1)
        figure = plots.canvas((width, height + foot))
        drawn, below = figure.subfigures(2, height_ratios=[height, foot])
        draw(drawn)
        below.text(0.01, 0.5, "\n".join(about), va="center", fontsize=7, color=_QUIET, linespacing=1.3)
        file = path.with_name(f"{path.stem}-{name}.png")
        figure.savefig(file, dpi=144, facecolor="white")
        found.append(file)
    return found


def drawings(report: Report) -> dict[str, tuple[tuple[float, float], Callable[[Any], None]]]:
    """Size in inches and drawing of every figure there is something for, by name."""
    found: dict[str, tuple[tuple[float, float], Callable[[Any], None]]] = {}
    told, ranked = explored(report), groups(report)
    what = (moved(report) or ((), "change"))[1]
    stability = report.stability
    if told is not None:
        found["maps"] = ((11, 5.4), lambda figure: _maps(figure, told))
        if told.scores:
            found["change"] = ((11, 5.4), lambda figure: _maps(figure, told, told.scores[0]))
    for at, score in enumerate(scores(report)):
        if np.isfinite(score.values).any():
            found[f"histogram-{at}"] = ((8, 3), lambda figure, score=score: _histogram(figure, score))  # type: ignore[misc]
    for at, flow in enumerate(flow for flow in flows(report) if flow.reference == report.reference):
        size = (8, max(3.0, 0.4 * max(flow.counts.shape)))
        found[f"flow-{at}"] = (size, lambda figure, flow=flow: _flow(figure, flow))  # type: ignore[misc]
    if ranked:
        found["groups"] = ((8, 1 + 0.3 * len(ranked)), lambda figure: _groups(figure, ranked, what, str(report.focus)))
    for matrix in matrices(report):
        side = 3 + 0.7 * len(matrix.variants)
        found[f"matrix-{matrix.measure}"] = ((side + 1.5, side), lambda figure, matrix=matrix: _matrix(figure, matrix))  # type: ignore[misc]
    if stability is not None:
        found["curve"] = ((7, 4), lambda figure: stability.plot(figure=figure))
    return found


def _maps(figure: Any, told: Explorer, score: Score | None = None) -> None:  # noqa: ANN401
    colored = by_score(score.values) if score else by_group(next(iter(told.groups.values()))) if told.groups else None
    title = f"{len(told.ids):,} texts" + (f", {score.name}" if score else "")
    plots.maps(figure, {name: told.maps[name] for name in (told.first, told.second)}, colored, title)


def _histogram(figure: Any, score: Score) -> None:  # noqa: ANN401
    axes = figure.subplots()
    edges, counts, expected = score.bins()
    axes.stairs(counts, edges, fill=True, color=BLUE, label="texts")
    if expected is not None:
        axes.stairs(expected, edges, color=RED, linewidth=1.5, label=score.null_name)
        axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    plots.clean(axes)
    axes.set_xlabel(score.name)
    axes.set_ylabel("texts")


def _flow(figure: Any, flow: Flow) -> None:  # noqa: ANN401
    axes = figure.subplots()
    for each in ribbons(flow):
        axes.fill(each.x, each.y, color=GROUPS[each.left] if each.left < len(GROUPS) else GREY, alpha=0.55, linewidth=0)
    totals = flow.counts.sum(axis=1), flow.counts.sum(axis=0)
    for side, (ends, names, counts) in enumerate(zip(flow_ends(flow), (flow.left, flow.right), totals, strict=True)):
        for (low, high), name, count in zip(ends, names, counts, strict=True):
            axes.fill_between([side - 0.012, side + 0.012], low, high, color=GREY, linewidth=0)
            align = "left" if side else "right"
            axes.text(
                side + (0.03 if side else -0.03),
                (low + high) / 2,
                f"{name} ({count:,})",
                ha=align,
                va="center",
                fontsize=8,
            )
    axes.set_xlim(-0.75, 1.4)
    axes.axis("off")
    ari = "" if flow.ari is None else f", ARI {flow.ari:.2f}"
    axes.set_title(f"{flow.reference} to {flow.variant}: {flow.counts.sum():,} texts{ari}", fontsize=10)


def _groups(figure: Any, ranked: list[Group], what: str, variant: str) -> None:  # noqa: ANN401
    rows = [
        (
            f"{'label' if group.kind == 'label' else 'cluster'} {group.name} ({group.n:,})",
            *(group.mean, group.low, group.high),
            BLUE if group.kind == "label" else RED,
        )
        for group in ranked
    ]
    plots.intervals(figure, rows, line=0.0, label=f"mean {what} of neighbours in {variant}")


def _matrix(figure: Any, matrix: Matrix) -> None:  # noqa: ANN401
    where = {name: at for at, name in enumerate(matrix.variants)}
    values, words = np.full((len(where), len(where)), np.nan), {}
    for a, b, value, found in matrix.cells():
        values[where[b], where[a]] = value
        alone = "" if found is None or found.expected is None else f"\n({found.expected:.2f})"
        words[where[b], where[a]] = f"{value:.2f}{alone}"
    axes = plots.matrix(figure, matrix.variants, values, words)
    axes.set_title(f"{matrix.measure}; in brackets: the mask alone", fontsize=10)
