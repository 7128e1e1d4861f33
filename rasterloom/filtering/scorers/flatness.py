"""Flatness: the share of an image without any change."""

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK = 8  # pixels a side; a compressed JPEG has its blocks of the same size
DEVIATION = 1.0  # grey levels of 255; below it the eye sees one tone
_ROWS_AT_ONCE = 8  # of blocks, so that what is computed stays in the cache


def flatness(image: NDArray[np.uint8]) -> float:
    """Return the share, 0 to 1, of an RGB image's flat blocks.

    In a flat block no channel changes. A rest narrower than a block at the right and
    lower edge is not looked at, unless there is nothing else.
    """
    height, width = image.shape[:2]
    rows, columns = max(1, height // BLOCK), max(1, width // BLOCK)
    flat = 0
    for first in range(0, rows, _ROWS_AT_ONCE):
        n = min(_ROWS_AT_ONCE, rows - first)
        strip = image[first * BLOCK : (first + n) * BLOCK, : columns * BLOCK].astype(np.float32)
        mean = _block_means(strip, n, columns)
        centred = strip - cv2.resize(mean, strip.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        variance = _block_means(centred * centred, n, columns)
        flat += int((variance < DEVIATION**2).all(axis=2).sum())
    return flat / float(rows * columns)


def _block_means(pixels: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA))
