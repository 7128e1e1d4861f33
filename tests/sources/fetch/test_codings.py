"""Content codings, asked for or not: what can be unpacked is, and what is an image as it stands stays."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch import codings
from rasterloom.sources.fetch.codings import decoded

MANY = bytes(range(256)) * 100
LIMIT = 10**6


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    return lambda data: pa.compress(data, codec, asbytes=True)


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": by_arrow("brotli"),
    "zstd": by_arrow("zstd"),
}


def failure(body: bytes, codings: str, limit: int = LIMIT) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        decoded(body, codings, limit)
    return caught.value


@pytest.mark.parametrize("name", PACK)
def test_bodies_are_unpacked(name: str) -> None:
    pack = PACK[name]
    for data in (MANY, b"x", bytes(300_000)):
        assert decoded(pack(data), name, LIMIT) == data
        assert decoded(pack(pack(data)), f"{name}, {name.upper()} ", LIMIT) == data
        assert decoded(pack(gzip.compress(data)), f"identity, gzip,{name}", LIMIT) == data
    assert decoded(b"", name, LIMIT) == b""


@pytest.mark.parametrize("name", PACK)
def test_unpacking_is_bounded(name: str) -> None:
    packed = PACK[name](bytes(50_000_000))
    assert len(packed) < 100_000
    assert failure(packed, name).error is ErrorClass.TOO_MANY_BYTES
    assert decoded(packed, name, 1000, cut=True) == bytes(1000)


def test_unpacking_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_: bytes) -> Iterator[bytes]:
        for number in range(1000):
            assert number < 20, "goes on"
            yield bytes(LIMIT // 10)

    monkeypatch.setitem(codings._CODINGS, "gzip", endless)
    assert failure(b"bomb", "gzip").error is ErrorClass.TOO_MANY_BYTES


@pytest.mark.parametrize("name", PACK)
def test_what_is_cut_off_is_incomplete(name: str) -> None:
    packed = PACK[name](MANY)
    short = failure(packed[:-3], name)
    assert (short.error, short.may_pass) == (ErrorClass.INCOMPLETE, True)
    assert MANY.startswith(decoded(packed[:-3], name, LIMIT, cut=True))


@pytest.mark.parametrize("name", PACK)
def test_labels_that_are_not_true(name: str, jpeg: bytes) -> None:
    assert decoded(jpeg, name, LIMIT) == jpeg
    for begin in (b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\1\0\0WEBP", b"II*\0", b"\0\0\0\x20ftypavif"):
        assert decoded(begin + MANY, name, LIMIT) == begin + MANY
    wrong = failure(b"<html>not found</html>" * 9, name)
    assert wrong.error is ErrorClass.BAD_RESPONSE and f"content coding {name}" in wrong.detail


def test_unknown_and_endless_codings(jpeg: bytes) -> None:
    assert "content coding compress is not supported" in failure(MANY, "compress").detail
    assert decoded(jpeg, "aws-chunked", LIMIT) == jpeg
    assert failure(jpeg, ",".join(["gzip"] * 1000)).error is ErrorClass.BAD_RESPONSE


def test_what_follows_gzip_is_passed_over() -> None:
    assert decoded(gzip.compress(MANY) + b"\0" * 7, "gzip", LIMIT) == MANY
    assert decoded(gzip.compress(MANY) + b"trailer", "gzip", LIMIT) == MANY
    assert decoded(gzip.compress(MANY) + gzip.compress(b"more"), "gzip", LIMIT) == MANY + b"more"
    assert decoded(bare(MANY), "deflate", LIMIT) == MANY


@pytest.mark.parametrize("name", PACK)
def test_images_come_out_of_any_coding(site: Any, fetch: Any, jpeg: bytes, name: str) -> None:
    async def packed(_: web.Request) -> web.Response:
        return web.Response(body=PACK[name](jpeg), headers={"Content-Encoding": name})

    async def mislabelled(_: web.Request) -> web.Response:
        return web.Response(body=jpeg, headers={"Content-Encoding": name})

    async def wrong(_: web.Request) -> web.Response:
        return web.Response(body=b"<html>" * 99, headers={"Content-Encoding": name})

    site.answers |= {"/a.jpg": packed, "/b.jpg": mislabelled, "/c.jpg": wrong}
    rows = fetch("/a.jpg", "/b.jpg", *["/c.jpg"] * 9, robots=False, host_down_after=3)
    assert [row["error"] for row in rows] == [None, None] + ["bad_response"] * 9
    assert [row["image"] for row in rows[:2]] == [jpeg, jpeg]


def test_robots_txt_in_gzip_is_obeyed(site: Any, fetch: Any, jpeg: bytes) -> None:
    async def rules(_: web.Request) -> web.Response:
        return web.Response(
            body=gzip.compress(b"User-agent: *\nDisallow: /\n"), headers={"Content-Encoding": "gzip"}
        )

    site.answers |= {"/robots.txt": rules, "/a.jpg": jpeg}
    assert fetch("/a.jpg")[0]["error"] == "robots"
