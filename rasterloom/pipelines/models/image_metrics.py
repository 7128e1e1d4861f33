"""SSIM of image pairs, and the Fréchet distance of two sets."""

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


def frechet(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Fréchet distance of two Gaussians fitted to features.

    The sets are [n, d] and [m, d], as in FID (Heusel et al. 2017).
    Of fewer features than dimensions it is too large, and only good to compare like with like.

    Raises:
        ValueError: a set has fewer than two.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("a Fréchet distance takes two images or more of each kind")
    a, b = a.astype(np.float64), b.astype(np.float64)
    ca, cb = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = _root(ca)
    # The trace of (ca cb)^1/2 is that of (ca^1/2 cb ca^1/2)^1/2, which is symmetric.
    shared = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    apart = a.mean(axis=0) - b.mean(axis=0)
    return max(0.0, float(apart @ apart + np.trace(ca) + np.trace(cb) - 2 * shared))


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)
