"""Image files that tests draw, change and compare."""

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images import png
from rasterloom.sources.images.decode import decode_image

CONFIG = Fetch(jpeg_quality=100, max_pixels=1_000_000)
LIKE = 40.0  # decibels
CHANGES = ("flip", "cut", "end", "zero", "insert", "move")


def grainy(width: int, height: int, seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 4), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    grain = smooth + random.integers(-9, 10, smooth.shape)
    return Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def raw_png(head: bytes, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG of a header, chunks and rows with their filters."""
    pixels = png._chunk(b"IDAT", zlib.compress(rows))
    return head + extra + pixels + png._chunk(b"IEND", b"")


def png_head(width: int, height: int, bits: int, kind: int, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlace)
    return png.SIGNATURE + png._chunk(b"IHDR", header)


def on_white(image: Image.Image) -> np.ndarray:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(float)


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    error = ((one - other) ** 2).mean()
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def ours(data: bytes) -> np.ndarray | FetchFailure:
    """Image as it is stored, on white, or why it is not."""
    try:
        stored = decode_image(data, CONFIG)
    except FetchFailure as failure:
        assert failure.error in (
            ErrorClass.BROKEN_IMAGE,
            ErrorClass.NOT_AN_IMAGE,
            ErrorClass.TOO_MANY_PIXELS,
        )
        return failure
    image = Image.open(BytesIO(stored.data))
    image.load()  # what is stored can be read by anybody
    return on_white(image)


def changed(data: bytes, changes: Sequence[tuple[str, float, int]], start: int = 0) -> bytes:
    """A file after changes: kind, place (0 to 1, behind ``start``) and size."""
    for kind, where, size in changes:
        at = start + int(where * max(0, len(data) - start))
        piece = data[at : at + size]
        data = {
            "flip": data[:at] + bytes(value ^ 1 << size % 8 for value in piece[:1]) + data[at + 1 :],
            "cut": data[:at] + data[at + size :],
            "end": data[:at],
            "zero": data[:at] + bytes(len(piece)) + data[at + size :],
            "insert": data[:at] + piece[::-1] + data[at:],
            "move": data[:at] + data[at + size : at + 2 * size] + piece + data[at + 2 * size :],
        }[kind]
    return data
