"""Intervals of shares that were counted."""

import math
from collections.abc import Sequence

Z95 = 1.959964  # standard deviations either side that hold 95 % of a normal distribution


def wilson(right: int, asked: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    0 to 1 where nothing was asked.
    """
    if not asked:
        return 0.0, 1.0
    share, z = right / asked, Z95
    middle = share + z * z / (2 * asked)
    half = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    whole = 1 + z * z / asked
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Interval of 95 % of a mean.

    Wilson's where all values are 0 or 1, else 1.96 standard errors either side of the mean.
    """
    n = len(values)
    if all(value in (0, 1) for value in values):
        return wilson(round(sum(values)), n)
    mean = sum(values) / n
    if n == 1:
        return mean, mean
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean - Z95 * error, mean + Z95 * error
