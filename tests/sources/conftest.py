"""A server on loopback that misbehaves as told, and a port that nobody may touch."""

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from aiohttp import web
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import PAIRS, ErrorClass, pair_key
from rasterloom.sources.fetch import backoff, client_pool
from rasterloom.sources.fetch.shard import fetch_shard

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A web server: `answers` by path, `asked` counts requests by path, `seen` keeps them."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | bytes] = {}
        self.asked: Counter[str] = Counter()
        self.seen: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        self.seen.append(dict(request.headers))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = self.answers.get(request.path)
            if answer is None:
                return web.Response(status=404)
            if isinstance(answer, bytes):
                return web.Response(body=answer)
            return await answer(request)
        finally:
            self.under_way -= 1


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_get("/{path:.*}", site.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    site.port = runner.addresses[0][1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield site
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(runner.cleanup())
    loop.close()


@pytest.fixture
def raw_site() -> Iterator[Callable[..., str]]:
    """Gives a function that starts a server which answers with bytes as they are, and returns its URL.

    What it is to ``drip`` comes after them, twenty times a second for a minute.
    """
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answer: bytes, drip: bytes = b"") -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    with contextlib.suppress(OSError):  # nobody waits for the end
                        for _ in range(1200 if drip else 0):
                            connection.sendall(drip)
                            time.sleep(0.05)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()


@pytest.fixture
def canary() -> Iterator[int]:
    """A port on loopback; the test fails if anyone connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backoff, "FIRST_WAIT_S", dict.fromkeys(ErrorClass, 0.01))
    yield
    client_pool.close_workers()


def pairs_table(urls: list[str | None], captions: list[str | None] | None = None) -> pa.Table:
    captions = captions or [f"picture {i}" for i in range(len(urls))]
    rows = [
        {"key": pair_key(url, text), "url": url, "caption": text, "source": "test", "meta": None}
        for url, text in zip(urls, captions, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PAIRS)


@pytest.fixture
def fetch(site: Site) -> Callable[..., list[dict[str, object]]]:
    """Fetches URLs, paths of the site among them, and returns the rows.

    A path that is given several times is as many images: each has a query of its own.
    """

    def run(*urls: str | None, allow: tuple[str, ...] = (), **config: object) -> list[dict[str, object]]:
        apart = [f"{url}?{i}" if url and urls.count(url) > 1 else url for i, url in enumerate(urls)]
        full = [site.url(url) if url and url.startswith("/") else url for url in apart]
        settings = {"deadline_s": 60.0, "allow_hosts": (f"127.0.0.1:{site.port}", *allow), **config}
        return fetch_shard(pairs_table(full), Fetch(**settings), shard=3).to_pylist()

    return run


@pytest.fixture
def jpeg() -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
