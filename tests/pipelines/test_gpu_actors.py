"""Steps in actors that hold a GPU. Ray counts GPUs that it is told of, whether they are there or not."""

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import BaseModel
from rich.console import Console

from rasterloom.errors import StepFailed
from rasterloom.pipelines.execution.gpu_actors import Actors
from rasterloom.pipelines.execution.nodes import Nodes
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.execution.scheduler import needs_of
from rasterloom.pipelines.execution.shard_pool import TRIES
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import Shard, ShardSpec, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.recipe.run import Run
from rasterloom.storage.store import Store
from rasterloom.utils.local_ray import start_local_ray, stop_local_ray
from rasterloom.versions.corpus import Corpus

SHARDS = 8
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("pid", pa.int64()),
        ("gpus", pa.int64()),
        ("actor", pa.bool_()),
        ("sees", pa.string()),
    ]
)


class Where(BaseModel):
    folder: str
    dies: str = ""
    kills: str = ""
    meet: int = 0  # processes that a shard waits for
    breaks: str = ""


@dataclass(frozen=True)
class Named(ShardSpec):
    name: str


def plan(store, inputs, config):
    return [Shard(f"{i:02d}", Named(f"{i:02d}")) for i in range(SHARDS)]


def work(store, spec, config):
    import ray

    died = Path(config.folder) / "died"
    if spec.name == config.kills:
        with open(Path(config.folder) / "kills", "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.name == config.dies and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(config.folder) / f"pid-{os.getpid()}").touch()
    while len(list(Path(config.folder).glob("pid-*"))) < config.meet:
        time.sleep(0.01)
    if spec.name == config.breaks:
        raise ValueError("a shard of ours")
    time.sleep(0.05)
    context = ray.get_runtime_context()
    row = {
        "shard": spec.name,
        "pid": os.getpid(),
        "gpus": len(context.get_accelerator_ids()["GPU"]),
        "actor": context.get_actor_id() is not None,
        "sees": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    return pa.Table.from_pylist([row], schema=SCHEMA), {"rows": 1}


@pytest.fixture(scope="module")
def two_gpus():
    kind = {"accelerator_type:L4": 1}  # as Ray would find it
    start_local_ray(num_cpus=2, num_gpus=2, resources=kind, object_store_memory=100 * 2**20)
    yield
    stop_local_ray()


def step_of(name, config):
    """A step that Ray's processes, which cannot import this module, know."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return ShardStep(name, config, "1", plan=plan, work=work, schema=SCHEMA, table="scores", uses_gpu=True)


def rows_of(tmp_path, use_gpu=True, takes=None, name="scores", **config):
    corpus = Corpus("little", Store(str(tmp_path / "work")))
    step = step_of(name, Where(folder=str(tmp_path), **config))
    run = Run.model_validate({"use_gpu": use_gpu, "steps": {"scores": takes} if takes else {}})
    run_step(corpus, step, run, "digest", Progress(Console(file=StringIO())))
    return sorted(corpus.read("scores").to_pylist(), key=lambda row: row["shard"])


def test_every_shard_runs_once_on_one_of_two_actors(two_gpus, tmp_path):
    rows = rows_of(tmp_path, meet=2)
    assert [row["shard"] for row in rows] == [f"{i:02d}" for i in range(SHARDS)]
    assert all(row["actor"] and row["gpus"] == 1 for row in rows)
    assert len({row["pid"] for row in rows}) == 2
    assert {row["sees"] for row in rows} == {"0", "1"}
    import ray

    deadline = time.monotonic() + 300
    while ray.available_resources().get("GPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["GPU"] == 2  # given back


def test_an_actor_that_dies_loses_no_shard(two_gpus, tmp_path):
    rows = rows_of(tmp_path, dies="03")
    assert (tmp_path / "died").exists()
    assert [row["shard"] for row in rows] == [f"{i:02d}" for i in range(SHARDS)]


def test_an_error_of_the_work_ends_the_step_and_names_the_shard(two_gpus, tmp_path):
    with pytest.raises(StepFailed, match="scores, shard 05: ValueError: a shard of ours"):
        rows_of(tmp_path, breaks="05")


def test_without_use_gpu_they_are_tasks(two_gpus, tmp_path):
    rows = rows_of(tmp_path, use_gpu=False)
    assert not any(row["actor"] or row["gpus"] or row["sees"] for row in rows)


def test_the_pool_is_as_large_as_the_recipe_says(two_gpus, tmp_path):
    (tmp_path / "one").mkdir()
    assert len({row["pid"] for row in rows_of(tmp_path / "one", takes={"actors": 1})}) == 1
    (tmp_path / "halves").mkdir()
    takes = {"gpus": 0.5, "cpus": 0.5, "actors": {"min": 1, "max": 4}}
    assert len({row["pid"] for row in rows_of(tmp_path / "halves", takes=takes, meet=4)}) == 4


def test_an_actor_is_on_a_node_with_the_kind_of_gpu_that_the_recipe_names(two_gpus, tmp_path):
    rows = rows_of(tmp_path, takes={"accelerator": "L4"})
    assert all(row["actor"] and row["gpus"] == 1 for row in rows)
    run = Run.model_validate({"use_gpu": True, "steps": {"scores": {"accelerator": "H100"}}})
    step = ShardStep("scores", Where(folder=""), "1", plan=plan, work=work, schema=SCHEMA, uses_gpu=True)
    waits = Nodes(needs_of(step, run)).no_room()
    assert waits.startswith("it takes CPU 1, GPU 1, H100 (run.steps), and the nodes have CPU 2, GPU 2")


def test_an_actor_that_there_is_no_room_for_holds_up_nothing(two_gpus, tmp_path):
    rows = rows_of(tmp_path, takes={"actors": {"min": 3, "max": 8}}, meet=2)
    assert [row["shard"] for row in rows] == [f"{i:02d}" for i in range(SHARDS)]
    assert len({row["pid"] for row in rows}) == 2


def test_a_shard_that_kills_its_worker_ends_the_step_after_some_tries(two_gpus, tmp_path):
    died = f"its worker died {TRIES} times, of too little memory or a crash in a library"
    smaller = "give the step more memory in run.steps, or make its shards smaller (fetch.shard_rows)"
    ways_out = {"scores": smaller, "images": f"{smaller}, or lower fetch.max_pixels"}
    for name, use_gpu in (("scores", True), ("scores", False), ("images", False)):
        folder = tmp_path / f"{name}-{use_gpu}"
        folder.mkdir()
        with pytest.raises(StepFailed) as failed:
            rows_of(folder, use_gpu, name=name, kills="02")
        assert str(failed.value) == f"{name}, shard 02: {died}: {ways_out[name]}"
        assert len((folder / "kills").read_text()) == TRIES


def test_a_shard_whose_answer_was_lost_with_its_actor_is_not_what_killed_it(two_gpus, tmp_path):
    """An actor can die at the next shard before its answer on one that it has published is out."""
    import ray

    store, place = Store(str(tmp_path / "work")), "staging/scores/one"
    step = step_of("scores", Where(folder=str(tmp_path), kills="00"))
    first, second, third = plan(store, None, step.config)[:3]
    run = Run.model_validate({"use_gpu": True, "steps": {"scores": {"actors": 1}}})
    pool = Actors(step, run.takes("scores"), Nodes(needs_of(step, run)))
    pool.adapt(left=2)
    (ready,) = pool.starting
    ray.wait([ready])
    pool.started(ready)
    made = replace(step, config=Where(folder=str(tmp_path)))
    staging.run_shard(store, place, made, first)  # what the actor did; it dies without a word
    lost, killer, behind = (pool.start(store, place, step, shard) for shard in (first, second, third))
    assert [pool.died(shard) for shard in (lost, killer, behind)] == ["innocent", "guilty", "innocent"]
