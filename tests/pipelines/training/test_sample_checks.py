import numpy as np
import pytest
from PIL import Image, ImageFilter

from rasterloom.pipelines.training.sample_checks import lines_up_limit, row_breaks


@pytest.fixture(scope="module")
def real(quickstart):
    """Drawn scenes at 128 pixels, a little soft as a codec leaves them."""
    scenes = quickstart("scenes")
    drawn = (scenes.draw_scene(seed, size=(128, 128)).image for seed in range(200))
    return [image.filter(ImageFilter.GaussianBlur(1)) for image in drawn]


def shifted(image, rng):
    """The picture with each row of codes moved sideways, as where a model loses count."""
    pixels = np.asarray(image).copy()
    for top in range(0, 128, 8):
        pixels[top : top + 8] = np.roll(pixels[top : top + 8], int(rng.integers(8, 120)), axis=1)
    return Image.fromarray(pixels)


def test_rows_that_do_not_line_up_are_distinguished_from_rows_that_do(real):
    rng = np.random.default_rng(0)
    limit = lines_up_limit(real[:100], 8)
    good = [row_breaks(image, 8) <= limit for image in real[100:]]
    bad = [row_breaks(shifted(image, rng), 8) <= limit for image in real[100:]]
    assert np.mean(good) >= 0.95
    assert np.mean(bad) <= 0.05


def test_a_flat_image_lines_up():
    assert row_breaks(Image.new("RGB", (64, 64), "white"), 8) == pytest.approx(1)
