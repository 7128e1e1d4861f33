"""URLs, redirects and heads of responses as curl and urllib take them, at a server that records requests."""

import contextlib
import random
import socket
import string
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import PAIRS, pair_key
from rasterloom.sources.fetch import client_pool
from rasterloom.sources.fetch.shard import fetch_shard

IS_NIGHT = settings.get_current_profile_name() == "night"
SOME = settings(
    max_examples=1500 if IS_NIGHT else 40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WEIRD_REPLY = 8  # of curl's exit codes
MOST_CODINGS = 5  # that curl takes
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Recorder:
    """A server that answers any request with the bytes it is told, and keeps the targets asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}  # by target; all others get `other`
        self.other = b""
        self.asked: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        asked = b""
        with connection:
            connection.settimeout(10)
            try:
                while b"\r\n\r\n" not in asked:
                    if not (more := connection.recv(65536)):
                        return
                    asked += more
                target = asked.split(b"\r\n")[0].split(b" ", 1)[1].rpartition(b" ")[0].decode("latin-1")
                self.asked.append(target)
                connection.sendall(self.answers.get(target, self.other))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except OSError:
                pass


@pytest.fixture(scope="module")
def server() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.listener.close()
    client_pool.close_workers()


def jpeg() -> bytes:
    buffer = BytesIO()
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((32, 32)).save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = jpeg()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(JPEG) + JPEG


def ours(server: Recorder, url: str) -> tuple[dict[str, Any], list[str]]:
    server.asked.clear()
    row = {"key": pair_key(url, "a"), "url": url, "caption": "a", "source": "s"}
    config = Fetch(allow_hosts=(server.host,), robots=False, retries=0, deadline_s=10, max_redirects=3)
    (found,) = fetch_shard(pa.Table.from_pylist([row], schema=PAIRS), config, shard=0).to_pylist()
    return found, list(server.asked)


def curl(server: Recorder, url: str) -> tuple[int, bytes, list[str]]:
    server.asked.clear()
    command = [
        "curl",
        "--silent",
        "--globoff",
        "--location",
        "--noproxy",
        "*",
        "--max-time",
        "10",
        "--output",
        "-",
    ]
    done = subprocess.run([*command, "--", url], capture_output=True)
    return done.returncode, done.stdout, list(server.asked)


def by_urllib(server: Recorder, url: str) -> list[str]:
    server.asked.clear()
    with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
        OPENER.open(url, timeout=10).read()
    return list(server.asked)


SAFE = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/"
ESCAPED = st.sampled_from(
    ["%27", "%2F", "%2f", "%20", "%25", "%41", "%C3%BC", "%fc", "%3A", "%00", "%7E", "%2B"]
)
PIECE = ESCAPED | st.text(SAFE, min_size=1, max_size=6)
PATH = (
    st.lists(PIECE, max_size=8)
    .map(lambda pieces: "/" + "".join(pieces).lstrip("/"))
    .map(
        lambda path: path.replace("/.", "/x")  # dots are resolved: another test
    )
)
QUERY = st.none() | st.lists(
    PIECE | st.sampled_from(["?", "=", "&", "[1]", "|", "^", "{a}"]), max_size=8
).map("".join)


@SOME
@given(PATH, QUERY)
@example("/smart/http%3A%2F%2Forigin.example%2Fa.jpg", None)
@example("/a'b(1).jpg", "Signature=ab%2Fcd%2Bef%3D&Expires=1")
def test_valid_urls_are_sent_as_curl_and_urllib_send_them(
    server: Recorder, path: str, query: str | None
) -> None:
    server.answers, server.other = {}, OK
    target = path if query is None else f"{path}?{query}"
    url = f"http://{server.host}{target}#part"
    row, asked = ours(server, url)
    assert (row["error"], asked) == (None, [target])
    assert curl(server, url)[2] == [target]
    assert by_urllib(server, url) == [target]


@SOME
@given(st.lists(st.sampled_from(["..", ".", "%2e", "%2E.", "a", "b.", "..c", ""]), max_size=6))
def test_dots_are_resolved_as_curl_resolves_them(server: Recorder, segments: list[str]) -> None:
    server.answers, server.other = {}, OK
    plain = [segment for segment in segments if "%" not in segment]  # curl of old leaves escaped dots
    url = f"http://{server.host}/x/" + "/".join(plain)
    assert ours(server, url)[1] == curl(server, url)[2]
    # Escaped dots are dots, in browsers.
    dots = f"http://{server.host}/x/" + "/".join(segments)
    assert ours(server, dots)[1] == ours(server, dots.replace("%2e", ".").replace("%2E", "."))[1]


LOCATION = st.lists(PIECE | st.sampled_from(["\xfc", "\xe9\xdf", "日本", " "]), max_size=6).map("".join)


@SOME
@given(LOCATION, st.sampled_from(["latin-1", "utf-8"]), st.sampled_from(["/", "", "?", "absolute"]))
@example("b\xfcro.jpg", "latin-1", "/")
def test_redirects_lead_where_curl_goes(server: Recorder, rest: str, coding: str, start: str) -> None:
    rest = rest.strip().replace("/.", "/x").lstrip("/.:")
    if not rest or (":" in rest.split("/")[0].split("?")[0] and start == ""):
        return
    begin = f"http://{server.host}/" if start == "absolute" else start
    location = (begin + rest).encode(coding, "replace" if coding == "latin-1" else "strict")
    moved = (
        b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    server.answers, server.other = {"/from/here%27?q=%2F": moved}, OK
    url = f"http://{server.host}/from/here%27?q=%2F"
    row, asked = ours(server, url)
    assert (row["error"], row["final_url"]) == (None, f"http://{server.host}{asked[-1]}")
    expected = [escape(target) for target in curl(server, url)[2]]
    assert [escape(target) for target in asked] == expected


def escape(target: str) -> str:
    """Bytes outside ASCII with their escapes, in capitals: curl writes them as it did in each version."""
    path, mark, query = target.partition("?")
    target = path + mark + query.replace("+", "%20")  # as curl writes a blank there
    text = "".join(c if 0x20 < ord(c) < 0x7F else f"%{ord(c):02X}" for c in target)
    pieces = text.split("%")
    return "%".join([pieces[0], *(piece[:2].upper() + piece[2:] for piece in pieces[1:])])


LINES = st.sampled_from(
    [
        b"Server: x",
        b"X-Empty:",
        b"X-Long: " + b"a" * 9000,
        b"X-Odd: \xfc\xe4\x01",
        b"X-Tab:\ta\t",
        b"X-Fold: a\r\n b",
        b"PHP Notice  in line 3",
        b"Content-Type : image/jpeg",
        b"X-Powered-By: PHP; \xff",
        b"Set-Cookie: a=b; =",
        b"X-Colon: a: b: c",
        b"Link: <a>; rel=b",
        b"Content-Type: image/jpeg",
        b"Content-Type: text/html",
        b"Keep-Alive: timeout=5",
        b"Transfer-Encoding: identity",
        b"Content-Encoding: identity",
    ]
)
FRAMING = st.sampled_from(
    ["length", "length twice", "chunks", "length and chunks", "close", "too long", "too short"]
)
STATUS = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 203 \xfc"])


def framed(framing: str) -> tuple[list[bytes], bytes]:
    chunks = b"7\r\n" + JPEG[:7] + b"\r\n%X;x=y\r\n" % (len(JPEG) - 7) + JPEG[7:] + b"\r\n0\r\n\r\n"
    length = b"Content-Length: %d" % len(JPEG)
    return {
        "length": ([length], JPEG),
        "length twice": ([length, length], JPEG),
        "chunks": ([b"Transfer-Encoding: chunked"], chunks),
        "length and chunks": ([b"Transfer-Encoding: chunked", b"Content-Length: 9"], chunks),
        "close": ([], JPEG),
        "too long": ([b"Content-Length: %d" % (len(JPEG) + 5)], JPEG),
        "too short": ([b"Content-Length: %d" % (len(JPEG) - 5)], JPEG),
    }[framing]


@SOME
@given(
    STATUS,
    st.lists(LINES, max_size=6),
    FRAMING,
    st.sampled_from([1, 1, 200]),
    st.randoms(use_true_random=False),
)
def test_what_curl_gets_is_got(
    server: Recorder, status: bytes, lines: list[bytes], framing: str, times: int, shuffle: random.Random
) -> None:
    lengths, body = framed(framing)
    head = [*lines, *lengths, *[b"X-Many: 1"] * (times - 1)]
    shuffle.shuffle(head)
    if head and head[0].startswith(b" "):
        return
    server.answers = {}
    server.other = b"\r\n".join([status, *head, b"Connection: close", b"", b""]) + body
    url = f"http://{server.host}/a.jpg"
    code, got, _ = curl(server, url)
    row, _ = ours(server, url)
    if b"Transfer-Encoding: identity" in head and framing in ("too long", "too short"):
        assert row["error"] in ("incomplete", None)  # curl does not look at the length then
    elif code == 0 and got == JPEG:
        assert (row["error"], row["detail"], row["image"]) == (None, None, JPEG)
    elif code == 0:  # it is shorter than it should be, and curl does not look at the image
        assert row["error"] == "broken_image" or row["original_bytes"] == len(got)
    elif code == WEIRD_REPLY:  # lines without a colon, which browsers pass over
        assert row["error"] in (None, "broken_image", "incomplete")
    elif lines.count(b"Transfer-Encoding: identity") > MOST_CODINGS:
        assert (row["error"], row["image"]) == (None, JPEG)
    else:
        assert row["error"] in ("incomplete", "bad_response")
