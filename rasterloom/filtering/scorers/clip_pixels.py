"""Preparation of images for CLIP on a GPU.

The result is that of Pillow and transformers on a CPU. A resize by Pillow is two products with sparse
matrices, rounded to bytes after each. Here they are dense, in float32: fewer than one in 10,000 of the bytes
that come out differs by 1, where a sum lies between two.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

BITS = 22  # of a weight's fraction, in Pillow
SUPPORT = 2.0  # input pixels on each side that bicubic interpolation looks at, where nothing shrinks


def is_usual(processor: Any) -> bool:
    """True if a processor prepares images as that of OpenAI's CLIPs does."""
    crop, size = processor.crop_size, processor.size
    return bool(
        processor.do_resize
        and processor.do_center_crop
        and processor.do_rescale
        and processor.do_normalize
        and processor.resample == Image.Resampling.BICUBIC
        and not size.longest_edge
        and size.shortest_edge
        and size.shortest_edge >= max(crop.height, crop.width)
    )


def pixels_on(device: torch.device, processor: Any, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Prepare images, uint8 RGB [h, w, 3], on a device: float32 [n, 3, h, w].

    Args:
        processor: `is_usual`.
    """
    size, crop = processor.size.shortest_edge, (processor.crop_size.height, processor.crop_size.width)
    bytes_ = torch.stack([_resized(_moved(image, device), size, crop) for image in images])
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    pixels: Tensor = (bytes_ * processor.rescale_factor - mean) / std
    return pixels


def _moved(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The image on the device, float32 [3, h, w]. A GPU copies what is pinned while the CPU goes on."""
    found = torch.empty(image.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.copyto(found.numpy(), image)
    return found.to(device, non_blocking=True).permute(2, 0, 1).float()


def _resized(image: Tensor, size: int, crop: tuple[int, int]) -> Tensor:
    """Resize the shorter side to ``size``, and crop the middle: bytes, as float32 [3, *crop]."""
    height, width = image.shape[1:]
    short = min(height, width)
    down, across = (
        _weights(side, int(size * side / short), kept, image.device)
        for side, kept in zip((height, width), crop, strict=True)
    )
    return _to_bytes(down @ _to_bytes(image @ across.T))  # rows first, as Pillow


def _to_bytes(values: Tensor) -> Tensor:
    return (values + 0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=512)  # 0.5 MB each
def _weights(side: int, size: int, kept: int, device: torch.device) -> Tensor:
    """Pillow's weights for the middle of a line, [kept, side].

    Args:
        side: pixels of the line.
        size: to which it is resized.
        kept: pixels of these.
    """
    first = (size - kept) // 2
    scale = side / size
    stretch = max(scale, 1.0)
    centre = (np.arange(first, first + kept)[:, None] + 0.5) * scale
    low = np.maximum(np.trunc(centre - SUPPORT * stretch + 0.5), 0)
    high = np.minimum(np.trunc(centre + SUPPORT * stretch + 0.5), side)
    at = np.arange(side)[None]
    weights = np.where((low <= at) & (at < high), _bicubic((at - centre + 0.5) / stretch), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    rounded = np.trunc(weights * 2**BITS + np.copysign(0.5, weights)) / 2**BITS
    return torch.from_numpy(rounded.astype(np.float32)).to(device)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
