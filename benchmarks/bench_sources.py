"""Speed and memory of reading pairs: python benchmarks/bench_sources.py [ROWS ...]"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 100_000
REPEATED = 50  # one row in so many comes a second time

MEASURE = """
import json, resource, sys, time
from rasterloom.recipe.sources import Source
from rasterloom.sources.pairs import stream_pairs
start, counts, rows = time.perf_counter(), {}, 0
for table in stream_pairs([Source(path=sys.argv[1])], counts):
    rows += table.num_rows
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak, **counts}))
"""


def batches(rows: int) -> Iterator[pa.Table]:
    for start in range(0, rows, BATCH):
        ids = [i - (i % REPEATED == 0 and i > 0) for i in range(start, min(rows, start + BATCH))]
        yield pa.table(
            {
                "url": [f"https://images.example.org/{i % 997}/some/folder/picture-{i}.jpg" for i in ids],
                "caption": [f"A photograph of thing number {i} on a table in the sun" for i in ids],
                "width": ids,
                "similarity": [i / rows for i in ids],
            }
        )


def write(path: Path, rows: int) -> None:
    if path.suffix == ".parquet":
        tables = batches(rows)
        first = next(tables)
        with pq.ParquetWriter(path, first.schema) as writer:
            for table in (first, *tables):
                writer.write_table(table)
        return
    with open(path, "w") as file:
        if path.suffix == ".csv":
            file.write("url,caption,width,similarity\n")
        for table in batches(rows):
            for row in table.to_pylist():
                line = json.dumps(row) if path.suffix == ".jsonl" else ",".join(map(str, row.values()))
                file.write(line + "\n")


def main() -> None:
    sizes = [int(argument) for argument in sys.argv[1:]] or [200_000, 2_000_000]
    print(f"{'kind':8} {'rows':>10} {'repeated':>9} {'rows/s':>9} {'peak RSS, MB':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            for kind in ("parquet", "csv", "jsonl"):
                path = Path(folder, f"pairs.{kind}")
                write(path, rows)
                done = subprocess.run(
                    [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
                )
                path.unlink()
                found = json.loads(done.stdout)
                speed, repeated = rows / found["seconds"], found["repeated"]
                print(f"{kind:8} {rows:10,} {repeated:9,} {speed:9,.0f} {found['peak']:13,.0f}", flush=True)


if __name__ == "__main__":
    main()
