"""Workers that are at several shards at once: on a real Ray, whose workers really die."""

import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
import ray.cloudpickle
from pydantic import BaseModel
from rich.console import Console

from rasterloom.errors import StepFailed
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import Halves, Shard, ShardSpec, ShardStep
from rasterloom.recipe.run import Run
from rasterloom.storage.store import Store
from rasterloom.utils.local_ray import start_local_ray, stop_local_ray
from rasterloom.versions.corpus import Corpus

OWN_RAY = True
SCHEMA = pa.schema([("key", pa.string()), ("shard", pa.int32()), ("error", pa.string()), ("pid", pa.int64())])
SHARDS, SHARD_ROWS, OVERLAP = 12, 4, 3
KEYS = range(SHARDS * SHARD_ROWS)


class Rows(BaseModel):
    folder: str  # of notes on what was done
    kills: tuple[int, ...] = ()
    breaks: int = -1
    meet: int = 0  # shards that are waited for
    dies_once: int = -1


@dataclass(frozen=True)
class Some(ShardSpec):
    start: int
    rows: int


def plan(store, inputs, config):
    return [Shard(f"{n:06d}", Some(n * SHARD_ROWS, SHARD_ROWS)) for n in range(SHARDS)]


def work(store, spec, config):
    keys = range(spec.start, spec.start + spec.rows)
    folder = Path(config.folder)
    (folder / f"at-{spec.start}-{spec.rows}-{os.getpid()}").touch()
    while len(list(folder.glob("at-*"))) < config.meet:
        time.sleep(0.01)
    if config.breaks in keys:
        raise ValueError("a shard of ours")
    if config.dies_once in keys and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if set(keys) & set(config.kills):
        time.sleep(0.2)  # in company
        with open(folder / "deaths", "a") as deaths:
            deaths.write(f"{keys.start} {keys.stop}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if config.kills:
        time.sleep(0.6)  # still there when another kills the worker
    return table(keys, None), {"ok": len(keys)}


def killed(store, spec, config, *, detail):
    return table(range(spec.start, spec.start + spec.rows), detail), {"killed_worker": spec.rows}


def table(keys, error):
    rows = [{"key": f"{key:02d}", "shard": 0, "error": error, "pid": os.getpid()} for key in keys]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def rows_of(store, spec):
    return spec.rows


def part(spec, start, rows):
    return replace(spec, start=spec.start + start, rows=rows)


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    start_local_ray(num_cpus=2, object_store_memory=100 * 2**20)
    yield
    stop_local_ray()


def run(tmp_path, **config):
    corpus = Corpus("little", Store(str(tmp_path / "work")))
    step = ShardStep(
        "scores",
        Rows(folder=str(tmp_path), **config),
        "1",
        plan=plan,
        work=work,
        schema=SCHEMA,
        table="scores",
        overlap=OVERLAP,
        halves=Halves(rows_of, part, killed),
    )
    run_step(corpus, step, Run(), "digest", Progress(Console(file=StringIO())))
    return sorted(corpus.read("scores").to_pylist(), key=lambda row: row["key"])


def free_cpus():
    """CPUs of Ray once its workers have given theirs back."""
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    return ray.available_resources().get("CPU")


def test_each_of_two_workers_is_at_three_shards_at_once(tmp_path):
    rows = run(tmp_path, meet=2 * OVERLAP)
    assert [int(row["key"]) for row in rows] == list(KEYS)
    assert len({row["pid"] for row in rows}) == 2
    assert free_cpus() == 2


@pytest.mark.parametrize("kills", [(17,), pytest.param((2, 3, 41), marks=pytest.mark.nightly)], ids=str)
def test_innocent_shards_of_a_dead_worker_are_not_put_aside(tmp_path, kills):
    rows = run(tmp_path, kills=kills)
    assert [int(row["key"]) for row in rows] == list(KEYS)  # none is lost, none is doubled
    assert {int(row["key"]) for row in rows if row["error"]} == set(kills)
    deaths = Counter((tmp_path / "deaths").read_text().splitlines())
    assert {deaths[f"{key} {key + 1}"] for key in kills} == {3}  # alone
    given = [tuple(map(int, path.name.split("-")[1:3])) for path in tmp_path.glob("at-*")]
    halved = {start // SHARD_ROWS for start, rows in given if rows < SHARD_ROWS}
    assert halved == {key // SHARD_ROWS for key in kills}  # the innocent ones stay whole
    assert free_cpus() == 2


def test_a_worker_that_dies_once_costs_nothing_but_time(tmp_path):
    rows = run(tmp_path, dies_once=30)
    assert (tmp_path / "died").exists()
    assert [int(row["key"]) for row in rows if not row["error"]] == list(KEYS)


def test_an_error_of_the_work_ends_the_step_and_its_workers(tmp_path):
    with pytest.raises(StepFailed, match="scores, shard 000005: ValueError: a shard of ours"):
        run(tmp_path, breaks=21)
    assert free_cpus() == 2
