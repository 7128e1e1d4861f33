"""Intervals of shares that were counted."""

import math

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
