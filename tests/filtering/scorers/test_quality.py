import io
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from rasterloom.filtering.scorers import quality
from rasterloom.filtering.scorers.quality import (
    FEATURES,
    PATCH,
    load_photographs,
    niqe,
    patch_features,
    patches,
)

# Every photograph of the scikit-image wheel. None of them was fitted on. Its micrographs (cell, ihc) and
# drawings are no photographs, and clock_motion is blurred already.
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(2))


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 15, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def overcompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=10)
    return Image.open(buffer).convert("RGB")


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """The photographs as they are, and reduced to 256 px on the shorter side."""
    skimage = pytest.importorskip("skimage")
    folder = Path(skimage.__file__).parent / "data"
    whole = [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]
    small = []
    for image in whole:
        scale = 256 / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        small.append(image.resize(size, Image.Resampling.LANCZOS))
    return whole + small


def score(image: Image.Image) -> float:
    return niqe(np.asarray(image))


@pytest.fixture(scope="module")
def scores(photographs: list[Image.Image]) -> list[float]:
    return [score(image) for image in photographs]


@pytest.mark.parametrize("harm", [blurred, noisy, overcompressed])
def test_harmed_copies_of_heldout_photographs_score_worse_in_nine_of_ten_cases(
    photographs: list[Image.Image], scores: list[float], harm: Callable[[Image.Image], Image.Image]
) -> None:
    worse = [score(harm(image)) > own for image, own in zip(photographs, scores, strict=True)]
    assert len(worse) == 28
    assert sum(worse) >= 0.9 * len(worse)


def test_the_more_noise_the_worse(photographs: list[Image.Image]) -> None:
    pixels = np.asarray(photographs[0])
    noise = np.random.default_rng(0).normal(0, 1, pixels.shape)
    scores = [niqe(np.clip(pixels + s * noise, 0, 255).astype(np.uint8)) for s in (0, 8, 16, 32, 64)]
    assert scores == sorted(scores)


def test_images_below_a_patch_and_flat_ones_have_no_niqe() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (PATCH, PATCH, 3), dtype=np.uint8)
    assert math.isfinite(niqe(picture))
    assert math.isnan(niqe(picture[:-1]))
    assert math.isnan(niqe(picture[:, :-1]))
    assert math.isnan(niqe(picture[:1, :1]))
    assert math.isnan(niqe(np.full((200, 300, 3), 128, np.uint8)))


def test_flat_patches_are_left_out() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2 * PATCH, 2 * PATCH), dtype=np.uint8)
    bordered = np.full((2 * PATCH, 5 * PATCH), 255, np.uint8)
    bordered[:, : 2 * PATCH] = noise
    assert patches(bordered).shape == (10, FEATURES)
    assert len(patch_features(bordered)) == 4
    np.testing.assert_allclose(patch_features(bordered)[0], patch_features(noise)[0])


def test_the_rest_that_fills_no_patch_does_not_count() -> None:
    luma = np.random.default_rng(0).integers(0, 256, (3 * PATCH - 1, 2 * PATCH + 7), dtype=np.uint8)
    np.testing.assert_array_equal(patches(luma), patches(luma[: 2 * PATCH, : 2 * PATCH]))


@settings(max_examples=30)
@given(shape=st.floats(0.5, 6), left=st.floats(0.3, 3), right=st.floats(0.3, 3), seed=st.integers(0, 2**32))
@example(shape=0.5, left=1.0, right=1.0, seed=0)  # the heaviest tails
def test_fit_finds_the_distribution_that_values_are_drawn_from(
    shape: float, left: float, right: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    side, patch = 1024, 128
    magnitude = rng.gamma(1 / shape, 1, (side, side)) ** (1 / shape)
    values = np.where(rng.random((side, side)) < left / (left + right), -left, right) * magnitude
    mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
    fits = quality._asymmetric_gaussians(values.astype(np.float32), patch)
    for fitted, wanted in zip(fits, (shape, mean, left, right), strict=True):
        # 64 patches are as many fits, and their mean is off by their standard error; seven of those, as
        # nights draw many thousand.
        assert len(fitted) == 64
        assert fitted.mean() == pytest.approx(wanted, abs=7 * fitted.std(ddof=1) / math.sqrt(64))


def test_distance_of_the_photographs_own_gaussian_is_small() -> None:
    model = load_photographs()
    sample = np.random.default_rng(0).multivariate_normal(model.mean, model.covariance, 2000)
    assert quality.distance(sample, model) < 0.3
    assert quality.distance(sample + 3 * np.sqrt(np.diag(model.covariance)), model) > 2


def test_shipped_gaussian_is_one() -> None:
    model = load_photographs()
    assert model.mean.shape == (FEATURES,)
    assert np.linalg.eigvalsh(model.covariance).min() > 0
    assert model.median > 0


@pytest.mark.parametrize("pixels", [1, 40_000])
def test_the_patches_do_not_depend_on_how_many_rows_are_done_at_once(
    pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    luma = np.random.default_rng(0).integers(0, 256, (5 * PATCH, 6 * PATCH), dtype=np.uint8)
    whole = patches(cv2.GaussianBlur(luma, (5, 5), 1))
    assert whole.shape == (30, FEATURES)
    monkeypatch.setattr(quality, "_PIXELS_AT_ONCE", pixels)
    np.testing.assert_allclose(patches(cv2.GaussianBlur(luma, (5, 5), 1)), whole, rtol=1e-4, atol=1e-6)


def test_a_score_does_not_depend_on_what_is_scored_beside_it() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (150, 170, 3), dtype=np.uint8)
    before = niqe(picture)
    niqe(cv2.GaussianBlur(picture, (9, 9), 3))
    assert niqe(picture) == before
