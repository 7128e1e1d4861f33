"""A stage through Ray to which everything happens: signals and kills to driver, worker and machine."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
import ray
from listening import assert_only_loopback
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from rasterloom.errors import StageImpossible, TrainingError
from rasterloom.recipe.train import Stage, Train
from rasterloom.train import ray_trainer
from rasterloom.train.job import StageJob, WorkerTakes
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.train.ray_trainer import scaling, train_stage
from rasterloom.train.trainer import run_worker
from rasterloom.utils.local_ray import private_ray

DRIVER = """
import pickle, sys
from rasterloom.train.ray_trainer import TrainingStopped, train_stage
try:
    train_stage(pickle.load(open(sys.argv[1], "rb")))
except TrainingStopped as stopped:
    print(stopped)
"""
WAITING = """
import os, pickle, signal, sys
import ray
from rasterloom.train import ray_trainer
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
ray_trainer.WAITS_S = 2.0
def say(text):
    print(text)
    os.kill(os.getpid(), signal.SIGTERM)
try:
    ray_trainer.train_stage(pickle.load(open(sys.argv[2], "rb")), say=say)
except ray_trainer.TrainingStopped as stopped:
    print(stopped)
"""
STEPS = 1200  # some 20 ms each: seconds in which something can be killed
DEADLINE_S = 400.0


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=STEPS, lr=1e-4, warmup_steps=2, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.1, checkpoint_every=10**6, cfg_drop=0.3, dropout=0.0)
    return new_job(stage, train, rows=60, min_workers=1, workers=2)


@pytest.fixture(scope="module")
def cluster():
    """A head without room for a worker, and two machines with room for one each."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 workers are to be as fast as what watches them
    os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112 Ray's own spelling
    with private_ray():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for name in ("one", "other"):
            cluster.add_node(num_cpus=1, resources={name: 1})
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        cluster.wait_for_nodes()
        assert_only_loopback(psutil.Process())
        yield cluster
        assert_only_loopback(psutil.Process())
        ray.shutdown()
        cluster.shutdown()


def training_workers() -> list[psutil.Process]:
    """The processes of the training workers that this process's Ray has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def actor(name: str) -> psutil.Process:
    """The process of an actor of this process's Ray, the latest of several."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if f"ray::{name}" in " ".join(process.cmdline()):
                found.append((process.create_time(), process))
    assert found, f"there is no {name}"
    return max(found)[1]


def undisturbed(job: StageJob) -> list[dict[str, float]]:
    """The same stage by one rank in this process: the batches are the same at any number of workers."""
    alone = replace(job, out_dir=f"{job.out_dir}-alone", workers=1)
    run_worker(alone)
    return read_metrics(alone.metrics_file)


def saved(job: StageJob) -> list[int]:
    """The steps of the checkpoints that are complete."""
    return sorted(int(path.stem[5:]) for path in (job.folder / "checkpoints").glob("step-*.json"))


def await_steps(job: StageJob, count: int, going) -> None:
    until = time.monotonic() + DEADLINE_S
    while len(read_metrics(job.metrics_file)) < count:
        assert going() and time.monotonic() < until, "the stage ended before anything happened to it"
        time.sleep(0.05)


def await_workers(count: int, known, going) -> list[psutil.Process]:
    """Training workers that are not known yet, as soon as there are so many."""
    until = time.monotonic() + DEADLINE_S
    while len(found := [p for p in training_workers() if p not in known]) < count:
        assert going() and time.monotonic() < until, "the stage ended before there were workers"
        time.sleep(0.05)
    return found


def raylet(node) -> int:
    """The process that the workers on a machine of the cluster are children of."""
    return node.all_processes["raylet"][0].process.pid


def start_driver(path) -> subprocess.Popen:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", DRIVER, str(path)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def test_whatever_happens_the_stage_goes_on_as_if_nothing_had(job, tmp_path, cluster, one_rank):
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))

    # A driver with a Ray of its own is told to end: it saves first.
    driver = start_driver(tmp_path / "job.pickle")
    await_steps(job, 4, lambda: driver.poll() is None)
    driver.send_signal(signal.SIGTERM)
    printed, _ = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == 0
    (step,) = saved(job)
    assert f"stopped after step {step}, which is saved in" in printed

    # The next is killed.
    driver = start_driver(tmp_path / "job.pickle")
    await_steps(job, step + 4, lambda: driver.poll() is None)
    orphans = training_workers()
    driver.kill()
    driver.communicate()
    psutil.wait_procs(orphans, DEADLINE_S)  # until then they write on
    assert not job.result_file.exists()

    # Of the workers of the third, one is told to end, and then a machine vanishes.
    seen = len(read_metrics(job.metrics_file))
    ended, happened, progress = threading.Event(), [], []

    def disturb() -> None:
        going = lambda: not ended.is_set()  # noqa: E731
        first = await_workers(2, (), going)
        await_steps(job, seen + 4, going)
        before = saved(job)
        first[-1].send_signal(signal.SIGTERM)
        happened.append("told")
        while saved(job) == before and going():
            time.sleep(0.05)
        happened.append("saved")
        second = await_workers(2, first, going)
        await_steps(job, saved(job)[-1] + 4, going)
        machine = next(node for node in cluster.worker_nodes if raylet(node) == second[0].ppid())
        cluster.remove_node(machine, allow_graceful=False)
        happened.append("vanished")

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        result = train_stage(job, progress.append)
    finally:
        ended.set()
        thread.join()

    assert happened == ["told", "saved", "vanished"]
    assert result.steps == progress[-1]["step"] == STEPS
    assert set(progress[-1]) == {"step", "total", "loss", "tokens_per_s", "workers", "skipped"}
    ours, alone = read_metrics(job.metrics_file), undisturbed(job)
    assert [r["step"] for r in ours] == list(range(1, STEPS + 1))
    for name in ("tokens", "loss_tokens", "lr"):
        assert [r[name] for r in ours] == [r[name] for r in alone]
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in alone], abs=2e-3)
    assert not training_workers()

    before = job.metrics_file.stat().st_mtime_ns
    assert train_stage(job) == result  # done is done
    assert job.metrics_file.stat().st_mtime_ns == before


def test_what_workers_take_is_said_in_ray_train_s_words(job):
    takes = WorkerTakes(cpus=11, gpus=1, memory=10**11, accelerator="A100", placement="SPREAD")
    asked = scaling(replace(job, takes=takes))
    assert (asked.num_workers, asked.use_gpu) == ((1, 2), True)
    assert (asked.placement_strategy, asked.accelerator_type) == ("SPREAD", "A100")
    assert asked.resources_per_worker == {"CPU": 11, "GPU": 1, "memory": 1e11}
    assert scaling(replace(job, min_workers=2)).num_workers == 2
    assert scaling(job).resources_per_worker == {"CPU": 1}


@pytest.mark.parametrize("gpus", [0, 1])
def test_workers_with_a_gpu_have_an_allocator_for_batches_of_all_lengths(gpus, job, tmp_path, monkeypatch):
    """Blocks of every length that there was would fill its memory. On a CPU nobody reads the variable."""
    made = {}
    monkeypatch.setattr(ray_trainer, "TorchTrainer", lambda worker, **given: made.update(given))
    ray_trainer.torch_trainer(replace(job, takes=WorkerTakes(gpus=gpus)), None, tmp_path)
    variables = made["run_config"].worker_runtime_env["env_vars"]
    assert variables.get("PYTORCH_ALLOC_CONF") == ("expandable_segments:True" if gpus else None)
    assert made["torch_config"].backend == ("nccl" if gpus else "gloo")


def test_a_machine_that_is_announced_to_go_costs_no_failure(job, cluster):
    """The notice that Ray passes on from a cloud: a checkpoint at once, and training goes on elsewhere."""
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    stage = job.stage.model_copy(update={"steps": 700})
    job = replace(job, stage=stage, workers=1, min_workers=None, max_failures=0)
    ended, happened = threading.Event(), []

    def announce() -> None:
        going = lambda: not ended.is_set()  # noqa: E731
        (worker,) = await_workers(1, (), going)
        await_steps(job, 4, going)
        machine = next(node for node in cluster.worker_nodes if raylet(node) == worker.ppid())
        client = ray._private.worker.global_worker.gcs_client
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int(1000 * (time.time() + DEADLINE_S))
        accepted, why = client.drain_node(machine.node_id, reason, "spot", deadline_ms)
        assert accepted, why
        while not saved(job) and going():
            time.sleep(0.05)
        happened.append(saved(job)[0])
        cluster.remove_node(machine, allow_graceful=False)

    thread = threading.Thread(target=announce)
    thread.start()
    try:
        result = train_stage(job)
    finally:
        ended.set()
        thread.join()
    (at,) = happened
    assert at < result.steps == 700
    assert [record["step"] for record in read_metrics(job.metrics_file)] == list(range(1, 701))


def make_room(cluster, workers):
    """Add machines: other tests take them away."""
    while ray.cluster_resources().get("CPU", 0) < workers:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()


def test_a_stage_goes_on_without_its_board_and_its_controller(job, cluster):
    """Both are killed. The board is set up again, and the rest goes on from the last checkpoint."""
    make_room(cluster, 1)
    train = job.train.model_copy(update={"checkpoint_every": 20})
    stage = job.stage.model_copy(update={"steps": 600})
    job = replace(job, stage=stage, train=train, workers=1, min_workers=None, max_failures=1)
    ended, happened, progress, said = threading.Event(), [], [], []

    def disturb() -> None:
        going = lambda: not ended.is_set()  # noqa: E731
        await_steps(job, 30, going)
        actor("ControlActor").kill()
        told = len(progress)
        while len(progress) < told + 2 and going():
            time.sleep(0.05)
        happened.append("told again")
        actor("PlacementGroupCleaner").kill()  # Ray's own, which asks the wrong Ray where there are several
        actor("TrainController").kill()
        happened.append(len(read_metrics(job.metrics_file)))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        result = train_stage(job, progress.append, said.append)
    finally:
        ended.set()
        thread.join()
    assert happened[0] == "told again" and happened[1] < result.steps == 600
    assert said == ["lost the controller of its workers, and goes on from its last checkpoint"]
    assert [record["step"] for record in read_metrics(job.metrics_file)] == list(range(1, 601))
    assert not training_workers()


def test_a_worker_that_fails_says_why(job, cluster):
    """And is not tried again, where it would fail again."""
    short = replace(job, stage=job.stage.model_copy(update={"batch_tokens": 20}), workers=1)
    with pytest.raises(
        StageImpossible, match=r"batch_tokens 20 is smaller than the longest sequence \(3\d tokens\)"
    ):
        train_stage(short)


@pytest.mark.parametrize("at_least", [None, 1])
def test_workers_that_are_slow_to_start_are_not_said_to_wait(job, cluster, monkeypatch, at_least):
    """There is room: they import torch, for seconds."""
    make_room(cluster, job.workers)
    monkeypatch.setattr(ray_trainer, "WAITS_S", 0.0)
    said = []
    short = replace(job, stage=job.stage.model_copy(update={"steps": 2}), min_workers=at_least)
    assert train_stage(short, say=said.append).steps == 2
    assert said == []


def test_workers_that_find_no_room_give_up_in_the_end(job, cluster, monkeypatch):
    monkeypatch.setattr(ray_trainer, "WAITS_S", 1.0)
    said = []
    asked = replace(job, workers=20, min_workers=None, room_wait_s=4.0)
    with pytest.raises(TrainingError, match=r"after 0 minutes \(.*\) it still waits for room: 20 workers"):
        train_stage(asked, say=said.append)
    assert len(said) == 1 and said[0].startswith("waits for room: 20 workers take CPU 1 each")


def test_workers_without_room_are_reported_and_can_be_stopped(job, cluster, tmp_path):
    """The last test here: what was asked for in vain is only forgotten after minutes."""
    (tmp_path / "job").write_bytes(pickle.dumps(replace(job, workers=30, min_workers=None)))
    driver = subprocess.run(
        [sys.executable, "-c", WAITING, cluster.address, tmp_path / "job"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert driver.returncode == 0, driver.stderr
    assert "30 workers take CPU 1 each, and free on all nodes together are CPU" in driver.stdout
    assert "stopped before anything was saved" in driver.stdout
