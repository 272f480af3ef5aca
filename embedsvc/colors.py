"""Colours that stay apart for colour-blind readers, on light pages and on dark ones.

References
----------
Tol (2021), "Colour schemes", SRON/EPS/TN/09-002: the *bright* scheme for groups. Nuñez et al. (2018), "Optimizing
colormaps with consideration for color vision deficiency", PLoS ONE 13(7): cividis, here in a version without its
darkest and lightest ends, for scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLUE", "GREY", "GROUPS", "RED", "Colored", "by_group", "by_score", "ramp"]

GROUPS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
BLUE, RED = GROUPS[:2]
GREY = "#999999"  # what comes after the sixth group, and what has no value
_SCORES = ("#34507c", "#575c6d", "#7b7b78", "#a59c74", "#d3c164")  # cividis from .15 to .85


@dataclass(frozen=True, slots=True, eq=False)
class Colored:
    """A colour for each text.

    Attributes
    ----------
    rgba : ndarray of shape (n,), uint32
        0xRRGGBBAA, the form Bokeh reads without parsing.
    legend : tuple of (str, str)
        Names and ``#rrggbb``.
    """

    rgba: NDArray[np.uint32]
    legend: tuple[tuple[str, str], ...]


def by_group(values: Sequence[str]) -> Colored:
    """One colour for each of the six largest groups, grey for the others and for the empty name."""
    names, numbers, counts = np.unique(
        np.asarray(values, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    order = [int(at) for at in np.argsort(-counts, kind="stable") if names[at]]
    chosen = {at: GROUPS[rank] for rank, at in enumerate(order[: len(GROUPS)])}
    palette = np.array([_number(chosen.get(at, GREY)) for at in range(len(names))], dtype=np.uint32)
    legend = [(f"{names[at]} ({counts[at]:,})", color) for at, color in chosen.items()]
    rest = len(values) - sum(int(counts[at]) for at in chosen)
    if rest:
        legend.append((f"other or none ({rest:,})", GREY))
    return Colored(palette[numbers], tuple(legend))


def by_score(values: NDArray[np.floating[Any]]) -> Colored:
    """Blue to yellow from the 2nd to the 98th percentile; grey where there is no value."""
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    low, high = np.percentile(values[known], [2, 98]) if known.any() else (0.0, 1.0)
    # A constant score has one colour, the middle one.
    position = np.full(len(values), 0.5)
    if high > low:
        position = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1)
    red, green, blue = ramp(position)
    rgba = (red << np.uint32(24)) | (green << np.uint32(16)) | (blue << np.uint32(8)) | np.uint32(255)
    rgba[~known] = _number(GREY)
    legend = [(f"{low:.3g}", _SCORES[0]), (f"{(low + high) / 2:.3g}", _SCORES[2]), (f"{high:.3g}", _SCORES[-1])]
    if not known.all():
        legend.append(("no value", GREY))
    return Colored(rgba, tuple(legend))


def ramp(position: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Red, green and blue, 0 to 255, of positions from 0 to 1 on the scale for scores. Shape (3, n)."""
    stops = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in _SCORES], dtype=np.float64)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(position, at, stops[:, channel]).round().astype(np.uint32) for channel in range(3)])


def _number(color: str) -> int:
    return (int(color[1:], 16) << 8) | 0xFF
