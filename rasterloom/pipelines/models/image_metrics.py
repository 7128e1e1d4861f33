"""SSIM of image pairs."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # RGB [h, w, 3]

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_REACH = 5  # pixels on each side of the window's middle


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity of the luma, 1 for equal images (Wang et al. 2004: Gaussian windows of 11 x 11,
    sigma 1.5, those alone that lie within the image)."""
    x, y = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float64) for p in (a, b))

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred = cv2.GaussianBlur(values, (2 * _REACH + 1,) * 2, 1.5)
        return np.asarray(blurred[_REACH:-_REACH, _REACH:-_REACH], np.float64)

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    top = (2 * mx * my + _C1) * (2 * both + _C2)
    return float(np.mean(top / ((mx * mx + my * my + _C1) * (vx + vy + _C2))))
