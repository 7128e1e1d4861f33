"""The training loop of one worker: one stage, from its plan to its weights.

Nothing here knows of Ray: it runs wherever torch.distributed has been set up.
"""

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from rasterloom.train import checkpoint
from rasterloom.train.checkpoint import Position
from rasterloom.train.evaluate import evaluate
from rasterloom.train.job import StageJob
from rasterloom.train.lora import save_adapter
from rasterloom.train.metrics import MetricsLog, StepSums
from rasterloom.train.model import save_model, training_model
from rasterloom.train.plan import StagePlan, balance, stage_plan
from rasterloom.train.rows import TokenRows, open_rows, prefetched
from rasterloom.train.samples import Packed, drop_context, heldout_draw, is_dropped, pack
from rasterloom.train.schedule import learning_rate
from rasterloom.train.zero import full_weights, optimizer_step, start_deepspeed


def run_worker(job: StageJob) -> None:
    """Train a stage as one rank of the default process group, which must exist.

    Goes on from the last complete checkpoint in the job's folder. Leaves there ``model/``,
    ``metrics.jsonl``, ``heldout.json`` and, when all else is written, ``result.json``.

    Raises:
        ValueError: there is nothing to train on, or what is found in the job's folder does not fit.
        FloatingPointError: the loss is not finite.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if job.use_gpu else torch.device("cpu")
    train, stage = job.train, job.stage
    job.folder.mkdir(parents=True, exist_ok=True)
    rows = open_rows(job.token_files, job.filesystem, job.token_index)
    train_rows, held_rows = split_heldout(rows, train.heldout)
    plan = stage_plan(
        rows.lengths[train_rows],
        seed=train.seed,
        batch_tokens=stage.batch_tokens,
        epochs=stage.epochs,
        steps=stage.steps,
    )
    last = checkpoint.latest(job.checkpoint_dir, job.digest(), world)

    torch.manual_seed(train.seed + rank)  # for dropout
    model = training_model(job.init, job.profile, train).to(device)
    model.train()  # a checkpoint comes in evaluation mode
    engine = start_deepspeed(model, train, use_gpu=job.use_gpu)
    attempt = _agreed(uuid.uuid4().hex)
    position = Position(job.digest(), job.tokens_snapshot, world, step=0, tokens=0, seconds=0.0)
    if last is not None:
        position = checkpoint.load(engine, last)

    def measure(moment: str) -> None:
        losses = evaluate(engine, rows, held_rows, stage.batch_tokens, device)
        if rank == 0:
            known = json.loads(job.heldout_file.read_text()) if moment == "end" else {}
            _write(job.heldout_file, {**known, moment: losses})

    if position.step == 0:
        measure("start")
    with MetricsLog(job.metrics_file if rank == 0 else None, keep=position.step) as log:
        for packed in prefetched(_batches(job, rows, train_rows, plan, position.step)):
            began = time.monotonic()
            lr = learning_rate(position.step, plan.steps, stage)
            sums = train_step(engine, packed, device, lr=lr)
            seconds = time.monotonic() - began
            position = replace(
                position,
                step=position.step + 1,
                tokens=position.tokens + sums.tokens,
                seconds=position.seconds + seconds,
            )
            if not math.isfinite(sums.loss):
                raise FloatingPointError(
                    f"the loss is not finite at step {position.step}: "
                    "lower the stage's lr or raise its warmup_steps"
                )
            log.write(sums, step=position.step, total=plan.steps, lr=lr, seconds=seconds)
            if position.step % train.checkpoint_every == 0 or position.step == plan.steps:
                checkpoint.save(engine, job.checkpoint_dir, position, attempt=attempt)
        loss = log.recent_loss()
    measure("end")
    _export(engine, job, rank)
    if rank == 0:
        record = {"job": job.digest(), "steps": plan.steps, "tokens": position.tokens, "loss": loss}
        record |= {"seconds": position.seconds, "heldout": json.loads(job.heldout_file.read_text())}
        _write(job.result_file, record)
    dist.barrier()
    engine.destroy()


def split_heldout(rows: TokenRows, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers to train on, and row numbers held out."""
    draws = rows.heldout
    if draws is None:
        draws = np.fromiter((heldout_draw(key) for key in rows.keys.to_pylist()), dtype=np.float64)
    held = draws < share
    return np.flatnonzero(~held), np.flatnonzero(held)


def train_step(engine: Any, packed: Packed, device: torch.device, *, lr: float) -> StepSums:
    """Take one optimizer step on a global batch of which this rank has ``packed``."""
    rank, world = dist.get_rank(), dist.get_world_size()
    ids, targets = (torch.from_numpy(x).to(device) for x in (packed.input_ids, packed.targets))
    loss, nll, z = engine(ids, targets, packed.lengths)
    sums = torch.zeros(3 + world, dtype=torch.float64, device=device)
    sums[:3] = torch.stack([nll.double().sum(), z.double().sum(), sums.new_tensor(len(nll))])
    sums[3 + rank] = sum(packed.lengths) if packed.order else 0
    dist.all_reduce(sums)
    nll_sum, z_sum, count, *tokens = sums.tolist()
    # DeepSpeed averages gradients over the ranks; times their number that is the sum, and divided by the
    # number of targets in the global batch it is the mean over these.
    engine.backward(loss * (world / max(count, 1)))
    grad_norm = optimizer_step(engine, lr)
    return StepSums(
        loss=nll_sum / max(count, 1),
        z=z_sum / max(count, 1),
        grad_norm=grad_norm,
        tokens=int(sum(tokens)),
        loss_tokens=int(count),
        useful_share=sum(tokens) / (world * max(tokens)),
    )


def _batches(
    job: StageJob, rows: TokenRows, train_rows: NDArray[np.int64], plan: StagePlan, start: int
) -> Iterator[Packed]:
    """This rank's part of each global batch, from step ``start`` on."""
    for batch in plan.batches(start):
        mine = balance(batch.rows, plan.lengths, dist.get_world_size())[dist.get_rank()]
        samples = rows.fetch(train_rows[mine])
        for i, row in enumerate(train_rows[mine].tolist()):
            key = rows.keys[row].as_py()
            if is_dropped(key, seed=job.train.seed, epoch=batch.epoch, share=job.train.cfg_drop):
                samples[i] = drop_context(samples[i], job.profile)
        yield pack(samples)


def _export(engine: Any, job: StageJob, rank: int) -> None:
    """Write the weights as a folder that plain transformers loads; every rank calls this."""
    weights = full_weights(engine, keep=rank == 0)
    if rank == 0:
        folder, lora = job.model_dir, job.train.model.lora
        draft = folder.with_name("writing-model")
        shutil.rmtree(draft, ignore_errors=True)
        save_model(engine.module.lm, job.profile, draft, state_dict=weights, lora=lora)
        if lora is not None:
            save_adapter(weights, lora, draft / "adapter", base=job.init)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)


def _agreed(value: str) -> str:
    """Rank 0's value, on every rank."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _write(path: Path, record: dict[str, Any]) -> None:
    draft = path.with_name(f"writing-{path.name}")
    draft.write_text(json.dumps(record, indent=1))
    os.replace(draft, path)
