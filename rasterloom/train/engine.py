"""The training loop of one worker: one stage, from its plan to its weights.

Nothing here knows of Ray: it runs wherever torch.distributed has been set up.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from rasterloom.schema import Profile
from rasterloom.storage import Store
from rasterloom.train import resume
from rasterloom.train.checkpoint import Checkpoint, Position, Saver, latest, restore_random_state
from rasterloom.train.evaluate import evaluate
from rasterloom.train.guard import after_objection, after_step, objection
from rasterloom.train.job import StageJob
from rasterloom.train.metrics import MetricsLog
from rasterloom.train.model import PackedLM, build_model, save_model
from rasterloom.train.plan import deal
from rasterloom.train.ranks import on_rank_0
from rasterloom.train.rows import TokenRows, open_rows, prefetched
from rasterloom.train.samples import Packed, drop_context, heldout_draw, is_dropped, pack
from rasterloom.train.schedule import learning_rate
from rasterloom.train.stage_plan import StagePlan, stage_plan
from rasterloom.train.step import Asked, train_step
from rasterloom.train.transfer import upload
from rasterloom.train.zero import full_weights, start_deepspeed

OUTPUT = "output"  # beside the checkpoints on S3: what a stage leaves behind


class StageImpossible(ValueError):
    """The job cannot be done, and not with other workers either; every rank raises it."""


@dataclass(frozen=True)
class _Data:
    """What a stage trains on."""

    rows: TokenRows
    train: NDArray[np.int64]  # row numbers
    held: NDArray[np.int64]
    plan: StagePlan


def run_worker(
    job: StageJob,
    *,
    asked: Callable[[], Asked] = lambda: Asked.NOTHING,
    on_step: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Literal["done", "stopped"]:
    """Train a stage as one rank of the default process group, which must exist.

    Goes on from the last complete checkpoint of the job, whatever number of ranks has written it. Leaves in
    the job's folder ``model/``, ``metrics.jsonl``, ``heldout.json`` and, when all else is written,
    ``result.json``.

    Args:
        asked: called after each step; what any rank is asked for, all of them do. If it is to stop, a
            checkpoint is written and the stage is "stopped".
        on_step: on rank 0, is given what is noted of each step.

    Raises:
        StageImpossible: there is nothing to train on, or what is found in the job's folder does not fit.
        TrainingDiverged: the guard has stopped the stage.
        StorageError: a checkpoint cannot be written or read.
    """
    rank = dist.get_rank()
    device = torch.device("cuda", torch.cuda.current_device()) if job.use_gpu else torch.device("cpu")
    train, stage, store = job.train, job.stage, job.checkpoint_store
    job.folder.mkdir(parents=True, exist_ok=True)
    scratch = job.folder / f"scratch-{socket.gethostname()}"
    try:
        data = _open(job)
        last = on_rank_0(lambda: latest(store, job.digest()))
    except ValueError as error:
        raise StageImpossible(str(error)) from error

    torch.manual_seed(train.seed + rank)  # for dropout
    model = PackedLM(build_model(job.init, job.profile, seed=train.seed).to(device), train.dropout)
    model.train()  # a checkpoint comes in evaluation mode
    engine = start_deepspeed(model, train, use_gpu=job.use_gpu)
    position = _start(engine, job, last, scratch)

    def measure(moment: str) -> None:
        tokens = min(stage.batch_tokens, (train.micro_batch_tokens or stage.batch_tokens) * dist.get_world_size())
        losses = evaluate(engine, data.rows, data.held, tokens, device)
        if rank == 0:
            known = json.loads(job.heldout_file.read_text()) if moment == "end" else {}
            _write(job.heldout_file, {**known, moment: losses})

    if position.step == 0:
        measure("start")
    notes = (job.metrics_file, job.heldout_file)
    saver = Saver(store, scratch, keep=train.keep_checkpoints, notes=notes)
    with MetricsLog(job.metrics_file if rank == 0 else None, keep=position.step) as log:
        if last is None and train.guard.on == "rollback":
            saver.save(engine, position)  # there is always one to go back to
        for parts in prefetched(_batches(job, data, position.step)):
            began = time.monotonic()
            lr = learning_rate(position.step, data.plan.steps, stage)
            seen = position.seen
            sums = train_step(
                engine, parts, device, lr=lr, z_loss=train.z_loss,
                accept=lambda loss, norm: objection(train.guard, seen, loss, norm) is None,
            )  # fmt: skip
            reason = objection(train.guard, seen, sums.loss, sums.grad_norm)
            position = replace(position, step=position.step + 1)
            if reason is None:
                position = replace(
                    position, tokens=position.tokens + sums.tokens, seen=after_step(train.guard, seen, sums.loss)
                )
            else:
                position = replace(position, seen=after_objection(train.guard, seen, reason, position.step))
                if train.guard.on == "rollback":
                    reason += f"; back to step {_roll_back(engine, saver, job, scratch)}"
            seconds = time.monotonic() - began
            position = replace(position, seconds=position.seconds + seconds)
            record = log.write(
                sums, step=position.step, total=data.plan.steps, lr=lr, seconds=seconds, note=reason
            )
            if rank == 0:
                on_step(record)
            wish, uploaded = _agree(asked(), saver.ready, device)
            at_end = position.step == data.plan.steps
            if position.step % train.checkpoint_every == 0 or at_end or wish:
                saver.save(engine, position)
            elif uploaded:
                saver.finish()
            if wish == Asked.STOP and not at_end:
                saver.finish()
                engine.destroy()
                return "stopped"
        saver.finish()
        loss = log.recent_loss()
    measure("end")
    _export(engine, job.model_dir, job.profile, rank)
    on_rank_0(lambda: _conclude(job, position, loss))
    engine.destroy()
    return "done"


def _open(job: StageJob) -> _Data:
    rows = open_rows(job.token_files, job.filesystem, job.token_index)
    train, held = split_heldout(rows, job.train.heldout)
    stage = job.stage
    plan = stage_plan(
        rows.lengths[train],
        seed=job.train.seed,
        batch_tokens=stage.batch_tokens,
        epochs=stage.epochs,
        steps=stage.steps,
        tokens=stage.tokens,
    )
    return _Data(rows, train, held, plan)


def _start(engine: Any, job: StageJob, last: Checkpoint | None, scratch: Path) -> Position:
    """Bring the engine to where the stage stands."""
    rank, world = dist.get_rank(), dist.get_world_size()
    if last is not None:
        resume.load(engine, job.checkpoint_store, last, scratch)
        folder = resume.fetched(job.checkpoint_store, last, scratch)
        restore_random_state(folder, seed=hash((job.train.seed, last.position.step, rank)))
        on_rank_0(lambda: resume.restore_notes(folder, job.folder))
        return replace(last.position, world_size=world)
    if job.keep_optimizer_from is not None:
        before = Store(f"{job.keep_optimizer_from}/checkpoints")
        kept = on_rank_0(lambda: latest(before, None))
        if kept is None:
            raise StageImpossible(f"there is no checkpoint in {before.root} to take the optimizer's state from")
        resume.load(engine, before, kept, scratch)
    return Position(job.digest(), job.tokens_snapshot, world, step=0, tokens=0, seconds=0.0)


def _roll_back(engine: Any, saver: Saver, job: StageJob, scratch: Path) -> int:
    """Take up weights and optimizer of the last checkpoint, and say of which step it is."""
    saver.finish()
    last = on_rank_0(lambda: latest(job.checkpoint_store, job.digest()))
    assert last is not None
    resume.load(engine, job.checkpoint_store, last, scratch)
    return last.position.step


def _agree(asked: Asked, uploaded: bool, device: torch.device) -> tuple[Asked, bool]:
    """The most that any rank is asked for, and whether all have uploaded their part of a checkpoint."""
    values = torch.tensor([int(asked), int(not uploaded)], device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    most, missing = values.tolist()
    return Asked(most), not missing


def split_heldout(rows: TokenRows, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers to train on, and row numbers held out."""
    draws = rows.heldout
    if draws is None:
        draws = np.fromiter((heldout_draw(key) for key in rows.keys.to_pylist()), dtype=np.float64)
    held = draws < share
    return np.flatnonzero(~held), np.flatnonzero(held)


def _batches(job: StageJob, data: _Data, start: int) -> Iterator[list[Packed]]:
    """This rank's micro-batches of each global batch, from step ``start`` on."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for batch in data.plan.batches(start):
        parts = deal(batch.rows, data.plan.lengths, world, job.train.micro_batch_tokens)[rank]
        yield [_packed(job, data, data.train[rows], batch.epoch) for rows in parts]


def _packed(job: StageJob, data: _Data, rows: NDArray[np.int64], epoch: int) -> Packed:
    samples = data.rows.fetch(rows)
    for i, row in enumerate(rows.tolist()):
        key = data.rows.keys[row].as_py()
        if is_dropped(key, seed=job.train.seed, epoch=epoch, share=job.train.cfg_drop):
            samples[i] = drop_context(samples[i], job.profile)
    return pack(samples)


def _export(engine: Any, folder: Path, profile: Profile, rank: int) -> None:
    """Write the weights as a folder that plain transformers loads; every rank calls this."""
    weights = full_weights(engine, keep=rank == 0)
    if rank == 0:
        draft = folder.with_name("writing-model")
        shutil.rmtree(draft, ignore_errors=True)
        save_model(engine.module.lm, profile, draft, state_dict=weights)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)


def _conclude(job: StageJob, position: Position, loss: float) -> None:
    """Write the result, and bring it where the driver finds it if that is on another machine."""
    record = {"job": job.digest(), "steps": position.step, "tokens": position.tokens, "loss": loss}
    record |= {"seconds": position.seconds, "heldout": json.loads(job.heldout_file.read_text())}
    store = job.checkpoint_store
    if store.is_s3:
        upload(store, job.model_dir, f"{OUTPUT}/{job.model_dir.name}")
        for note in (job.metrics_file, job.heldout_file):
            store.put(f"{OUTPUT}/{note.name}", note.read_bytes())
        store.put(f"{OUTPUT}/{job.result_file.name}", json.dumps(record).encode())
    _write(job.result_file, record)


def _write(path: Path, record: dict[str, Any]) -> None:
    draft = path.with_name(f"writing-{path.name}")
    draft.write_text(json.dumps(record, indent=1))
    os.replace(draft, path)
