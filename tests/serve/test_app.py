"""Pages as a browser gets them."""

import html
import re
from urllib.parse import quote

import pytest
from made_workspace import Item

PAGES = ("/", "/images", "/rule", "/runs")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole_and_has_neither_scripts_nor_styles_in_it(client, path: str) -> None:
    answer = client.ask(path)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/html")
    text = answer.text
    assert text.rstrip().endswith("</html>") and "scenes@main" in text
    assert re.findall(r"<script(?! src=\"/static/serve.js\" defer></script>)", text) == []
    assert "<style" not in text and not re.search(r"\s(?:style|on\w+)=", text)
    assert set(re.findall(r"(?:src|href)=\"(?:\w+:)?//", text)) == set()


def test_strangers_text_stays_text(client, items: list[Item]) -> None:
    text = client.ask("/images?text=%3Cscript%3E").text
    assert "<script>alert" not in text and "&lt;script&gt;alert(" in text
    hostile = next(i for i in items if i.image and "<script>" in i.caption)
    for path in (
        f"/images?text={quote(hostile.caption)}",
        '/images?text="><script>alert(3)</script>',
        '/images?reason="><script>alert(3)</script>',
        "/images?group=%22%3E%3Cscript%3Ealert(3)%3C/script%3E&near=%22%3E%3Cscript%3Ealert(3)",
        "/rule?rule=caption%3D'%3C/textarea%3E%3Cscript%3Ealert(3)%3C/script%3E'",
        "/rule?rule=%3Cscript%3Ealert(3)",
        "/images?min.quality=%3Cscript%3Ealert(3)",
        "/images/%3Cscript%3Ealert(3)",
    ):
        answer = client.ask(path.replace('"', "%22").replace("<", "%3C").replace(">", "%3E"))
        assert answer.status in (200, 400, 404), path
        assert "<script>alert" not in answer.text, path


def test_terminal_codes_and_secrets_are_spelt_out(client) -> None:
    text = client.ask("/images?text=%1B%5B2J%E2%80%AEhttps://me:pw@host/").text
    assert "\x1b" not in text and "\u202e" not in text and "me:pw" not in text
    assert r"\x1b[2J" in text


def test_the_overview_counts_what_became_of_the_pairs(client, items: list[Item]) -> None:
    text = client.ask("/").text
    assert f"What became of {len(items)} pairs" in text
    failed = sum(i.error == "http_4xx" for i in items)
    row = text[text.index("failed: http_4xx</bdi>") :]
    assert f"<td>{failed}</td>" in row[:200] and f'max="{len(items)}" value="{failed}"' in row[:400]


def test_images_are_shown_and_lead_on(client, items: list[Item]) -> None:
    text = client.ask("/images?reason=kept").text
    kept = [i for i in items if not i.error and i.reason == "kept"]
    assert f"<strong>{len(kept)}</strong> of {len(items)}" in text
    sources = [html.unescape(source) for source in re.findall(r'<img src="([^"]+)"', text)]
    assert len(sources) == len(kept)
    answer = client.ask(sources[0])
    assert answer.headers["Content-Type"] == "image/webp" and answer.body[8:12] == b"WEBP"
    stored = client.ask(f"/images/{kept[0].key}/stored/0")
    assert stored.headers["Content-Type"] == "image/jpeg" and stored.body[:2] == b"\xff\xd8"
    assert '<option value="kept" selected>' in text


def test_the_next_page_keeps_the_filters(client, monkeypatch) -> None:
    monkeypatch.setattr("rasterloom.serve.filters.PAGE", 5)
    text = client.ask("/images?text=disc&min.quality=4").text
    (address,) = re.findall(r'href="([^"]+)" rel="next"', text)
    assert "text=disc" in address and "min.quality=4" in address and "after=" in address
    more = client.ask(html.unescape(address)).text
    first, second = (set(re.findall(r'"/images/(\w{32})"', one)) for one in (text, more))
    assert len(first) == len(second) == 5 and not first & second


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd"),
        *("/reports/..%2f..%2fcatalog.db", "/reports/%2e%2e", "/reports/last", "/reports/x%00"),
        *("/images/..%2f..%2fcatalog.db", "/images/x/stored/0", "/images/x/thumbnail", "/images/x/stored/-1"),
        *("/images/%00", "/nothing", "/static/serve.py", "/static/", "/images/"),
    ],
)
def test_what_there_is_not_is_not_found(client, path: str) -> None:
    answer = client.ask(path)
    assert answer.status in (307, 404), answer.text[:300]
    assert b"SQLite" not in answer.body and b"import" not in answer.body


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/images?passes=quality+%3E", "syntax error"),
        ("/images?min.qualty=3", "did you mean quality"),
        ("/rule?rule=qualty+%3E+3", "did you mean quality"),
        ("/rule?rule=caption::int+%3E+3", "the rule fails on an image"),
    ],
)
def test_a_wrong_filter_is_a_page_that_says_so(client, path: str, message: str) -> None:
    answer = client.ask(path)
    assert answer.status == 400 and message in html.unescape(answer.text)
    assert '<div id="answer"><p class="error"' in answer.text


def test_numbers_too_large_are_no_error(client) -> None:
    assert client.ask(f"/images?after={'9' * 40}").status in (200, 400)
    assert client.ask(f"/images?min.quality={'9' * 400}").status == 400
    assert client.ask("/images?text=" + "a" * 5000).status == 200
