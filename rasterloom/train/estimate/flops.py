"""FLOPs of training, and peaks of devices, without torch.

Model FLOPs utilisation (MFU) is the share of a device's peak that goes into the operations that the model
needs; what is computed twice to save memory, and padding, do not count (Chowdhery et al. 2022, PaLM,
appendix B, which the formula follows but for two things: attention is causal, so half of its products are
needed, and the head is needed only for tokens in the loss).
"""

from collections.abc import Sequence

from rasterloom.train.model.shapes import Shape

PEAKS = (
    # A part of the name that the driver gives a device, and its peak in bf16 with dense matrices, FLOP/s.
    # The makers' data sheets; the first that matches counts. V100 has no bf16: fp16.
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("GH200", 989e12),
    ("H800", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("RTX A6000", 155e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("V100", 125e12),
    ("MI300X", 1307e12),
)


def train_flops(shape: Shape, *, tokens: int, squares: int, loss_tokens: int) -> float:
    """FLOPs of forward and backward on some sequences, over all devices.

    A weight takes a multiplication and an addition a token forward, and twice that backward: 6. Causal
    attention of a sequence of L tokens takes L * L / 2 products with keys and as many with values, each over
    all heads: 2 * L * L * width of all heads forward in a layer, and 6 with backward.

    Args:
        tokens: sum of the sequences' lengths.
        squares: sum of their squares.
        loss_tokens: how many tokens have a target; only these meet the head.
    """
    return (
        6.0 * shape.matrix_params * tokens
        + 6.0 * shape.layers * shape.queries * squares
        + 6.0 * shape.head_params * loss_tokens
    )


def token_flops(shape: Shape, length: int) -> float:
    """FLOPs of a token, in sequences of this length."""
    return train_flops(shape, tokens=length, squares=length * length, loss_tokens=length) / length


def peak_flops(device: str) -> float | None:
    """Peak of a device in bf16, FLOP/s, by its driver's name. None if it is not known."""
    name = device.lower().replace("-", " ")
    return next((peak for part, peak in PEAKS if part.lower() in name), None)


def mfu(flops: float, seconds: float, devices: Sequence[str]) -> float | None:
    """Share, 0 .. 1, of the devices' peak reached in this time. None if a device's peak is unknown."""
    peaks = [peak_flops(device) for device in devices]
    if not peaks or seconds <= 0 or any(peak is None for peak in peaks):
        return None
    return flops / (seconds * sum(peak for peak in peaks if peak is not None))
