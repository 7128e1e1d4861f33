"""A stage through Ray with two workers, whose driver and then one of whose workers is killed."""

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

from rasterloom.recipe import Stage, Train
from rasterloom.train.engine import run_worker
from rasterloom.train.job import StageJob
from rasterloom.train.metrics import read_metrics
from rasterloom.train.ray_train import TrainingError, train_stage

DRIVER = """
import pickle, sys
from rasterloom.train.ray_train import train_stage
train_stage(pickle.load(open(sys.argv[1], "rb")))
"""
STEPS = 150  # some 40 ms each: seconds in which a worker can be killed
DEADLINE_S = 300.0


@pytest.fixture
def job(tmp_path, write_tokens, profile, small_checkpoint):
    stage = Stage(target=64, steps=STEPS, lr=1e-2, warmup_steps=2, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.1, checkpoint_every=4, cfg_drop=0.3, dropout=0.0)
    return StageJob(
        stage=stage,
        train=train,
        profile=profile,
        token_files=(write_tokens(60),),
        filesystem=None,
        tokens_snapshot="1",
        init=small_checkpoint,
        out_dir=str(tmp_path / "out"),
    )


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def training_workers() -> list[psutil.Process]:
    """The processes of the training workers that this process's Ray has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def undisturbed(job: StageJob) -> list[dict[str, float]]:
    """The same stage by one rank in this process: the batches are the same at any number of workers."""
    alone = replace(job, out_dir=f"{job.out_dir}-alone", workers=1)
    run_worker(alone)
    return read_metrics(alone.metrics_file)


def test_killing_driver_and_worker_changes_nothing(job, tmp_path, cluster, one_rank):
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "job.pickle")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    until = time.monotonic() + DEADLINE_S
    while len(read_metrics(job.metrics_file)) < 6:
        assert driver.poll() is None and time.monotonic() < until, "the driver ended before it was killed"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not job.result_file.exists()

    seen = len(read_metrics(job.metrics_file))
    killed, progress, ended = [], [], threading.Event()

    def kill_one_worker() -> None:
        workers = []
        while not ended.wait(0.02):
            workers = workers or training_workers()
            if workers and len(read_metrics(job.metrics_file)) > seen + 10:
                workers[-1].kill()
                killed.append(workers[-1].pid)
                return

    killer = threading.Thread(target=kill_one_worker)
    killer.start()
    try:
        result = train_stage(job, progress.append)
    finally:
        ended.set()
        killer.join()

    assert killed, "training ended before a worker was killed"
    assert result.steps == progress[-1]["step"] == STEPS
    assert set(progress[-1]) == {"step", "total", "loss", "tokens_per_s"}
    ours, alone = read_metrics(job.metrics_file), undisturbed(job)
    assert [r["step"] for r in ours] == list(range(1, STEPS + 1))
    for name in ("tokens", "loss_tokens", "lr"):
        assert [r[name] for r in ours] == [r[name] for r in alone]
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in alone], abs=2e-3)
    assert not training_workers()

    before = job.metrics_file.stat().st_mtime_ns
    assert train_stage(job) == result  # done is done
    assert job.metrics_file.stat().st_mtime_ns == before


def test_a_worker_that_fails_says_why(job, cluster):
    short = replace(job, stage=job.stage.model_copy(update={"batch_tokens": 20}), max_failures=0)
    with pytest.raises(
        TrainingError, match=r"batch_tokens 20 is smaller than the longest sequence \(3\d tokens\)"
    ):
        train_stage(short)
