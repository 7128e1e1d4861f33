"""Makes a model of a checkpoint in the middle of a stage: whole weights out of DeepSpeed's files.

No rank and no process group is needed: the files of all ranks are read, whatever ZeRO has sharded.
"""

import contextlib
import io
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rasterloom.recipe.model import Lora
from rasterloom.schema import Profile
from rasterloom.storage.store import Store
from rasterloom.storage.transfer import download
from rasterloom.train.checkpoint.saver import STATE, Checkpoint
from rasterloom.train.model.packed_lm import build_model, save_model

CONFIG = "config.json"
_PLAIN = "mp_rank_00_model_states.pt"  # DeepSpeed's name: of ZeRO 0 it has all weights
OPTIMIZER, ZERO_STAGE = "optimizer_state_dict", "zero_stage"  # keys in them
_MODULE = "lm."  # in the names of `model.PackedLM`


def export_checkpoint(
    store: Store, checkpoint: Checkpoint, profile: Profile, folder: Path, *, lora: Lora | None
) -> None:
    """Write the model of a checkpoint as the end of a stage is written: float32, adapters merged.

    Args:
        folder: is there when all of it is written; one that is there already stays as it is.
        lora: the adapters that the stage trains.

    Raises:
        ValueError: the checkpoint has no config, because an earlier version wrote it.
        OSError: it cannot be read; it may have been deleted meanwhile.
    """
    if folder.exists():
        return
    if CONFIG not in checkpoint.files:
        raise ValueError(f"{checkpoint.name} has no {CONFIG}: an earlier version of Rasterloom wrote it")
    draft = folder.with_name(f"writing-{os.getpid()}-{folder.name}")
    try:
        here = Path(store.path(checkpoint.name))
        if store.is_s3:
            here = draft / "copy"
            download(store, checkpoint.name, here)
        model = build_model(str(here), profile, device="meta")
        save_model(model, profile, draft / "model", state_dict=whole_weights(here), lora=lora)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(draft / "model", folder)
        except OSError:
            if not folder.is_dir():  # else somebody else was first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def whole_weights(folder: Path) -> dict[str, Tensor]:
    """Read the float32 weights of the language model, by transformers' names (with adapters, by peft's).

    Args:
        folder: of a checkpoint, of any ZeRO stage and number of ranks.
    """
    # DeepSpeed, which these files bring in, prints what it does.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        weights = _weights(folder)
    return {  # copies: safetensors writes no views of larger tensors
        name.removeprefix(_MODULE): tensor.to(torch.float32, copy=True)
        for name, tensor in weights.items()
        if name.startswith(_MODULE)
    }


def _weights(folder: Path) -> dict[str, Tensor]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    shards = sorted((folder / STATE).glob("*_optim_states.pt"), key=_rank)
    weights: dict[str, Tensor]
    if not shards:
        weights = _read(folder / STATE / _PLAIN)["module"]
    elif ZERO_STAGE in _read(shards[0])[OPTIMIZER]:
        weights = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=STATE)
    else:
        weights = _of_bf16_optimizer(folder / STATE / _PLAIN, shards)
    return weights


def _of_bf16_optimizer(plain: Path, shards: Sequence[Path]) -> dict[str, Tensor]:
    """The weights of ZeRO 1 in bf16, whose files DeepSpeed's own reader does not know.

    Each rank has the next stretch of each group's float32 weights, in the order of ``param_shapes``; the last
    one's ends with padding. What is not trained is in the file of the 16-bit weights alone.
    """
    states = _read(plain)
    weights: dict[str, Tensor] = dict(states["module"])
    parts = [_read(shard)[OPTIMIZER]["single_partition_of_fp32_groups"] for shard in shards]
    for number, shapes in enumerate(states["param_shapes"]):
        flat, start = torch.cat([part[number] for part in parts]), 0
        for name, shape in shapes.items():
            weights[name] = flat[start : start + shape.numel()].view(shape)
            start += shape.numel()
    return weights


def _read(file: Path) -> Any:
    """A file of DeepSpeed: its settings, and tensors that stay on disk until they are used."""
    return torch.load(file, map_location="cpu", mmap=True, weights_only=False)


def _rank(shard: Path) -> int:
    found = re.search(r"zero_pp_rank_(\d+)_", shard.name)
    assert found, shard.name
    return int(found[1])
