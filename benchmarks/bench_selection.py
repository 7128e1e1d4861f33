"""The selection step at growing numbers of rows: prints a table.

python benchmarks/bench_selection.py [ROWS ...]

The rows are as wide as real ones (URLs, captions, digests, thumbnails) but for the images, which are
not read. Each size runs in a process of its own, so that its peak of memory can be told.
"""

import multiprocessing
import resource
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from rasterloom import schema
from rasterloom.pipelines.corpus import shard_work
from rasterloom.recipe.filtering import Keep
from rasterloom.storage.store import Store

SIZES = (100_000, 1_000_000, 10_000_000)
ROWS_A_FILE = 1_000  # as the recipe cuts shards, unless it says otherwise
RULE = "quality > 0.2 and min_side >= 256 and caption_length > 5"


def write(store: Store, n: int) -> dict[str, list[str]]:
    spec: dict[str, list[str]] = {"images": [], "scores": []}
    rng = np.random.default_rng(0)
    for shard, start in enumerate(range(0, n, ROWS_A_FILE)):
        rows = min(ROWS_A_FILE, n - start)
        keys = pa.array([f"{i * 0x9E3779B97F4A7C15 % 2**128:032x}" for i in range(start, start + rows)])
        hexes = [rng.bytes(32).hex() for _ in range(rows)]
        look = rng.integers(0, 255, (rows, 192), np.uint8)
        sides = rng.integers(200, 2000, (2, rows), np.int32)
        failed = rng.random(rows) < 0.15
        columns = {
            "key": keys,
            "shard": pa.repeat(pa.scalar(shard, pa.int32()), rows),
            "url": pa.array([f"https://images.example.com/some/folder/{h}.jpg" for h in hexes]),
            "caption": pa.array([f"a caption of a usual length, say, about {h[:30]}" for h in hexes]),
            "status": pa.array(np.where(failed, "failed", "ok")),
            "error": pa.array(np.where(failed, "http_4xx", "")),
            "sha256": pa.array(hexes),
            "phash": pa.array([h[:16] for h in hexes]),
            "thumbnail": pa.array([row.tobytes() for row in look]),
            "original_width": pa.array(sides[0]),
            "original_height": pa.array(sides[1]),
            "width": pa.array(sides[0]),
            "height": pa.array(sides[1]),
        }
        full = [columns.get(f.name, pa.nulls(rows, f.type)).cast(f.type) for f in schema.IMAGES]
        images = pa.table(full, schema=schema.IMAGES)
        scores = images.select(["key", "shard"])
        for name in ("quality", "niqe", "aesthetic", "clip"):
            scores = scores.append_column(name, pa.array(rng.random(rows)))
        for table, made in (("images", images), ("scores", scores)):
            spec[table].append(f"{table}/{shard:06d}.parquet")
            store.write_parquet(spec[table][-1], made)
    return spec


def measure(folder: str, spec: dict[str, list[str]], answer: "multiprocessing.connection.Connection") -> None:
    before = peak_gib()
    wall, cpu = time.monotonic(), time.process_time()
    tables, counts = shard_work.select_images(Store(folder), shard_work.SelectSpec(**spec), Keep(rule=RULE))
    assert sum(map(len, tables))
    answer.send((time.monotonic() - wall, time.process_time() - cpu, before, peak_gib(), counts["kept"]))


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    print(f"{'rows':>12} {'wall s':>8} {'CPU s':>8} {'GiB before':>11} {'peak GiB':>9}  kept")
    context = multiprocessing.get_context("spawn")
    for n in [int(size) for size in sys.argv[1:]] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            spec = write(Store(folder), n)
            here, there = context.Pipe()
            process = context.Process(target=measure, args=(folder, spec, there))
            process.start()
            wall, cpu, before, peak, kept = here.recv()
            process.join()
        print(f"{n:>12,} {wall:>8.1f} {cpu:>8.1f} {before:>11.2f} {peak:>9.2f}  {kept:,}", flush=True)


if __name__ == "__main__":
    main()
