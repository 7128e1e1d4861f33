"""Checks of generated images that need no other model: colours, rows."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CHROMA = 26.0  # distance from grey in the plane of Cb and Cr above which a pixel counts as coloured
LEAST_SHARE = 0.003  # of all pixels; with fewer coloured ones an image has no dominant colour


def dominant_colour(image: Image.Image, palette: Mapping[str, tuple[int, int, int]]) -> str | None:
    """Name the palette colour (RGB) of most pixels that are not grey.

    None if all pixels are grey.

    Pixels are judged by their angle in the plane of Cb and Cr. Both are linear in RGB, so that blurring a
    shape into a grey background moves its pixels towards the centre but leaves their angle.
    """
    ycc = np.asarray(image.convert("RGB").convert("YCbCr"), dtype=np.float32)
    plane = ycc[..., 1:].reshape(-1, 2) - 128
    coloured = plane[np.hypot(plane[:, 0], plane[:, 1]) > CHROMA]
    if len(coloured) < LEAST_SHARE * len(plane):
        return None
    swatches = Image.fromarray(np.array([list(palette.values())], dtype=np.uint8)).convert("YCbCr")
    named = np.asarray(swatches, dtype=np.float32)[0, :, 1:] - 128
    named /= np.linalg.norm(named, axis=1, keepdims=True)
    nearest = np.argmax(coloured @ named.T, axis=1)
    return list(palette)[int(np.bincount(nearest, minlength=len(palette)).argmax())]


def row_breaks(image: Image.Image, downsample: int) -> float:
    """Ratio of differences between rows of codes to those elsewhere.

    1.0: an image breaks between two rows of codes no more than elsewhere.

    It is the mean difference of pixel rows that meet at a border between rows of codes, over that of all
    other neighbouring pixel rows. Where the rows of a sample do not line up, its borders stand out.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    steps = np.abs(np.diff(grey, axis=0)).mean(axis=1)
    at_border = np.arange(1, len(grey)) % downsample == 0
    inside = steps[~at_border].mean()
    # 0.1: flat images do not divide by nothing.
    return float((steps[at_border].mean() + 0.1) / (inside + 0.1))


def lines_up_limit(real: Sequence[Image.Image], downsample: int) -> float:
    """99th percentile of :func:`row_breaks` of real images through the same codec."""
    breaks: NDArray[np.float64] = np.array([row_breaks(image, downsample) for image in real])
    return float(np.quantile(breaks, 0.99))
