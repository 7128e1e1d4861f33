"""Synthetic pairs through all steps on one machine: prints a table.

python benchmarks/bench_scale.py ROWS [--memory 4G] [--shard-rows N] [--workers N] [--steps STEP ...]
    [--folder FOLDER]

Steps, runner, staging and commits are real; fetching, scoring and coding are replaced by generators
(`scale_rows.py`), which plant repeated pairs and duplicates, and Ray, whose cost is in `bench_runner.py`, by
a pool of processes. Each step has a driver of its own, and is measured from when its pool is there. The peak
is of the largest process, driver or worker, resident; the run fails where one holds more than --memory, where
rows are lost, and where other duplicates are found than were planted.
With --folder the workspace stays, and finished steps are not run again.
"""

import argparse
import io
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import scale_rows
from rich.console import Console
from scale_watch import Watch

from rasterloom.pipelines.corpus.steps import steps_of_recipe
from rasterloom.pipelines.execution import runner
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import HasResult, Shard, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.status import status
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.recipe import Recipe
from rasterloom.report.report_page import ReportInputs, build_report
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import TABLES, Corpus

TARGET = 64
REPORT = "report"
RECIPE = """
corpus: bench
workspace: lake
sources: [{{path: list/*.parquet, name: list}}]
fetch: {{shard_rows: {shard_rows}}}
score: [quality]
keep: quality > {quality}
tokenize: {{codec: mini, targets: [{target}], text_vocab: 8000, rows_per_file: 20000}}
"""
GENERATORS: dict[str, Any] = {
    "images": scale_rows.fetch,
    "scores": scale_rows.score,
    f"codes/{TARGET}": scale_rows.tokenize,
}
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Measured:
    """One step's row of the table."""

    step: str
    rows: int
    counts: dict[str, int]
    wall: float
    commit: float
    cpu: float
    peak: int
    largest: str
    read: int
    written: int

    def line(self, of: int) -> str:
        cells = [self.step, f"{self.rows:,}", f"{self.wall:.1f}", f"{self.commit:.1f}", f"{self.cpu:.1f}"]
        cells += [f"{1e6 * self.cpu / of:.1f}", f"{self.peak / 2**20:,.0f} ({self.largest})"]
        return f"| {' | '.join([*cells, f'{self.read / 1e6:,.0f}', f'{self.written / 1e6:,.0f}'])} |"


HEAD = ["step", "rows", "wall, s", "of it commit", "CPU, s", "CPU a pair, µs", "peak, MiB", "read, MB"]
HEAD += ["written, MB"]


def work(folder: Path, name: str, workers: int) -> None:
    """Run one step; print when it begins and what came of it."""
    recipe = load_recipe(folder / "recipe.yaml")
    corpus = Corpus.of(recipe)
    if name == REPORT:
        print("ready", flush=True)
        _report(recipe, corpus)
        print(json.dumps({"rows": 0, "counts": {}, "commit": 0.0}))
        return
    steps = {step.name: _replaced(step) for step in steps_of_recipe(recipe)}
    commits: list[float] = []
    replaced: Any = runner
    replaced.commit = _timed(replaced.commit, commits)
    quiet = Progress(Console(file=io.StringIO()))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        if isinstance(steps[name], ShardStep):
            list(pool.map(time.sleep, [0.5] * workers))
            replaced.run_on_ray = _pooled(pool)
        print("ready", flush=True)
        done = runner.run_step(corpus, steps[name], recipe.run, recipe.digest, quiet)
    assert done.record is not None
    found = {"rows": done.record.rows, "counts": done.record.counts, "commit": sum(commits)}
    print(json.dumps(found), flush=True)


def _pooled(pool: ProcessPoolExecutor) -> Callable[..., Iterator[staging.Published]]:
    def run(
        store: Store, place: str, step: ShardStep, left: list[Shard], *others: Any
    ) -> Iterator[staging.Published]:
        jobs = [pool.submit(staging.run_shard, store, place, step, shard, others[-1]) for shard in left]
        for job in as_completed(jobs):
            yield job.result()

    return run


def _replaced(step: HasResult) -> HasResult:
    if isinstance(step, ShardStep) and step.name in GENERATORS:
        return replace(step, work=GENERATORS[step.name])
    return step


def _timed(function: Any, seconds: list[float]) -> Any:
    def timed(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds.append(time.perf_counter() - start)

    return timed


def _report(recipe: Recipe, corpus: Corpus) -> None:
    found = {name: corpus.snapshot_id(name) for name in TABLES}
    snapshots = {name: number for name, number in found.items() if number is not None}
    records = [status(corpus, step).record for step in steps_of_recipe(recipe)]
    known = tuple(record for record in records if record)
    build_report(
        ReportInputs(corpus, snapshots, known, (), None, None, "corpus: bench"),
        Path(corpus.store.path("page")),
    )


def measure(folder: Path, name: str, limit: int, workers: int) -> Measured:
    """Run a step in a process of its own, and watch it.

    Raises:
        SystemExit: it failed, or a process held more than ``limit`` bytes.
    """
    command = [sys.executable, __file__, "0", "--work", name, "--folder", str(folder)]
    command += ["--workers", str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        watch = Watch(process.pid, limit)
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{name} did not begin")
        watch.restart()
        start = time.perf_counter()
        last = process.stdout.readline()
        wall = time.perf_counter() - start
        watch.look()
        watch.stop()
    if process.returncode or not last:
        raise SystemExit(f"{name} failed")
    if watch.above:
        raise SystemExit(f"{name}: {watch.above}, more than --memory")
    found, (cpu, read, written) = json.loads(last), watch.sums
    largest, counts = watch.largest, found["counts"]
    used = (wall, found["commit"], cpu, largest.peak, largest.name, read, written)
    return Measured(name, found["rows"], counts, *used)


def check(rows: int, found: dict[str, Measured]) -> str:
    """Say what became of every row.

    Raises:
        AssertionError: one is lost, or other duplicates were found than planted.
    """
    want, of = scale_rows.expected(rows), {name: one.counts for name, one in found.items()}
    pairs, chosen = of["pairs"], of["selection"]
    assert pairs == {"read": rows, "repeated": scale_rows.repeated(rows), "pairs": want["pairs"]}, pairs
    assert of["images"] == {"http_4xx": want["failed"], "ok": want["pairs"] - want["failed"]}, of["images"]
    duplicates = sum(number for reason, number in chosen.items() if reason.endswith(" duplicate"))
    by_rule = sum(number for reason, number in chosen.items() if reason.startswith("rule"))
    assert sum(chosen.values()) == want["pairs"], chosen
    selected = (by_rule, duplicates, chosen["kept"])
    assert selected == (want["by rule"], want["duplicates"], want["kept"]), (selected, want)
    tokens = found[f"tokens/{TARGET}"]
    assert tokens.rows == want["kept"] == of[f"lengths/{TARGET}"]["rows"], (tokens.rows, want)
    shown = ", ".join(f"{number:,} {name}" for name, number in want.items())
    return f"{rows:,} rows read = {scale_rows.repeated(rows):,} repeated + pairs: {shown}; none lost"


def size(text: str) -> int:
    """Bytes of a text such as ``4G``."""
    return int(float(text[:-1]) * UNITS[text[-1].upper()])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("rows", type=int)
    arguments.add_argument("--memory", type=size, default=size("4G"))
    arguments.add_argument("--shard-rows", type=int, default=10_000)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--steps", nargs="+")
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--work", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.work:
        work(options.folder, options.work, options.workers)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary, "bench")
        if not (folder / "recipe.yaml").exists():
            folder.mkdir(parents=True, exist_ok=True)
            scale_rows.write_list(folder / "list", options.rows)
            recipe = RECIPE.format(shard_rows=options.shard_rows, quality=scale_rows.QUALITY, target=TARGET)
            (folder / "recipe.yaml").write_text(recipe)
        steps = [step.name for step in steps_of_recipe(load_recipe(folder / "recipe.yaml"))] + [REPORT]
        print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
        found: dict[str, Measured] = {}
        for name in options.steps or steps:
            found[name] = measure(folder, name, options.memory, options.workers)
            print(found[name].line(options.rows), flush=True)
        if len(found) == len(steps):
            print(f"\n{check(options.rows, found)}")


if __name__ == "__main__":
    main()
