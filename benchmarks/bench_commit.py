"""One commit of a growing number of files to a local corpus, and reading its plan back: prints a table.

python benchmarks/bench_commit.py [FILES ...]

The files are small ones of the table `scores`; a commit reads each one's footer, whatever its size.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from rasterloom.pipelines.corpus import TEXT_PARQUET
from rasterloom.schema import SCORES
from rasterloom.storage import Store
from rasterloom.versions.commit import commit
from rasterloom.versions.record import Record
from rasterloom.versions.tables import Corpus

SIZES = (10, 1_000, 10_000)
ROWS = 1_000


def measure(files: int) -> tuple[float, float, float, int]:
    """(seconds of the commit, of its CPU, of planning a read; bytes of Iceberg's metadata)"""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus("bench", Store(folder))
        keys = pa.array([f"{i:032x}" for i in range(ROWS)])
        rows = pa.table({"key": keys, "shard": pa.array([0] * ROWS, pa.int32())}, schema=SCORES)
        corpus.store.write_parquet("data/0.parquet", rows, **TEXT_PARQUET)
        names = [f"data/{i}.parquet" for i in range(files)]
        for name in names[1:]:
            os.link(corpus.store.path(names[0]), corpus.store.path(name))
        record = Record(step="scores", fingerprint="0", code_version="1", config={}, inputs={})
        start, cpu = time.perf_counter(), time.process_time()
        snapshot = commit(corpus, "scores", SCORES, names, record)
        committed, cpu = time.perf_counter() - start, time.process_time() - cpu
        start = time.perf_counter()
        assert len(corpus.files("scores", snapshot)) == files
        planned = time.perf_counter() - start
        metadata = Path(corpus.store.path("bench/tables/scores/metadata"))
        return committed, cpu, planned, sum(f.stat().st_size for f in metadata.iterdir())


def main() -> None:
    print("| files | commit, s | of it CPU | plan, s | metadata, bytes a file |\n|---|---|---|---|---|")
    for files in map(int, sys.argv[1:] or SIZES):
        committed, cpu, planned, size = measure(files)
        print(f"| {files:,} | {committed:.2f} | {cpu:.2f} | {planned:.2f} | {size / files:.0f} |", flush=True)


if __name__ == "__main__":
    main()
