"""NIQE: no-reference image quality by natural scene statistics.

A. Mittal, R. Soundararajan, A. C. Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE Signal
Processing Letters 20 (3), 2013. The luma is normalised by its local mean and deviation; in each patch,
generalised Gaussians are fitted to the result and to the products of its neighbours, at two scales: 36
features. The score is the distance between the Gaussian of an image's patches and that of photographs,
which ``scripts/fit_niqe.py`` fitted and ``niqe.npz`` holds.

Ours differs from the paper where small images ask for it, see docs/quality.md.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PARAMETERS = Path(__file__).with_name("niqe.npz")
PATCH = 48  # pixels a side at the first scale, half of it at the second
FEATURES = 36
FLAT = 1e-3  # mean square of the normalised luma below which a patch says nothing
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns) to the pixel that one is multiplied with

_REACH = 3  # pixels that the local mean reaches to each side
_MARGIN = _REACH + 1  # and a neighbour
_PIXELS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Photographs:
    """The Gaussian of the patches of good photographs."""

    mean: Floats  # [36]
    covariance: Floats  # [36, 36]
    median: float  # NIQE of the middle one of the photographs


def niqe(image: NDArray[np.uint8], photographs: Photographs | None = None) -> float:
    """Return the NIQE of an RGB image [h, w, 3]: 0 is best, no upper end; NaN where nothing can be said.

    An image whose shorter side is below `PATCH` pixels, or all of whose patches are flat, has no NIQE.
    """
    photographs = photographs or load_photographs()
    features = patch_features(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    if not len(features):
        return math.nan
    return distance(features, photographs)


def distance(features: Floats, photographs: Photographs) -> float:
    """Return the distance of patches [n, 36] from photographs (equation 10).

    The covariance of few patches is drawn to that of photographs, as if `FEATURES` patches of theirs had
    been seen too: an image of one patch has none of its own.
    """
    n = len(features)
    mean = features.mean(axis=0)
    centred = features - mean
    own = (centred.T @ centred + FEATURES * photographs.covariance) / (n + FEATURES)
    offset = mean - photographs.mean
    return float(np.sqrt(offset @ np.linalg.solve((own + photographs.covariance) / 2, offset)))


def patch_features(luma: NDArray[np.uint8]) -> Floats:
    """Return the features [n, 36] of a luma's patches, flat ones excluded."""
    features = patches(luma)
    return features[np.isfinite(features).all(axis=1)]


def patches(luma: NDArray[np.uint8]) -> Floats:
    """Return features [n, 36] of all patches of a luma [h, w]. They come row by row, NaN in flat ones."""
    fine = _whole_patches(luma)
    if not fine.size:
        return np.empty((0, FEATURES))
    coarse = cv2.resize(fine, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.concatenate([_scale_features(fine, PATCH), _scale_features(coarse, PATCH // 2)], axis=1)


def sharpness(luma: NDArray[np.uint8]) -> Floats:
    """Return the mean local deviation [n] of a luma's patches."""
    _, deviation = _mean_and_deviation(_whole_patches(luma))
    return _patch_means(deviation, PATCH).astype(np.float64)


def _whole_patches(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = (side // PATCH * PATCH for side in luma.shape)
    return luma[:height, :width].astype(np.float32)


def _scale_features(pixels: NDArray[np.float32], patch: int) -> Floats:
    """Return 18 features of each patch. Few rows at a time stay in the cache."""
    height, width = pixels.shape
    padded = np.pad(pixels, _MARGIN, mode="edge")
    step = max(1, _PIXELS_AT_ONCE // (width * patch)) * patch
    parts = [
        _strip_features(padded[top : min(top + step, height) + 2 * _MARGIN], patch)
        for top in range(0, height, step)
    ]
    return np.concatenate(parts)


def _strip_features(padded: NDArray[np.float32], patch: int) -> Floats:
    """Return each patch's luma shape and scale, and 4 features a product."""
    mean, deviation = _mean_and_deviation(padded)
    inside = slice(_REACH, -_REACH)
    normal = (padded[inside, inside] - mean[inside, inside]) / (deviation[inside, inside] + 1)
    height, width = (side - 2 for side in normal.shape)  # but for a pixel around that the products need
    centre = normal[1:-1, 1:-1]
    shape, _, left, right = _asymmetric_gaussians(centre, patch)
    features = [np.where(_patch_means(centre * centre, patch) < FLAT, np.nan, shape), (left + right) / 2]
    for down, across in NEIGHBOURS:
        neighbour = normal[1 + down :, 1 + across :][:height, :width]
        features += _asymmetric_gaussians(centre * neighbour, patch)
    return np.stack(features, axis=1)


def _mean_and_deviation(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean = _blur(pixels)
    return mean, np.sqrt(np.maximum(_blur(pixels * pixels) - mean * mean, 0))


def _blur(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    side = 2 * _REACH + 1
    return np.asarray(cv2.GaussianBlur(pixels, (side, side), 7 / 6, borderType=cv2.BORDER_REPLICATE))


def _patch_means(values: NDArray[np.float32], patch: int) -> NDArray[np.float32]:
    size = (values.shape[1] // patch, values.shape[0] // patch)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA)).ravel()


def _asymmetric_gaussians(values: NDArray[np.float32], patch: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Fit an asymmetric generalised Gaussian to each patch by moments: shape, mean, left and right scale.

    N.-E. Lasmar, Y. Stitou, Y. Berthoumieu, "Multiscale skewed heavy tailed model for texture analysis",
    ICIP 2009. NaN where one side of zero is empty.
    """
    negative, positive = np.minimum(values, 0), np.maximum(values, 0)
    square_l, square_r, share_l, absolute = (
        _patch_means(moment, patch).astype(np.float64)
        for moment in (
            negative * negative,
            positive * positive,
            (values < 0).astype(np.float32),
            positive - negative,
        )
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = np.sqrt(square_l / share_l), np.sqrt(square_r / (1 - share_l))
        ratio = left / right
        rho = absolute**2 / (square_l + square_r)
        rho *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
        table = _gamma_table()
        shape = np.interp(rho, table.rho, table.shape)
        scale = np.interp(shape, table.shape, table.scale)  # sqrt(G(1/a) / G(3/a))
        mean = (right - left) * scale * np.interp(shape, table.shape, table.mean)  # G(2/a) / G(1/a)
    return shape, mean, left * scale, right * scale


@dataclass(frozen=True)
class _GammaTable:
    shape: Floats
    rho: Floats
    scale: Floats
    mean: Floats


@cache
def _gamma_table() -> _GammaTable:
    """Tabulate the ratios of gamma functions for shapes of 0.2 to 10."""
    shape = np.arange(0.2, 10.0005, 0.005)
    log = np.array([[math.lgamma(k / a) for k in (1, 2, 3)] for a in shape])
    return _GammaTable(
        shape=shape,
        rho=np.exp(2 * log[:, 1] - log[:, 0] - log[:, 2]),
        scale=np.exp((log[:, 0] - log[:, 2]) / 2),
        mean=np.exp(log[:, 1] - log[:, 0]),
    )


@cache
def load_photographs(path: Path = PARAMETERS) -> Photographs:
    """Read the Gaussian that ``scripts/fit_niqe.py`` wrote."""
    with np.load(path) as file:
        return Photographs(file["mean"], file["covariance"], float(file["median"]))
