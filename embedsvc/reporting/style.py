"""What makes Bokeh's figures and widgets follow the page: its ground, its ink, its dark mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["FONT", "ON_GROUND", "OUTSIDE", "decimals", "follow_dark_mode", "hover", "plain", "sheet", "wide"]

_LIGHT_INK, _DARK_INK = "#434a54", "#c9d1d9"
_LIGHT_GROUND, _DARK_GROUND = "#ffffff", "#11151b"  # those of the page
_LIGHT_OUTSIDE, _DARK_OUTSIDE = "#d4d9e0", "#38414d"  # lines of the page: to be seen, and no more
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'  # that of the page
ON_GROUND = "on ground"  # name of glyphs of text that is drawn on the ground, and needs its ink
OUTSIDE = "outside"  # name of glyphs of what a selection leaves out
_ARROW = '<svg viewBox="0 0 5 4" xmlns="http://www.w3.org/2000/svg"><path d="M0,0H5L2.5,4" fill="%23c9d1d9"/></svg>'

# Bokeh renders into shadow roots, which the page's own style sheet does not reach; custom properties do, but not into
# the picture of a picker's arrow.
_SHEET = """
:host { color: var(--ink); font: inherit }
.bk-input, select, input, .bk-btn {
  background-color: var(--field) !important; color: var(--ink) !important; border-color: var(--line) !important;
  font: inherit;
}
.bk-input:focus-visible, .bk-btn:focus-visible, .noUi-handle:focus-visible {
  outline: 3px solid var(--focus) !important;
}
label, .bk-slider-title { color: var(--ink) !important }
.bk-btn-default { background-color: var(--field) !important; color: var(--ink) !important }
.noUi-target, .noUi-base { background-color: var(--line) !important; border-color: var(--line); box-shadow: none }
.noUi-connect { background-color: var(--focus) !important }
.noUi-handle { background-color: var(--field); border-color: var(--quiet); box-shadow: none }
.noUi-handle:before, .noUi-handle:after { display: none }
.bk-data-table, .slick-header-column, .slick-cell { font: 13px/1.5 var(--font) }
.bk-data-table, .slick-grid, .slick-viewport, .grid-canvas { background: var(--ground) !important; color: var(--ink) }
.slick-header, .slick-header-columns, .slick-header-column {
  background: var(--field) !important; color: var(--ink) !important; border-color: var(--line) !important;
}
.slick-row, .slick-cell {
  background: var(--ground) !important; color: var(--ink) !important; border-color: var(--line);
}
.slick-row.odd .slick-cell { background: var(--field) !important }
@media (prefers-color-scheme: dark) {
  select { background-image: url('data:image/svg+xml;utf8,ARROW') !important }
}
""".replace("ARROW", _ARROW)


def sheet() -> Any:  # noqa: ANN401 - a Bokeh model
    """A style sheet for one widget."""
    from bokeh.models import InlineStyleSheet

    return InlineStyleSheet(css=_SHEET)


def wide() -> dict[str, Any]:
    """Settings of a widget that takes the width it is given."""
    return {"sizing_mode": "stretch_width", "stylesheets": [sheet()]}


def hover(content: str | Sequence[tuple[str, str]], **settings: Any) -> Any:  # noqa: ANN401 - a Bokeh model
    """A tool that tells of what is pointed at, in a box that the page styles: Bokeh puts it at the end of the body.

    Parameters
    ----------
    content : str or sequence of (str, str)
        As HTML, or names and values; columns as Bokeh writes them (``@id``), which escapes what they hold.
    **settings
        Of Bokeh's `HoverTool`.
    """
    from bokeh.models import HoverTool

    if not isinstance(content, str):
        line = '<div><span style="color:var(--quiet)">{}:</span> {}</div>'
        content = "".join(line.format(name, value) for name, value in content)
    # Beside the pointer Bokeh lets a box stick out of a narrow screen, above and below it does not.
    return HoverTool(tooltips=content, attachment="vertical", **settings)


def decimals(extent: float) -> str:
    """How widgets write numbers that spread so far: three digits of them at the least, whatever their size."""
    return "0." + "0" * int(np.clip(2 - np.floor(np.log10(extent)), 3, 12))


def plain(plot: Any) -> None:  # noqa: ANN401
    """A figure in the ground and ink of the light page; `follow_dark_mode` changes both."""
    # Not transparent: a canvas that grows would keep what it drew when it was small.
    plot.background_fill_color = plot.border_fill_color = _LIGHT_GROUND
    plot.outline_line_color = _LIGHT_INK
    plot.outline_line_alpha = 0.35
    plot.grid.grid_line_color = _LIGHT_INK
    plot.grid.grid_line_alpha = 0.12
    plot.title.text_color = _LIGHT_INK
    plot.title.text_font, plot.title.text_font_size = FONT, "14px"
    for axis in plot.axis:
        axis.axis_label_text_color = axis.major_label_text_color = _LIGHT_INK
        axis.axis_line_color = axis.major_tick_line_color = _LIGHT_INK
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "13px", "12px"
    for legend in plot.legend:
        legend.background_fill_alpha = legend.border_line_alpha = 0
        legend.label_text_color = _LIGHT_INK
        legend.label_text_font, legend.label_text_font_size = FONT, "13px"
    plot.toolbar.logo = None


def follow_dark_mode(document: Any) -> None:  # noqa: ANN401
    """Let the ink of every figure follow the reader's colour scheme, at the beginning and when it changes."""
    from bokeh.models import Axis, CustomJS, Grid, Legend, Plot, Scatter, Text, Title

    grounds, inks = (_LIGHT_GROUND, _DARK_GROUND), (_LIGHT_INK, _DARK_INK)
    names = {
        Plot: {"outline_line_color": inks, "background_fill_color": grounds, "border_fill_color": grounds},
        Grid: {"grid_line_color": inks},
        Title: {"text_color": inks},
        Axis: dict.fromkeys(
            ("axis_label_text_color", "major_label_text_color", "axis_line_color", "major_tick_line_color"), inks
        ),
        Legend: {"label_text_color": inks},
    }
    called = {
        (Text, ON_GROUND): {"text_color": inks},
        (Scatter, OUTSIDE): {"fill_color": (_LIGHT_OUTSIDE, _DARK_OUTSIDE)},
    }
    painted = [
        [model, colors]
        for model in document.models
        for colors in (
            *(listed for kind, listed in names.items() if isinstance(model, kind)),
            *(listed for (kind, name), listed in called.items() if isinstance(model, kind) and model.name == name),
        )
    ]
    code = """
    const wanted = window.matchMedia("(prefers-color-scheme: dark)")
    const paint = () => {
      for (const [model, colors] of painted)
        for (const [name, pair] of Object.entries(colors)) model[name] = pair[+wanted.matches]
    }
    if (wanted.matches) paint()  // figures are made for light pages, and to paint maps again takes time
    wanted.addEventListener("change", paint)
    """
    document.js_on_event("document_ready", CustomJS(args={"painted": painted}, code=code))
