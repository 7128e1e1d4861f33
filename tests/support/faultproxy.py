"""HTTP proxy on loopback that spoils requests on demand."""

import contextlib
import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Chooser = Callable[[str, str, int], str | None]  # method, path, number of the request -> a fault or None


class FaultProxy:
    """Forwards everything to ``upstream`` (host:port), except for faults by ``choose``.

    500 and 503 are S3's InternalError and SlowDown; ``reset`` closes the connection before the request is
    forwarded, ``reset_after`` when it has been carried out, so that the answer is lost; ``truncate`` sends
    half of the body; ``stall`` says nothing for ``stall_s``; ``expired`` is S3's ExpiredToken, and
    ``unauthorized`` what a REST catalog answers to a token that has expired.
    """

    def __init__(self, upstream: str, stall_s: float = 3.0) -> None:
        self.upstream = upstream
        self.stall_s = stall_s
        self.choose: Chooser = lambda method, path, number: None
        self.seen: list[tuple[str, str, str | None]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body(request)
        with self._lock:
            fault = self.choose(request.command, request.path, len(self.seen))
            self.seen.append((request.command, request.path, fault))
        with contextlib.suppress(OSError):
            if fault == "reset":
                _reset(request)
            elif fault == "500":
                _answer(request, 500, "InternalError", "We encountered an internal error.")
            elif fault == "503":
                _answer(request, 503, "SlowDown", "Please reduce your request rate.")
            elif fault == "expired":
                _answer(request, 400, "ExpiredToken", "The provided token has expired.")
            elif fault == "unauthorized":
                said = {"message": "The token has expired.", "type": "NotAuthorizedException", "code": 401}
                _send(request, 401, "application/json", json.dumps({"error": said}).encode())
            else:
                self._forward(request, body, fault)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes, fault: str | None) -> None:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() != "transfer-encoding":
                    connection.putheader(name, value)
            if "Content-Length" not in request.headers and body:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if fault == "reset_after":
            _reset(request)
            return
        if fault == "stall":
            self._closing.wait(self.stall_s)
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                request.send_header(name, value)
        length = answer.getheader("Content-Length") if request.command == "HEAD" else str(len(data))
        if length is not None:
            request.send_header("Content-Length", length)
        request.end_headers()
        if request.command == "HEAD":
            return
        if fault == "truncate" and len(data) > 1:
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            _reset(request)
        else:
            request.wfile.write(data)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        request.send_response_only(100)
        request.end_headers()
    if request.headers.get("Transfer-Encoding", "").lower() == "chunked":
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        while request.rfile.readline().strip():
            pass
        return b"".join(parts)
    return request.rfile.read(int(request.headers.get("Content-Length", 0)))


def _reset(request: BaseHTTPRequestHandler) -> None:
    """Close the connection with a RST and nothing else."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()


def _answer(request: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    _send(request, status, "application/xml", body)


def _send(request: BaseHTTPRequestHandler, status: int, kind: str, body: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
