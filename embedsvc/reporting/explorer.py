"""The interactive part of the report: two linked maps, what colours them, a histogram to brush, a table.

All panels draw from one `ColumnDataSource`, so that a selection in any of them is a selection in all. What Bokeh's own
linking does not cover (picking a variant, a colour, a range of scores, words) is a line or two of `CustomJS` each.
Controls are native elements or sliders that a keyboard reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.colors import BLUE, GREY, RED, Colored, by_group, by_score
from embedsvc.reporting.style import plain, sheet

__all__ = ["Explorer", "Score", "explorer"]

_LISTED = 200  # texts in the table before anything is selected: the most changed
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


@dataclass(frozen=True, slots=True, eq=False)
class Explorer:
    """What the linked maps show. All arrays have one entry a text, the text that matters most first.

    Attributes
    ----------
    ids, texts : sequence of str
    maps : mapping of str to ndarray of shape (n, 2)
        Coordinates by variant.
    spaces : mapping of str to str
        Whose axes a map has, by variant: maps of one space share them, and are zoomed together.
    first, second : str
        Variants of map A and map B to begin with.
    groups : mapping of str to sequence of str
        Names to colour by: labels, clusters.
    scores : sequence of Score
    notes : mapping of str to sequence of str
        More columns of the table, for example lost and gained neighbours.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    maps: Mapping[str, NDArray[np.floating[Any]]]
    spaces: Mapping[str, str]
    first: str
    second: str
    groups: Mapping[str, Sequence[str]]
    scores: Sequence[Score]
    notes: Mapping[str, Sequence[str]]


def explorer(data: Explorer) -> dict[str, Any]:
    """The linked panels as Bokeh models by name, to be placed by the page."""
    from bokeh.models import Button, ColumnDataSource, CustomJS, Div, Select, TextInput

    coloured = {name: by_group(values) for name, values in data.groups.items()}
    coloured |= {score.name: by_score(score.values) for score in data.scores}
    source = ColumnDataSource(_columns(data, coloured), name="texts")
    names = list(data.maps)
    frames = _frames(data)
    maps = {side: _map(source, side, chosen, frames[chosen]) for side, chosen in _sides(data)}
    pickers = {
        f"{side}_variant": _variant_picker(figure, source, names, frames, f"Map {side[-1].upper()}")
        for side, figure in maps.items()
    }
    _zoom_together(list(zip(maps.values(), pickers.values(), strict=True)), data.spaces)
    legends = [
        Div(text=_legend(colours), visible=at == 0, name=f"legend_{at}", stylesheets=[sheet()])
        for at, colours in enumerate(coloured.values())
    ]
    color = Select(
        title="Colour by", value=next(iter(coloured), ""), options=list(coloured), name="color_by", **_wide()
    )
    _on_color(color, list(coloured), legends, source)
    words = TextInput(
        title="Select texts with these words", name="words", placeholder="type and press Enter", **_wide()
    )
    words.js_on_change("value", CustomJS(args={"source": source}, code=_FIND))
    clear = Button(label="Clear the selection", name="clear", **_wide())
    clear.js_on_click(CustomJS(args={"source": source}, code="source.selected.indices = []"))
    count = Div(text=_NOTHING, name="selection", sizing_mode="stretch_width", stylesheets=[sheet()])
    models = maps | pickers
    models |= {"color_by": color, "words": words, "clear": clear, "legend": _stacked(legends), "selection": count}
    return models | _histograms(source, data.scores) | {"table": _table(source, data, count)}


_NOTHING = "Nothing is selected: the table lists the most changed texts. Draw a loop on a map to select texts."

_FIND = """
const wanted = this.value.trim().toLowerCase()
const found = []
if (wanted) source.data.text.forEach((text, i) => { if (text.toLowerCase().includes(wanted)) found.push(i) })
source.selected.indices = found
"""


def _sides(data: Explorer) -> list[tuple[str, str]]:
    return [("map_a", data.first), ("map_b", data.second)]


def _wide() -> dict[str, Any]:
    return {"sizing_mode": "stretch_width", "stylesheets": [sheet()]}


def _stacked(children: Sequence[Any]) -> Any:  # noqa: ANN401
    from bokeh.layouts import column

    return column(*children, sizing_mode="stretch_width", stylesheets=[sheet()])


def _frames(data: Explorer) -> dict[str, dict[str, tuple[float, float]]]:
    """What each map shows, the same for all maps of a space, so that a text that stays lies in the same place."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name in data.maps:
        places = np.concatenate([data.maps[each] for each in data.maps if data.spaces[each] == data.spaces[name]])
        low, high = places.min(axis=0).astype(float), places.max(axis=0).astype(float)
        room = 0.04 * np.where(high > low, high - low, 1.0)
        found[name] = {axis: (low[at] - room[at], high[at] + room[at]) for at, axis in enumerate("xy")}
    return found


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


def _columns(data: Explorer, coloured: Mapping[str, Colored]) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": list(data.ids), "text": list(data.texts)}
    for at, coordinates in enumerate(data.maps.values()):
        columns[f"x{at}"] = np.ascontiguousarray(coordinates[:, 0], dtype=np.float32)
        columns[f"y{at}"] = np.ascontiguousarray(coordinates[:, 1], dtype=np.float32)
    # What is shown, and what the pickers put there: only this is drawn again, once.
    for side, chosen in _sides(data):
        at = list(data.maps).index(chosen)
        columns |= {f"{side}_x": columns[f"x{at}"], f"{side}_y": columns[f"y{at}"]}
    columns["color"] = next(iter(coloured.values())).rgba if coloured else [BLUE] * len(data.ids)
    columns |= {f"color{at}": colours.rgba for at, colours in enumerate(coloured.values())}
    columns |= {f"score{at}": np.asarray(score.values, dtype=np.float32) for at, score in enumerate(data.scores)}
    columns |= {f"group{at}": list(values) for at, values in enumerate(data.groups.values())}
    columns |= {f"note{at}": list(values) for at, values in enumerate(data.notes.values())}
    return columns


def _map(source: Any, name: str, title: str, frame: Mapping[str, tuple[float, float]]) -> Any:  # noqa: ANN401
    from bokeh.models import (
        BoxZoomTool,
        HoverTool,
        LassoSelectTool,
        PanTool,
        Range1d,
        ResetTool,
        TapTool,
        WheelZoomTool,
    )  # fmt: skip
    from bokeh.plotting import figure

    lasso = LassoSelectTool(continuous=False)
    # Placeholders are escaped by Bokeh; a long text is cut by the style, not twice in the file.
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
        tools=[lasso, PanTool(), WheelZoomTool(), BoxZoomTool(), TapTool(), ResetTool(), HoverTool(tooltips=tip)],
        active_drag=lasso,
        active_scroll=None,  # the wheel scrolls the page until the tool is chosen
        toolbar_location="above",
    )
    size = float(np.clip(600 / np.sqrt(max(len(source.data["id"]), 1)), 2.5, 8))
    plot.scatter(
        f"{name}_x", f"{name}_y", source=source, size=size, fill_color="color", line_color=None, fill_alpha=0.8,
        # Grey: of hundreds of texts in one place even the faintest colour is a full one.
        nonselection_fill_alpha=0.06, nonselection_line_color=None, nonselection_fill_color=GREY,
        selection_fill_color="color", selection_line_color=None,
    )  # fmt: skip
    plain(plot)
    plot.axis.visible = False
    plot.grid.visible = False
    return plot


def _variant_picker(plot: Any, source: Any, names: Sequence[str], frames: Mapping[str, Any], title: str) -> Any:  # noqa: ANN401
    from bokeh.models import CustomJS, Select

    select = Select(title=title, value=plot.title.text, options=list(names), name=f"{plot.name}_variant", **_wide())
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


def _on_color(select: Any, names: Sequence[str], legends: Sequence[Any], source: Any) -> None:  # noqa: ANN401
    from bokeh.models import CustomJS

    code = """
    const at = names.indexOf(this.value)
    source.data.color = source.data[`color${at}`]
    legends.forEach((legend, i) => { legend.visible = i == at })
    source.change.emit()
    """
    arguments = {"names": list(names), "legends": list(legends), "source": source}
    select.js_on_change("value", CustomJS(args=arguments, code=code))


def _legend(colours: Colored) -> str:
    # Inline styles: the page's own do not reach into Bokeh's shadow roots.
    swatch = (
        '<span style="display:inline-flex;align-items:center;margin:0 1.1em .2em 0">'
        '<i style="flex:none;width:.85em;height:.85em;border-radius:50%;margin-right:.4em;background:{}"></i>{}</span>'
    )
    return "".join(swatch.format(color, escape(label)) for label, color in colours.legend)


def _histograms(source: Any, scores: Sequence[Score]) -> dict[str, Any]:  # noqa: ANN401
    """A histogram for each score, one at a time; a range of it, brushed or slid, selects its texts everywhere."""
    from bokeh.models import CustomJS, Select

    if not scores:
        return {}
    panels = [_histogram(source, at, score) for at, score in enumerate(scores)]
    for panel in panels[1:]:
        panel.visible = False
    names = [score.name for score in scores]
    select = Select(title="Histogram of", value=names[0], options=names, name="score", **_wide())
    code = "panels.forEach((panel, i) => { panel.visible = i == names.indexOf(this.value) })"
    select.js_on_change("value", CustomJS(args={"panels": panels, "names": names}, code=code))
    return {"score": select, "histogram": _stacked(panels)}


def _histogram(source: Any, at: int, score: Score) -> Any:  # noqa: ANN401
    from bokeh.events import SelectionGeometry
    from bokeh.models import BasicTickFormatter, BoxSelectTool, CustomJS, Div, RangeSlider
    from bokeh.plotting import figure

    edges, counts, expected = score.bins()
    brush = BoxSelectTool(dimensions="width")
    plot = figure(
        name=f"histogram_{at}", height=200 if score.null is None else 240, sizing_mode="stretch_width",
        toolbar_location=None,
        tools=[brush], active_drag=brush, x_axis_label=score.name, y_axis_label="texts",
    )  # fmt: skip
    plot.quad(left=edges[:-1], right=edges[1:], bottom=0, top=counts, fill_color=BLUE, line_color=None)
    if expected is not None:
        x, y = np.repeat(edges, 2), np.concatenate([[0.0], np.repeat(expected, 2), [0.0]])
        plot.line(x=x, y=y, line_color=RED, line_width=2, legend_label=score.null_name)
        plot.add_layout(plot.legend[0], "above")  # within, it would cover bars on a narrow screen
    plain(plot)
    low, high = float(edges[0]), float(edges[-1])
    plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    slider = RangeSlider(
        title="Select from … to", start=low, end=high, value=(low, high), step=(high - low) / 200,
        format=_format(high - low), name=f"range_{at}",
        **_wide(),
    )  # fmt: skip
    arguments = {"source": source, "column": f"score{at}", "slider": slider}
    code = """
    const found = []
    const select = (low, high) => source.data[column].forEach((v, i) => { if (v >= low && v <= high) found.push(i) })
    """
    # The whole range is no selection: moving both handles back clears it.
    slid = (
        code
        + """
    const [low, high] = this.value
    if (low > this.start || high < this.end) select(low, high)
    source.selected.indices = found
    """
    )
    brushed = (
        code
        + """
    const {x0, x1} = cb_obj.geometry
    select(Math.min(x0, x1), Math.max(x0, x1))
    source.selected.indices = found
    """
    )
    slider.js_on_change("value_throttled", CustomJS(args=arguments, code=slid))
    plot.js_on_event(SelectionGeometry, CustomJS(args=arguments, code=brushed))
    about = Div(text=escape(score.about), sizing_mode="stretch_width", stylesheets=[sheet()])
    return _stacked([about, plot, slider])


def _width(title: str, values: Sequence[str], most: int = 280) -> int:
    """Of a column that shows its title and its values whole, if they are not too long."""
    return int(np.clip(8 * max(map(len, values), default=1) + 16, min(8 * len(title) + 16, most), most))


def _format(extent: float) -> str:
    """Of numbers that spread so far: three digits of them at the least, whatever their size."""
    return "0." + "0" * int(np.clip(2 - np.floor(np.log10(extent)), 3, 12))


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


def _table(source: Any, data: Explorer, count: Any) -> Any:  # noqa: ANN401
    from bokeh.models import (
        CDSView,
        CustomJS,
        DataTable,
        HTMLTemplateFormatter,
        IndexFilter,
        NumberFormatter,
        TableColumn,
    )  # fmt: skip

    most = list(range(min(_LISTED, len(data.ids))))
    view = CDSView(filter=IndexFilter(indices=most))
    # <%- escapes; pointing at a cell shows what does not fit into it.
    whole = HTMLTemplateFormatter(template='<span title="<%- value %>"><%- value %></span>')
    columns = [
        TableColumn(field="id", title="id", width=_width("id", data.ids, 190)),
        TableColumn(field="text", title="text", width=380, formatter=whole),
    ]
    numbers = [
        TableColumn(
            field=f"score{at}",
            title=score.name,
            width=_width(score.name, ()),
            formatter=NumberFormatter(format=_format(np.ptp(score.bins()[0])), text_align="right", nan_format="–"),
        )
        for at, score in enumerate(data.scores)
    ]
    # The number that the rows are ordered by comes right after the text.
    columns += numbers[:1]
    columns += [
        TableColumn(field=f"group{at}", title=name, width=_width(name, values), formatter=whole)
        for at, (name, values) in enumerate(data.groups.items())
    ]
    columns += [
        TableColumn(field=f"note{at}", title=name, width=300, formatter=whole) for at, name in enumerate(data.notes)
    ]
    columns += numbers[1:]
    arguments = {"view": view, "most": most, "count": count, "n": len(data.ids), "nothing": _NOTHING}
    code = """
    const some = this.indices.length > 0
    view.filter.indices = some ? Array.from(this.indices).sort((a, b) => a - b) : most
    count.text = some ? `${this.indices.length.toLocaleString("en")} of ${n.toLocaleString("en")} texts are selected; `
                        + "the table lists them." : nothing
    """
    source.selected.js_on_change("indices", CustomJS(args=arguments, code=code))
    return DataTable(
        source=source, view=view, columns=columns, height=360, sizing_mode="stretch_width", name="table",
        index_position=None, fit_columns=False, selectable=False, reorderable=False, stylesheets=[sheet()],
    )  # fmt: skip
