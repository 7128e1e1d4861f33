"""Process-wide clients of endpoints, each with an event loop in a thread.

Rate, concurrency and budget of a captioner count for all shards that a process is at.
"""

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

from rasterloom.captions.endpoint import EndpointClient
from rasterloom.recipe.captions import Captioner

T = TypeVar("T")
_workers: dict[str, "_EndpointWorker"] = {}
_lock = threading.Lock()


class _EndpointWorker:
    def __init__(self, captioner: Captioner) -> None:
        _close_at_exit()
        self.client = EndpointClient(captioner)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="captions", daemon=True)
        self._thread.start()
        self.run(self.client.__aenter__())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self.run(self.client.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def with_endpoint(captioner: Captioner, work: Callable[[EndpointClient], Coroutine[Any, Any, T]]) -> T:
    """Run ``work`` with this process's client of a captioner.

    Can be called from any thread but one that runs an event loop.

    Raises:
        ValueError: the key that the captioner names is not in the environment.
    """
    with _lock:
        known = repr(captioner)
        if known not in _workers:
            _workers[known] = _EndpointWorker(captioner)
        worker = _workers[known]
    return worker.run(work(worker.client))


def close_endpoints() -> None:
    """Close every client."""
    with _lock:
        for known in list(_workers):
            _workers.pop(known).close()


@cache
def _close_at_exit() -> None:
    atexit.register(close_endpoints)
