"""Commits of growing numbers of files, and their plans read back: prints a table.

python benchmarks/bench_commit.py [FILES ...] [--s3] [--images] [--json FILE [--picture FILE]]

With --s3 the corpus lies on a SeaweedFS that is started for it, in its REST catalog. The files are small
ones of the table `scores`; a commit reads each one's footer, whatever its size. With --images they are of
the table `images`, of 10,000 rows, and their footers' statistics come with them, as from the shards of a run;
the files need not be there. --json keeps the rows in a file, beside those of the other place, and --picture
draws what is in it.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from commit_curve import draw

from rasterloom.schema import IMAGES, SCORES
from rasterloom.storage.footers import footer_of
from rasterloom.storage.parquet_options import IMAGE_PARQUET, TEXT_PARQUET
from rasterloom.storage.store import Store
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000)
ROWS = 1_000
Row = dict[str, float | str]


def measure_images(corpus: Corpus, files: int) -> Row:
    """Seconds and CPU of a commit that reads no footer."""
    values = {"key": [f"{i:032x}" for i in range(10_000)], "status": ["ok"] * 10_000}
    values |= {"url": [f"https://a.test/{i}" for i in range(10_000)], "caption": ["a photo"] * 10_000}
    rows = pa.Table.from_pydict(
        {field.name: values.get(field.name, [None] * 10_000) for field in IMAGES}, schema=IMAGES
    )
    metadata: list[pq.FileMetaData] = []
    size = corpus.store.write_parquet("0.parquet", rows, metadata_collector=metadata, **IMAGE_PARQUET)
    text = footer_of(metadata[0], size).to_text()
    assert text
    names = {f"{corpus.name}/data/{i}.parquet": text for i in range(files)}
    record = Record(step="images", fingerprint="0", code_version="1", config={}, inputs={})
    row: Row = {"place": "S3" if corpus.store.is_s3 else "disk", "files": files}
    with timed(row, "commit"):
        snapshot = commit(corpus, "images", IMAGES, names, record)
    with timed(row, "plan"):
        found = corpus.files("images", snapshot)
    assert len(found) == files
    return row


def measure(corpus: Corpus, files: int) -> Row:
    """Seconds of the commit and of planning, and their CPU."""
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
    row: Row = {"place": "S3" if corpus.store.is_s3 else "disk", "files": files}
    with timed(row, "commit"):
        snapshot = commit(corpus, "scores", SCORES, names, record)
    with timed(row, "plan"):
        found = corpus.files("scores", snapshot)
    assert len(found) == files
    return row


@contextmanager
def timed(row: Row, name: str) -> Iterator[None]:
    start, cpu = time.perf_counter(), time.process_time()
    yield
    row[name], row[f"{name}_cpu"] = time.perf_counter() - start, time.process_time() - cpu


def keep(path: Path, rows: list[Row]) -> list[Row]:
    """Write rows to a file, replacing the same place's. Return all that it has."""
    kept = json.loads(path.read_text()) if path.exists() else []
    rows = [row for row in kept if row["place"] != rows[0]["place"]] + rows
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("files", nargs="*", type=int, default=SIZES)
    arguments.add_argument("--s3", action="store_true")
    arguments.add_argument("--images", action="store_true")
    arguments.add_argument("--json", type=Path, metavar="FILE")
    arguments.add_argument("--picture", type=Path, metavar="FILE")
    options = arguments.parse_args()
    if options.picture and not options.json:
        arguments.error("--picture draws what is in the file of --json")
    rows: list[Row] = []
    print("| files | commit, s | of it CPU | plan, s | of it CPU |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = folder
        catalog: tuple[tuple[str, str], ...] = ()
        if options.s3:
            from local_s3 import local_s3

            catalog = tuple(stack.enter_context(local_s3(folder)).catalog.items())
            place = "s3://lake/bench"
        # The first commit of a process imports and connects.
        look = measure_images if options.images else measure
        look(Corpus("warm", Store(place), catalog), 1)
        for files in options.files:
            row = look(Corpus(f"c{files}", Store(place), catalog), files)
            shown = " | ".join(f"{row[name]:.2f}" for name in ("commit", "commit_cpu", "plan", "plan_cpu"))
            print(f"| {files:,} | {shown} |", flush=True)
            rows.append(row)
    if options.json:
        rows = keep(options.json, rows)
    if options.picture:
        options.picture.write_text(draw(rows))


if __name__ == "__main__":
    main()
