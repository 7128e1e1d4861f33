"""Export of a model from a checkpoint within a stage.

No rank and no process group is needed: the files of all ranks are read, whatever ZeRO has sharded.
"""

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from rasterloom.recipe.model import Lora
from rasterloom.schema import Profile
from rasterloom.storage.store import Store
from rasterloom.storage.transfer import download
from rasterloom.train import deepspeed_files
from rasterloom.train.checkpoint.saver import STATE, Checkpoint
from rasterloom.train.deepspeed_compat import silence
from rasterloom.train.job import Vocabulary
from rasterloom.train.model.packed_lm import build_model, save_model
from rasterloom.train.model.shapes import CONFIG_FILE
from rasterloom.train.optim.weight_average import whole_average

_MODULE = "lm."  # in the names of `model.PackedLM`


def export_checkpoint(
    store: Store,
    checkpoint: Checkpoint,
    profile: Profile,
    folder: Path,
    *,
    lora: Lora | None,
    vocabulary: Vocabulary | None = None,
    average: bool = False,
) -> None:
    """Write the model of a checkpoint: float32, adapters merged.

    Args:
        folder: is there when all of it is written; one that is there already stays as it is.
        lora: the adapters that the stage trains.
        vocabulary: of the model's text.
        average: take the average of the weights in place of them.

    Raises:
        ValueError: the checkpoint has no config, because an earlier version wrote it, or no average.
        OSError: it cannot be read; it may have been deleted meanwhile.
    """
    if folder.exists():
        return
    if CONFIG_FILE not in checkpoint.files:
        raise ValueError(f"{checkpoint.name} has no {CONFIG_FILE}: an earlier version of Rasterloom wrote it")
    draft = folder.with_name(f"writing-{os.getpid()}-{folder.name}")
    try:
        here = Path(store.path(checkpoint.name))
        if store.is_s3:
            here = draft / "copy"
            download(store, checkpoint.name, here)
        model = build_model(str(here), profile, device="meta")
        weights, draft_of_model = whole_weights(here), draft / "model"
        if average:
            shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
            weights |= whole_average(here, shapes)
        save_model(model, profile, draft_of_model, state_dict=weights, lora=lora, vocabulary=vocabulary)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(draft_of_model, folder)
        except OSError:
            if not folder.is_dir():  # else somebody else was first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def whole_weights(folder: Path) -> dict[str, Tensor]:
    """Read the language model's float32 weights, by transformers' (with adapters, peft's) names.

    Args:
        folder: of a checkpoint, of any ZeRO stage and number of ranks.
    """
    with silence():
        weights = deepspeed_files.whole_weights(folder, STATE)
    return {  # copies: safetensors writes no views of larger tensors
        name.removeprefix(_MODULE): tensor.to(torch.float32, copy=True)
        for name, tensor in weights.items()
        if name.startswith(_MODULE)
    }
