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

from embedsvc.colors import BLUE, Colored, by_group, by_score
from embedsvc.reporting.histogram import histogram
from embedsvc.reporting.linked_maps import linked_maps
from embedsvc.reporting.scores import Score
from embedsvc.reporting.style import wide
from embedsvc.reporting.text_list import text_list

__all__ = ["Explorer", "explorer"]


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
    shown = {"map_a": data.first, "map_b": data.second}
    source = ColumnDataSource(_columns(data, coloured, shown), name="texts")
    legends = [_legend(colours) for colours in coloured.values()]
    legend = Div(text=legends[0] if legends else "", name="legend", **wide())
    color = Select(title="Colour by", value=next(iter(coloured), ""), options=list(coloured), name="color_by", **wide())
    told = {"names": list(coloured), "legends": legends, "legend": legend, "source": source}
    color.js_on_change("value", CustomJS(args=told, code=_PAINT))
    words = TextInput(title="Select texts with these words", name="words", placeholder="type and press Enter", **wide())
    words.js_on_change("value", CustomJS(args={"source": source}, code=_FIND))
    clear = Button(label="Clear the selection", name="clear", **wide())
    clear.js_on_click(CustomJS(args={"source": source}, code="source.selected.indices = []"))
    models = linked_maps(source, data.maps, data.spaces, shown)
    models |= {"color_by": color, "words": words, "clear": clear, "legend": legend}
    models |= histogram(source, data.scores)
    return models | text_list(source, data.ids, data.scores, data.groups, data.notes)


_PAINT = """
const at = names.indexOf(this.value)
source.data.color = source.data[`color${at}`]
legend.text = legends[at]
source.change.emit()
"""

_FIND = """
const wanted = this.value.trim().toLowerCase()
const found = []
if (wanted) source.data.text.forEach((text, i) => { if (text.toLowerCase().includes(wanted)) found.push(i) })
source.selected.indices = found
"""


def _columns(data: Explorer, coloured: Mapping[str, Colored], shown: Mapping[str, str]) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": list(data.ids), "text": list(data.texts)}
    for at, coordinates in enumerate(data.maps.values()):
        columns[f"x{at}"] = np.ascontiguousarray(coordinates[:, 0], dtype=np.float32)
        columns[f"y{at}"] = np.ascontiguousarray(coordinates[:, 1], dtype=np.float32)
    # What is shown, and what the pickers put there: only this is drawn again, once.
    for side, chosen in shown.items():
        at = list(data.maps).index(chosen)
        columns |= {f"{side}_x": columns[f"x{at}"], f"{side}_y": columns[f"y{at}"]}
    columns["color"] = next(iter(coloured.values())).rgba if coloured else [BLUE] * len(data.ids)
    columns |= {f"color{at}": colours.rgba for at, colours in enumerate(coloured.values())}
    columns |= {f"score{at}": np.asarray(score.values, dtype=np.float32) for at, score in enumerate(data.scores)}
    columns |= {f"group{at}": list(values) for at, values in enumerate(data.groups.values())}
    columns |= {f"note{at}": list(values) for at, values in enumerate(data.notes.values())}
    return columns


def _legend(colours: Colored) -> str:
    # Inline styles: the page's own do not reach into Bokeh's shadow roots.
    swatch = (
        '<span style="display:inline-flex;align-items:center;margin:0 1.1em .2em 0">'
        '<i style="flex:none;width:.85em;height:.85em;border-radius:50%;margin-right:.4em;background:{}"></i>{}</span>'
    )
    return "".join(swatch.format(color, escape(label)) for label, color in colours.legend)
