"""The table of texts under the maps: the most changed ones, or those that are selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedsvc.reporting.scores import Score
from embedsvc.reporting.style import decimals, sheet

__all__ = ["text_list"]

_UNASKED = 200  # texts listed before anything is selected
_MOST = 1_000  # texts listed of a selection: nobody reads more, and tens of thousands take a second to lay out
_NOTHING = "Nothing is selected: the table lists the most changed texts. Draw a loop on a map to select texts."
_SELECTED = """
const count = number => number.toLocaleString("en")
const found = Array.from(this.indices).sort((a, b) => a - b)
view.filter.indices = found.length ? found.slice(0, most) : unasked
// Bokeh's table takes what it does not list out of the selection: put it back.
if (this.indices.length < found.length) this.indices = found
const listed = found.length > most ? `lists the ${count(most)} that come first in the order of change.` : "lists them."
line.text = found.length ? `${count(found.length)} of ${count(n)} texts are selected; the table ${listed}` : nothing
"""


def text_list(
    source: Any,  # noqa: ANN401
    ids: Sequence[str],
    scores: Sequence[Score],
    groups: Mapping[str, Sequence[str]],
    notes: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The table, and the line above it that says how many texts are selected and how many of them are listed.

    Parameters
    ----------
    source : ColumnDataSource
        With the columns ``id`` and ``text``, and ``score0``, ``group0``, ``note0`` and so on.
    ids, scores, groups, notes
        See `Explorer`.
    """
    from bokeh.models import CDSView, CustomJS, DataTable, Div, IndexFilter

    unasked = list(range(min(_UNASKED, len(ids))))
    view = CDSView(filter=IndexFilter(indices=unasked))
    line = Div(text=_NOTHING, name="selection", sizing_mode="stretch_width", stylesheets=[sheet()])
    told = {"view": view, "line": line, "unasked": unasked, "most": _MOST, "n": len(ids), "nothing": _NOTHING}
    source.selected.js_on_change("indices", CustomJS(args=told, code=_SELECTED))
    table = DataTable(
        source=source, view=view, columns=_columns(ids, scores, groups, notes), height=360, name="table",
        sizing_mode="stretch_width", index_position=None, fit_columns=False, selectable=False, reorderable=False,
        stylesheets=[sheet()],
    )  # fmt: skip
    return {"selection": line, "table": table}


def _columns(
    ids: Sequence[str], scores: Sequence[Score], groups: Mapping[str, Sequence[str]], notes: Mapping[str, Sequence[str]]
) -> list[Any]:
    from bokeh.models import HTMLTemplateFormatter, NumberFormatter, TableColumn

    # <%- escapes; pointing at a cell shows what does not fit into it.
    whole = HTMLTemplateFormatter(template='<span title="<%- value %>"><%- value %></span>')
    numbers = [
        TableColumn(
            field=f"score{at}",
            title=score.name,
            width=_width(score.name, ()),
            formatter=NumberFormatter(format=decimals(np.ptp(score.bins()[0])), text_align="right", nan_format="–"),
        )
        for at, score in enumerate(scores)
    ]
    return [
        TableColumn(field="id", title="id", width=_width("id", ids, 190)),
        TableColumn(field="text", title="text", width=380, formatter=whole),
        *numbers[:1],  # the number that the rows are ordered by comes right after the text
        *(
            TableColumn(field=f"group{at}", title=name, width=_width(name, values), formatter=whole)
            for at, (name, values) in enumerate(groups.items())
        ),
        *(TableColumn(field=f"note{at}", title=name, width=300, formatter=whole) for at, name in enumerate(notes)),
        *numbers[1:],
    ]


def _width(title: str, values: Sequence[str], most: int = 280) -> int:
    """Of a column that shows its title and its values whole, if they are not too long."""
    return int(np.clip(8 * max(map(len, values), default=1) + 16, min(8 * len(title) + 16, most), most))
