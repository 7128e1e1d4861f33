"""Models of benchmarks/gpu.py: Chameleon's shapes with random weights, drawn on the device itself."""

from dataclasses import replace

import torch
import torch.distributed as dist
from gpu_record import Bench
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from transformers import ChameleonForConditionalGeneration

from rasterloom.schema import Profile
from rasterloom.tokenize.profiles import CHAMELEON, MINI
from rasterloom.train.model.initialization import build_model
from rasterloom.train.model.shapes import SIZES, Shape

NAME = "7b"
REHEARSED = Shape(hidden=128, intermediate=352, layers=2, heads=4, kv_heads=4)


def profile_of(bench: Bench) -> Profile:
    return MINI if bench.rehearses else CHAMELEON


def set_shape(bench: Bench, layers: int | None = None) -> Shape:
    """Let the name ``7b`` stand for the shape that is measured."""
    whole = REHEARSED if bench.rehearses else SIZES[NAME]
    SIZES[NAME] = whole if layers is None or bench.rehearses else replace(whole, layers=layers)
    return replace(SIZES[NAME], vocab=profile_of(bench).vocab_size)


def drawn_model(
    bench: Bench, device: torch.device, dtype: torch.dtype = torch.float32
) -> ChameleonForConditionalGeneration:
    """A model of the shape, drawn on its device: on one thread of a CPU billions of numbers take minutes."""
    lm = build_model(NAME, profile_of(bench), device="meta").to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if "norm" in name:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                parameter.normal_(std=0.02, generator=generator)
    with device:
        lm.model.rotary_emb = type(lm.model.rotary_emb)(lm.config)  # its frequencies are no parameters
    model: ChameleonForConditionalGeneration = lm.requires_grad_()
    return model


def plain_layers(lm: nn.Module) -> None:
    """Take back what `prepare_layers` and `kernels.fuse` did."""
    for module in lm.modules():
        module.__dict__.pop("forward", None)


def one_rank(bench: Bench) -> None:
    """A process group of this process alone."""
    if not dist.is_initialized():
        backend = "gloo" if bench.rehearses else "nccl"
        if not bench.rehearses:
            torch.cuda.set_device(0)
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
