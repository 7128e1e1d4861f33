"""Images that several rows of a shard name: each is fetched and decoded once."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa

from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.fetch.client import Trace

Key = tuple[str | None, ...]


class Repeated:
    """Results of the images that more than one row names.

    Rows whose ``meta`` differs are fetched apart where a column of it states a checksum.
    """

    def __init__(self, pairs: pa.Table, config: Fetch) -> None:
        self._checks = bool(config.md5 or config.sha256)
        columns = (pairs[name].to_pylist() for name in ("url", "path", "source", "meta"))
        counts = Counter(self._key(*values) for values in zip(*columns, strict=True))
        self._several = {key for key, count in counts.items() if count > 1}
        self._found: dict[Key, tuple[asyncio.Future[Any], Trace]] = {}

    def _key(self, url: str | None, path: str | None, source: str, meta: str | None) -> Key:
        place = (url, None) if path is None else (path, source)
        return (*place, meta if self._checks else None)

    async def get(
        self, pair: dict[str, Any], trace: Trace, fetch: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Return a row's main image, fetched for it or for another.

        Raises:
            FetchFailure: as ``fetch`` does.
        """
        key = self._key(pair["url"], pair["path"], pair["source"], pair["meta"])
        if key not in self._several:
            return await fetch()
        if key not in self._found:
            self._found[key] = asyncio.ensure_future(fetch()), trace
        future, first = self._found[key]
        try:
            return dict(await future)
        finally:
            trace.attempts, trace.status, trace.final_url = first.attempts, first.status, first.final_url
