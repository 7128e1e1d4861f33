import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from rasterloom.filtering.judges.distances import cmmd, frechet, with_interval


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


def test_cmmd_is_the_mean_of_all_pairs_kernels():
    rng = np.random.default_rng(1)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(0, 1, (2, 7, 5)))

    def kernel(x, y):
        return np.mean([[np.exp(-((p - q) ** 2).sum() / 200) for q in y] for p in x])

    assert cmmd(a, b) == pytest.approx(1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)))
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9) and cmmd(a, b) == pytest.approx(cmmd(b, a))
    with pytest.raises(ValueError, match="an image or more"):
        cmmd(a, b[:0])


def test_the_interval_holds_the_distance_of_more_images():
    """Of 50 draws the interval holds what twenty times as many images have, in most."""
    rng = np.random.default_rng(2)
    b = rng.normal(0, 1, (4000, 3))
    true = cmmd(rng.normal(0.5, 1, (4000, 3)), b)
    held = 0
    for _ in range(50):
        whole, low, high = with_interval(cmmd, rng.normal(0.5, 1, (200, 3)), b[:1000])
        assert low <= whole <= high
        held += low <= true <= high
    assert held >= 40
    assert with_interval(cmmd, b[:3], b) == (cmmd(b[:3], b),) * 3
