"""Who is let in, and what an answer may do in a browser: by real requests, byte for byte."""

import http.client
import socket

import pytest

from rasterloom.serve.guard import METHODS, host_of

PATHS = ("/", "/images", "/rule", "/runs", "/static/serve.js", "/nothing", "/reports/x", "//evil.example/")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "cookie", ["", "rasterloom-{port}=", "rasterloom-{port}=wrong", "rasterloom-1={token}"]
)
def test_without_the_token_there_is_nothing(client, path: str, cookie: str) -> None:
    answer = client.ask(path, Cookie=cookie.format(port=client.port, token=client.token))
    assert answer.status == 403
    assert b"scenes" not in answer.body and client.token not in answer.text + str(answer.headers)
    assert "Set-Cookie" not in answer.headers


def test_the_token_gives_a_cookie_and_leaves_the_address(client) -> None:
    for path in (
        f"/?token={client.token}",
        f"/images?text=x&token={client.token}",
        f"//evil.example?token={client.token}",
    ):
        answer = client.ask(path, Cookie="")
        assert answer.status == 303 and answer.headers["Location"] == "/"
        name, *settings = answer.headers["Set-Cookie"].split("; ")
        assert name == f"rasterloom-{client.port}={client.token}"
        assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(settings) and "Domain" not in str(settings)
    for wrong in ("", "x", client.token[:-1], client.token + "x", "%F0%9F%94%91"):
        assert client.ask(f"/?token={wrong}", Cookie="").status == 403
    assert len(client.token) >= 40


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example"),
        *(
            "localhost@evil.example",
            "evil.example#localhost",
            "[evil]",
            "[::1",
            "[::1]evil",
            "",
            "a b",
            "127.1:x",
        ),
    ],
)
def test_a_name_that_is_not_the_servers_is_refused(client, host: str) -> None:
    answer = client.ask("/", Host=host.format(port=client.port) or " ")
    assert answer.status in (400, 421) and b"scenes" not in answer.body


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:{port}", "[::1]:{port}", "127.0.0.1:9000"]
)
def test_addresses_and_localhost_are_the_servers(client, host: str) -> None:
    """Of any port: a tunnel has one of its own."""
    assert client.ask("/", Host=host.format(port=client.port)).status == 200


def test_two_hosts_are_none(client) -> None:
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        cookie = f"Cookie: {client.cookie}\r\n"
        connection.sendall(
            f"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n{cookie}\r\n".encode()
        )
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status in (400, 421)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECTX"])
@pytest.mark.parametrize("path", ["/", "/images", "/rule", "/nothing"])
def test_nothing_can_be_sent(client, method: str, path: str) -> None:
    answer = client.ask(path, method)
    assert answer.status == 405 and answer.headers["Allow"] == ", ".join(METHODS)
    assert client.ask(path, method, Cookie="").status == 403


def test_every_answer_is_bound_in_a_browser(client) -> None:
    for path, cookie in (
        ("/images", client.cookie),
        ("/nothing", client.cookie),
        ("/", ""),
        ("/static/serve.js", client.cookie),
    ):
        headers = client.ask(path, Cookie=cookie).headers
        policy = headers["Content-Security-Policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert (
            headers["Cross-Origin-Resource-Policy"] == "same-origin"
            and headers["Cache-Control"] == "no-store"
        )
        assert "Server" not in headers and "Access-Control-Allow-Origin" not in headers


def test_head_is_answered(client) -> None:
    answer = client.ask("/images", "HEAD")
    assert answer.status == 200 and answer.body == b""


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("A.b:80", "a.b"),
        ("a", "a"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("::1", ""),
        ("a:b", ""),
        ("a:", ""),
        ("[::1]80", ""),
        ("[::1", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_header(header: str, name: str) -> None:
    assert host_of(header) == name
