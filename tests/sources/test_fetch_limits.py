"""Servers that are slow, endless or break the rules of HTTP: a picture ends at its deadline and its bytes."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from rasterloom.sources.fetch import addresses

Rows = list[dict[str, Any]]
Fetcher = Callable[..., Rows]


def test_dripping_body_ends_at_the_deadline(site: Any, fetch: Fetcher) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        try:
            for _ in range(600):
                await response.write(b"\xff")
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        return response

    site.answers["/drip"] = drip
    (row,) = fetch("/drip", deadline_s=0.4, retries=1, robots=False)
    assert (row["error"], row["attempts"]) == ("timeout", 1)
    assert "0.4" in row["detail"]


def test_silent_server_ends_at_the_deadline(site: Any, fetch: Fetcher) -> None:
    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(600)
        return web.Response()

    site.answers["/silent"] = silent
    (row,) = fetch("/silent", deadline_s=0.4, retries=0, robots=False)
    assert (row["error"], row["http_status"]) == ("timeout", None)


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0",  # a size that never ends
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",  # an extension that never ends
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Header: ",
        b"HTTP/1.1 200 O",
        b"HTTP/1.1 302 Found\r\nLocation: /",
    ],
)
def test_no_way_to_drip_stretches_the_deadline(raw_site: Any, fetch: Fetcher, start: bytes) -> None:
    url = raw_site(start, drip=b"0")
    row = fetch(url, allow=(url.split("/")[2],), robots=False, deadline_s=0.4, max_bytes=10**12)[0]
    assert row["error"] == "timeout", row["detail"]  # the drip lasts a minute


def test_endless_interim_answers_end_at_the_deadline(raw_site: Any, fetch: Fetcher) -> None:
    url = raw_site(b"", drip=b"HTTP/1.1 103 Early Hints\r\n\r\n")
    (row,) = fetch(url, allow=(url.split("/")[2],), robots=False, deadline_s=0.4)
    assert row["error"] == "timeout"


def test_attempts_share_one_deadline(site: Any, fetch: Fetcher) -> None:
    async def slow_failure(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response(status=500)

    site.answers["/a.jpg"] = slow_failure
    (row,) = fetch("/a.jpg", deadline_s=0.7, retries=20, robots=False)
    assert row["attempts"] <= 3 and row["error"] in ("http_5xx", "timeout")


def test_redirects_share_one_deadline(site: Any, fetch: Fetcher) -> None:
    async def slow_redirect(request: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(status=302, headers={"Location": "/again"})

    site.answers["/again"] = slow_redirect
    (row,) = fetch("/again", deadline_s=0.7, retries=0, robots=False, max_redirects=20)
    assert row["error"] == "timeout"  # with a deadline for each, it would be too_many_redirects


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "connect"),
        (b"220 smtp.example.org ESMTP\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\nabc\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc", "incomplete"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n", "bad_url"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "http_4xx"),
    ],
)
def test_servers_that_break_the_rules(raw_site: Any, fetch: Fetcher, answer: bytes, error: str) -> None:
    url = raw_site(answer)
    (row,) = fetch(url, allow=(url.split("/")[2],), robots=False, retries=1)
    assert row["error"] == error


def test_refused_connection(fetch: Fetcher) -> None:
    (row,) = fetch("http://127.0.0.1:1/a.jpg", allow=("127.0.0.1:1",), retries=1, robots=False)
    assert (row["error"], row["attempts"], row["http_status"]) == ("connect", 2, None)


def test_name_that_does_not_resolve(fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object) -> None:
        raise addresses.socket.gaierror(addresses.socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(addresses, "_look_up", nowhere)
    rows = fetch("http://nowhere.test/a.jpg", "http://nowhere.test/b.jpg")
    assert [row["error"] for row in rows] == ["dns", "dns"]
    assert [row["attempts"] for row in rows] == [1, 1]


@pytest.mark.parametrize("announced", [True, False])
def test_too_many_bytes(site: Any, fetch: Fetcher, announced: bool) -> None:
    async def large(request: web.Request) -> web.StreamResponse:
        if announced:
            return web.Response(body=bytes(5000))
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(5):
            await response.write(bytes(1000))
        return response

    site.answers["/a.jpg"] = large
    (row,) = fetch("/a.jpg", max_bytes=3000)
    assert (row["error"], row["attempts"]) == ("too_many_bytes", 1)
    assert "3000" in row["detail"]


def test_bodies_that_unpack_to_too_much(site: Any, fetch: Fetcher) -> None:
    import gzip

    packed = gzip.compress(bytes(20_000_000))

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    site.answers["/a.jpg"] = answer
    (row,) = fetch("/a.jpg", max_bytes=1_000_000)
    assert len(packed) < 100_000
    assert row["error"] == "too_many_bytes"
