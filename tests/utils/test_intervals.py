import math

import pytest

from rasterloom.utils.intervals import wilson


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [  # by scipy's binomtest(...).proportion_ci(method="wilson")
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (57, 60, 0.862995, 0.98285),
        (384, 480, 0.761897, 0.833339),
    ],
)
def test_wilsons_interval(right, asked, low, high):
    assert wilson(right, asked) == pytest.approx((low, high), abs=1e-6)


def test_nothing_asked_says_nothing():
    assert wilson(0, 0) == (0, 1)


def test_the_ends_are_where_the_share_is_just_likely_enough():
    """A share of p gives counts with a deviation of sqrt(p (1 - p) / n): 1.96 of them away."""
    for end in wilson(30, 40):
        assert abs(end - 0.75) / math.sqrt(end * (1 - end) / 40) == pytest.approx(1.96, abs=1e-4)
