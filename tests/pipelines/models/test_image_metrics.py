import numpy as np
import pytest
from skimage.metrics import structural_similarity

from rasterloom.pipelines.models.image_metrics import ssim
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
