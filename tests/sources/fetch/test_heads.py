"""Heads of responses that browsers and curl accept are accepted; a host that answers is not down."""

import socket
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from rasterloom.sources.fetch.heads import MAX_HEAD_BYTES, tidied

Rows = list[dict[str, Any]]


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Gives a function that starts a server which sends pieces as they are, and returns its host."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(*pieces: bytes, keep: bool = False) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve(connection: socket.socket) -> None:
            with connection:
                while asked := connection.recv(65536):
                    for _ in range(asked.count(b"\r\n\r\n")):
                        for piece in pieces:
                            connection.sendall(piece)
                    if not keep:
                        connection.shutdown(socket.SHUT_WR)

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def get(fetch: Callable[..., Rows], host: str, count: int = 1, **config: object) -> Rows:
    settings: dict[str, Any] = {"robots": False, "retries": 0, "deadline_s": 20.0, **config}
    return fetch(*[f"http://{host}/{number}.jpg" for number in range(count)], allow=(host,), **settings)


def ok(body: bytes, *lines: bytes, length: bool = True, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    said = (b"Content-Length: %d" % len(body),) if length else ()
    return b"\r\n".join([status, *lines, *said, b"", b""]) + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


ODD: dict[str, Callable[[bytes], bytes]] = {
    "a header of 9 kB": lambda body: ok(body, b"Content-Security-Policy: img-src " + b"a.example " * 900),
    "a header of 200 kB": lambda body: ok(body, b"Set-Cookie: " + b"a" * 200_000),
    "150 headers": lambda body: ok(body, *(b"X-Debug-%d: 1" % n for n in range(150))),
    "5000 headers": lambda body: ok(body, *(b"X-Debug-%d: 1" % n for n in range(5000))),
    "the same length twice": lambda body: ok(body, b"Content-Length: %d" % len(body)),
    "the same length in a list": lambda body: ok(
        body, b"Content-Length: %d, %d" % (len(body), len(body)), length=False
    ),
    "length and chunks": lambda body: ok(
        chunked(body), b"Transfer-Encoding: chunked", b"Content-Length: 7", length=False
    ),
    "chunks twice": lambda body: ok(
        chunked(body), b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", length=False
    ),
    "a length that is no number": lambda body: ok(body, b"Content-Length: unknown", length=False),
    "less than there is": lambda body: ok(body) + b"\r\n and more",
    "a length that is too short by the padding": lambda body: ok(body + b"\r\n").replace(
        b"%d" % (len(body) + 2), b"%d" % len(body)
    ),
    "a length of 5000 digits": lambda body: ok(body, b"Content-Length: " + b"9" * 5000, length=False),
    "no length": lambda body: ok(body, length=False),
    "an empty length": lambda body: ok(body, b"Content-Length:", length=False),
    "identity": lambda body: ok(body, b"Transfer-Encoding: identity"),
    "a line that is no header": lambda body: ok(body, b"PHP Notice  something in line 3"),
    "a name with spaces": lambda body: ok(body, b"X Debug: 1", b": no name", b"\xe4: umlaut"),
    "a space before the colon": lambda body: ok(body, b"Content-Type : image/jpeg"),
    "a folded line": lambda body: ok(body, b"X-Long: a", b"  b", b"\tc"),
    "controls": lambda body: ok(body, b"X-Odd: a\0b\x01\x7f", b"X-Bare: a\rb"),
    "Latin-1": lambda body: ok(body, b"X-Name: B\xfcro"),
    "line feeds alone": lambda body: b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(body) + body,
    "no words": lambda body: ok(body, status=b"HTTP/1.1 200"),
    "two spaces": lambda body: ok(body, status=b"HTTP/1.1  200  OK"),
    "a version to come": lambda body: ok(body, status=b"HTTP/1.2 200 OK"),
    "words of Latin-1": lambda body: ok(body, status=b"HTTP/1.1 200 D'accord \xe9\0"),
    "an empty line first": lambda body: b"\r\n" + ok(body),
    "hints first": lambda body: b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nno header\r\n\r\n" * 3 + ok(body),
    "an offer to upgrade": lambda body: ok(body, b"Connection: Upgrade", b"Upgrade: h2,h2c"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("in_pieces", [False, True])
def test_harmless_heads_cost_no_image(
    answering: Any, fetch: Any, jpeg: bytes, name: str, in_pieces: bool
) -> None:
    answer = ODD[name](jpeg)
    start = len(answer) - len(jpeg)
    cut = sorted([0, 3, 30, start - 3, start - 1, len(answer) - 5, len(answer)])
    pieces = [answer[a:b] for a, b in pairwise(cut)] if in_pieces else [answer]
    (row,) = get(fetch, answering(*pieces))
    assert (row["error"], row["detail"], row["http_status"]) == (None, None, 200)
    assert row["image"] == jpeg


@pytest.mark.parametrize("name", [name for name in ODD if "length" not in name and "less" not in name])
def test_connections_are_used_again_after_them(answering: Any, fetch: Any, jpeg: bytes, name: str) -> None:
    rows = get(fetch, answering(ODD[name](jpeg), keep=True), 5, per_host=1)
    assert [row["error"] for row in rows] == [None] * 5


REFUSED: dict[str, tuple[bytes, str]] = {
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "Content-Length: 3, 4",
    ),
    "too long": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", str(MAX_HEAD_BYTES)),
    "too many": (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * (MAX_HEAD_BYTES // 6) + b"\r\n", str(MAX_HEAD_BYTES)),
    "no HTTP": (b"220 smtp.example.org ESMTP\r\n", ""),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", ""),
    "another protocol": (b"HTTP/9 200 OK\r\n\r\n", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_has_a_class_and_its_host_is_not_down(answering: Any, fetch: Any, name: str) -> None:
    answer, words = REFUSED[name]
    rows = get(fetch, answering(answer), 12, host_down_after=3)
    assert {row["error"] for row in rows} == {"bad_response"}
    assert words in rows[0]["detail"] and "\n" not in rows[0]["detail"]
    assert rows[0]["attempts"] == 1


def test_a_head_that_breaks_off_is_tried_again(answering: Any, fetch: Any) -> None:
    (row,) = get(fetch, answering(b"HTTP/1.1 200 OK\r\nContent-"), retries=2)
    assert (row["error"], row["attempts"]) == ("connect", 3)


def test_regular_heads_stay_as_they_are() -> None:
    for head in (
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\nContent-Length: 12\r\nX: \xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\nContent-Type: image/jpeg\r\n\r\n",
    ):
        assert tidied(head) == head


def test_lengths() -> None:
    def framing(*lines: bytes) -> list[bytes]:
        head = tidied(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]))
        return [line for line in head.split(b"\r\n")[1:] if line]

    assert framing(b"Content-Length: 5", b"Content-length: 5") == [b"content-length: 5"]
    assert framing(b"Content-Length: 5, 05", b"Server: x") == [b"server: x", b"content-length: 05"]
    assert framing(b"Content-Length: -1") == framing(b"Content-Length: " + b"9" * 5000) == []
    assert framing(b"Content-Length: 5", b"Transfer-Encoding: chunked") == [b"transfer-encoding: chunked"]
    with pytest.raises(BadHttpMessage):
        framing(b"Content-Length: 5", b"Content-Length: 6")
