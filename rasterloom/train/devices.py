"""What this machine has to train on."""

import torch


def gpu_names() -> list[str]:
    """The names of the GPUs that torch can use."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def device_name(device: torch.device) -> str:
    """The name that the driver gives a device; ``cpu`` where it is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
