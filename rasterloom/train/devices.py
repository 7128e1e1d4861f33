"""GPUs of this machine, names of devices, and what they compute in."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rasterloom.recipe.train import Train

if TYPE_CHECKING:
    import torch

_CPU_INFO = Path("/proc/cpuinfo")  # of Linux: elsewhere no CPU counts as one with units for bf16


@dataclass(frozen=True)
class Gpu:
    """Properties of a GPU, by torch."""

    name: str
    memory: int
    """Bytes."""
    bf16: bool
    """True if it computes in bfloat16 by itself: compute capability 8.0 and up."""


def gpus() -> list[Gpu]:
    """The GPUs that torch can use; none where there is no CUDA."""
    import torch  # heavy

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [Gpu(gpu.name, gpu.total_memory, gpu.major >= 8) for gpu in found]


def device_name(device: "torch.device") -> str:
    """The name that the driver gives a device. ``cpu`` where it is none."""
    import torch  # heavy

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def has_bf16(*, use_gpu: bool) -> bool:
    """True if bfloat16 is faster than float32 on this machine."""
    if use_gpu:
        return all(gpu.bf16 for gpu in gpus())
    flags = _CPU_INFO.read_text() if _CPU_INFO.is_file() else ""
    return re.search(r"\b(avx512_bf16|amx_bf16)\b", flags) is not None


def with_kernels(train: Train, *, there: bool) -> Train:
    """Settle ``model.kernels``: PyTorch's operators where kernels are not there."""
    if there:
        return train
    model = train.model.model_copy(update={"kernels": "eager"})
    return train.model_copy(update={"model": model})


def with_precision(train: Train, *, use_gpu: bool) -> Train:
    """Settle ``deepspeed.bf16`` for this machine, where it is null or ``auto``."""
    given = train.deepspeed.bf16
    if isinstance(given, bool):
        return train
    wanted = given == "auto" or (use_gpu and train.deepspeed.zero > 0)
    deepspeed = train.deepspeed.model_copy(update={"bf16": wanted and has_bf16(use_gpu=use_gpu)})
    return train.model_copy(update={"deepspeed": deepspeed})
