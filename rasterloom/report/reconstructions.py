"""What the codec keeps of a picture: the crop that was coded, beside what its codes decode to."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rasterloom.report.gallery import SEED, Picture, picture, read_rows
from rasterloom.report.queries import Tables
from rasterloom.utils import formatting

SHOWN = 8
LONGEST = 320  # pixels

Decode = Callable[[list[int]], Image.Image]
"""Some of a row's ``input_ids`` -> their first picture. Raises ValueError or LookupError if there is none."""
Crop = Callable[[Image.Image, str, int], Image.Image]
"""A stored picture, its key and the target -> the very crop that was coded."""


@dataclass(frozen=True)
class Reconstruction:
    """A pair of pictures. ``psnr`` in dB is None where the crop is only like the one that was coded."""

    bucket: str
    tokens: int
    original: Picture
    decoded: Picture
    psnr: float | None


def reconstructions(tables: Tables, decode: Decode, crop: Crop | None = None) -> list[Reconstruction]:
    """A fixed sample of rows of the highest target, from its most frequent buckets in turn.

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
    """One pair, None if either picture cannot be had."""
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
        picture(original, caption, longest=LONGEST, quality=82),
        picture(decoded, caption, longest=LONGEST, quality=82),
        psnr(_rgb(original), _rgb(decoded)) if crop and original.size == decoded.size else None,
    )


def _answer(row: dict[str, Any], decode: Decode) -> Image.Image:
    """The first picture that a row answers with, else the first there is: the one that stands for it."""
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
