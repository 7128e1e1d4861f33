"""URLs are sent as they stand where they are valid, and repaired as browsers do where they are not."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from rasterloom.sources.fetch.opt_out import opt_outs_of
from rasterloom.sources.fetch.urls import join_url, parse_url

AS_THEY_STAND = [
    "/plain.jpg",
    "/smart/http%3A%2F%2Forigin.example%2Fa.jpg",
    "/b%27s.jpg",
    "/b's(1)!*.jpg",
    "/c%2C1,2.jpg",
    "/d%40e@f.jpg",
    "/%7euser/~user",
    "/%e4%F6%fc.jpg",
    "/a;p=1/b:c.jpg",
    "/f.jpg?Signature=ab%2Fcd%2Bef%3D&Expires=1",
    "/g.jpg?src=http%3A%2F%2Forigin.example%2Fa.jpg&x=a+b%20c",
    "/h.jpg?",
    "/i.jpg?a=/?b=[1]&c='2'",
    "/100%.jpg",
    "/double//slash///x",
    "/%25252F",
]


@pytest.mark.parametrize("target", AS_THEY_STAND)
def test_what_is_valid_stays(target: str) -> None:
    for address in (f"http://h.test{target}", f"  http://user:pw@h.test{target}#part\n"):
        assert parse_url(address).raw_path_qs == target
    assert join_url(URL("https://other.test/x/y?z"), f"http://h.test{target}").raw_path_qs == target
    if not target.startswith("//"):
        assert join_url(URL("http://h.test:81/x/y?z"), target) == parse_url(f"http://h.test:81{target}")


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("HTTP://H.Test", "http://h.test/"),
        ("http://h.test?x=1", "http://h.test/?x=1"),
        ("http://h.test/a b\tc.jpg", "http://h.test/a%20bc.jpg"),
        ("http://h.test/ü.jpg?ü=ß", "http://h.test/%C3%BC.jpg?%C3%BC=%C3%9F"),
        ("http://bücher.test/", "http://xn--bcher-kva.test/"),
        ("http://h%2Etest/", "http://h.test/"),
        ("http:\\\\h.test\\a\\b.jpg?c\\d", "http://h.test/a/b.jpg?c\\d"),
        ("http://h.test/a/../b/./%2e%2E/c/.", "http://h.test/c/"),
        ("http://h.test/../../x", "http://h.test/x"),
        ('http://h.test/<"{`}">?<"{`}">', "http://h.test/%3C%22%7B%60%7D%22%3E?%3C%22{`}%22%3E"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://my_bucket.h.test:8080/x", "http://my_bucket.h.test:8080/x"),
    ],
)
def test_what_is_not_valid_is_repaired(address: str, sent: str) -> None:
    assert str(parse_url(address)) == sent


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("y.jpg", "http://h.test:81/d/y.jpg"),
        ("../%27.jpg", "http://h.test:81/%27.jpg"),
        ("/%2F.jpg", "http://h.test:81/%2F.jpg"),
        ("?q=%27", "http://h.test:81/d/e%27.jpg?q=%27"),
        ("#part", "http://h.test:81/d/e%27.jpg?x=%2F"),
        ("//o.test/%27", "http://o.test/%27"),
        ("https://o.test/%27", "https://o.test/%27"),
        ("/b\udcfcro.jpg", "http://h.test:81/b%FCro.jpg"),  # bytes of Latin-1, as the header is read
        ("/büro.jpg", "http://h.test:81/b%C3%BCro.jpg"),
        (" /a b ", "http://h.test:81/a%20b"),
    ],
)
def test_redirects_lead_to_what_they_say(location: str, leads_to: str) -> None:
    assert str(join_url(parse_url("http://h.test:81/d/e%27.jpg?x=%2F#y"), location)) == leads_to


@pytest.mark.parametrize(
    "address",
    ["http://[x/a", "http://h.test:99999/", "http://h.test:abc/", "http://a%2Fb/", "http://a%40b.test/"],
)
def test_what_is_no_url(address: str) -> None:
    with pytest.raises(ValueError):
        parse_url(address)


def test_the_server_is_asked_for_what_the_list_says(
    site: Any, fetch: Callable[..., Any], jpeg: bytes
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        if "moved" in request.raw_path:
            return web.Response(status=302, headers={"Location": request.raw_path.replace("moved", "found")})
        return web.Response(body=jpeg)

    class Anything(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return answer

    site.answers = Anything()
    targets = [target for target in AS_THEY_STAND if not target.startswith("//")]
    rows = fetch(*targets, *(f"/moved{target}" for target in targets), robots=False)
    assert [row["error"] for row in rows] == [None] * (2 * len(targets))
    assert set(asked) == {
        *targets,
        *(f"/{word}{target}" for target in targets for word in ("moved", "found")),
    }
    assert rows[2]["final_url"] == site.url(targets[2])
    assert rows[len(targets) + 2]["final_url"] == site.url(f"/found{targets[2]}")


@pytest.mark.parametrize("spelled", ["/b%27s.jpg", "/b's.jpg", "/%62's.jpg", "/a/../b%27s.jpg"])
def test_opt_outs_know_every_spelling(spelled: str) -> None:
    columns = {"host": [], "prefix": ["h.test/g%27/*"], "url": ["http://h.test/b's.jpg"], "sha256": []}
    opt_outs = opt_outs_of(columns, "list")
    assert opt_outs.of_url(parse_url(f"http://h.test{spelled}"))
    assert opt_outs.of_url(parse_url("https://h.test/g'/x.jpg"))
    assert not opt_outs.of_url(parse_url("http://h.test/c.jpg"))


@pytest.mark.parametrize("spelled", ["/private%27/a.jpg", "/private'/a.jpg", "/p%72ivate%27/a.jpg"])
def test_robots_txt_knows_every_spelling(
    site: Any, fetch: Callable[..., Any], jpeg: bytes, spelled: str
) -> None:
    site.answers["/robots.txt"] = b"\xef\xbb\xbfUser-agent: *\nDisallow: /private'/\n"
    site.answers["/private'/a.jpg"] = jpeg
    assert fetch(spelled)[0]["error"] == "robots"
    assert site.asked["/private'/a.jpg"] == 0
