"""The figures that results and reports share, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.colors import BLUE, GREY, RED, Colored, by_group, by_score
from embedsvc.errors import MissingExtraError, SettingsError

__all__ = [
    "MplFigure",
    "beside",
    "canvas",
    "clean",
    "colored",
    "curve",
    "intervals",
    "losses",
    "maps",
    "matrix",
    "stacked",
]

MplFigure = Any  # matplotlib has no types here
Floats = NDArray[np.float64]


def canvas(size: tuple[float, float], figure: MplFigure = None) -> MplFigure:
    """The figure to draw on: the one given, which may be a subfigure, or a new one of so many inches.

    A new one shows itself in a notebook, and nothing global is touched: pyplot does not know of it.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    if figure is not None:
        return figure
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise MissingExtraError.of("matplotlib", "report") from None
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure._repr_png_ = lambda: _png(figure)
    return figure


def _png(figure: MplFigure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=96, facecolor="white")
    return file.getvalue()


def colored(values: Sequence[object] | NDArray[Any] | None, n: int) -> Colored | None:
    """A colour for each text: by group for names, where None has none, and by score for numbers.

    Raises
    ------
    SettingsError
        If there are not as many values as texts.
    """
    if values is None:
        return None
    if len(values) != n:
        raise SettingsError(f"color holds {len(values):,} values, expected one for each of the {n:,} texts")
    if np.asarray(values).dtype.kind in "fiu":
        return by_score(np.asarray(values, dtype=np.float64))
    return by_group(["" if value is None else str(value) for value in values])


def maps(figure: MplFigure, places: Mapping[str, NDArray[Any]], color: Colored | None, title: str) -> None:
    """One map beside the other, on the same axes; texts that come first lie on top."""
    n = len(next(iter(places.values())))
    size = float(np.clip(9_000 / max(n, 1), 1.5, 18))
    rgba = None
    if color is not None:
        rgba = np.ascontiguousarray(color.rgba).astype(">u4").view(np.uint8).reshape(-1, 4) / 255
    panels = figure.subplots(1, len(places), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, place) in zip(panels, places.items(), strict=True):
        axes.scatter(*place[::-1].T, s=size, c=BLUE if rgba is None else rgba[::-1], linewidths=0)
        axes.set_title(name, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    if color is not None:
        handles = [panels[0].scatter([], [], color=one, label=label) for label, one in color.legend]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)


def matrix(figure: MplFigure, names: Sequence[str], values: Floats, words: Mapping[tuple[int, int], str]) -> Any:  # noqa: ANN401
    """Values between every two names, in words too; NaN stays empty. Gives the axes."""
    axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), word in words.items():
        ink = "white" if values[row, column] < middle else "black"
        axes.text(column, row, word, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return axes


def curve(
    figure: MplFigure, passes: Sequence[int], *, observed: Floats, low: Floats, high: Floats, expected: Floats
) -> None:
    """The T-curve: cosine of the mean of T passes with `pre_dropout`."""
    axes = figure.subplots()
    axes.fill_between(passes, low, high, color=BLUE, alpha=0.2, linewidth=0, label="5 to 95 % of texts")
    axes.plot(passes, observed, "o-", color=BLUE, markersize=4, label="observed")
    axes.plot(passes, expected, "--", color=RED, label="1/√(1 + p/(qT))")
    axes.set_xscale("log")
    axes.set_xticks(passes, [f"{count:,}" for count in passes])
    axes.minorticks_off()
    axes.set_xlabel("passes averaged, T")
    axes.set_ylabel("cosine with pre_dropout")
    axes.legend(fontsize=8, frameon=False)
    clean(axes)


def losses(figure: MplFigure, curves: Mapping[str, Sequence[float]], *, kept: int) -> None:
    """Curves by epoch, from 1; the epoch that was kept, counted from 0, is marked."""
    axes = figure.subplots()
    for (name, values), color in zip(curves.items(), (GREY, BLUE), strict=True):
        axes.plot(range(1, len(values) + 1), values, "o-", color=color, markersize=3, label=name.replace("_", " "))
    axes.axvline(kept + 1, color=RED, linestyle="--", linewidth=1, label="kept")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.legend(fontsize=8, frameon=False)
    clean(axes)


def intervals(
    figure: MplFigure,
    rows: Sequence[tuple[str, float, float, float, str]],
    *,
    line: float,
    label: str,
) -> None:
    """A point and its interval for each row (name, mean, low, high, colour), the first on top, beside a dashed line."""
    axes = figure.subplots()
    for at, (_, mean, low, high, color) in enumerate(reversed(rows)):
        axes.plot([low, high], [at, at], color=color, linewidth=2)
        axes.plot([mean], [at], "o", color=color, markersize=5)
    axes.axvline(line, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)], fontsize=8)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xlabel(label)
    clean(axes)


def beside(figure: MplFigure, rows: Mapping[str, tuple[float, float]], *, seen: str, told: str, label: str) -> None:
    """A bar for what was seen and a mark for what was told of each name, the first on top; NaN has no bar."""
    axes = figure.subplots()
    names = list(rows)[::-1]
    measured, given = (np.array([rows[name][at] for name in names], dtype=np.float64) for at in (0, 1))
    axes.barh(range(len(names)), measured, color=BLUE, label=seen)
    axes.plot(given, range(len(names)), "|", color=RED, markersize=12, markeredgewidth=2, label=told)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    figure.legend(loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    clean(axes)


def stacked(figure: MplFigure, names: Sequence[str], counts: Mapping[str, Sequence[int]], *, label: str) -> None:
    """How many of each kind each name has, end to end in one bar, the first name on top."""
    axes = figure.subplots()
    left = np.zeros(len(names))
    for (kind, values), color in zip(counts.items(), (BLUE, GREY, RED), strict=True):
        axes.barh(range(len(names)), values[::-1], left=left, color=color, label=kind)
        left += values[::-1]
    axes.set_yticks(range(len(names)), names[::-1], fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(label)
    figure.legend(loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    clean(axes)


def clean(axes: Any) -> None:  # noqa: ANN401
    """Take away the lines that say nothing."""
    axes.spines[["top", "right"]].set_visible(False)
