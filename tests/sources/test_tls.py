"""Certificates that are not to be trusted, on a real TLS server."""

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rasterloom.sources.fetch import client, client_pool


class Authority:
    """Issues certificates for servers on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign("Test authority", self.key, self.key, None, days=30, authority=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        by: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName] | None,
        days: int,
        authority: bool = False,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if by is key else self.certificate.subject
        end = datetime.now(UTC) + timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=60))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(by, hashes.SHA256())

    def context(self, kind: str) -> ssl.SSLContext:
        """A server's side of TLS whose certificate is good, expired, for another host, or its own issuer."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        if kind == "wrong host":
            names = [x509.DNSName("elsewhere.test")]
        by = key if kind == "self-signed" else self.key
        certificate = self._sign("server", key, by, names, days=-1 if kind == "expired" else 30)
        path = self.folder / f"{kind}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """An authority that the client trusts, as a company's own is: by SSL_CERT_FILE."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    client._ssl_context.cache_clear()
    yield authority
    client_pool.close_workers()
    client._ssl_context.cache_clear()


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None, body: bytes) -> Iterator[int]:
    """A server that answers every request with the body; without a context it does not speak TLS."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                stream = context.wrap_socket(connection, server_side=True) if context else connection
                stream.recv(65536)
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                stream.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


Fetcher = Callable[..., list[dict[str, Any]]]


def get(fetch: Fetcher, port: int, **config: object) -> dict[str, Any]:
    (row,) = fetch(f"https://127.0.0.1:{port}/a.jpg", allow=(f"127.0.0.1:{port}",), robots=False, **config)
    return row


def test_a_trusted_certificate(authority: Authority, fetch: Fetcher, jpeg: bytes) -> None:
    with serving(authority.context("good"), jpeg) as port:
        assert get(fetch, port)["status"] == "ok"


@pytest.mark.parametrize(
    ("kind", "words"),
    [("self-signed", "self-signed"), ("expired", "expired"), ("wrong host", "not valid for '127.0.0.1'")],
)
def test_certificates_that_are_not_trusted(
    authority: Authority, fetch: Fetcher, jpeg: bytes, kind: str, words: str
) -> None:
    with serving(authority.context(kind), jpeg) as port:
        row = get(fetch, port)
    assert (row["error"], row["attempts"], row["http_status"]) == ("tls", 1, None)
    assert words in row["detail"]


def test_a_server_that_speaks_no_tls(authority: Authority, fetch: Fetcher, jpeg: bytes) -> None:
    with serving(None, jpeg) as port:
        row = get(fetch, port, retries=0)
    assert row["error"] == "tls"


def test_a_handshake_that_stalls_ends_at_the_deadline(fetch: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        row = get(fetch, listener.getsockname()[1], deadline_s=0.4)
    assert row["error"] == "timeout"
