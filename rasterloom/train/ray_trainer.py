"""Training of a stage on a Ray cluster, from the driver."""

import itertools
import logging
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util import placement_group_table

from rasterloom.errors import StageImpossible, TrainingError, TrainingStopped
from rasterloom.storage.transfer import download
from rasterloom.train.checkpoint.saver import latest
from rasterloom.train.control_actor import Record, start_control_actor
from rasterloom.train.job import OUTPUT, StageJob, StageResult, finished
from rasterloom.train.ray_backend import StageTorchConfig
from rasterloom.train.ray_worker import Outcome, WorkerConfig, train_worker
from rasterloom.train.stop_signals import stop_event
from rasterloom.train.validate import check
from rasterloom.utils.local_ray import start_local_ray, stop_local_ray
from rasterloom.utils.ray_compat import free_groups_of_actors

Progress = Callable[[Record], None]
Say = Callable[[str], None]

SHOWN = ("step", "total", "loss", "tokens_per_s", "mfu", "workers", "skipped")
REGROW_S = 300.0  # how often a group with fewer workers than it might have looks for room: it costs a restart
WAITS_S = 30.0  # after which it is looked whether workers that have not begun wait for room
LOOKS = 2  # that must find no room before it is said
WORKER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
# Batches differ in length: without it the allocator keeps blocks of every size that there was.
GPU_ENV = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
logger = logging.getLogger(__name__)


def train_stage(
    job: StageJob, on_progress: Progress = lambda _: None, say: Say = lambda _: None
) -> StageResult:
    """Train a stage with ``job.workers`` workers and wait for it.

    A stage that was interrupted resumes from its last complete checkpoint; one that is done is not done
    again. Uses the Ray that the caller has connected to, else starts one on this machine for this call.

    A SIGTERM or SIGINT (Ctrl-C) to this process, where this is its main thread, lets the workers save a
    checkpoint and end; a second SIGINT does not wait for that.

    Args:
        on_progress: is given ``step``, ``total``, ``loss``, ``tokens_per_s`` and ``workers`` about every
            second, ``skipped``, the steps that the guard has skipped since the workers began, and ``mfu`` as
            it was last measured, where it is known.
        say: is told, once, that there is no room for the workers.

    Raises:
        ValueError: the job cannot work; nothing was started.
        StageImpossible: the workers failed with what any workers would meet again.
        TrainingError: a worker failed, or was lost more often than ``job.max_failures`` times.
        TrainingStopped: the stage was stopped by a signal.
    """
    check(job)
    if (result := finished(job)) is not None:
        return result
    job.make_folder()
    job.result_file.unlink(missing_ok=True)
    with _ray(job), stop_event() as stop:
        outcome = _go_on(job, on_progress, say, stop)
    if outcome.end == "failed":
        raise StageImpossible(outcome.reason)
    if outcome.end == "stopped":
        raise TrainingStopped(_stopped_message(job))
    _fetch_output(job)
    result = finished(job)
    if result is None:
        raise TrainingError(f"the workers ended without a result in {job.folder}")
    return result


def _go_on(job: StageJob, on_progress: Progress, say: Say, stop: threading.Event) -> Outcome:
    """Run Ray's trainer, and again from the last checkpoint where it dies.

    Ray replaces workers, but not the actor that does so.
    """
    for lost in itertools.count(1):
        try:
            return _fit(job, on_progress, say, stop)
        except RayActorError as error:
            if stop.is_set():
                return Outcome("stopped")
            if lost > job.max_failures:
                raise TrainingError(f"the controller of its workers was lost {lost} times") from error
            logger.warning("%s: the controller of its workers was lost: %s", job.stage.label, error)
            say("lost the controller of its workers, and goes on from its last checkpoint")
            free_groups_of_actors()  # the room of the workers that were lost with it
    raise AssertionError("unreachable")


def _fit(job: StageJob, on_progress: Progress, say: Say, stop: threading.Event) -> Outcome:
    """Run Ray's trainer in a thread, passing messages on meanwhile.

    Raises:
        TrainingError: the workers were lost too often, or found no room in time.
        RayActorError: the trainer was lost itself.
    """
    scratch = job.folder / "ray"
    control = start_control_actor()
    room = _Room(job, say)
    run = _TrainerThread(torch_trainer(job, control, scratch))
    shown, starts = None, 0
    try:
        while run.goes_on():
            state = ray.get(control.state.remote())
            if stop.is_set():
                if not state.has_begun:
                    return Outcome("stopped")  # nobody has anything to save
                ray.get(control.stop.remote())
            elif not state.has_begun:
                room.look()
            if state.starts > max(1, starts):
                logger.warning("%s: workers were lost and are started again", job.stage.label)
            starts = state.starts
            shown = _show(state.record, shown, on_progress)
    finally:
        ray.kill(control)
        shutil.rmtree(scratch, ignore_errors=True)
    return run.outcome()


def torch_trainer(job: StageJob, control: Any, scratch: Path) -> TorchTrainer:
    """Set Ray's trainer up for a stage.

    Args:
        control: Ray's handle of the `ControlActor`.
        scratch: a folder for Ray's own record of the run, which is of no use to the next one.
    """
    return TorchTrainer(
        train_worker,
        train_loop_config=WorkerConfig(job=job, control=control),
        torch_config=StageTorchConfig(backend="nccl" if job.use_gpu else "gloo"),
        scaling_config=scaling(job),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(scratch.resolve()),
            failure_config=FailureConfig(max_failures=job.max_failures),
            worker_runtime_env={"env_vars": WORKER_ENV | (GPU_ENV if job.use_gpu else {})},
        ),
    )


def scaling(job: StageJob) -> ScalingConfig:
    """Number of workers and their resources, in Ray Train's terms."""
    fixed = job.min_workers in (None, job.workers)
    return ScalingConfig(
        num_workers=job.workers if fixed else (job.min_workers, job.workers),
        elastic_resize_monitor_interval_s=REGROW_S,
        use_gpu=job.use_gpu,
        resources_per_worker=job.takes.needs,
        placement_strategy=job.takes.placement,
        accelerator_type=job.takes.accelerator,
    )


class _TrainerThread:
    """Ray's trainer in a thread of its own: in the main one, Ray would take Ctrl-C for itself and abort."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fit", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._trainer.fit()
        except (Exception, SystemExit) as error:  # Ray exits the threads that wait for it when it ends
            self._error = error

    def goes_on(self) -> bool:
        """Wait a second, or until the end. False if the trainer had ended before."""
        running = self._thread.is_alive()
        self._thread.join(1.0)
        return running

    def outcome(self) -> Outcome:
        """The end of the workers.

        Raises:
            TrainingError: workers were lost too often, or failed with what other workers may not meet.
            RayActorError: the trainer was lost itself.
        """
        if isinstance(self._error, RayActorError):
            raise self._error
        if self._error is not None:
            raise TrainingError(_reason(self._error)) from self._error
        outcome: Outcome = self._result.return_value
        return outcome


class _Room:
    """Watch for workers that wait for room: says so once, and gives up in the end."""

    def __init__(self, job: StageJob, say: Say) -> None:
        self._job, self._say = job, say
        self._others = set(placement_group_table())
        self._began = time.monotonic()
        self._waits = 0
        self._told = False

    def look(self) -> None:
        """Look whether there is room. TrainingError: there has been none for too long."""
        waited = time.monotonic() - self._began
        if waited <= WAITS_S:
            return
        self._waits = self._waits + 1 if _lacks_room(self._job, self._others) else 0
        if self._waits < LOOKS:
            return
        message = _waiting_message(self._job)
        if not self._told:
            logger.info("%s %s", self._job.stage.label, message)
            self._say(message)
            self._told = True
        if waited > self._job.room_wait_s:
            raise TrainingError(f"after {waited / 60:.0f} minutes (run.node_wait_minutes) it still {message}")


def _lacks_room(job: StageJob, others: set[str]) -> bool:
    """True if Ray cannot place the workers now. Those that are placed may still take long to begin.

    Args:
        others: placement groups that were there before.
    """
    mine = [group["state"] for name, group in placement_group_table().items() if name not in others]
    if "CREATED" in mine:
        return False
    if "PENDING" in mine:
        return True
    free, fewest = ray.available_resources(), job.min_workers or job.workers
    return any(free.get(name, 0.0) < amount * fewest for name, amount in job.takes.needs.items())


def _waiting_message(job: StageJob) -> str:
    free = ray.available_resources()
    needs = {name: (amount, free.get(name, 0.0)) for name, amount in job.takes.needs.items()}
    each = ", ".join(f"{name} {amount:g}" for name, (amount, _) in needs.items())
    left = ", ".join(f"{name} {amount:g}" for name, (_, amount) in needs.items())
    return (
        f"waits for room: {job.min_workers or job.workers} workers take {each} each, and free on all nodes "
        f"together are {left}; what is not free is held by others, such as this job's own driver (run.driver)"
    )


def _stopped_message(job: StageJob) -> str:
    last = latest(job.checkpoint_store, job.digest())
    if last is None:
        return "stopped before anything was saved: run it again"
    step = last.position.step
    return f"stopped after step {step}, which is saved in {job.checkpoint_store.root}: run it again to go on"


def _show(record: Record, shown: int | None, on_progress: Progress) -> int | None:
    """Report a new step, and return the last one reported."""
    if not record or record["step"] == shown:
        return shown
    on_progress({name: record[name] for name in SHOWN if name in record})
    return int(record["step"])


def _reason(error: BaseException) -> str:
    """The last line of the first worker's error: what went wrong, without the way there."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    first = failures[min(failures)]
    cause = getattr(first, "cause", None) or first
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__


def _fetch_output(job: StageJob) -> None:
    """Download what rank 0 has left on another machine."""
    if not job.result_file.exists() and job.checkpoint_store.is_s3:
        download(job.checkpoint_store, OUTPUT, job.folder)


@contextmanager
def _ray(job: StageJob) -> Iterator[None]:
    """Use the caller's Ray, or one for the time being."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    start_local_ray(  # even where a cluster runs on this machine: that one is joined by its address
        num_cpus=max(math.ceil(job.workers * job.takes.cpus), os.cpu_count() or 1),
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        stop_local_ray()
