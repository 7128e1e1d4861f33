"""Process-wide pool of HTTP clients, each with an event loop.

Connections, names, robots.txt files and what is known of hosts are kept from shard to shard.
"""

import asyncio
import atexit
import gc
import threading
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.fetch.client import Client
from rasterloom.sources.fetch.leases import Exchange
from rasterloom.sources.fetch.opt_out import OptOuts, load_opt_outs
from rasterloom.sources.images.decode import configure_pillow
from rasterloom.utils.malloc import keep_freed_memory

T = TypeVar("T")


class FetchWorker:
    """An event loop in a thread, and its client."""

    def __init__(self, config: Fetch, opt_outs: OptOuts, exchange: Exchange | None) -> None:
        self.opt_outs = opt_outs
        self.users = 0
        _close_at_exit()
        configure_pillow()
        keep_freed_memory()
        gc.freeze()  # what is imported by now stays: it need not be looked through for every few images
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._client = self.run(Client(config, opt_outs, exchange).__aenter__())

    def fetch(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` with the client and return its result."""
        return self.run(work(self._client))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self.run(self._client.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


Key = tuple[Fetch, Exchange | None]

_workers: dict[Key, FetchWorker] = {}
_lock = threading.Lock()


def with_client(
    config: Fetch, work: Callable[[Client], Coroutine[Any, Any, T]], exchange: Exchange | None = None
) -> T:
    """Run ``work`` with this process's client for a config. The client is made when first asked for.

    Can be called from any thread but one that runs an event loop. OptOutError if the list cannot be read.
    """
    key = config, exchange
    with _lock:
        opt_outs = load_opt_outs(config.opt_out)
        worker = _workers.get(key)
        if worker is None or worker.opt_outs is not opt_outs:
            _close([known for known, other in _workers.items() if not other.users])
            worker = _workers[key] = FetchWorker(config, opt_outs, exchange)
        worker.users += 1
    try:
        return worker.fetch(work)
    finally:
        with _lock:
            worker.users -= 1


def close_workers() -> None:
    """Close every client that is not in use, and its connections."""
    with _lock:
        _close([key for key, worker in _workers.items() if not worker.users])


@cache
def _close_at_exit() -> None:
    atexit.register(close_workers)


def _close(keys: list[Key]) -> None:
    for key in keys:
        _workers.pop(key).close()
