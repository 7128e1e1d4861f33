"""One shard of pairs to one shard of images: a row for every row, whatever happens to it."""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from rasterloom.recipe import Fetch, Source
from rasterloom.schema import IMAGES, ErrorClass
from rasterloom.sources.client import Client, Trace
from rasterloom.sources.decode import Picture, decode_image
from rasterloom.sources.failure import Failure
from rasterloom.sources.local import LocalImages
from rasterloom.sources.pairs import check_pair
from rasterloom.sources.verify import check_hashes
from rasterloom.sources.worker import with_client

DECODE_THREADS = 1  # of one worker; a machine runs a worker a core


def fetch_shard(pairs: pa.Table, config: Fetch, *, shard: int, sources: Sequence[Source] = ()) -> pa.Table:
    """Fetch the images of a range of pairs.

    Args:
        pairs: rows of ``schema.PAIRS``.
        config: the recipe's ``fetch`` section.
        shard: number of the range, for the column of that name.
        sources: the recipe's sources, for pairs whose image lies there (``path``).

    Returns:
        Rows of ``schema.IMAGES``, one for every row of ``pairs`` and in their order. A pair that gave no
        image has its class of error and a sentence on it. Call it where no event loop is running.

    Raises:
        OptOutError: ``config.opt_out`` cannot be read.
    """

    async def fetch_rows(client: Client) -> list[dict[str, Any]]:
        with (
            ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as threads,
            LocalImages(sources, config) as local,
        ):
            rows = (_row(client, local, threads, pair, shard) for pair in pairs.to_pylist())
            return await asyncio.gather(*rows)

    return images_table(with_client(config, fetch_rows))


def images_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as a table of ``schema.IMAGES``; the pictures are copied once, not with every doubling."""
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
    client: Client, local: LocalImages, threads: ThreadPoolExecutor, pair: dict[str, Any], shard: int
) -> dict[str, Any]:
    row: dict[str, Any] = {name: pair[name] for name in ("key", "url", "caption")}
    row |= {"shard": shard, "status": "failed"}
    trace = Trace()

    async def decode(body: bytes) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, _columns, body, client, pair)

    try:
        check_pair(pair)
        if pair["path"] is not None:
            trace.attempts = 1
            row |= await local.get(pair["source"], pair["path"], decode)
        else:
            row |= await client.get(pair["url"], decode, trace)
    except Failure as failure:
        row |= {"error": str(failure.error), "detail": failure.detail}
    except Exception as error:  # a fault of ours; the other rows of the shard shall not pay for it
        row |= {"error": str(ErrorClass.INTERNAL), "detail": f"{type(error).__name__}: {error}"}
    return row | {"attempts": trace.attempts, "http_status": trace.status, "final_url": trace.final_url}


def _columns(body: bytes, client: Client, pair: dict[str, Any]) -> dict[str, Any]:
    sha256 = hashlib.sha256(body).hexdigest()
    if sha256 in client.opt_outs.hashes:
        raise Failure(ErrorClass.OPT_OUT, f"the opt-out list has a file of SHA-256 {sha256}")
    check_hashes(body, sha256, pair.get("meta"), client.config)
    picture: Picture = decode_image(body, client.config)
    return {
        "status": "ok",
        "sha256": sha256,
        "phash": picture.phash,
        "thumbnail": picture.thumbnail,
        "original_format": picture.original_format,
        "original_width": picture.original_width,
        "original_height": picture.original_height,
        "original_bytes": len(body),
        "format": picture.format,
        "width": picture.width,
        "height": picture.height,
        "image": picture.data,
    }
