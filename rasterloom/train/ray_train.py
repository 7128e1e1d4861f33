"""Runs a training stage on the workers of a Ray cluster. The one file of ``train`` that knows of Ray."""

import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from rasterloom.train.job import StageJob, StageResult, check, finished

Progress = Callable[[dict[str, Any]], None]

# Set for every worker: one thread a CPU that it was given, and no word home.
_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


class TrainingError(RuntimeError):
    """A stage failed; the message is that of the worker that failed first."""


def train_stage(job: StageJob, on_progress: Progress = lambda _: None) -> StageResult:
    """Train a stage with ``job.workers`` workers and wait for it.

    A stage that was interrupted goes on from its last complete checkpoint; one that is done is not done
    again. Uses the Ray that the caller has connected to, else starts one on this machine for this call.

    Args:
        on_progress: is given ``step``, ``total``, ``loss`` and ``tokens_per_s`` about every second.

    Raises:
        ValueError: the job cannot work; nothing was started.
        TrainingError: a worker failed, or was lost more often than ``job.max_failures`` times.
    """
    check(job)
    if (result := finished(job)) is not None:
        return result
    job.folder.mkdir(parents=True, exist_ok=True)
    job.result_file.unlink(missing_ok=True)
    with _ray(job), _progress(job, on_progress):
        _fit(job)
    result = finished(job)
    if result is None:
        raise TrainingError(f"the workers ended without a result in {job.folder}")
    return result


def _fit(job: StageJob) -> None:
    scratch = job.folder / "ray"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if job.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.workers,
            use_gpu=job.use_gpu,
            resources_per_worker={"CPU": job.cpus_per_worker, **({"GPU": 1} if job.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # Ray's own record of a run is of no use to the next one
            storage_path=str(scratch.resolve()),
            failure_config=FailureConfig(max_failures=job.max_failures),
            worker_runtime_env={"env_vars": _ENV},
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise TrainingError(_reason(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _worker(config: dict[str, Any]) -> None:
    import torch

    from rasterloom.train.engine import run_worker

    job: StageJob = config["job"]
    torch.set_num_threads(job.cpus_per_worker)
    run_worker(job)


def _reason(error: BaseException) -> str:
    """The last line of the first worker's error: what went wrong, without the way there."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    first = failures[min(failures)]
    cause = getattr(first, "cause", None) or first
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__


@contextmanager
def _ray(job: StageJob) -> Iterator[None]:
    """Use the caller's Ray, or one for the time being."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=max(job.workers * job.cpus_per_worker, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _progress(job: StageJob, on_progress: Progress) -> Iterator[None]:
    """Report the last line of the metrics, about every second and at the end."""
    done = threading.Event()

    def last_step() -> dict[str, Any] | None:
        try:
            lines = _tail(job.metrics_file).splitlines(keepends=True)
        except OSError:
            return None
        whole = [line for line in lines if line.endswith("\n")]
        return json.loads(whole[-1]) if whole else None

    def watch() -> None:
        seen = None
        while True:
            ended = done.wait(1.0)
            record = last_step()
            if record is not None and record["step"] != seen:
                seen = record["step"]
                on_progress({name: record[name] for name in ("step", "total", "loss", "tokens_per_s")})
            if ended:
                return

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tail(path: Path, size: int = 4096) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode("utf-8", "replace")
