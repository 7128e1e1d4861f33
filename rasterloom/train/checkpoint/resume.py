"""Loading of checkpoints into an engine, at any number of workers."""

import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from rasterloom.storage.store import Store
from rasterloom.storage.transfer import download
from rasterloom.train.checkpoint.saver import NOTES, STATE, Checkpoint
from rasterloom.train.deepspeed_compat import set_whole, silence, universal_loading
from rasterloom.train.deepspeed_files import (
    frozen_weights,
    has_moments,
    layout_in,
    layout_of,
    load_whole,
    to_whole,
)
from rasterloom.train.distributed import on_rank_0, once, once_a_machine
from rasterloom.train.job import StageJob
from rasterloom.train.optim.deepspeed_engine import parameter_groups, split_matrices
from rasterloom.train.optim.muon import MuonAdamW
from rasterloom.train.optim.weight_average import WeightAverage
from rasterloom.train.universal import to_universal

_CONVERTED = "converted"


@dataclass(frozen=True)
class Scratch:
    """Folder for what is copied or converted for the time being."""

    folder: Path
    shared: bool
    """True if all machines see it; else each has one of its own, by the same name."""

    @classmethod
    def of(cls, job: StageJob) -> "Scratch":
        """A stage's. Where checkpoints are not on S3, all machines share the stage's folder."""
        shared = not job.checkpoint_store.is_s3
        return cls(job.folder / ("scratch" if shared else f"scratch-{socket.gethostname()}"), shared)

    def once(self, what: str, work: Callable[[], None]) -> None:
        """Do something once in the folder, or once in each. Every rank calls this, and waits for it."""
        (once if self.shared else once_a_machine)(what, work)


def load(
    engine: Any, checkpoint: Checkpoint, folder: Path, scratch: Scratch, average: WeightAverage | None = None
) -> None:
    """Restore weights, optimizer and average; every rank calls this.

    What the recipe says of the optimizer holds afterwards, as weight decay, and not what the checkpoint says,
    whose stage may have been another.

    Args:
        folder: the checkpoint's files, from `fetched`.
        scratch: for conversion.
        average: of the weights, where the stage has one.
    """
    of_recipe = [
        {name: value for name, value in group.items() if name != "params"}
        for group in engine.optimizer.param_groups
    ]
    world, zero = dist.get_world_size(), engine.zero_optimization_stage()
    is_other_world = zero and checkpoint.position.world_size != world
    if layout_of(folder / STATE) != layout_in(engine) or (is_other_world and not has_moments(folder / STATE)):
        _load_from_other_layout(engine, folder, scratch)
    elif is_other_world:
        _load_converted(engine, folder, scratch)
    else:
        _load(engine, folder, STATE)
    for group, values in zip(engine.optimizer.param_groups, of_recipe, strict=True):
        group.update(values)
    if average is not None:
        average.load(folder)


@contextmanager
def fetched(store: Store, checkpoint: Checkpoint, scratch: Scratch) -> Iterator[Path]:
    """Give a folder that this machine sees with the checkpoint's files. Every rank calls this.

    Args:
        scratch: for a copy of what is on S3.

    Raises:
        StorageError: the checkpoint cannot be read.
    """
    if not store.is_s3:
        yield Path(store.path(checkpoint.name))
        return
    copy = scratch.folder / checkpoint.name
    scratch.once("the checkpoint is copied from S3", lambda: download(store, checkpoint.name, copy))
    yield copy
    dist.barrier()
    scratch.once("the copy of the checkpoint is deleted", lambda: shutil.rmtree(copy))


def restore_notes(folder: Path, home: Path) -> None:
    """Bring the stage's notes back to where they are written on from."""
    for note in sorted((folder / NOTES).glob("*")):
        shutil.copy(note, home / note.name)


def load_frozen(engine: Any, folder: Path) -> None:
    """Restore what is not trained, too; every rank calls this.

    `load` leaves that to DeepSpeed, which does so only where nothing is converted. It is the model's that the
    stage starts from, unless adapters of the stage before go on.

    Args:
        folder: the checkpoint's files, from `fetched`.
    """
    read: list[Callable[[str], Tensor]] = []  # on rank 0 alone
    on_rank_0(lambda: read.append(frozen_weights(folder / STATE)))
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            set_whole(parameter, read[0](name) if read else None)


def _load(engine: Any, folder: Path, tag: str) -> None:
    with silence():
        path, _ = engine.load_checkpoint(str(folder), tag=tag)
    if path is None:
        raise RuntimeError(f"DeepSpeed found nothing to load in {folder}")


@contextmanager
def _converted(convert: Callable[[Path], None], scratch: Scratch) -> Iterator[Path]:
    """Give a folder with a checkpoint in another form. Every rank calls this.

    Its name is new: an attempt that is being lost, and does not know it yet, may write to another.

    Args:
        convert: is called once for all that see the folder, with the place for the files.
    """
    target = scratch.folder / on_rank_0(lambda: f"{_CONVERTED}-{uuid.uuid4().hex[:12]}")

    def work() -> None:
        for left in scratch.folder.glob(f"{_CONVERTED}-*"):  # by who was killed meanwhile
            shutil.rmtree(left, ignore_errors=True)
        convert(target / STATE)

    scratch.once("the checkpoint is converted for these workers", work)
    yield target
    dist.barrier()
    scratch.once("the converted checkpoint is deleted", lambda: shutil.rmtree(target))


def _load_from_other_layout(engine: Any, folder: Path, scratch: Scratch) -> None:
    """Load what another ZeRO stage wrote, as whole parameters."""
    names = _parameter_names(engine)
    _forget_moments(engine)
    with _converted(lambda target: to_whole(folder / STATE, target, engine, names), scratch) as converted:
        if engine.zero_optimization_stage():
            with universal_loading(engine):
                _load(engine, converted, STATE)
            _steps_apart(engine)
        else:
            load_whole(engine, converted / STATE, names)


def _parameter_names(engine: Any) -> list[list[str]]:
    """Names of the optimizer's parameters by group, in their order."""
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    groups = parameter_groups(engine.module, 0.0)
    if isinstance(engine.basic_optimizer, MuonAdamW):
        groups = split_matrices(engine.module, groups)
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


def _load_converted(engine: Any, folder: Path, scratch: Scratch) -> None:
    """Load through DeepSpeed's universal form, in which every parameter is whole."""
    _forget_moments(engine)
    with (
        _converted(lambda target: to_universal(folder / STATE, target), scratch) as converted,
        universal_loading(engine),
    ):
        _load(engine, converted, STATE)
    _steps_apart(engine)


def _forget_moments(engine: Any) -> None:
    """Bring the optimizer's state to what it is before the first step.

    A checkpoint of then has no counters of steps, or no moments, and what is converted leaves alone what it
    has nothing for: a stage that rolls back would keep those of the steps that it takes back.
    """
    for state in engine.basic_optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()


def _steps_apart(engine: Any) -> None:
    """Give each parameter a counter of its own: ZeRO 3 gives all of them one and the same."""
    for parameter, state in engine.basic_optimizer.state.items():
        if "step" in state:  # Muon has none
            state["step"] = state["step"].clone().to(parameter.device)
