"""Columns of an images row that a decoded image fills."""

import hashlib
from dataclasses import dataclass
from typing import Any

from rasterloom.sources.images.decode import DecodedImage


@dataclass(frozen=True)
class Received:
    """The file that an image was decoded from. None where that is not known."""

    sha256: str | None
    bytes: int | None
    format: str | None
    width: int | None
    height: int | None


def received(data: bytes, decoded: DecodedImage, sha256: str | None = None) -> Received:
    """Describe a file whose bytes are at hand. ``sha256`` where that has been computed already."""
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    size = (decoded.original_width, decoded.original_height)
    return Received(sha256, len(data), decoded.original_format, *size)


def image_columns(decoded: DecodedImage, received: Received) -> dict[str, Any]:
    """Return the columns of ``schema.IMAGES`` that describe an image."""
    return {
        "status": "ok",
        "sha256": received.sha256,
        "phash": decoded.phash,
        "thumbnail": decoded.thumbnail,
        "original_format": received.format,
        "original_width": received.width,
        "original_height": received.height,
        "original_bytes": received.bytes,
        "format": decoded.format,
        "width": decoded.width,
        "height": decoded.height,
        "image": decoded.data,
    }
