"""Reconstruction pairs: the encoded crop beside the decoded image."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rasterloom.report.gallery import SEED, GalleryImage, gallery_image, read_rows
from rasterloom.report.queries import Tables
from rasterloom.utils import formatting

SHOWN = 8
LONGEST = 320  # pixels

Decode = Callable[[list[int]], Image.Image]
"""Decode the first image in ``input_ids``. Raises ValueError or LookupError if there is none."""
Crop = Callable[[Image.Image, str, int], Image.Image]
"""Crop a stored image, by its key and target, as it was encoded."""


@dataclass(frozen=True)
class Reconstruction:
    """Reconstruction pair. ``psnr`` in dB is None if the crop is not exact."""

    bucket: str
    tokens: int
    original: GalleryImage
    decoded: GalleryImage
    psnr: float | None


def reconstructions(tables: Tables, decode: Decode, crop: Crop | None = None) -> list[Reconstruction]:
    """Sample rows of the highest target, its largest buckets in turn.

    Without ``crop`` the original is cut to the bucket in the middle, and no PSNR is given.
    """
    if not tables.has("images", "tokens"):
        return []
    target = tables.number("SELECT max(target) FROM tokens")
    samples = tables.sql(
        f"""
        SELECT bucket, min_by(key, md5(key || '{SEED}'), {SHOWN}) AS keys FROM tokens
        WHERE target = {target} AND width > 0 GROUP BY bucket ORDER BY count(*) DESC, bucket LIMIT {SHOWN}
        """
    )
    rounds = zip_longest(*(row["keys"] for row in samples))
    keys = [key for one_of_each in rounds for key in one_of_each if key][:SHOWN]
    columns = ["target", "width", "height", "bucket", "n_tokens", "input_ids", "loss_spans"]
    rows = {row["key"]: row for row in read_rows(tables, "tokens", keys, columns) if row["target"] == target}
    stored = {row["key"]: row for row in read_rows(tables, "images", keys, ["caption", "image"])}
    keys = [key for key in keys if key in rows and key in stored]
    pairs = (_pair(rows[key], stored[key], target, decode, crop) for key in keys)
    return [pair for pair in pairs if pair is not None]


def _pair(
    row: dict[str, Any], stored: dict[str, Any], target: int, decode: Decode, crop: Crop | None
) -> Reconstruction | None:
    """Return one pair, or None if an image cannot be read."""
    try:
        decoded = _answer(row, decode).convert("RGB")
        with Image.open(io.BytesIO(stored["image"] or b"")) as image:
            whole = image.convert("RGB") if crop is None else image
            size = (row["width"], row["height"])
            original = crop(whole, row["key"], target) if crop else ImageOps.fit(whole, size)
    except (OSError, ValueError, LookupError, Image.DecompressionBombError):
        return None
    caption = formatting.plain(stored["caption"])
    return Reconstruction(
        row["bucket"],
        row["n_tokens"],
        gallery_image(original, caption, longest=LONGEST, quality=82),
        gallery_image(decoded, caption, longest=LONGEST, quality=82),
        psnr(_rgb(original), _rgb(decoded)) if crop and original.size == decoded.size else None,
    )


def _answer(row: dict[str, Any], decode: Decode) -> Image.Image:
    """First image of a row's answer, else its first image."""
    spans = row["loss_spans"]
    for start, end in zip(spans[::2], spans[1::2], strict=True):
        with suppress(ValueError, LookupError):
            return decode(row["input_ids"][start:end])
    return decode(row["input_ids"])


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB"))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all channels, in dB; at most 99."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return min(99.0, 10 * float(np.log10(255**2 / error))) if error else 99.0
