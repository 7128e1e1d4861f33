"""Near duplicates by pHash within 4 bits, at growing numbers of rows: prints a table.

python benchmarks/bench_duplicates.py [ROWS ...]

A tenth of the rows are copies: of a random original, with up to 4 bits flipped and a thumbnail a little
off; and one hash in a thousand belongs to an image that comes a hundred times, as placeholders do. Each size
runs in a process of its own, so that its peak of memory can be told (numbers from 100,000 rows up).
"""

import multiprocessing
import resource
import sys
import time

import numpy as np
import pyarrow as pa

from rasterloom.filtering.duplicates import THUMBNAIL_BYTES, Candidates, find_duplicates

SIZES = (100_000, 1_000_000, 10_000_000)
RADIUS = 4


def corpus(n: int) -> tuple[Candidates, np.ndarray]:
    """Rows in random rank order, and the row each copies. Others copy themselves."""
    rng = np.random.default_rng(0)
    of = np.arange(n)
    copies = slice(n - n // 10, n)
    of[copies] = rng.integers(0, n - n // 10, n // 10)
    many = rng.choice(np.arange(n - n // 10, n), n // 1000, replace=False)
    of[many] = of[many[rng.integers(0, max(1, len(many) // 100), len(many))]]
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    hashes[copies] = hashes[of[copies]]
    for _ in range(RADIUS):
        hashes[copies] ^= np.uint64(1) << rng.integers(0, 64, n // 10).astype(np.uint64)
    thumbnails = rng.integers(0, 240, (n, THUMBNAIL_BYTES), dtype=np.uint8)
    thumbnails[copies] = thumbnails[of[copies]] + 5
    sha256 = np.stack([np.arange(n, dtype=np.uint64), np.ones(n, np.uint64)], axis=1)
    keys = pa.chunked_array([pa.array(np.char.zfill(np.arange(n).astype("S32"), 32)).cast(pa.string())])
    rank = np.where(of == np.arange(n), 1.0, 0.0) + rng.random(n) / 2  # originals are better
    empty = np.zeros(n, bool)
    return Candidates(keys, rank, empty, sha256, hashes, thumbnails, ~empty), of


def measure(n: int, answer: "multiprocessing.connection.Connection") -> None:
    rows, of = corpus(n)
    before = peak_gib()
    wall, cpu = time.monotonic(), time.process_time()
    kept, _ = find_duplicates(rows, exact=True, radius=RADIUS)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    copies = of != np.arange(n)
    wrong = int((kept != of)[~copies].sum())
    answer.send((wall, cpu, before, peak_gib(), int(copies.sum()), int((kept == of)[copies].sum()), wrong))


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    print(f"{'rows':>12} {'wall s':>8} {'CPU s':>8} {'GiB with rows':>14} {'peak GiB':>9}  copies found")
    context = multiprocessing.get_context("spawn")
    for n in [int(size) for size in sys.argv[1:]] or SIZES:
        here, there = context.Pipe()
        process = context.Process(target=measure, args=(n, there))
        process.start()
        wall, cpu, before, peak, copies, found, wrong = here.recv()
        process.join()
        told = f"{found:,} of {copies:,}, {wrong} wrong"
        print(f"{n:>12,} {wall:>8.1f} {cpu:>8.1f} {before:>14.2f} {peak:>9.2f}  {told}", flush=True)


if __name__ == "__main__":
    main()
