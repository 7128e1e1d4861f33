"""Differences of two versions of a growing table: prints a table.

python benchmarks/bench_diff.py [ROWS ...]

The rows are those of `images` without their bytes. No file is in both versions; of a thousand rows one was
added, one removed, and ten have another caption. The peak is of the process that compares.
"""

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from rasterloom.storage.store import Store
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.diff import diff
from rasterloom.versions.record import Record
from rasterloom.versions.refs import tag

SIZES = (1_000_000, 10_000_000, 20_000_000)
FILE_ROWS = 100_000
ROW = """
md5(i::VARCHAR) AS key, (i // 1000)::INTEGER AS shard, 'https://images.example.org/' || i || '.jpg' AS url,
if(i % 100 = {changed}, 'another caption of ', 'the caption of ') || i AS caption, 'ok' AS status,
NULL::VARCHAR AS error, 200::INTEGER AS http_status, 1::INTEGER AS attempts, sha256(i::VARCHAR) AS sha256,
md5(i::VARCHAR)[:16] AS phash, 'jpeg' AS format, (512 + i % 512)::INTEGER AS width, 768::INTEGER AS height
"""


def build(folder: str, rows: int) -> None:
    corpus = Corpus("bench", Store(folder))
    for version, (changed, first) in enumerate(((-1, 0), (5, rows // 1000))):
        names = []
        for start in range(first, first + rows, FILE_ROWS):
            names.append(f"{version}/{start}.parquet")
            path = Path(corpus.store.path(names[-1]))
            path.parent.mkdir(exist_ok=True)
            end = min(start + FILE_ROWS, first + rows)
            query = f"SELECT {ROW.format(changed=changed)} FROM range({start}, {end}) r(i)"
            duckdb.sql(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        schema = pq.read_schema(corpus.store.path(names[0]))
        commit(corpus, "images", schema, names, Record("images", f"f{version}", "1", {}, {}))
        tag(corpus, f"v{version}")


def compare(folder: str) -> None:
    corpus = Corpus("bench", Store(folder))
    start, cpu = time.perf_counter(), time.process_time()
    found = diff(replace(corpus, ref="v0"), replace(corpus, ref="v1"), "images")
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    counts = f"{found.added:,} / {found.removed:,} / {found.changed:,}"
    print(f"| {found.rows_b:,} | {counts} | {cpu:.1f} | {wall:.1f} | {peak:.2f} |", flush=True)


def main() -> None:
    print("| rows | added / removed / changed | CPU, s | wall, s | peak, GiB |")
    print("|---|---|---|---|---|", flush=True)
    for rows in map(int, sys.argv[1:] or SIZES):
        with tempfile.TemporaryDirectory() as folder:
            build(folder, rows)
            subprocess.run([sys.executable, __file__, "--compare", folder], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        compare(sys.argv[2])
    else:
        main()
