import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.filtering.scorers.flatness import flatness


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_plain_and_busy_images_are_the_ends() -> None:
    assert flatness(np.full((64, 80, 3), 200, np.uint8)) == 1
    assert flatness(noise(64, 80)) == 0


def test_half_a_border_is_half_flat() -> None:
    picture = noise(64, 64)
    picture[:32] = 255
    assert flatness(picture) == 0.5


def test_colour_alone_is_no_flatness() -> None:
    picture = np.full((64, 64, 3), 100, np.uint8)
    picture[::2, :, 0], picture[1::2, :, 2] = 150, 150  # red and blue lines
    assert flatness(picture) == 0


def test_a_step_of_one_grey_level_is_flat_and_of_four_is_not() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    picture[::2] = 101
    assert flatness(picture) == 1
    picture[::2] = 104
    assert flatness(picture) == 0


@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_size_gives_a_share(height: int, width: int) -> None:
    assert flatness(np.full((height, width, 3), 7, np.uint8)) == 1
    assert 0 <= flatness(noise(height, width)) <= 1


@pytest.mark.parametrize("size", [(17, 8), (8, 23)])
def test_the_rest_that_fills_no_block_does_not_count(size: tuple[int, int]) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    picture[-1, -1] = 255
    assert flatness(picture) == 1
