"""Training loop of one worker: one stage, from its plan to its weights.

Nothing here knows of Ray: it runs wherever torch.distributed has been set up.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from rasterloom.errors import StageImpossible, TrainingDiverged
from rasterloom.recipe.train import Guard, Train
from rasterloom.storage.layout import CHECKPOINTS
from rasterloom.storage.store import Store
from rasterloom.storage.transfer import upload
from rasterloom.train.checkpoint import resume
from rasterloom.train.checkpoint.saver import Checkpoint, Position, Saver, latest, restore_random_state
from rasterloom.train.data.collate import Packed
from rasterloom.train.data.dataloader import StageLoader, open_loader
from rasterloom.train.data.token_dataset import prefetched
from rasterloom.train.devices import with_kernels, with_precision
from rasterloom.train.distributed import gathered, on_rank_0
from rasterloom.train.estimate import fit
from rasterloom.train.job import OUTPUT, Request, StageJob
from rasterloom.train.model import kernels
from rasterloom.train.model.freeze import freeze
from rasterloom.train.model.lora import ADAPTER, kept_base, save_adapter
from rasterloom.train.model.packed_lm import save_model, training_model
from rasterloom.train.model.shapes import shape_of
from rasterloom.train.monitoring.metrics_log import StepSums
from rasterloom.train.monitoring.monitor import Monitor
from rasterloom.train.monitoring.trackers import EVENTS
from rasterloom.train.optim.deepspeed_engine import (
    full_weights,
    set_up_deepspeed,
    start_deepspeed,
    weights_are_finite,
)
from rasterloom.train.optim.exact_weights import exact_weights, restore_exact
from rasterloom.train.optim.loss_guard import after_objection, after_step, check_end, no_result, objection
from rasterloom.train.optim.lr_schedule import learning_rate
from rasterloom.train.optim.train_step import train_step
from rasterloom.train.optim.weight_average import WeightAverage
from rasterloom.utils.json_files import read_json, to_json, write_json
from rasterloom.utils.random_streams import stream_number

logger = logging.getLogger(__name__)


def run_worker(
    job: StageJob,
    *,
    request: Callable[[], Request] = lambda: Request.NOTHING,
    on_step: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Literal["done", "stopped"]:
    """Train a stage as one rank of the existing process group.

    Goes on from the last complete checkpoint of the job, whatever number of ranks has written it. Leaves in
    the job's folder ``model/``, ``metrics.jsonl``, ``heldout.json``, ``model_ema/`` where ``train.ema`` is
    set, and, when all else is written, ``result.json``.

    Args:
        request: called after each step; what is requested of any rank, all of them do. If it is to stop,
            a checkpoint is written and the stage is "stopped".
        on_step: on rank 0, is given what is noted of each step.

    Raises:
        StageImpossible: there is nothing to train on, or what is found in the job's folder does not fit.
        TrainingDiverged: the guard has stopped the stage, or what it ends with is no result.
        StorageError: a checkpoint cannot be written or read.
    """
    if job.train.deterministic and job.use_gpu:
        _choose_deterministic_kernels()
    stage = _open(job)
    job, plan = stage.job, stage.loader.plan  # the job with what was settled
    with Monitor(
        stage.engine,
        job,
        stage.loader.rows,
        stage.loader.held,
        start=stage.position.step,
        total=plan.steps,
    ) as monitor:
        monitor.begin()
        if stage.position.step == plan.steps:
            _check_end(stage, monitor)  # saved by an attempt that has not come to its result
        if stage.is_new and job.train.guard.on == "rollback":
            stage.save()  # there is always one to go back to
        try:
            done = _train(stage, monitor, request, on_step)
        except TrainingDiverged:  # on every rank: the last checkpoint, which may be under way, stays
            stage.saver.finish()
            raise
        stage.saver.finish()
        loss = monitor.log.recent_loss()
    if done:
        _export(stage)
        on_rank_0(lambda: _conclude(job, stage.position, loss))
    stage.engine.destroy()
    return "done" if done else "stopped"


@dataclass
class _Stage:
    """A stage under way, as one rank has it."""

    job: StageJob
    loader: StageLoader
    engine: Any
    """DeepSpeed's, around a `PackedLM`."""
    saver: Saver
    position: Position
    is_new: bool
    scratch: resume.Scratch
    average: WeightAverage | None

    def save(self) -> None:
        """Write a checkpoint, unless weights are not finite. A guard that rolls back comes to that itself."""
        if weights_are_finite(self.engine):
            self.saver.save(self.engine, self.position, self.average)
        elif self.job.train.guard.on != "rollback" or self.position.step in (0, self.total):
            raise no_result("the weights are not finite", self.position.step)

    @property
    def total(self) -> int:
        return self.loader.plan.steps


def _open(job: StageJob) -> _Stage:
    """Open data and model of a stage, at its last checkpoint."""
    store = job.checkpoint_store
    device = torch.device("cuda", torch.cuda.current_device()) if job.use_gpu else torch.device("cpu")
    job.make_folder()
    scratch = resume.Scratch.of(job)
    try:
        loader = open_loader(job)
        last = on_rank_0(lambda: latest(store, job.digest()))
        train = _settled(job, loader, device)
    except ValueError as error:
        raise StageImpossible(str(error)) from error
    # The digest keeps what the recipe says of the precision.
    job = replace(job, train=job.train.model_copy(update={"micro_batch_tokens": train.micro_batch_tokens}))
    loader = replace(loader, job=job)
    torch.manual_seed(_dropout_seed(train, step=0))
    set_up_deepspeed(use_gpu=job.use_gpu)
    model = training_model(job.init, job.profile, train)
    freeze(model.lm, job.stage.freeze)
    model.train()  # a checkpoint comes in evaluation mode
    exact = exact_weights(model, job.init, job.profile, train)
    engine = start_deepspeed(model.to(device), train, use_gpu=job.use_gpu)
    if last is None:
        restore_exact(engine, exact)
    del exact
    average = WeightAverage(engine, train.ema) if train.ema else None
    position = _start(engine, average, job, last, scratch)
    notes = (job.metrics_file, job.heldout_file, job.sums_file)
    keep = train.keep_checkpoints
    saver = Saver(store, scratch.folder, keep=keep, notes=notes, behind=job.use_gpu)
    return _Stage(job, loader, engine, saver, position, last is None, scratch, average)


def _choose_deterministic_kernels() -> None:
    """Have torch take deterministic kernels, where it has any."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # All memory that is read has been written: filling it first would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _settled(job: StageJob, loader: StageLoader, device: torch.device) -> Train:
    """Settings that the recipe leaves open, alike on all ranks. Every rank calls this.

    Raises:
        StageImpossible: the stage does not fit the smallest GPU.
    """
    train = on_rank_0(lambda: with_precision(job.train, use_gpu=job.use_gpu))
    train = with_kernels(train, there=all(gathered(kernels.are_there())))
    shape, longest = shape_of(job.init, job.profile.vocab_size), int(loader.plan.lengths.max())
    stage = fit.Stage(shape, job.stage.freeze, dist.get_world_size(), longest)
    if device.type != "cuda":
        return fit.settled(train, stage, None)
    found = fit.fit(train, stage, min(gathered(torch.cuda.get_device_properties(device).total_memory)))
    if not found.is_there:
        raise StageImpossible(fit.cannot_fit(found))
    if dist.get_rank() == 0:
        logger.info("%s: %s", job.stage.label, fit.in_words(found))
    return found.train


def _train(
    stage: _Stage,
    monitor: Monitor,
    request: Callable[[], Request],
    on_step: Callable[[dict[str, Any]], None],
) -> bool:
    """Take the steps that are left. False if the stage was stopped before the last."""
    waiting_since, due = time.monotonic(), False
    for parts in prefetched(stage.loader.batches(stage.position.step)):
        record = _step(stage, parts, monitor, wait=time.monotonic() - waiting_since)
        if dist.get_rank() == 0:
            on_step(record)
        step = stage.position.step
        monitor.look(step)
        requested, uploaded = _agree(request(), stage.saver.ready, monitor.device)
        if step == stage.total:
            _check_end(stage, monitor)
        due = due or step % stage.job.train.checkpoint_every == 0
        if (due and "note" not in record) or step == stage.total or requested:
            monitor.keep_sums(step)
            stage.save()  # after a step that was refused it waits for one that is taken
            due = False
        elif uploaded:
            stage.saver.finish()
        if requested == Request.STOP and step < stage.total:
            logger.info("%s is stopped after step %d", stage.job.stage.label, step)
            return False
        waiting_since = time.monotonic()
    return True


def _step(stage: _Stage, parts: Sequence[Packed], monitor: Monitor, *, wait: float) -> dict[str, Any]:
    """Take a step, unless the guard skips it, and note it."""
    monitor.before(stage.position.step + 1)
    began = time.monotonic()
    train, position = stage.job.train, stage.position
    lr = learning_rate(position.step, stage.total, stage.job.stage)
    judge = partial(objection, train.guard, position.seen)
    sums = train_step(stage.engine, parts, monitor.device, monitor.tally, lr=lr, refuse=judge)
    refused = judge(sums.loss, sums.grad_norm)
    position = _after(position, sums, refused, train.guard)
    if stage.average is not None and not refused:
        stage.average.update(position.step)
    if refused and train.guard.on == "rollback":
        refused += f"; back to step {_roll_back(stage)}"
    if refused and dist.get_rank() == 0:
        logger.warning("%s: step %d is skipped: %s", stage.job.stage.label, position.step, refused)
    seconds = time.monotonic() - began
    stage.position = replace(position, seconds=position.seconds + seconds)
    return monitor.note(sums, step=position.step, lr=lr, seconds=seconds, wait=wait, refused=refused)


def _check_end(stage: _Stage, monitor: Monitor) -> None:
    """Raise TrainingDiverged if a stage ends without a result. Every rank calls this."""
    finite = weights_are_finite(stage.engine)

    def work() -> None:
        heldout = read_json(stage.job.heldout_file).get("end", {}).get("all", {})
        check_end(stage.position.step, finite=finite, refused=monitor.log.refused_last, heldout=heldout)

    on_rank_0(work)


def _after(position: Position, sums: StepSums, refused: str | None, guard: Guard) -> Position:
    """The position after a step that was taken, or refused."""
    step = position.step + 1
    if refused:
        return replace(position, step=step, seen=after_objection(guard, position.seen, refused, step))
    seen = after_step(guard, position.seen, sums.loss)
    return replace(position, step=step, tokens=position.tokens + sums.tokens, seen=seen)


def _start(
    engine: Any,
    average: WeightAverage | None,
    job: StageJob,
    last: Checkpoint | None,
    scratch: resume.Scratch,
) -> Position:
    """Bring the engine, and the average, to where the stage stands."""
    world = dist.get_world_size()
    if last is not None:
        logger.info("%s goes on from step %d", job.stage.label, last.position.step)
        with resume.fetched(job.checkpoint_store, last, scratch) as folder:
            resume.load(engine, last, folder, scratch, average)
            _load_base(engine, job, folder)
            restore_random_state(folder, seed=_dropout_seed(job.train, step=last.position.step))
            on_rank_0(lambda: resume.restore_notes(folder, job.folder))
        return replace(last.position, world_size=world)
    if job.keep_optimizer_from is not None:
        before = Store(f"{job.keep_optimizer_from}/{CHECKPOINTS}")
        kept = on_rank_0(lambda: latest(before, None))
        if kept is None:
            raise StageImpossible(f"optimizer_state: keep: there is no checkpoint in {before.root}")
        with resume.fetched(before, kept, scratch) as folder:
            resume.load(engine, kept, folder, scratch)
            _load_base(engine, job, folder)
        if average is not None:
            average.begin()
    return Position(job.digest(), job.tokens_snapshot, world, step=0, tokens=0, seconds=0.0)


def _load_base(engine: Any, job: StageJob, folder: Path) -> None:
    """Load what adapters that go on are added to: the stage's first model has their update in it already."""
    if job.keep_optimizer_from is not None and job.train.model.lora is not None:
        resume.load_frozen(engine, folder)


def _dropout_seed(train: Train, *, step: int) -> int:
    """Seed of this rank's dropout, from a step on."""
    rank = dist.get_rank()
    return stream_number("dropout", seed=train.seed, stage=train.stage_number, step=step, rank=rank)


def _roll_back(stage: _Stage) -> int:
    """Load weights and optimizer of the last checkpoint, and return its step."""
    job = stage.job
    stage.saver.finish()
    last = on_rank_0(lambda: latest(job.checkpoint_store, job.digest()))
    assert last is not None
    with resume.fetched(job.checkpoint_store, last, stage.scratch) as folder:
        resume.load(stage.engine, last, folder, stage.scratch, stage.average)
    return last.position.step


def _agree(request: Request, uploaded: bool, device: torch.device) -> tuple[Request, bool]:
    """The largest request of any rank, and whether all uploads are done."""
    values = torch.tensor([int(request), int(not uploaded)], device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    most, missing = values.tolist()
    return Request(most), not missing


def _export(stage: _Stage) -> None:
    """Write the weights and their average as folders for plain transformers. Every rank calls this."""
    writes = dist.get_rank() == 0
    weights = full_weights(stage.engine, keep=writes)
    if writes:
        _write_model(stage, weights, stage.job.model_dir)
    if stage.average is not None:
        averages = stage.average.gather(keep=writes)
        if writes:
            _write_model(stage, weights | averages, stage.job.average_dir)


def _write_model(stage: _Stage, weights: dict[str, Tensor], folder: Path) -> None:
    job, lora = stage.job, stage.job.train.model.lora
    draft = folder.with_name(f"writing-{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    lm, vocabulary = stage.engine.module.lm, job.vocabulary
    save_model(lm, job.profile, draft, state_dict=weights, lora=lora, vocabulary=vocabulary)
    if lora is not None:
        base = kept_base(Path(job.init)) if job.keep_optimizer_from else job.init
        save_adapter(weights, lora, draft / ADAPTER, base=base)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)


def _conclude(job: StageJob, position: Position, loss: float) -> None:
    """Write the result, and bring it where the driver finds it."""
    record = {"job": job.digest(), "steps": position.step, "tokens": position.tokens, "loss": loss}
    record |= {"seconds": position.seconds, "heldout": read_json(job.heldout_file)}
    store = job.checkpoint_store
    if store.is_s3:
        folders = (job.model_dir, job.average_dir, job.samples_dir, job.profiles_dir, job.folder / EVENTS)
        for folder in folders:
            if folder.exists():
                upload(store, folder, f"{OUTPUT}/{folder.name}")
        for note in (job.metrics_file, job.heldout_file):
            store.put(f"{OUTPUT}/{note.name}", note.read_bytes())
        store.put(f"{OUTPUT}/{job.result_file.name}", to_json(record).encode())
    write_json(job.result_file, record)
