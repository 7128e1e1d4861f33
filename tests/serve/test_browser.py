"""The pages as a browser shows them, with a million rows: `make test-browser`."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import launched

from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.sources import Source
from rasterloom.serve.server import serving

pytestmark = pytest.mark.browser

ROWS = 1_000_000
WAIT_MS = 60_000  # at most, on a machine that has other things to do
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGES = ("/", "/images", "/rule", "/runs", "/images?text=number+77&min.quality=0.5")
TOO_WIDE = """() => [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll, svg, .skip, .unseen'))
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the corpus of the benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
        from bench_report import build
    folder = tmp_path_factory.mktemp("large")
    build(str(folder), ROWS)
    recipe = Recipe(corpus="bench", workspace=str(folder), sources=(Source(path="pairs.parquet"),))
    with serving(recipe) as served:
        thread = threading.Thread(target=served.run)
        thread.start()
        yield served.url
        served.server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def show(chromium: Any, address: str) -> Iterator[Callable[..., Any]]:
    """A function that opens a page; what the browser complains of is in ``page.heard``."""
    contexts = []

    def opened(path: str, width: int = 1280, **more: Any) -> Any:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 844}, **more))
        contexts[-1].set_default_timeout(WAIT_MS)
        page = contexts[-1].new_page()
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.goto(address)
        assert page.url == address.partition("?")[0], "the token has left the address"
        page.goto(page.url.rstrip("/") + path)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_and_the_browser_has_nothing_to_complain_of(show, path: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for width, scheme in ((1280, "light"), (390, "dark")):
        page = show(path, width, color_scheme=scheme)
        page.wait_for_load_state("networkidle")
        assert page.evaluate(TOO_WIDE) == []
        assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
        assert page.heard == []
        told = [(v["id"], v["nodes"][0]["html"][:200]) for v in Axe().run(page).response["violations"]]
        assert told == []


def test_typing_filters_at_once_and_the_address_follows(show) -> None:
    from playwright.sync_api import expect

    page = show("/images")
    count = page.locator("#answer strong")
    assert count.inner_text() == "1,000,000"
    page.get_by_label("Caption contains").type("number 77")
    expect(count).to_have_text("11,111", timeout=WAIT_MS)
    assert "text=number+77" in page.url
    page.get_by_label("Reason").select_option("kept")
    expect(count).not_to_have_text("11,111", timeout=WAIT_MS)
    found = count.inner_text()
    page.reload()
    assert count.inner_text() == found, "the address shows the same"
    page.get_by_role("link", name="Next 60").click()
    assert count.inner_text() == found and page.locator(".wall img").count() == 60


def test_a_slider_moves_the_rule_and_its_counts(show) -> None:
    from playwright.sync_api import expect

    page = show("/rule?rule=quality+>+0.5+and+clip+<+0.5")
    lead = page.locator("#answer .lead strong")
    before = int(lead.inner_text().replace(",", ""))
    slider = page.get_by_role("slider", name="quality >")
    slider.focus()
    page.keyboard.press("End")
    expect(lead).to_have_text("0", timeout=WAIT_MS)
    assert slider.evaluate("e => e === document.activeElement"), "it stays under the finger"
    assert page.get_by_role("textbox", name="Rule").input_value().endswith("clip < 0.5")
    page.keyboard.press("Home")
    expect(lead).not_to_have_text("0", timeout=WAIT_MS)
    assert int(lead.inner_text().replace(",", "")) > before
    page.get_by_role("textbox", name="Rule").fill("quality >")
    page.get_by_text("syntax error").wait_for()


def test_without_scripts_the_forms_work(show) -> None:
    page = show("/images", java_script_enabled=False)
    page.get_by_label("Caption contains").fill("number 7777")
    page.get_by_role("button", name="Show").click()
    assert page.locator("#answer strong").inner_text() == "111"
