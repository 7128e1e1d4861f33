"""Checkpoints within a stage: in a store, complete or not at all.

A checkpoint is a folder ``step-<n>-<attempt>`` that holds DeepSpeed's files (weights, and each rank's share
of the optimizer), the model's config, each rank's random state and share of the weights' average, if there is
one, and the stage's notes so far, and beside it a record
``step-<n>.json``, which is written last and names all files with their sizes. What has no record, or lacks
a file of it, is not used.

In a folder that all machines share, ranks write their files in place. On S3 they write to their own machine
and upload from there in the background, one checkpoint at a time, while training goes on. Where GPUs train,
the writing is in the background too, from a copy in host memory (`snapshot`).
"""

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rasterloom.errors import StorageError
from rasterloom.storage.layout import STREAMS
from rasterloom.storage.store import Store
from rasterloom.storage.transfer import upload
from rasterloom.train.checkpoint.snapshot import Snapshot
from rasterloom.train.deepspeed_compat import files_given_to
from rasterloom.train.distributed import all_succeed, gathered, on_rank_0
from rasterloom.train.optim.loss_guard import Seen
from rasterloom.train.optim.weight_average import WeightAverage
from rasterloom.utils import random_streams
from rasterloom.utils.parallel import Behind

STATE = "state"  # DeepSpeed's tag: its files are in a folder of this name
NOTES = "notes"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Position of a stage in its plan."""

    job: str  # digest of the job: another job's checkpoint is of no use
    tokens_snapshot: str
    world_size: int
    step: int  # global batches done or passed over; with the job this is the whole position in the plan
    tokens: int
    seconds: float
    seen: Seen = field(default_factory=Seen)


@dataclass(frozen=True)
class Checkpoint:
    name: str  # of its folder in the store
    position: Position
    files: dict[str, int]  # names in the folder, and their sizes in bytes


def complete(store: Store, job: str | None) -> Iterator[Checkpoint]:
    """Yield the complete checkpoints, the newest first.

    Args:
        job: digest of the job that must have written them; None: any.

    Raises:
        ValueError: one was written by another job.
    """
    sizes = _listing(store)
    for name in sorted((name for name in sizes if _is_record(name)), reverse=True):
        record = _record(store, name)
        if record is None:
            continue
        seen = record["position"].pop("seen")
        position = Position(**record["position"], seen=Seen(tuple(seen["losses"]), seen["objections"]))
        if job is not None and position.job != job:
            raise ValueError(
                f"the checkpoints in {store.root} are of a stage with other settings or other data, or of an "
                "earlier version of Rasterloom; use another folder, or delete them to start this stage again"
            )
        if _has_its_files(record, sizes):
            yield Checkpoint(record["folder"], position, record["files"])


def latest(store: Store, job: str | None) -> Checkpoint | None:
    """Find the newest complete checkpoint, or None where there is none. Raises ValueError, as `complete`."""
    return next(complete(store, job), None)


@dataclass(frozen=True)
class _UnderWay:
    """A checkpoint that is being written."""

    name: str
    position: Position
    folder: Path
    """This rank's files."""
    work: Behind


class Saver:
    """Writer of one attempt's checkpoints.

    Every rank has one, and calls its methods at the same steps.
    """

    def __init__(
        self, store: Store, scratch: Path, *, keep: int, notes: Sequence[Path], behind: bool = False
    ) -> None:
        """Make one; nothing is written yet.

        Args:
            scratch: a folder of this machine, for what is on its way to S3.
            keep: how many checkpoints stay.
            notes: files of rank 0 that belong to a checkpoint; those that are there are copied.
            behind: let training go on as soon as what is to be written is copied to host memory.
        """
        self._store, self._scratch, self._keep, self._notes = store, scratch, keep, notes
        # So that an attempt that is being lost, and does not know it yet, writes nowhere that this one does.
        self._attempt = on_rank_0(lambda: uuid.uuid4().hex[:12])
        self._snapshot = Snapshot() if behind else None
        self._under_way: _UnderWay | None = None

    @property
    def ready(self) -> bool:
        """True if this rank's part of a checkpoint under way is done."""
        return self._under_way is not None and self._under_way.work.done

    def save(self, engine: Any, position: Position, average: WeightAverage | None = None) -> None:
        """Write a checkpoint, or begin to. One that is under way is finished first.

        Args:
            average: of the weights, where the stage has one.

        Raises:
            StorageError: what was under way could not be uploaded.
            OSError: a file cannot be written.
        """
        before = self._under_way
        if before is not None and not before.work.done:
            steps = position.step, before.position.step
            logger.info("the checkpoint of step %d waits for that of step %d to be written", *steps)
        self.finish()
        name = f"step-{position.step:08d}-{self._attempt}"
        at_home = self._store.is_s3
        folder = self._scratch / f"rank-{dist.get_rank()}" / name if at_home else Path(self._store.path(name))
        folder.mkdir(parents=True, exist_ok=True)
        snapshot = self._snapshot
        with files_given_to(engine, snapshot.take) if snapshot else nullcontext():
            engine.save_checkpoint(str(folder), tag=STATE, save_latest=False)
        self._add_own(engine, folder, average, snapshot.take if snapshot else torch.save)

        def work() -> None:
            if snapshot is not None:
                snapshot.write()
            if at_home:
                upload(self._store, folder, name)

        self._under_way = _UnderWay(name, position, folder, Behind(work, "checkpoint"))
        if not at_home and snapshot is None:
            self.finish()

    def finish(self) -> None:
        """Wait for what is under way, and complete its checkpoint.

        Raises:
            StorageError: a rank could not upload its part.
            OSError: a rank could not write its part.
        """
        if self._under_way is None:
            return
        name, position, folder = self._under_way.name, self._under_way.position, self._under_way.folder
        error = self._under_way.work.wait()
        self._under_way = None
        all_succeed(error)
        mine = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        files = {file: size for part in gathered(mine) for file, size in part.items()}
        if self._store.is_s3:
            shutil.rmtree(self._scratch / f"rank-{dist.get_rank()}", ignore_errors=True)
        self._complete(Checkpoint(name, position, files))

    def _add_own(
        self,
        engine: Any,
        folder: Path,
        average: WeightAverage | None,
        write: Callable[[Any, Path], None],
    ) -> None:
        """Add to a checkpoint what DeepSpeed does not."""
        rank = dist.get_rank()
        write(_random_state(), folder / f"random-{rank}.pt")
        if average is not None:
            average.save(folder, write)
        if rank == 0:
            engine.module.lm.config.save_pretrained(folder)
            (folder / NOTES).mkdir(exist_ok=True)
            for note in self._notes:
                if note.exists():
                    shutil.copy(note, folder / NOTES)

    def _complete(self, checkpoint: Checkpoint) -> None:
        position = checkpoint.position
        record = {
            "position": asdict(position),
            "folder": checkpoint.name,
            "files": checkpoint.files,
            STREAMS: random_streams.VERSION,
        }

        def work() -> None:
            name, data = _record_name(position.step), json.dumps(record).encode()
            if not self._store.put_if_absent(name, data):
                there = _record(self._store, name)
                if there is None or not _has_its_files(there, _listing(self._store)):
                    self._store.put(name, data)
            prune(self._store, self._keep)

        on_rank_0(work)


def prune(store: Store, keep: int) -> None:
    """Delete all but the newest complete checkpoints.

    Damaged ones do not count, and go, as does what attempts that were lost have left half-written.
    """
    names = list(_listing(store))
    newest = list(islice(complete(store, None), keep))
    kept = {checkpoint.name for checkpoint in newest}
    records = {_record_name(checkpoint.position.step) for checkpoint in newest}
    for name in names:  # first: from now on nobody looks for its files
        if _is_record(name) and name not in records:
            store.delete(name)
    for name in names:
        if name.startswith("step-") and not _is_record(name) and name.split("/")[0] not in kept:
            store.delete(name)
    if not store.is_s3:
        for folder in Path(store.path()).glob("step-*-*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def restore_random_state(folder: Path, seed: int) -> None:
    """Restore this rank's random state, or a seeded one without any."""
    file = folder / f"random-{dist.get_rank()}.pt"
    if not file.exists():
        torch.manual_seed(seed)
        return
    states = torch.load(file, weights_only=True)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _random_state() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _listing(store: Store) -> dict[str, int]:
    try:
        return {entry.name: entry.size for entry in store.entries()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"checkpoints: {error}") from None


def _record(store: Store, name: str) -> dict[str, Any] | None:
    """Read a record. None if it is gone, as pruned by a stage that is under way, or damaged."""
    try:
        record: dict[str, Any] = json.loads(store.read(name))
    except (FileNotFoundError, ValueError):
        return None
    return record


def _has_its_files(record: Mapping[str, Any], sizes: Mapping[str, int]) -> bool:
    """True if a listing has a record's files, at their sizes."""
    folder = record["folder"]
    return all(sizes.get(f"{folder}/{file}") == size for file, size in record["files"].items())


def _record_name(step: int) -> str:
    return f"step-{step:08d}.json"


def _is_record(name: str) -> bool:
    return name.startswith("step-") and name.endswith(".json") and "/" not in name
