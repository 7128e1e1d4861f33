"""The server of bench_fetch.py: gives the images of a folder, for /n.jpg the n-th modulo their number.

python benchmarks/fetch_server.py FOLDER [--tls] [--trouble]

It prints the beginning of its URLs. With --tls it leaves the certificate of its authority in the folder. With
--trouble, of a hundred paths two drip, two stall, two are refused and one sends 50 MB.
"""

import argparse
import asyncio
import datetime
import ipaddress
import ssl
import time
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Pictures:
    def __init__(self, folder: Path, trouble: bool) -> None:
        self._files = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
        self._trouble = trouble
        self.first_asked = self.last_good = 0.0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/last":  # when the last good image was sent
            return web.json_response(self.last_good)
        if request.path == "/first":  # when the first one was asked for
            return web.json_response(self.first_asked)
        if not request.path.endswith(".jpg"):
            return web.Response(status=404)
        self.first_asked = self.first_asked or time.time()
        number = int(request.path[1:-4])
        kind = number % 100 if self._trouble else 99
        if kind in (10, 60):
            return await self._drip(request)
        if kind in (20, 70):
            await asyncio.sleep(3600)
        if kind in (30, 80):
            assert request.transport
            request.transport.abort()
        if kind == 40:
            return web.Response(body=bytes(50_000_000))
        self.last_good = time.time()
        return web.Response(body=self._files[number % len(self._files)], content_type="image/jpeg")

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"\xff")
                await asyncio.sleep(0.2)
        except ConnectionError:
            return response


def certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for 127.0.0.1, its authority's left in the folder."""
    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Benchmark authority")])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(by is key, None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
            )
            .sign(by, hashes.SHA256())
        )

    pem = serialization.Encoding.PEM
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (folder / "authority.pem").write_bytes(
        make("Benchmark authority", authority, authority).public_bytes(pem)
    )
    private = server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + make("server", server, authority).public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


async def serve(folder: Path, tls: bool, trouble: bool) -> None:
    app = web.Application()
    app.router.add_get("/{path:.*}", Pictures(folder, trouble).answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate(folder) if tls else None).start()
    print(f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}/", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--trouble", action="store_true")
    options = parser.parse_args()
    asyncio.run(serve(options.folder, options.tls, options.trouble))
