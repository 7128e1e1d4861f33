"""What a device is called."""

import torch


def device_name(device: torch.device) -> str:
    """The name that the driver gives a device; ``cpu`` where it is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
