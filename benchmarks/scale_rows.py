"""Synthetic rows for `bench_scale.py`: all that is in one follows from its number.

A pair in fifty comes twice. 15 % of the pairs have no image. A tenth of the others are copies of another's
image: half of them of the same bytes, half with two bits of the hash and the thumbnail a little different.
"""

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from rasterloom import schema
from rasterloom.pipelines.corpus.shard_work import FetchSpec, Scores, ScoreSpec
from rasterloom.pipelines.corpus.token_work import TokenizeAt, TokenizeSpec, staged
from rasterloom.pipelines.step import ShardResult
from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import IMAGES, SCORES, TOKENS, ErrorClass
from rasterloom.storage.parquet_io import count_of, read_file, read_files, read_rows
from rasterloom.storage.store import Store
from rasterloom.tokenize.profiles import MINI
from rasterloom.tokenize.unirep import frame

Numbers = NDArray[np.uint64]

LIST_ROWS = 500_000  # of a file of the list
AGAIN = 50  # every so many rows the list says a pair again
THUMBNAIL_WORDS = 24  # of 8 bytes
SHAPES = ((64, 64), (96, 32), (32, 96))
VARIANTS = 64  # sequences of each shape
QUALITY = 0.2  # that the rule asks for
DIGITS = 12


def mixed(numbers: Numbers, salt: int) -> Numbers:
    """Turn numbers into random ones (splitmix64)."""
    with np.errstate(over="ignore"):
        x = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt * 0xBF58476D1CE4E5B9 % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def share(numbers: Numbers, salt: int) -> NDArray[np.float64]:
    """Random numbers in [0, 1)."""
    return np.asarray(mixed(numbers, salt) >> np.uint64(11)) / 2.0**53


def is_failed(numbers: Numbers) -> NDArray[np.bool_]:
    return share(numbers, 1) < 0.15


def origin(numbers: Numbers) -> Numbers:
    """Number of the pair whose image each one shows: its own, but for every tenth."""
    earlier = mixed(numbers, 2) % np.maximum(numbers, np.uint64(1))
    earlier -= earlier % np.uint64(10)  # which is no copy itself
    return np.where(numbers % np.uint64(10) == 9, earlier, numbers)


def expected(rows: int) -> dict[str, int]:
    """Rows of each outcome."""
    numbers = np.arange(rows - repeated(rows), dtype=np.uint64)
    there = numbers[~is_failed(numbers)]
    passed = there[share(there, 3) > QUALITY]
    kept = len(np.unique(origin(passed)))
    return {
        "pairs": len(numbers),
        "failed": len(numbers) - len(there),
        "by rule": len(there) - len(passed),
        "duplicates": len(passed) - kept,
        "kept": kept,
    }


def repeated(rows: int) -> int:
    return rows // AGAIN


def write_list(folder: Path, rows: int) -> None:
    """Write the list of pairs, those that come twice at its end."""
    folder.mkdir()
    once = rows - repeated(rows)
    numbers = np.concatenate([np.arange(once), np.arange(rows - once) * AGAIN % max(once, 1)])
    for start in range(0, rows, LIST_ROWS):
        part = numbers[start : start + LIST_ROWS].astype(np.uint64)
        hosts = (mixed(part, 4) % np.uint64(max(rows // 50, 1))).tolist()
        text = zip(part.tolist(), hosts, mixed(part, 5).tolist(), strict=True)
        rows_ = [(f"https://h{h}.example.org/a/folder/{n:0{DIGITS}d}.jpg", caption(n, m)) for n, h, m in text]
        columns = dict(zip(("url", "caption"), map(list, zip(*rows_, strict=True)), strict=True))
        pq.write_table(pa.table(columns), folder / f"{start:012d}.parquet", compression="zstd")


def caption(number: int, random: int) -> str:
    """Caption of ten usual words and a rare one."""
    words = [WORDS[(random >> 5 * place) % 32] for place in range(10)]
    return f"{' '.join(words)} {random % 50_000}" if random % 16 else f"{' '.join(words)} {number}"


WORDS = [
    f"{one}{two}{three}" for one in ("a", "the") for two in "bcdf" for three in ("oat", "ed", "in", "all")
]


def fetch(store: Store, spec: FetchSpec, config: Fetch) -> ShardResult:
    """In place of `shard_work.fetch_images`."""
    pairs = read_rows(store, spec.file, spec.start, spec.rows, schema.PAIRS.names)
    numbers = numbers_of(pairs["url"])
    failed, of = is_failed(numbers), origin(numbers)
    rows, there = len(numbers), ~failed
    copied = (of != numbers) & (numbers // np.uint64(10) % np.uint64(2) == 1)  # not to the byte
    flips = np.uint64(1) << (mixed(numbers, 6) % np.uint64(32))
    flips |= np.uint64(1) << (np.uint64(32) + mixed(numbers, 7) % np.uint64(32))
    phash = mixed(of, 8) ^ np.where(copied, flips, np.uint64(0))
    sha = np.stack([mixed(np.where(copied, numbers, of), 10 + word) for word in range(4)], axis=1)
    look = np.stack([mixed(of, 20 + word) for word in range(THUMBNAIL_WORDS)], axis=1).view(np.uint8)
    look = np.where(copied[:, None], look ^ np.uint8(3), look)
    sides = (np.uint64(256) + np.stack([mixed(numbers, 50), mixed(numbers, 51)]) % np.uint64(1800)).astype(
        np.int32
    )
    columns = {
        "key": pairs["key"],
        "shard": pa.repeat(pa.scalar(spec.shard, pa.int32()), rows),
        "url": pairs["url"],
        "caption": pairs["caption"],
        "task": pairs["task"],
        "attempts": pa.repeat(pa.scalar(1, pa.int32()), rows),
        "status": pa.array(np.where(failed, "failed", "ok")),
        "error": pa.array(np.where(failed, ErrorClass.HTTP_4XX.value, ""), mask=there),
        "detail": pa.array(np.where(failed, "HTTP 404, for a person", ""), mask=there),
        "sha256": pa.array([row.tobytes().hex() for row in sha], mask=failed),
        "phash": pa.array([f"{one:016x}" for one in phash.tolist()], mask=failed),
        "thumbnail": pa.array([row.tobytes() for row in look], pa.binary(), mask=failed),
        "original_width": pa.array(sides[0], mask=failed),
        "original_height": pa.array(sides[1], mask=failed),
        "width": pa.array(sides[0], mask=failed),
        "height": pa.array(sides[1], mask=failed),
        "image": pa.array([picture()] * rows, pa.large_binary(), mask=failed),
    }
    full = [columns.get(field.name, pa.nulls(rows, field.type)).cast(field.type) for field in IMAGES]
    table = pa.table(full, schema=IMAGES)
    return table, count_of(table["error"].fill_null("ok"))


def numbers_of(urls: pa.ChunkedArray) -> Numbers:
    digits = pc.utf8_slice_codeunits(urls, -4 - DIGITS, -4)
    return np.asarray(digits.cast(pa.uint64()))


@lru_cache(maxsize=1)
def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 140, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def score(store: Store, spec: ScoreSpec, config: Scores) -> ShardResult:
    """In place of `shard_work.score_images`: eight scores, the first of them the rule's."""
    images = read_files(store, [spec.images], columns=[*SCORES.names, "url", "status"])
    numbers = numbers_of(images["url"])
    table = images.select(SCORES.names)
    failed = ~np.asarray(pc.equal(images["status"], "ok"))
    table = table.append_column("quality", pa.array(share(numbers, 3), mask=failed))
    return table.append_column("niqe", pa.array(share(numbers, 9), mask=failed)), {"rows": len(table)}


@lru_cache(maxsize=1)
def sequences() -> pa.Array:
    """Sequences of random codes, `VARIANTS` of each shape."""
    rng = np.random.default_rng(0)
    ids = [
        frame(
            rng.integers(0, MINI.codebook_size, (height // MINI.downsample, width // MINI.downsample)), MINI
        )
        for width, height in SHAPES
        for _ in range(VARIANTS)
    ]
    return pa.array([one.tolist() for one in ids], TOKENS.field("input_ids").type)


def tokenize(store: Store, spec: TokenizeSpec, config: TokenizeAt) -> ShardResult:
    """In place of `token_work.tokenize_images`."""
    images = read_file(store, spec.images).select(["key", "shard", "url", "caption"])
    shards = pc.unique(images["shard"])
    kept = read_files(store, spec.selection, pc.field("shard").isin(shards) & pc.field("kept"), ["key"])
    images = images.filter(pc.is_in(images["key"], kept["key"].combine_chunks()))
    numbers, rows = numbers_of(images["url"]), len(images)
    shape = (numbers % np.uint64(len(SHAPES))).astype(np.int64)
    ids = sequences().take(pa.array(shape * VARIANTS + (mixed(numbers, 60) % VARIANTS).astype(np.int64)))
    lengths = pc.list_value_length(ids)
    spans = np.stack([np.zeros(rows, np.int32), np.asarray(lengths)], axis=1).ravel()
    columns = {
        "target": pa.repeat(pa.scalar(config.target, pa.int32()), rows),
        "bucket": pa.array([schema.bucket_name(*one) for one in SHAPES]).take(pa.array(shape)),
        "key": images["key"],
        "width": pa.array([one[0] for one in SHAPES], pa.int32()).take(pa.array(shape)),
        "height": pa.array([one[1] for one in SHAPES], pa.int32()).take(pa.array(shape)),
        "task": pa.repeat(schema.T2I, rows),
        "input_ids": ids,
        "loss_spans": pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * 2, spans).cast(
            TOKENS.field("loss_spans").type
        ),
        "n_tokens": lengths,
        "caption": images["caption"],
    }
    full = [columns.get(field.name, pa.nulls(rows, field.type)) for field in TOKENS]
    table = pa.table(full, schema=TOKENS)
    failures = pa.table({"key": pa.array([], pa.string()), "reason": pa.array([], pa.string())})
    return staged(table, failures, config.target, config.tokenize.seed), count_of(table["bucket"])
