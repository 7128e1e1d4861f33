"""What near duplicates are found by: a 64-bit perceptual hash, and a thumbnail for the colours it ignores."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32
_LOW = 8
_LARGE = 128  # pixels a side, from which on it pays to be clever
_THUMBNAIL_SIDE = 8


def on_white(image: Image.Image) -> Image.Image:
    """Return an L, RGB or RGBA image without its alpha, on white."""
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def thumbnail(image: Image.Image) -> bytes:
    """Return the averages of 8 x 8 fields of an opaque image: RGB, row by row, 192 bytes."""
    size = (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
    colour = image.convert("RGB")
    if min(image.size) < _THUMBNAIL_SIDE:
        return colour.resize(size, Image.Resampling.BOX).tobytes()
    fields: bytes = cv2.resize(np.asarray(colour), size, interpolation=cv2.INTER_AREA).tobytes()
    return fields


def phash(image: Image.Image) -> str:
    """Return the perceptual hash of an opaque image as 16 hex digits.

    The DCT hash of the `imagehash` package: the image in grey at 32 x 32, its two-dimensional DCT-II,
    and for each of the 8 x 8 lowest frequencies whether it lies above their median, row by row from the
    most significant bit.
    """
    grey = image.convert("L")
    if min(grey.size) < _LARGE:
        small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
    else:
        small = _lanczos(np.asarray(grey))
    low = cv2.dct(small.astype(np.float64))[:_LOW, :_LOW]
    low[0] *= np.sqrt(2)  # the hash is defined on the DCT without the factors that make it orthogonal
    low[:, 0] *= np.sqrt(2)
    low = low.round(6)  # a plain image's zeros must not be told apart by their rounding errors
    return np.packbits(low > np.median(low)).tobytes().hex()


def _lanczos(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale grey [h, w] down to 32 x 32 by Pillow's Lanczos filter, in half of Pillow's time."""
    height, width = grey.shape
    across = cv2.gemm(grey.astype(np.float32), _weights(width), 1, None, 0, flags=cv2.GEMM_2_T)
    across = np.floor(across + np.float32(0.5)).clip(0, 255)
    both = cv2.gemm(_weights(height), across, 1, None, 0)
    small: NDArray[np.uint8] = np.floor(both + np.float32(0.5)).clip(0, 255).astype(np.uint8)
    return small


@lru_cache(maxsize=256)
def _weights(length: int) -> NDArray[np.float32]:
    """The weights [32, length] by which 32 pixels are made of so many."""
    spread = length / _SIDE
    centre = (np.arange(_SIDE)[:, None] + 0.5) * spread
    first = np.maximum((centre - 3 * spread + 0.5).astype(int), 0)
    last = np.minimum((centre + 3 * spread + 0.5).astype(int), length)
    x = np.arange(length)[None, :]
    at = (x - centre + 0.5) / spread
    weights = np.where((np.abs(at) < 3) & (x >= first) & (x < last), np.sinc(at) * np.sinc(at / 3), 0.0)
    normed: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return normed


def distance(a: str, b: str) -> int:
    """Return in how many of the 64 bits two hashes differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()
