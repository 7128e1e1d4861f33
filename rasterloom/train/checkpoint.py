"""Checkpoints within a stage: written whole or not at all.

A checkpoint is a folder ``step-<n>`` that holds DeepSpeed's files (weights, and each rank's share of the
optimizer), each rank's random state, and ``checkpoint.json``. It is written under another name and
renamed when every rank is done, so a folder with its final name is complete.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

KEEP = 2
_RECORD = "checkpoint.json"
_STATE = "state"


@dataclass(frozen=True)
class Position:
    """Where a stage stands."""

    job: str  # digest of the job: another job's checkpoint is of no use
    tokens_snapshot: str
    world_size: int
    step: int  # optimizer steps done; with the job this is the whole position in the plan
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    position: Position


def latest(folder: Path, job: str, world_size: int) -> Checkpoint | None:
    """Find the newest complete checkpoint, or None where there is none.

    Raises:
        ValueError: it was written by another job, or by another number of workers.
    """
    names = sorted(path for path in folder.glob("step-*") if (path / _RECORD).is_file())
    if not names:
        return None
    position = Position(**json.loads((names[-1] / _RECORD).read_text()))
    if position.job != job:
        raise ValueError(
            f"the checkpoints in {folder} are of a stage with other settings or other data; "
            "use another folder, or delete them to start this stage again"
        )
    if position.world_size != world_size:
        raise ValueError(
            f"{names[-1]} was written by {position.world_size} workers and cannot be read by {world_size}; "
            f"set run.train_workers to {position.world_size}, or delete {folder} to start this stage again"
        )
    return Checkpoint(names[-1], position)


def save(engine: Any, folder: Path, position: Position, *, attempt: str) -> None:
    """Write a checkpoint; every rank calls this. Older ones than the last `KEEP` are removed.

    Args:
        engine: the DeepSpeed engine.
        attempt: name of this run of the workers, so that one that is being lost, and does not know it yet,
            writes nowhere that this one does.
    """
    rank = dist.get_rank()
    final = folder / f"step-{position.step:08d}"
    draft = folder / f"writing-{attempt}"
    if rank == 0:
        for stale in folder.glob("writing-*"):
            shutil.rmtree(stale, ignore_errors=True)
        draft.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(draft), tag=_STATE, save_latest=False)
    torch.save(_random_state(), draft / f"random-{rank}.pt")
    dist.barrier()
    if rank == 0:
        (draft / _RECORD).write_text(json.dumps(asdict(position)))
        if not final.exists():
            os.replace(draft, final)
        for old in sorted(folder.glob("step-*"))[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
    dist.barrier()


def load(engine: Any, checkpoint: Checkpoint) -> Position:
    """Restore weights, optimizer and random state; every rank calls this."""
    path, _ = engine.load_checkpoint(str(checkpoint.folder), tag=_STATE)
    if path is None:
        raise RuntimeError(f"DeepSpeed found nothing to load in {checkpoint.folder}")
    states = torch.load(checkpoint.folder / f"random-{dist.get_rank()}.pt", weights_only=True)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    return checkpoint.position


def _random_state() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
