"""Fetching of one shard: a row of images for each pair."""

import asyncio
import faulthandler
import hashlib
import tempfile
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.schema import IMAGES, PICTURE, ErrorClass, in_order
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.backlog import Row, RowFile, image_bytes, row_file
from rasterloom.sources.fetch.checksums import check_hashes
from rasterloom.sources.fetch.client import Client, Trace
from rasterloom.sources.fetch.client_pool import with_client
from rasterloom.sources.fetch.leases import Exchange
from rasterloom.sources.fetch.local_images import LocalImages
from rasterloom.sources.fetch.opt_out import check_phash
from rasterloom.sources.fetch.repeated import Repeated
from rasterloom.sources.images.decode import decode_image
from rasterloom.sources.images.row import image_columns, received
from rasterloom.sources.pairs import check_pair, uncaptioned_sources
from rasterloom.sources.readers.tasks import is_url
from rasterloom.storage.local_disk import full_disk_errors

DECODE_THREADS = 1  # of one worker; a machine runs a worker a core
DECODE_S = 300.0  # of one image; the largest take some seconds


def fetch_shard(
    pairs: pa.Table,
    config: Fetch,
    *,
    shard: int,
    sources: Sequence[Source] = (),
    exchange: Exchange | None = None,
) -> pa.Table:
    """Fetch the images of a range of pairs.

    Args:
        pairs: rows of ``schema.PAIRS``.
        config: the recipe's ``fetch`` section.
        shard: number of the range, for the column of that name.
        sources: the recipe's sources, for pairs whose image lies there (``path``).
        exchange: with the book of the hosts' slots, if this worker shares them with others.

    Returns:
        Rows of ``schema.IMAGES``, one for every row of ``pairs`` and in their order. A pair that gave no
        image has its class of error and a sentence on it; a sample of several images fails with the first
        of them that did. Call it where no event loop is running; several threads may, and their shards'
        rows share the worker's slots, first come, first served.

    Raises:
        OptOutError: ``config.opt_out`` cannot be read.
        StorageError: there is no room on the disk for images that are too many to be held in memory.
    """

    async def fetch_rows(client: Client) -> list[Row | int]:
        async def fetch_row(pair: Row) -> Row | int:
            row = await _row(client, local, pair, shard, uncaptioned, repeated)
            size = image_bytes(row)
            held.bytes += size
            if size and not client.backlog.fits(size):
                return await asyncio.to_thread(file.put, row)
            held.in_memory += size
            return row

        async with client.backlog.shard() as held:
            with LocalImages(sources, config, client.slots) as local:
                return await _all_or_none(map(fetch_row, listed))

    # Here, and not in the loop that other shards' requests wait for.
    listed, repeated, uncaptioned = pairs.to_pylist(), Repeated(pairs, config), uncaptioned_sources(sources)
    with row_file() as file:
        return _table(with_client(config, fetch_rows, exchange), file)


async def _all_or_none(rows: Iterable[Coroutine[Any, Any, Row | int]]) -> list[Row | int]:
    """Wait for all rows; where one raises, the others end."""
    tasks = [asyncio.ensure_future(row) for row in rows]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _table(rows: list[Row | int], file: RowFile) -> pa.Table:
    """Return rows as a table. Where some are in the file, so is the table, and memory is mapped to it."""
    if file.is_empty:
        return images_table(next(file.pieces(rows)))
    with tempfile.NamedTemporaryFile(dir=file.folder) as place, full_disk_errors(file.folder):
        with pa.OSFile(place.name, "wb") as sink, pa.ipc.new_file(sink, IMAGES) as writer:
            for piece in file.pieces(rows):
                writer.write_table(images_table(piece))
        return pa.ipc.open_file(pa.memory_map(place.name)).read_all()


@cache
def _decoder() -> ThreadPoolExecutor:
    """The threads that decode, for all shards of this process."""
    return ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")


def failed_rows(pairs: pa.Table, failure: FetchFailure, *, shard: int) -> pa.Table:
    """Return pairs as rows of ``schema.IMAGES`` that failed."""
    why = {"error": str(failure.error), "detail": failure.detail, "attempts": 1}
    return images_table([_begun(pair, shard) | why for pair in pairs.to_pylist()])


def _begun(pair: dict[str, Any], shard: int) -> dict[str, Any]:
    """Return what a row of images has from its pair."""
    row = {name: pair[name] for name in ("key", "url", "caption", "task", "turns", "main")}
    return row | {"shard": shard, "status": "failed"}


def images_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as a table of ``schema.IMAGES``. The images are copied once, not with every doubling."""
    columns = [
        _binary([row.get(field.name) for row in rows])
        if field.name == "image"
        else pa.array([row.get(field.name) for row in rows], field.type)
        for field in IMAGES
    ]
    return pa.Table.from_arrays(columns, schema=IMAGES)


def _binary(values: list[bytes | None]) -> pa.Array:
    sizes = [len(value) if value is not None else 0 for value in values]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    present = pa.array([value is not None for value in values], pa.bool_())
    data = b"".join(value for value in values if value is not None)
    buffers = [present.buffers()[1], pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(values), buffers)


async def _row(
    client: Client,
    local: LocalImages,
    pair: dict[str, Any],
    shard: int,
    uncaptioned: frozenset[str],
    repeated: Repeated,
) -> dict[str, Any]:
    row = _begun(pair, shard)
    more = pair["more"] or []
    traces = [Trace() for _ in range(1 + len(more))]  # of the main image, then of the others

    async def get(place: str, by_url: bool, trace: Trace, meta: str | None) -> dict[str, Any]:
        async def decode(body: bytes) -> dict[str, Any]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(_decoder(), _columns, body, client, meta)

        if by_url:
            return await client.get(place, decode, trace)
        trace.attempts = 1
        return await local.get(pair["source"], place, decode)

    shown = traces[0]
    try:
        check_pair(pair, uncaptioned)
        main = pair["url"] if pair["path"] is None else pair["path"]
        if main is None:
            return row | {"status": "ok", "attempts": 0}  # a sample of text alone
        places = [main, *more]
        by_url = [pair["path"] is None, *map(is_url, more)]
        metas = [pair["meta"], *[None] * len(more)]  # it speaks of the row's own image
        of_main = repeated.get(pair, traces[0], lambda: get(main, by_url[0], traces[0], pair["meta"]))
        others = map(get, places[1:], by_url[1:], traces[1:], metas[1:])
        got = await asyncio.gather(of_main, *others, return_exceptions=True)
        ordered = in_order(0, pair["main"], range(1, len(places)))
        for number, at in enumerate(ordered, 1):
            found = got[at]
            if isinstance(found, BaseException):
                shown = traces[at]
                raise _of_several(found, number, places[at], len(places)) if more else found
        row |= got[0]  # type: ignore[arg-type]  # no exception among them
        if more:
            row["more"] = [{field.name: found[field.name] for field in PICTURE} for found in got[1:]]  # type: ignore[index]
    except FetchFailure as failure:
        row |= {"error": str(failure.error), "detail": failure.detail}
    except Exception as error:  # a fault of ours; the other rows of the shard shall not pay for it
        row |= {"error": str(ErrorClass.INTERNAL), "detail": f"{type(error).__name__}: {error}"}
    attempts = sum(trace.attempts for trace in traces)
    return row | {"attempts": attempts, "http_status": shown.status, "final_url": shown.final_url}


def _of_several(error: BaseException, number: int, place: str, count: int) -> BaseException:
    """Say of a sample's failure which of its images it was."""
    if not isinstance(error, FetchFailure):
        return error
    return FetchFailure(error.error, f"image {number} of {count} ({place}): {error.detail}")


def _columns(body: bytes, client: Client, meta: str | None) -> dict[str, Any]:
    sha256 = hashlib.sha256(body).hexdigest()
    if sha256 in client.opt_outs.hashes:
        raise FetchFailure(ErrorClass.OPT_OUT, f"the opt-out list has a file of SHA-256 {sha256}")
    check_hashes(body, sha256, meta, client.config)
    # No thread can be stopped, and a decoder may never return: the process ends, and the row is found.
    faulthandler.dump_traceback_later(DECODE_S, exit=True)
    try:
        decoded = decode_image(body, client.config)
    finally:
        faulthandler.cancel_dump_traceback_later()
    check_phash(decoded.phash, client.opt_outs)
    return image_columns(decoded, received(body, decoded, sha256))
