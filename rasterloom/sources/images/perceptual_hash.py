"""Perceptual hash (64 bits) and thumbnail, for near duplicates."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32
_AVERAGED_SIDE = 3 * _SIDE
_LOW = 8
_THUMBNAIL_SIDE = 8


def on_white(image: Image.Image) -> Image.Image:
    """Return an L, RGB or RGBA image without its alpha, on white."""
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def summary(image: Image.Image) -> tuple[str, bytes]:
    """Return perceptual hash (16 hex digits) and thumbnail of an opaque image.

    The hash is the DCT hash of the `imagehash` package: the image in grey at 32 x 32 by Lanczos, its
    two-dimensional DCT-II, and for each of the 8 x 8 lowest frequencies whether it lies above their median,
    row by row from the most significant bit. A larger image is first brought down to 96 to 192 pixels a
    side by averages, which is many times faster and flips bits that lie at the median: none of most
    photographs, seldom more than two. The thumbnail has the averages of 8 x 8 fields: RGB, row by row,
    192 bytes.
    """
    shrink = (max(1, image.width // _AVERAGED_SIDE), max(1, image.height // _AVERAGED_SIDE))
    small = image.reduce(shrink) if shrink != (1, 1) else image
    box = (0, 0, image.width / shrink[0], image.height / shrink[1])  # the last field may be a part
    grey = small.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, box)
    fields = (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
    thumbnail = small.convert("RGB").resize(fields, Image.Resampling.BOX, box)
    return _dct_hash(np.asarray(grey, np.float64)), thumbnail.tobytes()


def _dct_hash(grey: NDArray[np.float64]) -> str:
    low = cv2.dct(grey)[:_LOW, :_LOW]
    low[0] *= np.sqrt(2)  # the hash is defined on the DCT without the factors that make it orthogonal
    low[:, 0] *= np.sqrt(2)
    low = low.round(6)  # a plain image's zeros must not be told apart by their rounding errors
    return np.packbits(low > np.median(low)).tobytes().hex()


def distance(a: str, b: str) -> int:
    """Return in how many of the 64 bits two hashes differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()
