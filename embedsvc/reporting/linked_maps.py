"""The two maps of the page, side by side: which variants they show, and how they are zoomed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.reporting.style import OUTSIDE, hover, plain, wide

__all__ = ["linked_maps"]

Maps = Mapping[str, NDArray[np.floating[Any]]]


def linked_maps(source: Any, maps: Maps, spaces: Mapping[str, str], shown: Mapping[str, str]) -> dict[str, Any]:  # noqa: ANN401
    """Two maps and their pickers, by name.

    Parameters
    ----------
    source : ColumnDataSource
        With the coordinates of the variant at a place of `maps` as ``x0``, ``y0``, ``x1`` and so on, and those shown as
        ``map_a_x``, ``map_a_y``.
    maps : mapping of str to ndarray of shape (n, 2)
        By variant.
    spaces : mapping of str to str
        Whose axes a map has, by variant.
    shown : mapping of str to str
        The variant that each map, ``map_a`` and ``map_b``, begins with.
    """
    frames = _frames(maps, spaces)
    plots = {side: _map(source, side, chosen, frames[chosen]) for side, chosen in shown.items()}
    pickers = {
        f"{side}_variant": _variant_picker(plot, source, list(maps), frames, f"Map {side[-1].upper()}")
        for side, plot in plots.items()
    }
    _zoom_together(list(zip(plots.values(), pickers.values(), strict=True)), spaces)
    return plots | pickers


def _frames(maps: Maps, spaces: Mapping[str, str]) -> dict[str, dict[str, tuple[float, float]]]:
    """What each map shows, the same for all maps of a space, so that a text that stays lies in the same place."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name in maps:
        places = np.concatenate([maps[each] for each in maps if spaces[each] == spaces[name]])
        low, high = places.min(axis=0).astype(float), places.max(axis=0).astype(float)
        room = 0.04 * np.where(high > low, high - low, 1.0)
        found[name] = {axis: (low[at] - room[at], high[at] + room[at]) for at, axis in enumerate("xy")}
    return found


def _map(source: Any, name: str, title: str, frame: Mapping[str, tuple[float, float]]) -> Any:  # noqa: ANN401
    from bokeh.models import (
        BoxZoomTool,
        LassoSelectTool,
        PanTool,
        Range1d,
        ResetTool,
        TapTool,
        WheelZoomTool,
    )  # fmt: skip
    from bokeh.plotting import figure

    lasso = LassoSelectTool(continuous=False)
    # A long text is cut by the style, not twice in the file; copies lie in one place, by the hundred.
    tip = '<div style="max-width:320px;max-height:8.5em;overflow:hidden"><b>@id</b><br>@text</div>'
    plot = figure(
        name=name,
        title=title,
        height=430,
        min_width=260,
        sizing_mode="stretch_width",
        x_range=Range1d(*frame["x"]),
        y_range=Range1d(*frame["y"]),
        # Not WebGL: without a graphics card it takes 4 s to draw 100,000 texts again, the plain canvas 1 s.
        tools=[lasso, PanTool(), WheelZoomTool(), BoxZoomTool(), TapTool(), ResetTool(), hover(tip, limit=3)],
        active_drag=lasso,
        active_scroll=None,  # the wheel scrolls the page until the tool is chosen
        toolbar_location="above",
    )
    size = float(np.clip(600 / np.sqrt(max(len(source.data["id"]), 1)), 2.5, 8))
    points = plot.scatter(
        f"{name}_x", f"{name}_y", source=source, size=size, fill_color="color", line_color=None, fill_alpha=0.8,
        nonselection_fill_alpha=0.6, nonselection_line_color=None,
        selection_fill_color="color", selection_line_color=None,
    )  # fmt: skip
    # Of hundreds of texts in one place even the faintest colour is a full one: these take a colour near the ground.
    points.nonselection_glyph.name = OUTSIDE
    plain(plot)
    plot.axis.visible = False
    plot.grid.visible = False
    return plot


def _zoom_together(maps: Sequence[tuple[Any, Any]], spaces: Mapping[str, str]) -> None:
    """Let each map, given with its picker, show the part that is looked at on the other, if they share their axes."""
    from bokeh.models import CustomJS

    code = """
    if (spaces[picker.value] != spaces[other_picker.value]) return
    const follow = () => {
      for (const axis of ["x_range", "y_range"]) {
        const {start, end} = plot[axis]
        other[axis].setv({start, end})
      }
    }
    // Not at every step of a drag: drawing many texts twice would make it stutter.
    clearTimeout(window.embedsvc_zoom)
    window.embedsvc_zoom = setTimeout(follow, 40)
    """
    for (plot, picker), (other, other_picker) in (maps, maps[::-1]):
        arguments = {"plot": plot, "other": other, "picker": picker, "other_picker": other_picker}
        arguments["spaces"] = dict(spaces)
        for axis in (plot.x_range, plot.y_range):
            for end in ("start", "end"):
                axis.js_on_change(end, CustomJS(args=arguments, code=code))


def _variant_picker(plot: Any, source: Any, names: Sequence[str], frames: Mapping[str, Any], title: str) -> Any:  # noqa: ANN401
    from bokeh.models import CustomJS, Select

    select = Select(title=title, value=plot.title.text, options=list(names), name=f"{plot.name}_variant", **wide())
    code = """
    const at = names.indexOf(this.value)
    source.data[`${plot.name}_x`] = source.data[`x${at}`]
    source.data[`${plot.name}_y`] = source.data[`y${at}`]
    plot.title.text = this.value
    for (const axis of ["x", "y"]) {
      const [start, end] = frames[this.value][axis]
      plot[`${axis}_range`].setv({start, end, reset_start: start, reset_end: end})
    }
    source.change.emit()
    """
    arguments = {"names": list(names), "plot": plot, "source": source, "frames": dict(frames)}
    select.js_on_change("value", CustomJS(args=arguments, code=code))
    return select
