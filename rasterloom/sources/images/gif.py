"""Blocks of a GIF up to its first image.

Pillow passes over bytes that belong to no block. They mean that something before them is longer or shorter
than it says, most often the palette, whose colours then are others; browsers and libvips show no image.
"""

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure

SIGNATURES = (b"GIF87a", b"GIF89a")

_HEADER_BYTES, _FLAGS = 13, 10
_EXTENSION, _IMAGE = 0x21, 0x2C


def check_blocks(data: bytes) -> None:
    """Return if a GIF has blocks alone before its first image. BROKEN_IMAGE (FetchFailure) otherwise."""
    flags = data[_FLAGS] if len(data) > _FLAGS else 0
    place = _HEADER_BYTES + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while place < len(data) and data[place] == _EXTENSION:
        place += 2
        while place < len(data) and (size := data[place]):
            place += 1 + size
        place += 1
    if place < len(data) and data[place] != _IMAGE:
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, f"a GIF with bytes of no block at {place:,}")
