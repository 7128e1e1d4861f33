"""The quickstart's local web server: serves files, and simulates faults below /trouble/.

python examples/quickstart/server.py FOLDER --port 8765
"""

import argparse
import asyncio
import gzip
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from aiohttp import web

ROBOTS = "User-agent: *\nDisallow: /private/\n"
DRIP_EVERY_S = 0.2
DRIP_BYTES = 300  # a minute of them
UNPACKED_BYTES = 60_000_000  # of the gzip bomb; the recipe's max_bytes is below it
ASKED_TO_WAIT_S = 1


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[int]:
    """Serve a site in a thread within a context. Yields the port, a free one for 0.

    OSError if the port is taken.
    """
    with _serving(_application(folder), port) as taken:
        yield taken


@contextmanager
def serve_files(folder: Path, port: int = 0) -> Iterator[int]:
    """Serve a folder's files without faults, as `serve` does."""
    app = web.Application()
    app.router.add_static("/", folder)
    with _serving(app, port) as taken:
        yield taken


@contextmanager
def _serving(app: web.Application, port: int) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    try:
        listener = web.TCPSite(runner, "127.0.0.1", port)
        loop.run_until_complete(listener.start())
        thread = threading.Thread(target=loop.run_forever, name="quickstart-server", daemon=True)
        thread.start()
        try:
            yield runner.addresses[0][1]
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
    finally:
        loop.run_until_complete(runner.cleanup())
        loop.close()


def _application(folder: Path) -> web.Application:
    troubles = _Troubles(folder)
    app = web.Application()
    app.router.add_get("/robots.txt", lambda _: _text(ROBOTS))
    app.router.add_get("/private/{name}", lambda _: _text("nobody who reads robots.txt comes here"))
    app.router.add_static("/files/", folder / "files")
    app.router.add_get("/trouble/{name}", troubles.answer)
    return app


async def _text(text: str) -> web.Response:
    return web.Response(text=text)


class _Troubles:
    """The simulated faults, by their names in `troubles.py`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self._asked[name] += 1
        misbehave: dict[str, Callable[[web.Request], object]] = {
            "broken-server": lambda _: web.Response(status=500),
            "flaky-server": lambda _: self._second_time(name, web.Response(status=500)),
            "busy-server": lambda _: self._second_time(
                name, web.Response(status=429, headers={"Retry-After": str(ASKED_TO_WAIT_S)})
            ),
            "drip": _drip,
            "reset": _reset,
            "gzip-bomb": lambda _: web.Response(body=_gzip_bomb(), headers={"Content-Encoding": "gzip"}),
            "moved": lambda _: _redirect("/trouble/moved-here"),
            "moved-here": lambda _: web.Response(body=self._served("moved"), content_type="image/png"),
            "loop": lambda _: _redirect("/trouble/loop"),
            "opted-out": lambda _: web.Response(body=b"x", headers={"X-Robots-Tag": "noai, noimageai"}),
            "redirect-inside": lambda r: _redirect(r.query.get("to", "http://127.0.0.1:9/secret.jpg")),
        }
        if name not in misbehave:
            return web.Response(status=404)
        response = misbehave[name](request)
        if asyncio.iscoroutine(response):
            response = await response
        assert isinstance(response, web.StreamResponse)
        return response

    def _served(self, name: str) -> bytes:
        return (self._folder / "served" / name).read_bytes()

    def _second_time(self, name: str, refusal: web.Response) -> web.Response:
        """Refuse the first request, then accept."""
        if self._asked[name] == 1:
            return refusal
        return web.Response(body=self._served(name), content_type="image/jpeg")


def _redirect(to: str) -> web.Response:
    return web.Response(status=302, headers={"Location": to})


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000000", "Content-Type": "image/jpeg"})
    await response.prepare(request)
    with suppress(ConnectionError):  # nobody waits for the end
        await response.write(b"\xff\xd8\xff")
        for _ in range(DRIP_BYTES):
            await asyncio.sleep(DRIP_EVERY_S)
            await response.write(b"\0")
    return response


async def _reset(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000000", "Content-Type": "image/jpeg"})
    await response.prepare(request)
    await response.write(b"\xff\xd8\xff" + bytes(1000))
    assert request.transport is not None
    request.transport.abort()
    return response


@lru_cache(maxsize=1)
def _gzip_bomb() -> bytes:
    return gzip.compress(bytes(UNPACKED_BYTES))


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves the quickstart's web site on loopback.")
    parser.add_argument("folder", type=Path, help="folder that build_site has filled")
    parser.add_argument("--port", type=int, default=0, help="a free one if not given")
    arguments = parser.parse_args()
    with serve(arguments.folder, arguments.port) as port:
        print(f"serving {arguments.folder} on http://127.0.0.1:{port}/ until interrupted", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
