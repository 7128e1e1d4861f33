"""Runs a training stage on the workers of a Ray cluster. The one file of ``train`` that knows of Ray."""

import logging
import math
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rasterloom.errors import TrainingError, TrainingStopped
from rasterloom.train.job import StageJob, StageResult, finished
from rasterloom.train.loopback_group import LOOPBACK, join, serve_store
from rasterloom.train.validate import check
from rasterloom.utils.local_ray import start_local_ray, stop_local_ray

Progress = Callable[[dict[str, Any]], None]

SHOWN = ("step", "total", "loss", "tokens_per_s", "mfu", "workers")
REGROW_S = 300.0  # how often a group with fewer workers than it might have looks for room: it costs a restart
WAITS_S = 30.0  # after which workers that have not begun are said to wait
PREEMPTION_S = 2.0  # between looks for a notice that a machine will go

# Set for every worker: one thread a CPU that it was given, and no word home.
_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def train_stage(
    job: StageJob, on_progress: Progress = lambda _: None, say: Callable[[str], None] = lambda _: None
) -> StageResult:
    """Train a stage with ``job.workers`` workers and wait for it.

    A stage that was interrupted goes on from its last complete checkpoint; one that is done is not done
    again. Uses the Ray that the caller has connected to, else starts one on this machine for this call.

    A SIGTERM or SIGINT (Ctrl-C) to this process, where this is its main thread, lets the workers save a
    checkpoint and end; a second SIGINT does not wait for that.

    Args:
        on_progress: is given ``step``, ``total``, ``loss``, ``tokens_per_s`` and ``workers`` about every
            second, and ``mfu`` as it was last measured, where it is known.
        say: is told, once, that there is no room for the workers.

    Raises:
        ValueError: the job cannot work; nothing was started.
        TrainingError: a worker failed, or was lost more often than ``job.max_failures`` times.
        TrainingStopped: the stage was stopped by a signal.
    """
    check(job)
    if (result := finished(job)) is not None:
        return result
    job.make_folder()
    job.result_file.unlink(missing_ok=True)
    with _ray(job), _told_to_stop() as stop:
        outcome = _fit(job, on_progress, say, stop)
    if outcome["end"] == "failed":
        raise TrainingError(outcome["why"])
    if outcome["end"] == "stopped":
        raise TrainingStopped(_where_stopped(job))
    _fetch_output(job)
    result = finished(job)
    if result is None:
        raise TrainingError(f"the workers ended without a result in {job.folder}")
    return result


def _fit(
    job: StageJob, on_progress: Progress, say: Callable[[str], None], stop: threading.Event
) -> dict[str, Any]:
    """Run the trainer in a thread, pass word on meanwhile, and return what the workers end with."""
    scratch = job.folder / "ray"
    # On this node, which the stage ends with anyway: anywhere else it could go with a worker's.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "board": board},
        torch_config=_SignalledTorch(backend="nccl" if job.use_gpu else "gloo"),
        scaling_config=scaling(job),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # Ray's own record of a run is of no use to the next one
            storage_path=str(scratch.resolve()),
            failure_config=FailureConfig(max_failures=job.max_failures),
            worker_runtime_env={"env_vars": _ENV},
        ),
    )
    ended: list[Any] = []

    def fit() -> None:
        try:
            ended.append(trainer.fit())
        except (Exception, SystemExit) as error:  # Ray exits the threads that wait for it when it ends
            ended.append(error)

    # Not in this thread, where Ray would take Ctrl-C for itself and abort.
    thread = threading.Thread(target=fit, name="fit", daemon=True)
    thread.start()
    tell_at = time.monotonic() + WAITS_S
    try:
        shown = None
        while thread.is_alive():
            thread.join(1.0)
            if not ray.get(board.has_begun.remote()):
                if stop.is_set():
                    return {"end": "stopped"}  # nobody has anything to save
                if time.monotonic() > tell_at:
                    say(_why_it_waits(job))
                    tell_at = math.inf
            elif stop.is_set():
                ray.get(board.stop.remote())
            shown = _show(ray.get(board.read.remote()), shown, on_progress)
    finally:
        ray.kill(board)
        shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(ended[0], BaseException):
        raise TrainingError(_reason(ended[0])) from ended[0]
    outcome: dict[str, Any] = ended[0].return_value
    return outcome


def scaling(job: StageJob) -> ScalingConfig:
    """How many workers there are, and what each takes of which nodes, in Ray Train's words."""
    fixed = job.min_workers in (None, job.workers)
    return ScalingConfig(
        num_workers=job.workers if fixed else (job.min_workers, job.workers),
        elastic_resize_monitor_interval_s=REGROW_S,
        use_gpu=job.use_gpu,
        resources_per_worker=job.takes.needs,
        placement_strategy=job.takes.placement,
        accelerator_type=job.takes.accelerator,
    )


def _why_it_waits(job: StageJob) -> str:
    free = ray.available_resources()
    needs = {name: (amount, free.get(name, 0.0)) for name, amount in job.takes.needs.items()}
    each = ", ".join(f"{name} {amount:g}" for name, (amount, _) in needs.items())
    left = ", ".join(f"{name} {amount:g}" for name, (_, amount) in needs.items())
    return (
        f"waits for room: {job.min_workers or job.workers} workers take {each} each, and free on all nodes "
        f"together are {left}; what is not free is held by others, such as this job's own driver (run.driver)"
    )


def _where_stopped(job: StageJob) -> str:
    from rasterloom.train.checkpoint.saver import latest

    last = latest(job.checkpoint_store, job.digest())
    if last is None:
        return "stopped before anything was saved: run it again"
    step = last.position.step
    return f"stopped after step {step}, which is saved in {job.checkpoint_store.root}: run it again to go on"


def _show(record: dict[str, Any] | None, shown: int | None, on_progress: Progress) -> int | None:
    """Report a step if it is news, and return the last one reported."""
    if record is None or record["step"] == shown:
        return shown
    on_progress({name: record[name] for name in SHOWN if name in record})
    return int(record["step"])


class _Board:
    """Where the driver and the workers, wherever they run, leave word for each other."""

    def __init__(self) -> None:
        self._record: dict[str, Any] | None = None
        self._begun = self._stop = False

    def begin(self) -> None:
        self._begun = True

    def has_begun(self) -> bool:
        return self._begun

    def write(self, record: dict[str, Any]) -> bool:
        """Leave what is noted of a step; returns whether to stop."""
        measured = {name: self._record[name] for name in ("mfu",) if self._record and name in self._record}
        self._record = {**measured, **record}
        return self._stop

    def read(self) -> dict[str, Any] | None:
        return self._record

    def stop(self) -> None:
        self._stop = True

    def stopped(self) -> bool:
        return self._stop


_training = threading.Event()  # in a worker: its stage is under way
_leaving = threading.Event()  # and it was sent a SIGTERM


@dataclass
class _SignalledTorch(TorchConfig):  # type: ignore[misc]
    """torch's process group, on loopback where Ray is, and workers that hear a SIGTERM."""

    @property
    def backend_cls(self) -> type:
        class Backend(super().backend_cls):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                if ray.util.get_node_ip_address() == LOOPBACK:
                    _start_on_loopback(worker_group, backend_config)
                else:
                    super().on_start(worker_group, backend_config)

            def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
                super().on_training_start(worker_group, backend_config)
                worker_group.execute(_hear_sigterm)

        return Backend


def _start_on_loopback(worker_group: Any, backend_config: TorchConfig) -> None:
    timeout = timedelta(seconds=backend_config.timeout_s)
    port = worker_group.execute_single(0, serve_store, timeout)
    size = len(worker_group)
    given = (backend_config.backend, port)
    ray.get(
        [worker_group.execute_single_async(rank, _join, *given, rank, size, timeout) for rank in range(size)]
    )


def _join(backend: str, port: int, rank: int, world_size: int, timeout: timedelta) -> None:
    context = ray.train.get_context()
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        NODE_RANK=str(context.get_node_rank()),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
    )
    join(backend, port, rank, world_size, timeout)


def _hear_sigterm() -> None:
    """In a worker's main thread: note a first SIGTERM while it trains, else do what would have been done."""
    before = signal.getsignal(signal.SIGTERM)

    def handler(number: int, frame: Any) -> None:
        if _training.is_set() and not _leaving.is_set():
            _leaving.set()
        else:
            signal.signal(signal.SIGTERM, before)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, handler)


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs. What other workers would fail with too is returned: if raised, Ray would try."""
    import torch

    from rasterloom.errors import StageImpossible, TrainingDiverged
    from rasterloom.train.trainer import run_worker

    job: StageJob = config["job"]
    config["board"].begin.remote()
    torch.set_num_threads(job.takes.threads)
    word = _Word(config["board"])
    threading.Thread(target=word.look_for_preemption, name="preemption", daemon=True).start()
    _training.set()
    try:
        end = run_worker(job, asked=word.asked, on_step=word.write)
    except (StageImpossible, TrainingDiverged) as error:
        return {"end": "failed", "why": str(error)}
    finally:
        _training.clear()
    if end == "stopped" and not ray.get(config["board"].stopped.remote()):
        raise RuntimeError("a worker was told to end; the stage goes on without it")
    return {"end": end}


class _Word:
    """What one worker hears and tells, without waiting for either."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._answer: Any = None
        self._stop = False
        self._preempted = False
        self._saved = False

    def write(self, record: dict[str, Any]) -> None:
        """Tell the driver of a step; it may have answered an earlier one."""
        if self._answer is not None:
            answered, _ = ray.wait([self._answer], timeout=0)
            if not answered:
                return
            self._stop = ray.get(self._answer)
        workers = ray.train.get_context().get_world_size()
        self._answer = self._board.write.remote({**record, "workers": workers})

    def asked(self) -> Any:
        from rasterloom.train.optim.train_step import Asked

        if self._stop or _leaving.is_set():
            return Asked.STOP
        if self._preempted and not self._saved:  # once: Ray restarts the workers when the machine is gone
            self._saved = True
            return Asked.SAVE
        return Asked.NOTHING

    def look_for_preemption(self) -> None:
        """Wait for notice that a machine will go. All workers ask equally often: to ask is to meet."""
        while not self._preempted:
            self._preempted = ray.train.get_preemption_info() is not None
            time.sleep(PREEMPTION_S)


def _reason(error: BaseException) -> str:
    """The last line of the first worker's error: what went wrong, without the way there."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    first = failures[min(failures)]
    cause = getattr(first, "cause", None) or first
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__


def _fetch_output(job: StageJob) -> None:
    """Bring here what rank 0 has left on another machine."""
    from rasterloom.storage.transfer import download
    from rasterloom.train.trainer import OUTPUT

    if not job.result_file.exists() and job.checkpoint_store.is_s3:
        download(job.checkpoint_store, OUTPUT, job.folder)


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Turn SIGTERM and the first SIGINT into an event, for the time being."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handler(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _ray(job: StageJob) -> Iterator[None]:
    """Use the caller's Ray, or one for the time being."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    start_local_ray(  # even where a cluster runs on this machine: that one is joined by its address
        num_cpus=max(math.ceil(job.workers * job.takes.cpus), os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        stop_local_ray()
