"""The pages as a browser shows them: `make test-browser`, with a Chromium of the machine."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import launched

from rasterloom.report.diff_page import write_difference
from rasterloom.report.rule_trial_page import Group, Trial, write_trial
from rasterloom.versions.diff import diff

pytestmark = pytest.mark.browser

PAGES = ("report", "comparison", "difference", "trial")
WIDTHS = (1280, 390, 320)
TOO_WIDE = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg, .skip')
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"""
TOO_SMALL = """() => [...document.querySelectorAll('nav a, summary')]
    .filter(e => e.getBoundingClientRect().height < 24).map(e => e.outerHTML.slice(0, 120))"""
FOCUS = """() => { const e = document.activeElement, style = getComputedStyle(e);
    return {tag: e.tagName, outline: style.outlineStyle, width: parseFloat(style.outlineWidth),
            place: [...document.querySelectorAll('*')].indexOf(e)}; }"""
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def files(
    full: Path, comparison: Path, workspace, some_items, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Every kind of page that there is, by name."""
    folder = tmp_path_factory.mktemp("pages")
    corpus = workspace.corpus
    write_difference(
        corpus, corpus, [diff(corpus, corpus, t) for t in ("images", "selection")], folder / "d.html"
    )
    keys = tuple(item.key for item in some_items if item.image)[:9]
    groups = [Group("rule: quality < 9", 9, True, keys), Group("rule: 1 > 2", 1, False, keys[:1])]
    trial = Trial("scenes", "quality < 9", "quality < 9 and " * 20 + "true", 60, 47, 55, 9, 1)
    write_trial(corpus, workspace.inputs().snapshots, trial, groups, folder / "t.html")
    return {
        "report": full,
        "comparison": comparison,
        "difference": folder / "d.html",
        "trial": folder / "t.html",
    }


@pytest.fixture
def show(chromium: Any, files: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """A function that opens a page; whatever it asks of the network and complains of is in ``page.heard``."""
    contexts = []

    def opened(name: str, width: int = 1280, **more: Any) -> Any:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 844}, **more))
        page = contexts[-1].new_page()
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on(
            "request", lambda request: page.heard.append(request.url) if request.url[:5] != "data:" else None
        )
        page.goto(files[name].as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_and_all_its_images_are_seen(show, files, name: str) -> None:
    page = show(name, offline=True)
    page.evaluate(f"{OPEN_ALL}; document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
    assert page.heard == [files[name].as_uri()]


@pytest.mark.parametrize("name", PAGES)
def test_nothing_reaches_over_the_edge_and_what_is_tapped_is_large_enough(show, name: str) -> None:
    """24 pixels are the least of WCAG 2.2 (2.5.8)."""
    page = show(name)
    page.evaluate(OPEN_ALL)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate(TOO_WIDE) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(TOO_SMALL) == []


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing(show, name: str, scheme: str, width: int) -> None:
    """Roles, labels, landmarks, order of headings, contrast (WCAG AA): axe-core's rules."""
    from axe_playwright_python.sync_playwright import Axe

    page = show(name, width, color_scheme=scheme)
    page.evaluate(OPEN_ALL)
    found = Axe().run(page).response
    checked = {rule["id"] for rule in found["passes"]}
    assert {"color-contrast", "heading-order", "region"} <= checked
    told = [
        (v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in found["violations"]
    ]
    assert told == []


def test_dark_is_dark_and_light_is_light(show) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        colour = show("report", color_scheme=scheme).evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        grounds.append(sum(map(int, re.findall(r"\d+", colour))))
    assert grounds[0] > 700 and grounds[1] < 100


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_the_keyboard_leads_through_the_page(show, name: str) -> None:
    page = show(name)
    page.keyboard.press("Tab")
    skip = page.evaluate(
        "[document.activeElement.className, document.activeElement.getBoundingClientRect().left]"
    )
    assert skip[0] == "skip" and skip[1] >= 0, "seen once it has the focus"
    stops = []
    while page.keyboard.press("Tab") or not page.evaluate("document.activeElement === document.body"):
        stops.append(page.evaluate(FOCUS))
    assert len(stops) > 10 and stops[0]["tag"] == "A"
    assert all(stop["outline"] == "solid" and stop["width"] >= 2 for stop in stops), "the focus is seen"
    assert [stop["place"] for stop in stops] == sorted(stop["place"] for stop in stops), "down the page"


def test_a_gallery_opens_and_closes_by_the_keyboard(show) -> None:
    page = show("report")
    summary = page.locator("#failures summary").first
    summary.focus()
    assert not page.evaluate("document.activeElement.parentElement.open")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")
    assert page.locator("#failures .failed").first.is_visible()


def test_printing_shows_what_is_folded(show) -> None:
    page = show("report")
    folded = page.locator("#recipe pre")
    assert not folded.is_visible()
    page.emulate_media(media="print")
    assert folded.is_visible() and folded.bounding_box()["height"] > 10
    assert not page.locator("nav").is_visible()


def test_reduced_motion_is_respected(show) -> None:
    for motion, expected in (("no-preference", "smooth"), ("reduce", "auto")):
        page = show("report", reduced_motion=motion)
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == expected


def test_a_section_is_not_hidden_behind_the_navigation(show) -> None:
    page = show("report", reduced_motion="reduce")
    page.locator("nav a[href='#scores']").click()
    heading, nav = page.locator("#scores h2").bounding_box(), page.locator("nav").bounding_box()
    assert heading["y"] >= nav["y"] + nav["height"]
