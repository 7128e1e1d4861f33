"""Distances of two sets of embeddings."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rasterloom.filtering.judges.base import Features

SIGMA, SCALE = 10.0, 1000.0  # of CMMD (Jayasumana et al. 2024)
PARTS = 10  # of a jackknife


def frechet(a: Features, b: Features) -> float:
    """Fréchet distance of two Gaussians fitted to features.

    The sets are [n, d] and [m, d], as in FID (Heusel et al. 2017).
    Of fewer features than dimensions it is too large, and only good to compare like with like.

    Raises:
        ValueError: a set has fewer than two.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("a Fréchet distance takes two images or more of each kind")
    a, b = a.astype(np.float64), b.astype(np.float64)
    ca, cb = (np.asarray(np.atleast_2d(np.cov(x, rowvar=False)), np.float64) for x in (a, b))
    root = _root(ca)
    # The trace of (ca cb)^1/2 is that of (ca^1/2 cb ca^1/2)^1/2, which is symmetric.
    shared = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    apart = a.mean(axis=0) - b.mean(axis=0)
    return max(0.0, float(apart @ apart + np.trace(ca) + np.trace(cb) - 2 * shared))


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


def cmmd(a: Features, b: Features) -> float:
    """Maximum mean discrepancy of embeddings of length 1, as CMMD has it.

    Squared, with a Gaussian kernel, times 1000.

    Raises:
        ValueError: a set has none.
    """
    if not (len(a) and len(b)):
        raise ValueError("CMMD takes an image or more of each kind")

    def kernel(x: Features, y: Features) -> float:
        apart = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * x @ y.T
        return float(np.exp(-apart / (2 * SIGMA**2)).mean())

    a, b = a.astype(np.float64), b.astype(np.float64)
    return SCALE * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))


def with_interval(
    distance: Callable[[Features, Features], float], a: Features, b: Features
) -> tuple[float, float, float]:
    """Compute a distance with its 95 % interval.

    It is that of a jackknife over parts of ``a``.
    """
    whole = distance(a, b)
    parts = min(PARTS, len(a) // 2)
    if parts < 2:
        return whole, whole, whole
    left = np.array([distance(a[np.arange(len(a)) % parts != part], b) for part in range(parts)])
    error = 1.96 * float(np.sqrt((parts - 1) * left.var()))
    return whole, max(0.0, whole - error), whole + error
