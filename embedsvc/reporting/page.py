"""The report as one HTML file: no network, no file beside it. Texts come from strangers and are escaped throughout."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedsvc.errors import MissingExtraError
from embedsvc.reporting.charts import curve_chart, flow_chart, follow_maps, group_chart, matrix_chart
from embedsvc.reporting.explorer import explorer
from embedsvc.reporting.panels import explored, flows, groups, matrices, moved
from embedsvc.reporting.report import Report
from embedsvc.reporting.style import follow_dark_mode
from embedsvc.reporting.tables import tables

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["maps_page", "page", "write_html"]

_COMPONENTS = ["bokeh", "bokeh-widgets", "bokeh-tables"]


def write_html(report: Report, path: Path) -> list[Path]:
    """Write the page."""
    path.write_text(page(report), encoding="utf-8")
    return [path]


def page(report: Report) -> str:
    """The page as HTML.

    Raises
    ------
    MissingExtraError
        If Bokeh or Jinja2 is not installed.
    """
    return _page(report, "page.html.jinja", _models)


def maps_page(report: Report) -> str:
    """The linked maps of the page by themselves, as HTML.

    Raises
    ------
    MissingExtraError
        If Bokeh or Jinja2 is not installed.
    """
    return _page(report, "maps.html.jinja", _map_models)


def _page(report: Report, template: str, build: Callable[[Report], dict[str, Any]]) -> str:
    try:
        import jinja2
        from bokeh.document import Document
        from bokeh.embed import components
        from bokeh.resources import Resources
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "bokeh"):
            raise
        raise MissingExtraError.of(error.name, "report") from None

    models = build(report)
    script, divs = "", {}
    if models:
        document = Document(title="embedsvc report")
        with document.models.freeze():  # or every root would have Bokeh walk through all columns again
            for model in models.values():
                document.add_root(model)
        follow_dark_mode(document)
        script, divs = components(models)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["named"] = _namer(report)
    inline = Resources(mode="inline", components=_COMPONENTS).render_js() if models else ""
    return environment.get_template(template).render(
        report=report,
        verdict=report.verdict,
        facts=report.facts,
        tables=tables(report),
        # Made by Bokeh, which escapes what it is given; everything else is escaped here.
        bokeh=inline,
        script=script,
        panels=divs,
        mapped="color_by" in models,
        described=list(report.projections.values()),
        cut=report.n > 20_000,
        searched=report.n if report.comparison is None else len(report.comparison.queries),
    )


def _namer(report: Report) -> Callable[[str], Markup]:
    """What escapes a sentence and sets the variants in it apart."""
    from markupsafe import Markup, escape

    names = sorted({str(escape(name)) for name in report.variants}, key=len, reverse=True)
    variant = re.compile(rf"(?<![\w.:])({'|'.join(map(re.escape, names))})(?![\w])")
    return lambda text: Markup(variant.sub(r"<code>\1</code>", str(escape(text))))


def _map_models(report: Report) -> dict[str, Any]:
    told = explored(report)
    return {} if told is None else explorer(told)


def _models(report: Report) -> dict[str, Any]:
    models = _map_models(report)
    if ranked := groups(report):
        models["groups"] = group_chart(ranked, (moved(report) or ((), "change"))[1])
    if streams := flows(report):
        models |= flow_chart(streams)
    if measured := matrices(report):
        models |= matrix_chart(measured)
    if report.stability is not None:
        models["curve"] = curve_chart(report.stability.curve)
    follow_maps(models)
    return models
