"""TIFF files that Pillow misreads, and tiles that are bombs."""

import ctypes
import struct
from pathlib import Path

import PIL
from PIL import ImagePalette
from PIL.TiffImagePlugin import TiffImageFile

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure

_BITS, _PHOTOMETRIC, _PLANAR, _PALETTE, _TILE_WIDTH, _TILE_LENGTH = 258, 262, 284, 320, 322, 323
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_SHORT = 3
_ENTRY_BYTES = 12
_MAX_ENTRIES = 4096


def silence_libtiff() -> None:
    """Stop the printing of libtiff. It writes what it finds of each broken file to stderr itself.

    What matters of it Pillow raises. A Pillow with the system's libtiff goes on printing.
    """
    package = Path(PIL.__file__).parent
    for folder in (package.parent / "pillow.libs", package / ".dylibs"):  # of wheels, on Linux and macOS
        for file in folder.glob("libtiff*"):
            library = ctypes.CDLL(str(file))
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


def deep_white_is_zero(data: bytes) -> bytes | None:
    """Return a deep TIFF in which 0 is white as its negative.

    None of those of 8 bits and fewer, and of those in which 0 is black.

    Pillow reads the samples of either alike, and inverts those of 8 bits and fewer alone.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    (start,) = struct.unpack(order + "I", data[4:8])
    if start + 2 > len(data):
        return None
    (count,) = struct.unpack(order + "H", data[start : start + 2])
    places: dict[int, int] = {}
    for entry in range(start + 2, start + 2 + min(count, _MAX_ENTRIES) * _ENTRY_BYTES, _ENTRY_BYTES):
        if entry + _ENTRY_BYTES > len(data):
            return None
        tag, kind, values = struct.unpack(order + "HHI", data[entry : entry + 8])
        if tag in (_BITS, _PHOTOMETRIC) and kind == _SHORT and values == 1:
            places[tag] = entry + 8

    def value(tag: int, default: int) -> int:
        place = places.get(tag)
        return default if place is None else int(struct.unpack(order + "H", data[place : place + 2])[0])

    if value(_PHOTOMETRIC, _BLACK_IS_ZERO) != _WHITE_IS_ZERO or value(_BITS, 1) <= 8:
        return None
    place = places[_PHOTOMETRIC]
    return data[:place] + struct.pack(order + "H", _BLACK_IS_ZERO) + data[place + 2 :]


def check_tiles(source: TiffImageFile, max_pixels: int) -> None:
    """Return if no tile is larger than an image may be. TOO_MANY_PIXELS (FetchFailure) otherwise."""
    sides = source.tag_v2.get(_TILE_WIDTH, 0), source.tag_v2.get(_TILE_LENGTH, 0)
    if all(isinstance(side, int) for side in sides) and sides[0] * sides[1] > max_pixels:
        detail = f"has tiles of {sides[0]} x {sides[1]} pixels, more than max_pixels = {max_pixels}"
        raise FetchFailure(ErrorClass.TOO_MANY_PIXELS, detail)


def settle_planes(source: TiffImageFile) -> None:
    """Say how planes of 16-bit samples are read. Pillow takes uncompressed ones for 8-bit."""
    tags = source.tag_v2
    if tags.get(_PLANAR) != 2 or set(tags.get(_BITS, ())) != {16} or source.use_load_libtiff:
        return
    order = "L" if tags.prefix == b"II" else "B"
    source.tile = [
        tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
        if isinstance(tile.args, tuple) and len(str(tile.args[0])) == 1
        else tile
        for tile in source.tile
    ]


def settle_palette(source: TiffImageFile) -> None:
    """Take a palette of values below 256 as it is. Pillow divides by 256, which leaves black."""
    values = source.tag_v2.get(_PALETTE, ())
    if source.mode == "P" and values and max(values) < 256:
        source.palette = ImagePalette.raw("RGB;L", bytes(values))
