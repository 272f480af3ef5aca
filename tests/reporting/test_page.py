"""The page in a real browser: Debian's Chromium without a window, driven by Playwright."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsvc.reporting.explorer import Explorer, explorer
from embedsvc.reporting.renderers import render
from embedsvc.reporting.scores import Score, scores
from embedsvc.reporting.style import follow_dark_mode
from tests.reporting.conftest import HOSTILE

pytestmark = pytest.mark.browser

_READY = "() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle"
# What every test asks of the page: the model of a name.
_MODEL = "const model = name => Bokeh.documents[0].get_model_by_name(name);"


@pytest.fixture(scope="session")
def report_file(small_report, tmp_path_factory) -> Path:
    [path] = render(small_report, tmp_path_factory.mktemp("page") / "report.html")
    return path


class Page:
    """A page that was opened, and everything it complained of."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": options.pop("width", 1200), "height": 900}, **options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function(_READY, timeout=60_000)

    def ask(self, code: str, argument: Any = None) -> Any:
        return self.page.evaluate(f"argument => {{ {_MODEL} {code} }}", argument)

    def box(self, name: str) -> dict[str, float]:
        """Where a figure's frame is on the screen, after scrolling there."""
        code = """
        const view = Bokeh.index.find_one(model(argument))
        view.el.scrollIntoView({block: "center", behavior: "instant"})
        const {left, top} = view.canvas_view.el.getBoundingClientRect(), {x0, y0, x1, y1} = view.frame.bbox
        return {left: left + x0, top: top + y0, right: left + x1, bottom: top + y1}
        """
        return self.ask(code, name)

    def drag(self, points: list[tuple[float, float]]) -> None:
        mouse = self.page.mouse
        mouse.move(*points[0])
        mouse.down()
        for point in points[1:]:
            mouse.move(*point, steps=6)
        mouse.up()
        self.page.wait_for_timeout(200)

    def point_at(self, row: int, side: str = "map_a") -> Any:
        """The box that shows when the pointer is on a text of a map."""
        place = self.ask(
            """
            const [side, row] = argument, view = Bokeh.index.find_one(model(side)), {data} = model("texts")
            view.el.scrollIntoView({block: "center", behavior: "instant"})
            const {left, top} = view.canvas_view.el.getBoundingClientRect(), {x_scale, y_scale} = view.frame
            return [left + x_scale.compute(data[`${side}_x`][row]), top + y_scale.compute(data[`${side}_y`][row])]
            """,
            [side, row],
        )
        self.page.wait_for_timeout(200)
        self.page.mouse.move(place[0] - 3, place[1])
        self.page.mouse.move(*place, steps=3)
        self.page.wait_for_timeout(300)
        return self.page.locator(".bk-Tooltip")

    @property
    def selected(self) -> list[int]:
        return sorted(self.ask("return Array.from(model('texts').selected.indices)"))

    @property
    def listed(self) -> list[int]:
        return self.ask("return Array.from(model('table').view.filter.indices)")


@pytest.fixture
def opened(chromium, report_file) -> Iterator[Page]:
    page = Page(chromium, report_file)
    yield page
    page.page.close()


def test_the_page_opens_without_a_complaint_and_without_a_network(opened):
    assert opened.complaints == []
    assert len(opened.requests) == 1, "the file itself"


def test_a_notebook_gets_the_maps_alone_and_they_are_live(chromium, small_report, tmp_path):
    """In the frame that an output is: an origin of its own, no network."""
    file = tmp_path / "notebook.html"
    file.write_text(f"<!DOCTYPE html><meta charset='utf-8'>{small_report.explore()._repr_html_()}", encoding="utf-8")
    page = chromium.new_page(viewport={"width": 1000, "height": 950})
    complaints: list[str] = []
    page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
    page.goto(file.as_uri())
    frame = page.frames[1]
    frame.wait_for_function(_READY, timeout=60_000)
    assert frame.locator("section").count() == 1
    frame.get_by_placeholder("type and press Enter").fill("oven")
    frame.get_by_placeholder("type and press Enter").press("Enter")
    page.wait_for_timeout(200)
    chosen = frame.evaluate(f"() => {{ {_MODEL} return Array.from(model('texts').selected.indices).length }}")
    assert chosen == sum("oven" in text for text in small_report.texts) > 0
    assert complaints == []
    page.screenshot(path=tmp_path / "frame.png")
    page.close()


def test_texts_are_shown_and_never_run(opened, small_report):
    opened.page.wait_for_timeout(500)
    assert opened.page.title() == "set: embedsvc report"
    assert opened.ask("return document.querySelectorAll('main img, main b, main i:not([style])').length") == 0
    assert opened.page.get_by_text("<i>food</i> (38)", exact=True).count() == 1, "in the legend"
    first = opened.ask("return Array.from(model('texts').data.text)")
    assert set(HOSTILE) <= set(first)
    opened.ask("model('texts').selected.indices = argument", [first.index(text) for text in HOSTILE])
    opened.page.wait_for_timeout(500)
    cells = opened.page.locator(".slick-cell").all_inner_texts()
    assert set(HOSTILE) <= set(cells)
    assert HOSTILE[1] in opened.point_at(first.index(HOSTILE[1])).locator(".bk-tooltip-content").inner_text()
    assert opened.page.title() == "set: embedsvc report"
    assert opened.complaints == []


def test_a_lasso_on_a_selects_the_same_texts_on_b_and_filters_the_table(opened, small_report):
    assert opened.selected == []
    assert len(opened.listed) == small_report.n
    box = opened.box("map_a")
    middle = (box["left"] + box["right"]) / 2
    corners = [(box["left"] + 2, box["top"] + 2), (middle, box["top"] + 2)]
    corners += [(middle, box["bottom"] - 2), (box["left"] + 2, box["bottom"] - 2), corners[0]]
    opened.drag(corners)
    data = opened.ask(
        """
        const {data} = model("texts"), ranges = model("map_a").x_range
        return {x: Array.from(data.map_a_x), start: ranges.start, end: ranges.end}
        """
    )
    half = (data["start"] + data["end"]) / 2
    expected = {row for row, x in enumerate(data["x"]) if x < half}
    assert 0 < len(opened.selected) < small_report.n
    # A point on the very edge may fall on either side.
    assert len(expected ^ set(opened.selected)) <= 2
    assert opened.listed == opened.selected
    same = "return model('map_a').renderers[0].data_source === model('map_b').renderers[0].data_source"
    assert opened.ask(same), "both maps draw one source, so one selection is that of both"
    assert f"{len(opened.selected)} of 150 texts are selected" in opened.ask("return model('selection').text")
    opened.page.get_by_role("button", name="Clear the selection").click()
    assert opened.selected == []
    assert len(opened.listed) == small_report.n


def test_picking_a_variant_moves_the_map(opened):
    places = "return Array.from(model('texts').data.map_b_x)"
    before = opened.ask(places)
    opened.page.get_by_label("Map B").select_option("pre_dropout.inference")
    assert opened.ask(places) != before
    assert opened.ask(places) == opened.ask("return Array.from(model('texts').data.map_a_x)")
    assert opened.ask("return model('map_b').title.text") == "pre_dropout.inference"
    assert opened.complaints == []


def test_the_flow_follows_the_maps(opened):
    opened.page.get_by_label("Map A").select_option("post_dropout.head.0")
    opened.page.get_by_label("Map B").select_option("pre_dropout.training.0")
    title = opened.ask("return model('flow').title.text")
    assert title.startswith("post_dropout.head.0 to pre_dropout.training.0: 150 texts, ARI")


def test_zooming_one_map_zooms_the_other(opened):
    shown = "return [model(argument).x_range.start, model(argument).x_range.end, model(argument).y_range.end]"
    assert opened.ask(shown, "map_a") == opened.ask(shown, "map_b"), "one space, one frame"
    opened.page.locator("[title='Wheel Zoom']").first.click()
    box = opened.box("map_a")
    before = opened.ask(shown, "map_a")
    opened.page.mouse.move((box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2)
    opened.page.mouse.wheel(0, -300)
    opened.page.wait_for_timeout(500)
    assert opened.ask(shown, "map_a") != before
    assert opened.ask(shown, "map_b") == opened.ask(shown, "map_a")
    opened.page.get_by_label("Map B").select_option("post_dropout.head.0")
    opened.page.wait_for_timeout(300)
    assert opened.ask(shown, "map_b") == before, "a map that is picked is seen whole"


def test_picking_a_colour_paints_both_maps_and_changes_the_legend(opened):
    name = "excess change post_dropout.training.0"
    colors = "return Array.from(model('texts').data.color)"
    legend = "return model('legend').text"
    before, words = opened.ask(colors), opened.ask(legend)
    opened.page.get_by_label("Colour by").select_option(name)
    assert len(set(opened.ask(colors))) > len(set(before)) > 1
    assert opened.ask(
        "return ['map_a', 'map_b'].every(name => model(name).renderers[0].glyph.fill_color.field == 'color')"
    )
    assert opened.ask(legend) != words


def test_brushing_the_histogram_selects_the_texts_of_that_range(opened):
    box = opened.box("histogram_plot")
    middle, height = (box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2
    opened.drag([(middle, height), (box["right"] - 2, height)])
    facts = opened.ask(
        """
        const {x_range} = model("histogram_plot")
        return {values: Array.from(model("texts").data.score0), half: (x_range.start + x_range.end) / 2}
        """
    )
    expected = [row for row, value in enumerate(facts["values"]) if value >= facts["half"]]
    assert opened.selected
    assert abs(len(opened.selected) - len(expected)) <= 0.1 * len(expected)


def test_picking_a_score_changes_the_histogram_and_what_a_range_selects(opened, small_report):
    name = "scatter of head passes"
    at = [score.name for score in scores(small_report)].index(name)
    bars = "return Array.from(model('histogram_plot').renderers[0].data_source.data.top)"
    before = opened.ask(bars)
    opened.page.get_by_label("Histogram of").select_option(name)
    opened.page.wait_for_timeout(300)
    assert opened.ask(bars) != before
    assert sum(opened.ask(bars)) == small_report.n
    assert opened.ask("return model('histogram_plot').below[0].axis_label") == name
    assert opened.ask("return model('histogram_plot').above[0].items[0].label.value") == "closed form"
    box = opened.box("histogram_plot")
    middle, height = (box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2
    opened.drag([(middle, height), (box["right"] - 2, height)])
    values = opened.ask("return Array.from(model('texts').data[argument])", f"score{at}")
    chosen = [values[row] for row in opened.selected]
    assert 0 < len(chosen) < small_report.n
    assert min(chosen) > max(value for row, value in enumerate(values) if row not in opened.selected)
    assert opened.complaints == []


def test_a_large_selection_says_how_much_of_it_is_listed(opened):
    table = "model('texts').selected.js_property_callbacks['change:indices'][0]"
    assert opened.ask(f"return {table}.args.most") == 1_000
    opened.ask(f"{table}.args.most = 20; model('texts').selected.indices = argument", list(range(50)))
    assert opened.selected == list(range(50))
    assert opened.listed == list(range(20))
    words = "50 of 150 texts are selected; the table lists the 20 that come first in the order of change."
    assert opened.ask("return model('selection').text") == words


def test_the_keyboard_selects_by_words_and_by_range(opened):
    field = opened.page.get_by_label("Select texts with these words")
    field.fill("GUITAR")
    field.press("Enter")
    texts = opened.ask("return Array.from(model('texts').data.text)")
    assert opened.selected == [row for row, text in enumerate(texts) if "guitar" in text]
    opened.page.get_by_role("slider").first.focus()
    for _ in range(60):
        opened.page.keyboard.press("ArrowRight")
    opened.page.wait_for_timeout(200)
    low = opened.ask("return model('range').value[0]")
    values = opened.ask("return Array.from(model('texts').data.score0)")
    assert opened.selected == [row for row, value in enumerate(values) if value >= low]
    assert 0 < len(opened.selected) < len(values)


def test_the_first_stop_of_the_keyboard_skips_ahead(opened):
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    opened.page.keyboard.press("Enter")
    assert opened.page.url.endswith("#verdict")


def test_measures_and_flows_can_be_picked(opened):
    before = opened.ask("return model('matrix').renderers[0].data_source.data.value.join()")
    opened.page.get_by_label("Measure").select_option("cka")
    assert opened.ask("return model('matrix').renderers[0].data_source.data.value.join()") != before
    assert opened.ask("return model('flow').title.text").startswith("pre_dropout.inference to post_dropout.training.0:")
    opened.page.get_by_label("To", exact=True).select_option("post_dropout.head.0")
    assert opened.ask("return model('flow').title.text").startswith("pre_dropout.inference to post_dropout.head.0: 150")
    assert opened.ask("return model('flow_ribbons').data.count.reduce((a, b) => a + b)") == 150
    opened.page.get_by_label("From", exact=True).select_option("post_dropout.head.0")
    assert "pick two variants" in opened.ask("return model('flow').title.text")
    assert opened.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme(chromium, report_file, scheme, tmp_path):
    page = Page(chromium, report_file, color_scheme=scheme)
    page.page.wait_for_timeout(300)
    ground = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 21, 27)"}[scheme]
    drawn = page.ask("return model('map_a').background_fill_color")
    assert drawn == {"light": "#ffffff", "dark": "#11151b"}[scheme]
    page.page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    colors = "box => [getComputedStyle(box).backgroundColor, getComputedStyle(box).color]"
    assert (
        page.point_at(40).evaluate(colors)
        == {
            "light": ["rgb(255, 255, 255)", "rgb(31, 38, 48)"],
            "dark": ["rgb(17, 21, 27)", "rgb(221, 227, 234)"],
        }[scheme]
    )
    page.page.screenshot(path=tmp_path / f"{scheme}-hover.png")
    assert page.complaints == []
    page.page.close()


def test_a_narrow_screen_stacks_the_maps_and_nothing_sticks_out(chromium, report_file):
    page = Page(chromium, report_file, width=390)
    page.page.wait_for_timeout(500)
    a, b = page.box("map_a"), page.box("map_b")
    page.page.evaluate("scrollTo(0, 0)")
    assert b["left"] == pytest.approx(a["left"], abs=2)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    page.page.close()


@pytest.mark.parametrize("side", ["map_a", "map_b"])
def test_on_a_narrow_screen_what_is_pointed_at_is_shown_whole(chromium, report_file, side, tmp_path):
    page = Page(chromium, report_file, width=390)
    x, y = (page.ask(f"return Array.from(model('texts').data.{side}_{axis})") for axis in "xy")
    ends = {each(range(len(at)), key=at.__getitem__) for at in (x, y) for each in (min, max)}
    for row in ends:
        box = page.point_at(row, side).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 900
        page.page.screenshot(path=tmp_path / f"{row}.png")
    page.page.close()


def test_many_texts_in_one_place_are_not_all_shown(opened):
    opened.ask("model('texts').data.map_a_x.fill(0); model('texts').data.map_a_y.fill(0); model('texts').change.emit()")
    opened.page.wait_for_timeout(300)
    assert opened.point_at(0).locator("b").count() == 3


def test_without_javascript_everything_but_the_maps_can_be_read(chromium, report_file, small_report):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report_file.as_uri())
    text = page.locator("main").inner_text()
    assert small_report.verdict.headline in page.locator(".headline").inner_text()
    for title in ("Most changed texts", "Groups by excess change", "Dropout variability"):
        assert title in text
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "seconds"), [(20_000, 6.0), (100_000, 12.0)])
def test_many_texts_open_and_react_in_time(chromium, tmp_path, n, seconds):
    """The bounds are far above what was measured (see the message), for slow machines; texts of 80 characters."""
    from time import perf_counter

    from bokeh.document import Document
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    rng = np.random.default_rng(0)
    base = rng.standard_normal((n, 2))
    data = Explorer(
        ids=[f"texts.txt:{row}" for row in range(n)],
        texts=[f"text number {row} {'with some more words ' * 3}" for row in range(n)],
        maps={f"variant.training.{at}": base + 0.1 * at for at in range(5)},
        first="variant.training.0",
        second="variant.training.1",
        spaces={f"variant.training.{at}": "variant" for at in range(5)},
        groups={"label": [f"group {row % 7}" for row in range(n)]},
        scores=[Score(f"score {at}", np.sort(rng.random(n))[::-1]) for at in range(4)],
        notes={},
    )
    document = Document()
    for model in explorer(data).values():
        document.add_root(model)
    follow_dark_mode(document)
    file = tmp_path / "many.html"
    file.write_text(file_html(document, INLINE, "many"), encoding="utf-8")
    start = perf_counter()
    page = Page(chromium, file)
    opened = perf_counter() - start
    start = perf_counter()
    page.ask("model('color_by').value = 'score 1'")
    page.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.ask("model('texts').selected.indices = Array.from({length: argument}, (_, i) => 2 * i)", n // 4)
    page.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    reacted = perf_counter() - start
    size = file.stat().st_size / 1e6
    print(f"\n{n:,} texts: {size:.1f} MB, open {opened:.1f} s, colour and select {reacted:.2f} s")
    assert page.complaints == []
    assert opened < seconds
    assert reacted < seconds / 2
    page.page.close()
