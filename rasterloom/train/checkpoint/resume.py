"""Loading of checkpoints into an engine, at any number of workers."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    to_universal,
    to_whole,
)
from rasterloom.train.distributed import on_rank_0, once_a_machine
from rasterloom.train.optim.deepspeed_engine import parameter_groups, split_matrices
from rasterloom.train.optim.muon import MuonAdamW
from rasterloom.train.optim.weight_average import WeightAverage

_UNIVERSAL = "universal"


def load(
    engine: Any, checkpoint: Checkpoint, folder: Path, scratch: Path, average: WeightAverage | None = None
) -> None:
    """Restore weights, optimizer and average; every rank calls this.

    What the recipe says of the optimizer holds afterwards, as weight decay, and not what the checkpoint says,
    whose stage may have been another.

    Args:
        folder: the checkpoint's files, from `fetched`.
        scratch: a folder of this machine, for conversion.
        average: of the weights, where the stage has one.
    """
    of_recipe = [
        {name: value for name, value in group.items() if name != "params"}
        for group in engine.optimizer.param_groups
    ]
    world, zero = dist.get_world_size(), engine.zero_optimization_stage()
    is_other_world = zero and checkpoint.position.world_size != world
    if layout_of(folder / STATE) != layout_in(engine) or (is_other_world and not has_moments(folder / STATE)):
        _load_from_other_layout(engine, folder, scratch / _UNIVERSAL)
    elif is_other_world:
        _load_converted(engine, folder, scratch / _UNIVERSAL)
    else:
        _load(engine, folder, STATE)
    for group, values in zip(engine.optimizer.param_groups, of_recipe, strict=True):
        group.update(values)
    if average is not None:
        average.load(folder)


@contextmanager
def fetched(store: Store, checkpoint: Checkpoint, scratch: Path) -> Iterator[Path]:
    """Give a folder of this machine with the checkpoint's files. Every rank calls this.

    Args:
        scratch: a folder of this machine, for a copy of what is on S3, for the time being.

    Raises:
        StorageError: the checkpoint cannot be read.
    """
    if not store.is_s3:
        yield Path(store.path(checkpoint.name))
        return
    copy = scratch / checkpoint.name
    once_a_machine(lambda: download(store, checkpoint.name, copy))
    yield copy
    dist.barrier()
    once_a_machine(lambda: shutil.rmtree(copy))


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


def _load_from_other_layout(engine: Any, folder: Path, target: Path) -> None:
    """Load what another ZeRO stage wrote, as whole parameters."""
    names = _parameter_names(engine)
    _forget_moments(engine)
    once_a_machine(lambda: to_whole(folder / STATE, target / STATE, engine, names))
    if engine.zero_optimization_stage():
        with universal_loading(engine):
            _load(engine, target, STATE)
        _steps_apart(engine)
    else:
        load_whole(engine, target / STATE, names)
    dist.barrier()
    once_a_machine(lambda: shutil.rmtree(target))


def _parameter_names(engine: Any) -> list[list[str]]:
    """Names of the optimizer's parameters by group, in their order."""
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    groups = parameter_groups(engine.module, 0.0)
    if isinstance(engine.basic_optimizer, MuonAdamW):
        groups = split_matrices(engine.module, groups)
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


def _load_converted(engine: Any, folder: Path, target: Path) -> None:
    """Load through DeepSpeed's universal form, in which every parameter is whole."""
    _forget_moments(engine)
    once_a_machine(lambda: to_universal(folder / STATE, target / STATE))
    with universal_loading(engine):
        _load(engine, target, STATE)
    _steps_apart(engine)
    dist.barrier()
    once_a_machine(lambda: shutil.rmtree(target))


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
