"""fetch_shard against a real server that misbehaves: a row for every row, each failure in its class."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import IMAGES, PAIRS, pair_key
from rasterloom.sources.fetch import addresses
from rasterloom.sources.fetch.shard import fetch_shard

Rows = list[dict[str, Any]]
Fetcher = Callable[..., Rows]


def status(code: int, **headers: str) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=code, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def redirect(to: str) -> Any:
    return status(302, Location=to)


def first_then(first: Any, body: bytes) -> Any:
    """Answer the first request so, every later one with the body."""
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(1)
        return await first(request) if len(asked) == 1 else web.Response(body=body)

    return answer


def test_a_good_image(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    site.answers["/a.jpg"] = jpeg
    (row,) = fetch("/a.jpg")
    assert row["status"] == "ok"
    assert row["error"] is None and row["detail"] is None
    assert row["image"] == jpeg
    assert row["sha256"] == hashlib.sha256(jpeg).hexdigest()
    assert (row["format"], row["width"], row["height"]) == ("jpeg", 64, 64)
    assert (row["http_status"], row["attempts"], row["shard"]) == (200, 1, 3)
    assert row["original_bytes"] == len(jpeg)
    assert len(row["thumbnail"]) == 192
    assert row["final_url"] == site.url("/a.jpg")


def test_every_row_comes_back_in_order(site: Any, jpeg: bytes) -> None:
    site.answers["/a.jpg"] = jpeg
    rows = [
        (site.url("/a.jpg"), "fine", None),
        (None, "no url", "bad_url"),
        ("  ", "blank url", "bad_url"),
        ("http://[x/a.jpg", "half an address", "bad_url"),
        ("nothing/with/a/scheme.jpg", "relative", "blocked_scheme"),
        ("http:///a.jpg", "no host", "bad_url"),
        ("file:///etc/hostname", "file", "blocked_scheme"),
        ("ftp://127.0.0.1/a.jpg", "ftp", "blocked_scheme"),
        ("data:image/png;base64,AAAA", "data", "blocked_scheme"),
        (site.url("/a.jpg"), "", "bad_caption"),
        (site.url("/a.jpg"), " \n ", "bad_caption"),
        (site.url("/a.jpg"), None, "bad_caption"),
        (site.url("/none.jpg"), "gone", "http_4xx"),
        (site.url("/a.jpg") + "#2", "fine again", None),
    ]
    pairs = pa.Table.from_pylist(
        [{"key": pair_key(url, text), "url": url, "caption": text} for url, text, _ in rows], schema=PAIRS
    )
    images = fetch_shard(pairs, Fetch(allow_hosts=(f"127.0.0.1:{site.port}",)), shard=0)
    assert images.schema == IMAGES
    assert images["key"].to_pylist() == pairs["key"].to_pylist()
    assert images["url"].to_pylist() == pairs["url"].to_pylist()
    assert images["caption"].to_pylist() == pairs["caption"].to_pylist()
    assert images["error"].to_pylist() == [error for _, _, error in rows]
    for row in images.to_pylist():
        assert (row["status"] == "ok") == (row["error"] is None) == (row["image"] is not None)
        assert (row["detail"] is None) == (row["error"] is None)
    assert site.asked["/a.jpg"] == 2  # rows without a caption ask for nothing


def test_empty_shard() -> None:
    images = fetch_shard(PAIRS.empty_table(), Fetch(), shard=0)
    assert images.schema == IMAGES and images.num_rows == 0


@pytest.mark.parametrize(
    ("code", "error", "attempts"),
    [
        (404, "http_4xx", 1), (403, "http_4xx", 1), (410, "http_4xx", 1), (408, "http_4xx", 3),
        (429, "http_429", 3), (500, "http_5xx", 3), (503, "http_5xx", 3), (304, "http_4xx", 1),
    ],
)  # fmt: skip
def test_status_classes_and_what_is_tried_again(
    site: Any, fetch: Fetcher, code: int, error: str, attempts: int
) -> None:
    site.answers["/a.jpg"] = status(code)
    (row,) = fetch("/a.jpg")
    assert (row["error"], row["attempts"], row["http_status"]) == (error, attempts, code)
    assert str(code) in row["detail"]
    assert site.asked["/a.jpg"] == attempts


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_what_passes_is_fetched_on_retry(site: Any, fetch: Fetcher, jpeg: bytes, code: int) -> None:
    site.answers["/a.jpg"] = first_then(status(code), jpeg)
    (row,) = fetch("/a.jpg")
    assert (row["status"], row["attempts"], row["http_status"]) == ("ok", 2, 200)


def test_retry_after_is_waited_for_by_all_who_ask_that_host(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    asked_at: list[float] = []

    async def busy_for_a_second(request: web.Request) -> web.Response:
        asked_at.append(asyncio.get_running_loop().time())
        if len(asked_at) == 1 or asked_at[-1] < asked_at[0] + 0.99:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(body=jpeg)

    site.answers |= {"/a.jpg": busy_for_a_second, "/b.jpg": busy_for_a_second}
    rows = fetch("/a.jpg", "/b.jpg", per_host=1)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert sorted(row["attempts"] for row in rows) == [1, 2]  # nobody came back too early


def test_server_that_asks_for_an_hour_is_left_alone(site: Any, fetch: Fetcher) -> None:
    site.answers["/a.jpg"] = status(429, Retry_After="3600")
    (row,) = fetch("/a.jpg")
    assert (row["error"], row["attempts"]) == ("http_429", 1)
    assert "3600 s" in row["detail"]


async def _answer(response: web.Response) -> web.Response:
    return response


def test_redirects_are_followed_to_the_limit(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    site.answers |= {
        "/1": redirect("/2"),
        "/2": redirect(site.url("/3")),
        "/3": jpeg,
        "/loop": redirect("/loop"),
    }
    rows = fetch("/1", "/loop", max_redirects=2)
    assert rows[0]["status"] == "ok" and rows[0]["final_url"] == site.url("/3")
    assert rows[1]["error"] == "too_many_redirects" and site.asked["/loop"] == 3
    (row,) = fetch("/1", max_redirects=1)
    assert row["error"] == "too_many_redirects"


def test_redirects_lead_to_nothing_that_is_not_public(
    site: Any, fetch: Fetcher, canary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = addresses._look_up
    monkeypatch.setattr(
        addresses,
        "_look_up",
        lambda host, *rest: look_up("127.0.0.1" if host == "evil.test" else host, *rest),
    )
    hosts = (
        "127.0.0.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "127.1",
        "127.0.0.1.", "①②⑦.0.0.1", "localhost", "evil.test", "a@127.0.0.1", "example.com@127.0.0.1",
        "example.com:80@127.0.0.1",
        "0.0.0.0", "0", "127.8.8.8", "10.0.0.1", "172.16.3.4", "192.168.0.1", "100.64.0.1", "169.254.169.254",
        "168.63.129.16", "192.0.0.192", "224.0.0.1", "239.1.2.3", "255.255.255.255", "240.0.0.1",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001::7f00:1]", "[fc00::1]", "[fd00:ec2::254]",
        "[fe80::1]", "[ff02::1]",
    )  # fmt: skip
    targets = [f"http://{host}:{canary}/x.jpg" for host in hosts]
    for number, target in enumerate(targets):
        site.answers[f"/{number}"] = redirect(target)
    site.answers["/file"] = redirect("file:///etc/hostname")
    rows = fetch(*(f"/{number}" for number in range(len(targets))), *targets, "/file", max_redirects=3)
    assert [row["error"] for row in rows] == ["blocked_address"] * 2 * len(targets) + ["blocked_scheme"]


def test_redirect_to_a_name_that_changes_its_address_gains_nothing(
    site: Any, fetch: Fetcher, canary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is public when it is looked up; what the socket is about to connect to is not."""
    look_up = addresses._look_up

    def rebound(host: str, *rest: Any) -> Any:
        return look_up("127.0.0.1" if host == "rebind.test" else host, *rest)

    monkeypatch.setattr(addresses, "_look_up", rebound)
    judged: list[str] = []

    def fooled_once(ip: str) -> bool:
        judged.append(ip)
        return len(judged) == 1 or is_public(ip)

    is_public = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", fooled_once)
    site.answers["/to"] = redirect(f"http://rebind.test:{canary}/x.jpg")
    (row,) = fetch("/to", robots=False)
    assert judged == ["127.0.0.1", "127.0.0.1"]  # at the resolver, and at the socket
    assert row["error"] == "blocked_address"


def test_hashes_of_the_source_are_checked(site: Any, jpeg: bytes) -> None:
    site.answers["/a.jpg"] = jpeg
    sha256, md5 = hashlib.sha256(jpeg).hexdigest(), hashlib.md5(jpeg).hexdigest()
    cases: list[tuple[dict[str, object] | None, str | None]] = [
        ({"checksum": sha256, "md5": md5.upper()}, None),
        ({"checksum": sha256[:-1] + ("0" if sha256[-1] != "0" else "1")}, "hash_mismatch"),
        ({"checksum": sha256, "md5": "no hash"}, "hash_mismatch"),
        ({"checksum": None, "md5": ""}, None),
        ({"other": "x"}, None),
        (None, None),
    ]
    rows = [
        {
            "key": str(number),
            "url": site.url("/a.jpg"),
            "caption": "a",
            "meta": None if meta is None else json.dumps(meta),
        }
        for number, (meta, _) in enumerate(cases)
    ]
    config = Fetch(allow_hosts=(f"127.0.0.1:{site.port}",), sha256="checksum", md5="md5")
    images = fetch_shard(pa.Table.from_pylist(rows, schema=PAIRS), config, shard=0)
    assert images["error"].to_pylist() == [error for _, error in cases]
    assert sha256 in images["detail"][1].as_py() and "checksum" in images["detail"][1].as_py()


def test_robots_txt_is_read_once_and_obeyed(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    rules = b"User-agent: *\nDisallow: /private/\n\nUser-agent: otherbot\nDisallow: /\n"
    site.answers |= {
        "/robots.txt": rules,
        "/a.jpg": jpeg,
        "/private/a.jpg": jpeg,
        "/to": redirect("/private/a.jpg"),
    }
    rows = fetch(*["/a.jpg"] * 8, "/private/a.jpg", "/to")
    assert [row["error"] for row in rows] == [None] * 8 + ["robots"] * 2
    assert site.asked["/robots.txt"] == 1
    assert site.asked["/private/a.jpg"] == 0
    (row,) = fetch("/private/a.jpg", robots=False)
    assert row["status"] == "ok"


@pytest.mark.parametrize(
    ("agent", "error"), [("rasterloom/0.1 (+https://a.example)", "robots"), ("b/1", None)]
)
def test_the_rules_for_our_name_hold_for_us(
    site: Any, fetch: Fetcher, jpeg: bytes, agent: str, error: str | None
) -> None:
    site.answers |= {"/a.jpg": jpeg, "/robots.txt": b"User-agent: Rasterloom\nDisallow: /a\n"}
    (row,) = fetch("/a.jpg", user_agent=agent)
    assert row["error"] == error and site.asked["/a.jpg"] == (error is None)


@pytest.mark.parametrize(("answer", "error"), [(404, None), (403, None), (500, "robots"), (429, "robots")])
def test_robots_txt_that_is_not_there(
    site: Any, fetch: Fetcher, jpeg: bytes, answer: int, error: str | None
) -> None:
    site.answers |= {"/a.jpg": jpeg, "/robots.txt": status(answer)}
    (row,) = fetch("/a.jpg", retries=1)
    assert row["error"] == error
    assert site.asked["/a.jpg"] == (error is None)


def test_robots_txt_opens_no_door(site: Any, fetch: Fetcher, jpeg: bytes, canary: int) -> None:
    site.answers |= {"/a.jpg": jpeg, "/robots.txt": redirect(f"http://127.0.0.1:{canary}/robots.txt")}
    (row,) = fetch("/a.jpg")
    assert row["error"] == "blocked_address" and "robots.txt" in row["detail"]


def test_opt_out_header_is_obeyed(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    site.answers["/a.jpg"] = lambda _: _answer(web.Response(body=jpeg, headers={"X-Robots-Tag": "noai"}))
    assert fetch("/a.jpg")[0]["error"] == "robots"
    assert fetch("/a.jpg", opt_out_tags=())[0]["status"] == "ok"


@pytest.mark.parametrize("tag", ["noindex", "none", "noimageindex"])
def test_noindex_is_obeyed_by_choice(site: Any, fetch: Fetcher, jpeg: bytes, tag: str) -> None:
    site.answers["/a.jpg"] = lambda _: _answer(web.Response(body=jpeg, headers={"X-Robots-Tag": tag}))
    assert fetch("/a.jpg")[0]["status"] == "ok"
    assert fetch("/a.jpg", opt_out_tags=("noindex", "noimageindex"))[0]["error"] == "robots"


def test_requests_say_who_asks_and_nothing_more(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    site.answers |= {"/robots.txt": status(200, Set_Cookie="a=b"), "/a.jpg": jpeg}
    fetch(f"http://me:secret@127.0.0.1:{site.port}/a.jpg", user_agent="rasterloom/9 (+mailto:me@example.org)")
    assert len(site.seen) == 2
    for headers in site.seen:
        assert headers["User-Agent"] == "rasterloom/9 (+mailto:me@example.org)"
        assert not {"Authorization", "Cookie", "Referer"} & headers.keys()


@pytest.mark.parametrize("limits", [{"per_host": 3, "concurrency": 50}, {"per_host": 50, "concurrency": 3}])
def test_no_more_requests_at_once_than_allowed(
    site: Any, fetch: Fetcher, jpeg: bytes, limits: dict[str, int]
) -> None:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)
        return web.Response(body=jpeg)

    site.answers["/a.jpg"] = slow
    rows = fetch(*["/a.jpg"] * 20, **limits)
    assert {row["status"] for row in rows} == {"ok"}
    assert site.most_under_way == 3


def test_fault_of_ours_harms_its_own_row_alone(
    site: Any, fetch: Fetcher, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rasterloom.sources.fetch import shard as module

    decode = module.decode_image

    def faulty(body: bytes, config: Fetch) -> Any:
        if body == b"poison":
            raise RuntimeError("unforeseen")
        return decode(body, config)

    monkeypatch.setattr(module, "decode_image", faulty)
    site.answers |= {"/poison": b"poison", "/a.jpg": jpeg}
    rows = fetch("/a.jpg", "/poison", "/a.jpg")
    assert [row["error"] for row in rows] == [None, "internal", None]
    assert rows[1]["detail"] == "RuntimeError: unforeseen"


def test_what_is_no_image(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    site.answers |= {
        "/page.jpg": b"<!DOCTYPE html><p>moved",
        "/half.jpg": jpeg[: len(jpeg) // 2],
        "/none": b"",
    }
    rows = fetch("/page.jpg", "/half.jpg", "/none", "/page.jpg")
    assert [row["error"] for row in rows] == ["not_an_image", "broken_image", "not_an_image", "not_an_image"]
    assert {row["attempts"] for row in rows} == {1}
