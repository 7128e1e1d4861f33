"""Cost of the runner a shard, on a local Ray: prints a table.

python benchmarks/bench_runner.py [SHARDS ...] [--s3]

The shards are empty: all that is left is the runner. The driver's CPU seconds are those of its process, from
planning to the commit; the clock has the workers' attempts in it too. With --s3 requests are counted, by a
proxy in front of a SeaweedFS that is started for it.
"""

import io
import resource
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from local_s3 import Counting, local_s3
from pydantic import BaseModel
from rich.console import Console

from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import Shard, ShardSpec, ShardStep
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.run import Run
from rasterloom.schema import SCORES
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus

SIZES = (100, 1_000)


class Shards(BaseModel):
    shards: int


@dataclass(frozen=True)
class Number(ShardSpec):
    n: int


def plan(store: Store, inputs: Any, config: Shards) -> list[Shard[Number]]:
    return [Shard(f"{n:06d}", Number(n)) for n in range(config.shards)]


def work(store: Store, spec: Number, config: Shards) -> tuple[pa.Table, dict[str, int]]:
    return pa.table({"key": [f"{spec.n:032x}"], "shard": [spec.n]}, schema=SCORES), {"ok": 1}


def measure(corpus: Corpus, shards: int, server: Counting | None) -> None:
    step = ShardStep(
        "scores", Shards(shards=shards), "1", plan=plan, work=work, schema=SCORES, table="scores", cpus=0.5
    )
    if server:
        server.counted()
    start, cpu = time.perf_counter(), _cpu()
    run_step(corpus, step, Run(), "0", Progress(Console(file=io.StringIO())))
    cpu, wall = _cpu() - cpu, time.perf_counter() - start
    row = [f"{shards:,}"]
    if server is None:
        row += [f"{1000 * cpu / shards:.1f}", f"{1000 * wall / shards:.1f}"]
    else:
        found = server.counted()
        of_s3 = sum(n for name, n in found.items() if name != "catalog")
        million = of_s3 / shards * 1_000_000 / Fetch().shard_rows
        row += [f"{of_s3:,} ({', '.join(f'{m} {n:,}' for m, n in sorted(found.items()) if m != 'catalog')})"]
        row += [f"{found['catalog']}", f"{million:,.0f}"]
    print(f"| {' | '.join(row)} |", flush=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    names = ["shards", "driver's CPU a shard, ms", "wall a shard, ms"]
    on_s3 = "--s3" in sys.argv
    if on_s3:
        names = [
            "shards",
            "requests of S3",
            "of the catalog",
            f"of S3 per million rows, {Fetch().shard_rows} a shard",
        ]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)
    sizes = [int(size) for size in sys.argv[1:] if size != "--s3"] or SIZES
    with tempfile.TemporaryDirectory() as folder:
        if on_s3:
            with local_s3(folder) as server, closing(Counting(server)) as counting:
                start_ray(Run())
                for shards in sizes:
                    corpus = Corpus(f"b{shards}", Store("s3://lake/bench"), counting.catalog)
                    measure(corpus, shards, counting)
        else:
            start_ray(Run())
            for shards in sizes:
                measure(Corpus(f"b{shards}", Store(folder)), shards, None)


if __name__ == "__main__":
    main()
