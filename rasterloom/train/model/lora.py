"""LoRA by peft: small trained matrices beside frozen large ones, and the way back to one model.

The names are peft's: ``x.weight`` of a matrix with adapters becomes ``x.base_layer.weight``, beside
``x.lora_A.default.weight`` [rank, inputs] and ``x.lora_B.default.weight`` [outputs, rank].
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rasterloom.recipe.model import Lora
from rasterloom.train.model.shapes import EMBEDDING, HEAD, LORA_A, LORA_B, LORA_BASE
from rasterloom.utils.json_files import read_json
from rasterloom.utils.random_streams import stream_number

ADAPTER = "adapter"  # folder of a model
VOCABULARY = ("embed_tokens", "lm_head")


def check_lora_installed() -> None:
    """Raise ValueError if peft is not installed."""
    if not find_spec("peft"):
        raise ValueError("train.model.lora takes peft: pip install 'rasterloom[lora]'")


def add_lora(lm: Any, lora: Lora, *, seed: int, stage: int) -> None:
    """Freeze a model and put adapters beside the matrices of its layers. They start out as adding nothing.

    Args:
        lm: a model of transformers; changed in place.
        seed: of the run.
        stage: number of the stage. The adapters start alike on every rank, and differently in every stage.
    """
    from peft import inject_adapter_in_model  # heavy

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_number("adapters", seed=seed, stage=stage))
        inject_adapter_in_model(_config(lora), lm)
    if lora.vocabulary:
        for name in VOCABULARY:
            _part(lm, name).weight.requires_grad_(True)


def merged(weights: Mapping[str, Tensor], lora: Lora | None) -> dict[str, Tensor]:
    """Add to each matrix what its adapters add: the weights of a plain model, under its own names."""
    if lora is None:
        return dict(weights)
    plain = {
        name.replace(".base_layer.bias", ".bias"): tensor
        for name, tensor in weights.items()
        if not name.endswith((LORA_A, LORA_B, LORA_BASE))
    }
    for name, tensor in weights.items():
        if name.endswith(LORA_BASE):
            stem = name.removesuffix(LORA_BASE)
            update = (
                weights[stem + LORA_B].float() @ weights[stem + LORA_A].float() * (lora.alpha / lora.rank)
            )
            plain[f"{stem}.weight"] = (tensor.float() + update).to(tensor.dtype)
    return plain


def save_adapter(weights: Mapping[str, Tensor], lora: Lora, folder: Path, base: str) -> None:
    """Write the adapters alone, as peft loads them.

    Args:
        weights: of the model with adapters, by name.
        base: the model that they are added to, as is noted beside them.
    """
    trained = {
        name.replace(".default.", "."): tensor
        for name, tensor in weights.items()
        if name.endswith((LORA_A, LORA_B))
        or (lora.vocabulary and any(name.endswith(f"{part}.weight") for part in VOCABULARY))
    }
    if lora.vocabulary:  # peft keeps a head of its own where it is the embedding
        trained[HEAD] = trained.get(HEAD, trained[EMBEDDING]).clone()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"base_model.model.{name}": tensor.contiguous() for name, tensor in trained.items()},
        folder / "adapter_model.safetensors",
    )
    config = _config(lora, base)
    config.inference_mode = True
    config.save_pretrained(folder)


def kept_base(model: Path) -> str:
    """Name the base of a model's adapters. It is the next stage's base too if they go on."""
    return str(read_json(model / ADAPTER / "adapter_config.json")["base_model_name_or_path"])


def _config(lora: Lora, base: str | None = None) -> Any:
    from peft import LoraConfig  # heavy

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets),
        modules_to_save=list(VOCABULARY) if lora.vocabulary and base else None,
        base_model_name_or_path=base,
    )


def _part(lm: Any, name: str) -> nn.Module:
    part: nn.Module = lm.lm_head if name == "lm_head" else getattr(lm.model, name)
    return part
