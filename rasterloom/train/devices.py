"""GPUs of this machine, and names of devices."""

from dataclasses import dataclass

import torch


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
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [Gpu(gpu.name, gpu.total_memory, gpu.major >= 8) for gpu in found]


def device_name(device: torch.device) -> str:
    """The name that the driver gives a device. ``cpu`` where it is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
