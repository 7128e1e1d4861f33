"""Checks of generated images that need no other model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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
