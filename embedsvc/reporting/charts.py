"""The report's other figures in Bokeh: matrix, cluster flow, groups, T-curve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedsvc.colors import BLUE, GREY, GROUPS, RED, ramp
from embedsvc.reporting.panels import Flow, Group, Matrix, flow_ends, ribbons
from embedsvc.reporting.style import FONT, ON_GROUND, hover, plain, sheet
from embedsvc.variability import Curve

__all__ = ["curve_chart", "flow_chart", "follow_maps", "group_chart", "matrix_chart"]

_NAME = 34  # characters of a name beside a figure


def matrix_chart(matrices: Sequence[Matrix]) -> dict[str, Any]:
    """Variant by variant, one measure at a time; a cell shows the observed value, and the rest when pointed at."""
    from bokeh.models import ColumnDataSource, CustomJS, Select
    from bokeh.plotting import figure

    names = list(matrices[0].variants)
    data = [_cells(matrix) for matrix in matrices]
    source = ColumnDataSource(data[0])
    plot = figure(
        name="matrix", x_range=names, y_range=names[::-1], height=120 + 52 * len(names), min_width=280,
        sizing_mode="stretch_width", toolbar_location=None, tools="", title=_title(matrices[0].measure),
    )  # fmt: skip
    cells = plot.rect("a", "b", 0.96, 0.94, source=source, fill_color="color", line_color=None)
    tips = [("pair", "@a, @b"), ("observed", "@value{0.000}"), ("95%", "@interval"), ("mask alone", "@expected"),
            ("null, 95%", "@null")]  # fmt: skip
    plot.add_tools(hover(tips, renderers=[cells]))
    plot.text("a", "b", "word", source=source, text_color="ink", text_align="center", text_baseline="middle",
              text_font={"value": FONT}, text_font_size="13px")  # fmt: skip
    plain(plot)
    plot.grid.visible = False
    plot.xaxis.major_label_orientation = 0.6
    select = Select(
        title="Measure", value=matrices[0].measure, options=[m.measure for m in matrices], name="measure",
        sizing_mode="stretch_width", stylesheets=[sheet()],
    )  # fmt: skip
    arguments = {"source": source, "data": data, "names": [m.measure for m in matrices], "plot": plot}
    arguments["titles"] = [_title(m.measure) for m in matrices]
    code = "source.data = data[names.indexOf(this.value)]; plot.title.text = titles[names.indexOf(this.value)]"
    select.js_on_change("value", CustomJS(args=arguments, code=code))
    return {"measure": select, "matrix": plot}


def _title(measure: str) -> str:
    return f"{measure} (in brackets: what the mask alone gives)"


def _cells(matrix: Matrix) -> dict[str, list[Any]]:
    cells = list(matrix.cells())
    values = np.array([value for *_, value, _ in cells])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    colors = ramp((values - low) / (high - low) if high > low else np.full(len(values), 0.5)).T
    figures = [figure for *_, figure in cells]
    return {
        "a": [a for a, *_ in cells],
        "b": [b for _, b, *_ in cells],
        "value": values.tolist(),
        "word": [
            f"{value:.2f}" + (f"\n({f.expected:.2f})" if f and f.expected is not None else "")
            for value, f in zip(values, figures, strict=True)
        ],
        "color": ["#{:02x}{:02x}{:02x}".format(*color) for color in colors],
        # Luma decides which ink can be read.
        "ink": ["#000000" if color @ [0.299, 0.587, 0.114] > 125 else "#ffffff" for color in colors],
        "interval": [f"{f.interval.low:.3f} to {f.interval.high:.3f}" if f else "–" for f in figures],
        "expected": [f"{f.expected:.3f} ({f.expected_by})" if f and f.expected is not None else "–" for f in figures],
        "null": [f"{f.null.low:.3f} to {f.null.high:.3f}" if f else "–" for f in figures],
    }


def flow_chart(flows: Sequence[Flow]) -> dict[str, Any]:
    """Ribbons from the clusters of one variant to those of another, any two of them, one pair at a time."""
    from bokeh.models import ColumnDataSource, CustomJS, Select
    from bokeh.plotting import figure

    drawn = {f"{flow.reference} {flow.variant}": _flow(flow) for flow in flows}
    first = flows[0]
    shown = drawn[f"{first.reference} {first.variant}"]
    sources = {
        "ribbons": ColumnDataSource(_cut(shown), name="flow_ribbons"),
        "blocks": ColumnDataSource(shown["blocks"], name="flow_blocks"),
    }
    plot = figure(
        name="flow", height=shown["height"], min_width=280, sizing_mode="stretch_width", toolbar_location=None,
        tools="", x_range=(-0.8, 1.8), y_range=(-0.03, 1.03), title=shown["title"],
    )  # fmt: skip
    patches = plot.patches(
        "xs", "ys", source=sources["ribbons"], fill_color="color", fill_alpha=0.5, line_color=None,
        hover_fill_alpha=0.8,
    )  # fmt: skip
    tips = [("from", "@left"), ("to", "@right"), ("texts", "@count (@share of its cluster)")]
    plot.add_tools(hover(tips, renderers=[patches]))
    plot.quad("start", "end", top="top", bottom="bottom", source=sources["blocks"], fill_color=GREY, line_color=None)
    words = plot.text(
        "x", "y", "label", source=sources["blocks"], text_align="align", text_baseline="middle",
        text_font={"value": FONT}, text_font_size="13px",
    )  # fmt: skip
    words.glyph.name = ON_GROUND
    plain(plot)
    plot.axis.visible = False
    plot.grid.visible = False
    plot.outline_line_alpha = 0
    names = list(dict.fromkeys(flow.reference for flow in flows))
    ends = [
        Select(title=title, value=value, options=names, name=name, sizing_mode="stretch_width", stylesheets=[sheet()])
        for title, value, name in (("From", first.reference, "flow_from"), ("To", first.variant, "flow_variant"))
    ]
    code = """
    const flow = drawn[`${ends[0].value} ${ends[1].value}`]
    if (flow === undefined) { plot.title.text = "The same clusters: pick two variants."; return }
    const xs = [], ys = [], {x, y} = flow.outlines
    for (let at = 0; at < y.length; at += x.length) { xs.push(x); ys.push(y.subarray(at, at + x.length)) }
    sources.ribbons.data = {xs, ys, ...flow.ribbons}
    sources.blocks.data = flow.blocks
    plot.title.text = flow.title
    plot.height = flow.height
    """
    arguments = {"drawn": drawn, "ends": ends, "sources": sources, "plot": plot}
    switch = CustomJS(args=arguments, code=code)  # one for both ends: the flows would be in the file twice
    for end in ends:
        end.js_on_change("value", switch)
    return {"flow_from": ends[0], "flow_variant": ends[1], "flow": plot}


def follow_maps(models: dict[str, Any]) -> None:
    """Let the flow go from the variant on map A to the one on map B, where those were clustered."""
    from bokeh.models import CustomJS

    for side, end in (("map_a_variant", "flow_from"), ("map_b_variant", "flow_variant")):
        if side in models and end in models:
            code = "if (end.options.includes(this.value)) end.value = this.value"
            models[side].js_on_change("value", CustomJS(args={"end": models[end]}, code=code))


def _flow(flow: Flow) -> dict[str, Any]:
    """The columns of a flow's ribbons and blocks, its title, and the height it needs."""
    drawn, blocks = ribbons(flow), []
    for side, (ends, names, counts) in enumerate(
        zip(flow_ends(flow), (flow.left, flow.right), (flow.counts.sum(axis=1), flow.counts.sum(axis=0)), strict=True)
    ):
        for (bottom, top), name, count in zip(ends.tolist(), names, counts.tolist(), strict=True):
            blocks.append(
                {
                    "start": side - 0.012,
                    "end": side + 0.012,
                    "bottom": bottom,
                    "top": top,
                    "x": 1.03 if side else -0.03,
                    "y": (bottom + top) / 2,
                    "label": f"{name if len(name) <= _NAME else name[: _NAME - 1] + '…'} ({count:,})",
                    "align": "left" if side else "right",
                }
            )
    ari = "" if flow.ari is None else f", ARI {flow.ari:.2f}"
    return {
        # Arrays, also of words: Bokeh looks through every list for models, once for each panel of the page.
        "outlines": {
            "x": drawn[0].x.astype(np.float32),
            "y": np.concatenate([each.y for each in drawn]).astype(np.float32),
        },
        "ribbons": {
            "color": _words(GROUPS[each.left] if each.left < len(GROUPS) else GREY for each in drawn),
            "left": _words(flow.left[each.left] for each in drawn),
            "right": _words(flow.right[each.right] for each in drawn),
            "count": np.array([each.count for each in drawn], dtype=np.int32),
            "share": _words(f"{each.count / flow.counts[each.left].sum():.0%}" for each in drawn),
        },
        "blocks": {name: [block[name] for block in blocks] for name in blocks[0]},
        "title": f"{flow.reference} to {flow.variant}: {flow.counts.sum():,} texts{ari}",
        "height": max(220, 40 * max(flow.counts.shape)),
    }


def _words(words: Iterable[str]) -> NDArray[np.object_]:
    return np.array(list(words), dtype=object)


def _cut(flow: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the ribbons of a flow, an outline each."""
    x, y = flow["outlines"]["x"], flow["outlines"]["y"]
    outlines = list(y.reshape(-1, len(x)))
    return {"xs": [x] * len(outlines), "ys": outlines, **flow["ribbons"]}


def group_chart(groups: Sequence[Group], what: str) -> Any:  # noqa: ANN401
    """Mean change of every group with its interval; of excess change, the line is what the mask alone does."""
    from bokeh.models import ColumnDataSource, Span
    from bokeh.plotting import figure

    labels = [_group_label(group) for group in groups]
    source = ColumnDataSource(
        {
            "label": labels,
            "mean": [group.mean for group in groups],
            "low": [group.low for group in groups],
            "high": [group.high for group in groups],
            "n": [group.n for group in groups],
            "name": [group.name for group in groups],
            "color": [BLUE if group.kind == "label" else RED for group in groups],
        }
    )
    low, high = min(0.0, *(group.low for group in groups)), max(0.0, *(group.high for group in groups))
    room = 0.05 * (high - low)
    plot = figure(
        name="groups", x_range=(low - room, high + room), y_range=labels[::-1], height=90 + 26 * len(labels),
        min_width=280, sizing_mode="stretch_width",
        toolbar_location=None, tools="", x_axis_label=f"mean {what} of neighbours",
    )  # fmt: skip
    plot.segment("low", "label", "high", "label", source=source, line_color="color", line_width=3)
    dots = plot.scatter("mean", "label", source=source, size=10, fill_color="color", line_color=None)
    tips = [("group", "@name"), ("texts", "@n"), ("mean", "@mean{0.000}"), ("95%", "@low{0.000} to @high{0.000}")]
    plot.add_tools(hover(tips, renderers=[dots]))
    plot.add_layout(Span(location=0, dimension="height", line_color=GREY, line_dash="dashed", line_width=2))
    plain(plot)
    return plot


def _group_label(group: Group) -> str:
    kind = "label" if group.kind == "label" else "cluster"
    name = group.name if len(group.name) <= _NAME - 6 else f"{group.name[: _NAME - 7]}…"
    return f"{kind} {name} ({group.n:,})"


def curve_chart(curve: Curve) -> Any:  # noqa: ANN401
    """The T-curve: mean and 5 to 95% of the texts beside the closed form."""
    from bokeh.models import FixedTicker
    from bokeh.plotting import figure

    plot = figure(
        name="curve", x_axis_type="log", height=300, min_width=280, sizing_mode="stretch_width", toolbar_location=None,
        tools="", x_axis_label="passes averaged, T", y_axis_label="cosine with pre_dropout",
    )  # fmt: skip
    passes = list(curve.passes)
    plot.varea(passes, curve.low, curve.high, fill_color=BLUE, fill_alpha=0.2, legend_label="5 to 95% of texts")
    plot.line(passes, curve.observed, line_color=BLUE, line_width=2, legend_label="observed")
    plot.scatter(passes, curve.observed, fill_color=BLUE, line_color=None, size=7)
    plot.line(passes, curve.expected, line_color=RED, line_width=2, line_dash="dashed", legend_label="1/√(1 + p/(qT))")
    plot.xaxis.ticker = FixedTicker(ticks=passes)
    plot.xaxis.major_label_overrides = {count: f"{count:,}" for count in passes}
    plot.legend.location = "bottom_right"
    plain(plot)
    return plot
