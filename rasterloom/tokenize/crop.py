"""Crop of an image to its bucket: a plan from its size, then the pixels.

The chain of resizes and their filters is that of Lumina-mGPT's ``var_center_crop``, pixel by pixel.
"""

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from rasterloom.tokenize.buckets import Size, choose_bucket
from rasterloom.utils.random_streams import stream_number

Filter = Literal["BOX", "BICUBIC"]

MAX_PLAN_PIXELS = 1 << 26  # a resize to more is refused: a 1 x 100,000 line would need 6.5 gigapixels

_FILTERS = {"BOX": Image.Resampling.BOX, "BICUBIC": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class CropPlan:
    """Resize to each of ``resizes`` in turn, then cut ``box``. Pixels throughout."""

    bucket: Size  # (width, height) of the result
    resizes: list[tuple[Size, Filter]]
    box: tuple[int, int, int, int]  # left, top, right, bottom


def seed_of(key: str, seed: int = 0) -> int:
    """Return the 64-bit seed of a pair's crops: a digest of its key and the recipe's seed."""
    return stream_number("crop", seed=seed, key=key)


def plan_crop(size: Size, buckets: list[Size], *, seed: int | None = None) -> CropPlan:
    """Return the plan of an image's crop to its best bucket.

    While both sides are at least twice the bucket's, they are halved (BOX); then the image is scaled to
    cover the bucket (BICUBIC), and the overhang is cut off. ``seed=None`` cuts it in the middle, as
    Lumina-mGPT 2.0 does. A seed draws where the box lies within the room, as version 1 does, but as a
    *share* of the room that depends on the seed alone: images of one conversation that are cropped with
    one seed stay aligned, also when their sizes differ.

    Raises:
        ValueError: a side is below 1, or there are no buckets.
    """
    bucket = choose_bucket(size, buckets)
    across, down = bucket
    resizes = _halvings(size, bucket)
    width, height = resizes[-1][0] if resizes else size
    scale = max(across / width, down / height)
    width, height = round(width * scale), round(height * scale)
    resizes.append(((width, height), "BICUBIC"))

    room_x, room_y = width - across, height - down
    if seed is None:
        left, top = room_x // 2, room_y // 2
    else:
        draw = random.Random(seed)  # Python promises random() to be the same in every version
        left, top = (int(draw.random() * (room + 1)) for room in (room_x, room_y))
    return CropPlan(bucket, resizes, (left, top, left + across, top + down))


def follow_crop(size: Size, leader: CropPlan) -> CropPlan:
    """Return a crop's plan that stays aligned with ``leader``.

    It is brought to the size that the leader has before its crop, and the same box is cut out: what lay at
    one share of width and height in both lies at one pixel in both. The two are of nearly one aspect.
    """
    return CropPlan(leader.bucket, [*_halvings(size, leader.bucket), leader.resizes[-1]], leader.box)


def _halvings(size: Size, bucket: Size) -> list[tuple[Size, Filter]]:
    (width, height), (across, down) = size, bucket
    found: list[tuple[Size, Filter]] = []
    while width >= 2 * across and height >= 2 * down:
        width, height = width // 2, height // 2
        found.append(((width, height), "BOX"))
    return found


def apply_crop(image: Image.Image, plan: CropPlan) -> Image.Image:
    """Cut an image as planned, in RGB on white.

    Transparency is resized along with the image and blended with white after the crop, in float64 with
    the fraction cut off, as the reference does. Palette and bilevel images are first brought to a mode
    that can be resized smoothly, and 16-bit ones to 8 bits.

    Raises:
        ValueError: a resize would exceed ``MAX_PLAN_PIXELS``, or the box lies outside of its result.
    """
    for (width, height), _ in plan.resizes:
        if width * height > MAX_PLAN_PIXELS:
            raise ValueError(
                f"an image of {image.width} x {image.height} pixels is too narrow: to cover "
                f"{plan.bucket[0]} x {plan.bucket[1]} it would be scaled to {width} x {height}"
            )
    image = _smooth_mode(image)
    for size, filter_ in plan.resizes:
        image = image.resize(size, _FILTERS[filter_])
    left, top, right, bottom = plan.box
    if left < 0 or top < 0 or right > image.width or bottom > image.height:
        raise ValueError(f"crop box {plan.box} lies outside an image of {image.width} x {image.height}")
    return _on_white(image.crop(plan.box))


def _smooth_mode(image: Image.Image) -> Image.Image:
    """Bring modes that Pillow cannot resize smoothly to 8-bit ones."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if image.mode != "I" or values.max(initial=0) > 255:
            values >>= 8
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[..., 3:] / 255.0
    if (alpha == 1.0).all():
        return image.convert("RGB")
    blend = rgba[..., :3] * alpha + 255 * (1 - alpha)
    return Image.fromarray(blend.astype(np.uint8))
