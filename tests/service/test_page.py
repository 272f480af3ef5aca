"""The page in a real browser: Debian's Chromium without a window, driven by Playwright."""

import re
from typing import Any

import numpy as np
import pytest

from embedsvc import Settings, extract_files
from embedsvc.service.keys import Keys, new_key
from embedsvc.types import Mode
from tests.service.conftest import local, random_texts, serving

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
LABEL = "<img src=y>"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    lines = [f"joy,{text}" if row % 2 else f"anger,{text}" for row, text in enumerate(random_texts(80, seed=1))]
    (folder / "texts.csv").write_text(
        "\n".join(["label,text", *lines, f'{LABEL},"{HOSTILE.replace(chr(34), "")}"']), "utf-8"
    )
    settings = Settings((), (Mode.INFERENCE, Mode.TRAINING, Mode.HEAD), 2, 7)
    extract_files([str(folder / "texts.csv")], folder / "out.parquet", model="fake:16", settings=settings)
    with serving(local(sets={"reviews": str(folder / "out.parquet")})) as made:
        yield made


class Page:
    """A page that was opened, and everything it complained of or asked of others."""

    def __init__(self, browser: Any, url: str, width: int = 1200, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url + "/")

    def embed(self, texts: list[str]) -> None:
        self.page.fill("#texts", "\n".join(texts))
        self.page.click("button")
        self.page.locator("#status", has_text=re.compile(" texts through ")).wait_for(timeout=30_000)
        self.page.locator("#columns li").first.wait_for(timeout=30_000)


@pytest.fixture
def page(chromium, running):
    made = Page(chromium, running.url)
    yield made
    made.page.close()


TEXTS = ["the good film", "a very bad plot", "café !"]


@pytest.mark.browser
def test_texts_show_their_cosines_neighbours_and_place(page, running):
    page.embed(TEXTS)
    assert page.page.locator("#strips circle.head").count() == 3 * 12
    assert page.page.locator("#strips circle.training").count() == 3 * 12
    asked = {"texts": TEXTS, "model": "fake", "passes": 12, "seed": 7}
    answer = running.post("/v1/cosines", asked).json
    shown = [float(cell) for cell in page.page.locator("#matrix-before span:not(.label)").all_inner_texts()]
    np.testing.assert_allclose(shown, np.ravel(answer["between"]["pre_dropout.inference"]), atol=0.0051)
    title = page.page.locator("#strips circle.head title").first.text_content()
    assert title == f"post_dropout.head.0: {answer['to_reference']['post_dropout.head.0'][0]:.4f}"
    assert page.page.locator("#columns .card").count() == 4
    assert "The cross is your text." in page.page.inner_text("#map-about")
    assert page.complaints == []
    assert all(url.startswith(running.url) for url in page.requests), "it asks nobody else"


@pytest.mark.browser
def test_the_band_is_as_wide_as_the_prediction(page, running):
    page.embed(TEXTS)
    expected = running.post("/v1/cosines", {"texts": TEXTS, "passes": 12, "seed": 7}).json["expected"]
    strip = page.page.locator("#strips svg").first.bounding_box()["width"]
    band = page.page.locator("#strips rect.band").first.bounding_box()["width"]
    low = float(page.page.locator("#strips svg text").first.text_content())
    width = (
        min(1, expected["mean"][0] + 2 * expected["deviation"][0]) - expected["mean"][0] + 2 * expected["deviation"][0]
    )
    assert band == pytest.approx(strip * width / (1 - low), rel=0.03)


@pytest.mark.browser
def test_neighbours_among_the_typed_texts(page):
    page.embed(TEXTS)
    page.page.select_option("#among", "")
    page.page.locator("#columns .card").nth(2).wait_for()
    first = page.page.locator("#columns .card").first.locator(".words").all_inner_texts()
    assert sorted(first) == sorted(TEXTS[1:])


@pytest.mark.browser
def test_the_map_shows_texts_and_follows_the_variant(page):
    page.page.locator("#map-legend", has_text="joy").wait_for()
    page.page.select_option("#variant", "post_dropout.training.0")
    assert "A line leads from" in page.page.inner_text("#map-about")
    page.page.select_option("#variant", "pre_dropout.inference")
    box = page.page.locator("#canvas").bounding_box()
    seen = set()
    for x in np.linspace(0.2, 0.8, 12):
        for y in np.linspace(0.2, 0.8, 8):
            page.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if page.page.locator("#tip").is_visible():
                seen.add(page.page.inner_text("#tip"))
    assert len(seen) > 5
    assert all(text.startswith(("joy: ", "anger: ", f"{LABEL}: ")) for text in seen)


@pytest.mark.browser
def test_neither_what_is_typed_nor_what_a_set_holds_is_markup(page):
    page.page.locator("#map-legend", has_text=LABEL).wait_for()
    page.embed([HOSTILE, "the good film"])
    assert page.page.title() == "embedsvc: before and after dropout"
    assert page.page.locator("main img").count() == 0
    assert page.complaints == []


@pytest.mark.browser
def test_an_error_is_shown_and_the_page_goes_on(page):
    page.page.fill("#passes", "64")
    page.page.fill("#texts", "\n".join(["a"] * 201))
    page.page.click("button")
    page.page.locator("#status.error", has_text="the limit here is 200").wait_for()
    page.embed(TEXTS)
    assert page.page.locator("#status.error").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme_and_fits_a_narrow_screen(chromium, running, scheme):
    made = Page(chromium, running.url, width=380, color_scheme=scheme)
    made.embed(TEXTS)
    ground = made.page.locator("html").evaluate("node => getComputedStyle(node).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 21, 27)"}[scheme]
    assert made.page.locator("html").evaluate("node => node.scrollWidth") <= 380
    made.page.close()


@pytest.mark.browser
def test_a_guarded_service_asks_for_the_key(chromium):
    key, line = new_key("alice")
    with serving(local(keys=Keys([line]))) as running:
        made = Page(chromium, running.url)
        made.page.click("button")
        made.page.locator("#status.error", has_text="no valid API key").wait_for()
        made.page.fill("#key", key)
        made.embed(TEXTS)
        made.page.close()


def test_the_policy_allows_no_inline_script(running):
    answer = running.get("/")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert b"<script>" not in answer.content
    assert b"style=" not in answer.content


def test_the_reference_describes_every_route(running):
    page = running.get("/docs").content.decode()
    for path in running.get("/openapi.json").json["paths"]:
        assert path in page
    assert "encoding_format" in page
    assert "http://" not in page.replace("http://127.0.0.1:8080", "")
