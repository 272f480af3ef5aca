"""The histogram under the maps: how a score is spread, beside what comes of the mask alone; a range of it selects."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from embedsvc.colors import BLUE, RED
from embedsvc.reporting.scores import Score
from embedsvc.reporting.style import decimals, plain, sheet, wide

__all__ = ["histogram"]

_SELECT = """
const values = source.data[`score${scores.findIndex(score => score.name == picker.value)}`], found = []
for (let i = 0; i < values.length; i++) if (low <= values[i] && values[i] <= high) found.push(i)
source.selected.indices = found
"""
# The whole range is no selection: moving both handles back clears it.
_SLID = (
    """
const [low, high] = this.value
if (low <= this.start && high >= this.end) { source.selected.indices = []; return }
"""
    + _SELECT
)
_BRUSHED = (
    """
const {x0, x1} = cb_obj.geometry
const low = Math.min(x0, x1), high = Math.max(x0, x1)
"""
    + _SELECT
)
_PICKED = """
const score = scores.find(score => score.name == this.value)
bars.selected.indices = []
bars.data = score.bars
outline.data = score.outline
legend.visible = score.outline.x.length > 0
legend.items[0].label = {value: score.null_name}
axis.axis_label = score.name
about.text = score.about
slider.setv({format: score.format, step: score.step, start: score.low, end: score.high, value: [score.low, score.high]})
"""


def histogram(source: Any, scores: Sequence[Score]) -> dict[str, Any]:  # noqa: ANN401
    """One figure, the picker of the score that it shows, and a slider, so that a keyboard selects a range as well.

    Parameters
    ----------
    source : ColumnDataSource
        With the columns ``score0``, ``score1`` and so on; what is selected is selected there.
    scores : sequence of Score
    """
    from bokeh.events import SelectionGeometry
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, CustomJS, Div, RangeSlider, Select

    if not scores:
        return {}
    known = [_drawn(score) for score in scores]
    first = known[0]
    bars, outline = ColumnDataSource(first["bars"]), ColumnDataSource(first["outline"])
    plot = _figure(bars, outline, first)
    about = Div(text=first["about"], sizing_mode="stretch_width", stylesheets=[sheet()])
    slider = RangeSlider(
        title="Select from … to", start=first["low"], end=first["high"], value=(first["low"], first["high"]),
        step=first["step"], format=first["format"], name="range", **wide(),
    )  # fmt: skip
    picker = Select(
        title="Histogram of", value=first["name"], options=[each["name"] for each in known], name="score", **wide()
    )
    selecting = {"source": source, "scores": known, "picker": picker}
    slider.js_on_change("value_throttled", CustomJS(args=selecting, code=_SLID))
    plot.js_on_event(SelectionGeometry, CustomJS(args=selecting, code=_BRUSHED))
    picking = {"scores": known, "bars": bars, "outline": outline, "about": about, "slider": slider}
    picking |= {"legend": plot.legend[0], "axis": plot.xaxis[0]}
    picker.js_on_change("value", CustomJS(args=picking, code=_PICKED))
    stacked = column(about, plot, slider, sizing_mode="stretch_width", stylesheets=[sheet()])
    return {"score": picker, "histogram": stacked}


def _drawn(score: Score) -> dict[str, Any]:
    """What the figure shows of a score. Arrays, which Bokeh writes as they are."""
    edges, counts, expected = score.bins()
    low, high = float(edges[0]), float(edges[-1])
    outline = {"x": np.empty(0), "y": np.empty(0)}
    if expected is not None:
        outline = {"x": np.repeat(edges, 2), "y": np.concatenate([[0.0], np.repeat(expected, 2), [0.0]])}
    return {
        "name": score.name,
        "about": escape(score.about),
        "null_name": score.null_name,
        "bars": {"left": edges[:-1], "right": edges[1:], "top": counts.astype(np.int32)},
        "outline": outline,
        "low": low,
        "high": high,
        "step": (high - low) / 200,
        "format": decimals(high - low),
    }


def _figure(bars: Any, outline: Any, first: dict[str, Any]) -> Any:  # noqa: ANN401
    from bokeh.models import BasicTickFormatter, BoxSelectTool
    from bokeh.plotting import figure

    brush = BoxSelectTool(dimensions="width")
    plot = figure(
        name="histogram_plot", height=240, sizing_mode="stretch_width", toolbar_location=None, tools=[brush],
        active_drag=brush, x_axis_label=first["name"], y_axis_label="texts",
    )  # fmt: skip
    plot.quad(left="left", right="right", bottom=0, top="top", source=bars, fill_color=BLUE, line_color=None)
    plot.line(x="x", y="y", source=outline, line_color=RED, line_width=2, legend_label=first["null_name"])
    plot.add_layout(plot.legend[0], "above")  # within, it would cover bars on a narrow screen
    plot.legend[0].visible = bool(len(first["outline"]["x"]))
    plain(plot)
    plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    return plot
