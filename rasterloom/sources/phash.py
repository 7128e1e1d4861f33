"""What near duplicates are found by: a 64-bit perceptual hash, and a thumbnail for the colours it ignores."""

import cv2
import numpy as np
from PIL import Image

_SIDE = 32
_LOW = 8
_THUMBNAIL_SIDE = 8


def on_white(image: Image.Image) -> Image.Image:
    """Return an L, RGB or RGBA image without its alpha, on white."""
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def thumbnail(image: Image.Image) -> bytes:
    """Return the averages of 8 x 8 fields of an opaque image: RGB, row by row, 192 bytes."""
    size = (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
    colour = image if image.mode == "RGB" else image.convert("RGB")
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
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = cv2.dct(np.asarray(small, dtype=np.float64))[:_LOW, :_LOW]
    low[0] *= np.sqrt(2)  # the hash is defined on the DCT without the factors that make it orthogonal
    low[:, 0] *= np.sqrt(2)
    low = low.round(6)  # a plain image's zeros must not be told apart by their rounding errors
    return np.packbits(low > np.median(low)).tobytes().hex()


def distance(a: str, b: str) -> int:
    """Return in how many of the 64 bits two hashes differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()
