import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from skimage.metrics import structural_similarity

from rasterloom.pipelines.models.image_metrics import frechet, ssim
from rasterloom.report.reconstructions import psnr


def pictures(seed, noise=12.0, size=(40, 56)):
    rng = np.random.default_rng(seed)
    smooth = np.kron(rng.random((size[0] // 8, size[1] // 8, 3)) * 255, np.ones((8, 8, 1)))
    other = smooth + rng.normal(0, noise, smooth.shape)
    return smooth.astype(np.uint8), other.clip(0, 255).astype(np.uint8)


def test_psnr_is_that_of_its_definition():
    flat = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(flat, flat) == 99.0
    assert psnr(flat, flat + np.uint8(5)) == pytest.approx(20 * np.log10(255 / 5))


@pytest.mark.parametrize("noise", [3.0, 12.0, 60.0])
def test_ssim_is_what_scikit_image_says(noise):
    import cv2

    a, b = pictures(1, noise)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (a, b)]
    _, whole = structural_similarity(
        *grey, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert ssim(a, b) == pytest.approx(whole[5:-5, 5:-5].mean(), abs=2e-3)
    assert ssim(a, a) == pytest.approx(1.0)


def test_frechet_is_fids_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (300, 6)), rng.normal(0.5, 2, (200, 6)) @ rng.normal(0, 1, (6, 6))
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    apart = a.mean(0) - b.mean(0)
    expected = apart @ apart + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="two images or more"):
        frechet(a, b[:1])


@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 12), st.integers(0, 10**6))
def test_frechet_is_a_distance(n, m, d, seed):
    """Zero to itself, the same both ways, that of the means where a set is shifted; also of few features."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, (n, d)), rng.normal(0, 2, (m, d))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-4, abs=1e-4) and frechet(a, b) >= 0
    assert frechet(a, a + 3) == pytest.approx(9 * d, rel=1e-5)
