"""The report of a corpus with a growing number of rows: time, memory and size of the page.

python benchmarks/bench_report.py [ROWS ...]

The tables are Iceberg's, in row groups as the steps write them. 15 % of the pairs have no image, for one of
nine classes of error, on a million hosts; a third of the others is not kept, for one of twenty reasons. The
images are a few photographs that each row group holds once, so that ten million rows fit a disk. The peak
is of the process that writes the page.
"""

import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data
from PIL import Image

from rasterloom.pipelines.training.sample_grid import image_of
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.report.report_page import ReportInputs, build_report
from rasterloom.storage.store import Store
from rasterloom.tokenize.codecs.load import codec_of
from rasterloom.tokenize.profiles import MINI
from rasterloom.tokenize.unirep import frame
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.record import Record

SIZES = (1_000_000, 10_000_000)
FILE_ROWS = 10_000
SHARD = 1_000  # rows, as a recipe cuts shards
GROUPS = {"images": 64, "tokens": 512}  # rows of a row group; 10,000 of the other tables
PICTURES = 4
ERRORS = "['http_4xx', 'dns', 'timeout', 'connect', 'tls', 'http_5xx', 'robots', 'not_an_image', 'http_429']"
FAILED = "i % 20 < 3"
KEEP = "i % 3 > 0"
COLUMNS = {
    "pairs": """md5(i::VARCHAR) AS key, 'https://' || hash(i) % 1000000 || '.example.org/' || i AS url,
        'the caption of a picture, as long as usual, number ' || i AS caption, 'list ' || i % 3 AS source,
        '{}' AS meta, ['CC BY 4.0', NULL, 'MIT'][i % 3 + 1] AS licence""",
    "images": f"""md5(i::VARCHAR) AS key, (i // {SHARD})::INTEGER AS shard, 1::INTEGER AS attempts,
        'https://' || hash(i) % 1000000 || '.example.org/' || i AS url,
        'the caption of a picture, as long as usual, number ' || i AS caption,
        if({FAILED}, 'failed', 'ok') AS status, if({FAILED}, {ERRORS}[i % 9 + 1], NULL) AS error,
        if({FAILED}, 'what happened, for a person', NULL) AS detail, md5(i::VARCHAR)[:16] AS phash,
        (200 + hash(i) % 1800)::INTEGER AS original_width,
        (200 + hash(i + 1) % 1800)::INTEGER AS original_height,
        if({FAILED}, NULL, (hash(i) % {PICTURES})::INTEGER) AS picture""",
    "scores": f"""md5(i::VARCHAR) AS key, (i // {SHARD})::INTEGER AS shard, hash(i) / 2.0 ** 64 AS quality,
        hash(i + 1) / 2.0 ** 64 AS aesthetic, hash(i + 2) / 2.0 ** 64 AS clip,
        hash(i + 3) / 2.0 ** 64 AS nsfw""",
    "selection": f"""md5(i::VARCHAR) AS key, (i // {SHARD})::INTEGER AS shard,
        NOT ({FAILED}) AND {KEEP} AS kept,
        CASE WHEN {FAILED} THEN 'failed: ' || {ERRORS}[i % 9 + 1] WHEN {KEEP} THEN 'kept'
        WHEN i % 100 = 99 THEN 'near duplicate' ELSE 'rule: quality > 0.' || i % 19 END AS reason,
        if({FAILED} OR {KEEP} OR i % 100 < 99, NULL, md5((i - 2)::VARCHAR)) AS duplicate_of""",
    "tokens": """64::INTEGER AS target, ['64x64', '96x32', '32x96'][i % 3 + 1] AS bucket,
        md5(i::VARCHAR) AS key, [64, 96, 32][i % 3 + 1]::INTEGER AS width,
        [64, 32, 96][i % 3 + 1]::INTEGER AS height, 't2i' AS task, (40 + i % 30)::INTEGER AS n_tokens""",
}


def pictures() -> list[bytes]:
    """Crops of photographs as JPEG."""
    rng, found = np.random.default_rng(0), []
    photos = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    for number in range(PICTURES):
        photo = Image.fromarray(photos[number % 3])
        left, top = (int(rng.integers(0, side // 3)) for side in photo.size)
        crop = photo.crop((left, top, left + photo.width * 2 // 3, top + photo.height * 2 // 3)).resize(
            (512, 384)
        )
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=85)
        found.append(buffer.getvalue())
    return found


def build(folder: str, rows: int) -> None:
    """Write the tables and commit each as a step's version."""
    corpus, stored = Corpus("bench", Store(folder)), pa.array(pictures(), pa.large_binary())
    before: dict[str, str] = {}
    for table, columns in COLUMNS.items():
        names = []
        for start in range(0, rows, FILE_ROWS):
            where = f"WHERE NOT ({FAILED}) AND {KEEP}" if table == "tokens" else ""
            query = f"SELECT {columns} FROM range({start}, {min(start + FILE_ROWS, rows)}) r(i) {where}"
            made = duckdb.sql(query).to_arrow_table()
            if table == "images":
                indices = made["picture"].combine_chunks()
                made = made.drop_columns(["picture"]).append_column(
                    "image", pa.DictionaryArray.from_arrays(indices, stored)
                )
            if table == "tokens":
                made = with_ids(made)
            names.append(f"{table}/{start:09d}.parquet")
            path = Path(corpus.store.path(names[-1]))
            path.parent.mkdir(exist_ok=True)
            pq.write_table(
                made,
                path,
                row_group_size=GROUPS.get(table, 10_000),
                compression="zstd",
                store_schema=False,
                dictionary_pagesize_limit=2**26,
            )
        schema = pq.read_schema(corpus.store.path(names[0]))
        step = "tokens/64" if table == "tokens" else table
        record = Record(step, f"f-{table}", "1", {}, before, rows=rows, seconds=1.0).signed("feed", "bench")
        commit(corpus, table, schema, names, record)
        before = {step: record.fingerprint}


def with_ids(made: pa.Table) -> pa.Table:
    """Add the tokens of a grey image of each row's bucket."""
    ids = {}
    for name in ("64x64", "96x32", "32x96"):
        width, height = map(int, name.split("x"))
        codes = np.zeros((height // MINI.downsample, width // MINI.downsample), np.int64)
        ids[name] = frame(codes, MINI).tolist()
    column = [ids[name] for name in made["bucket"].to_pylist()]
    spans = [[0, len(one)] for one in column]
    return made.append_column("input_ids", pa.array(column, pa.list_(pa.int32()))).append_column(
        "loss_spans", pa.array(spans, pa.list_(pa.int32()))
    )


def report(folder: str) -> None:
    corpus, codec = Corpus("bench", Store(folder)), codec_of(Tokenize(codec="mini"), "cpu")
    found = {name: corpus.snapshot_id(name) for name in TABLES}
    snapshots = {name: number for name, number in found.items() if number is not None}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    inputs = ReportInputs(
        corpus, snapshots, (), (), None, lambda ids: image_of(codec, MINI, ids), "corpus: bench"
    )
    start, cpu = time.perf_counter(), time.process_time()
    page = build_report(inputs, Path(folder) / "out")
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = sum(f.rows for f in corpus.files("images"))
    size, images = page.stat().st_size / 1e6, page.read_text().count("<img ")
    print(
        f"| {rows:,} | {cpu:.1f} | {wall:.1f} | {before:.2f} | {peak:.2f} | {size:.2f} | {images} |",
        flush=True,
    )


def main() -> None:
    print("| rows | CPU, s | wall, s | GiB before | peak, GiB | page, MB | pictures |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for rows in map(int, sys.argv[1:] or SIZES):
        with tempfile.TemporaryDirectory() as folder:
            build(folder, rows)
            subprocess.run([sys.executable, __file__, "--report", folder], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--report"]:
        report(sys.argv[2])
    else:
        main()
