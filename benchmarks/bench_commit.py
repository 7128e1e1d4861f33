"""One commit of a growing number of files to a corpus, and reading its plan back: prints a table.

python benchmarks/bench_commit.py [FILES ...] [--s3]

With --s3 the corpus lies on a SeaweedFS that is started for it, in its REST catalog. The files are small
ones of the table `scores`; a commit reads each one's footer, whatever its size.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pyarrow as pa

from rasterloom.pipelines.corpus import TEXT_PARQUET
from rasterloom.schema import SCORES
from rasterloom.storage import Store
from rasterloom.versions.commit import commit
from rasterloom.versions.record import Record
from rasterloom.versions.tables import Corpus

SIZES = (10, 1_000, 10_000)
ROWS = 1_000


def measure(corpus: Corpus, files: int) -> tuple[float, float, float]:
    """(seconds of the commit, of its CPU, of planning a read)"""
    keys = pa.array([f"{i:032x}" for i in range(ROWS)])
    rows = pa.table({"key": keys, "shard": pa.array([0] * ROWS, pa.int32())}, schema=SCORES)
    names = [f"{corpus.name}/data/{i}.parquet" for i in range(files)]
    corpus.store.write_parquet(names[0], rows, **TEXT_PARQUET)
    content = corpus.store.read(names[0])
    with ThreadPoolExecutor(16) as pool:
        if corpus.store.is_s3:
            list(pool.map(lambda name: corpus.store.put(name, content), names[1:]))
        else:
            for name in names[1:]:
                os.link(corpus.store.path(names[0]), corpus.store.path(name))
    record = Record(step="scores", fingerprint="0", code_version="1", config={}, inputs={})
    start, cpu = time.perf_counter(), time.process_time()
    snapshot = commit(corpus, "scores", SCORES, names, record)
    committed, cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    assert len(corpus.files("scores", snapshot)) == files
    return committed, cpu, time.perf_counter() - start


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:] if size != "--s3"] or SIZES
    print("| files | commit, s | of it CPU | plan, s |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place, catalog = folder, ()
        if "--s3" in sys.argv:
            from local_s3 import local_s3

            catalog = tuple(stack.enter_context(local_s3(folder)).catalog.items())
            place = "s3://lake/bench"
        for files in sizes:
            committed, cpu, planned = measure(Corpus(f"c{files}", Store(place), catalog), files)
            print(f"| {files:,} | {committed:.2f} | {cpu:.2f} | {planned:.2f} |", flush=True)


if __name__ == "__main__":
    main()
