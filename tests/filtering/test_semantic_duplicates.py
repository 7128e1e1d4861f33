import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom.filtering import semantic_duplicates
from rasterloom.filtering.semantic_duplicates import first_alike


def on_sphere(n: int, width: int, seed: int) -> np.ndarray:
    e = np.random.default_rng(seed).normal(size=(n, width))
    return (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40)
@given(
    n=st.integers(0, 60), seed=st.integers(0, 99), similarity=st.floats(0.3, 0.99), block=st.integers(1, 70)
)
def test_one_cluster_equals_brute_force(n: int, seed: int, similarity: float, block: int) -> None:
    e = on_sphere(n, 3, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic_duplicates, "BLOCK", block)
        found = first_alike(e, np.arange(n), similarity)
    kept: list[int] = []
    for row in range(n):
        if all(e[row] @ e[other] < similarity for other in kept):
            kept.append(row)
    assert np.flatnonzero(found == np.arange(n)).tolist() == kept
    for row, to in enumerate(found):
        assert to <= row and (row == to or e[row] @ e[to] >= similarity - 1e-6)


def test_rows_that_were_cut_into_clusters_still_find_their_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_duplicates, "CLUSTER", 50)
    originals = on_sphere(2000, 16, 0)
    noise = on_sphere(2000, 16, 1) * 0.02
    copies = originals + noise
    copies /= np.linalg.norm(copies, axis=1, keepdims=True)
    both = np.concatenate([originals, copies]).astype(np.float16)
    order = np.random.default_rng(2).permutation(4000)
    kept = first_alike(both, order, 0.99)
    assert (kept <= np.arange(4000)).all()
    pairs = {(order[row], order[to]) for row, to in enumerate(kept) if row != to}
    assert all(abs(a - b) == 2000 for a, b in pairs)
    assert len(pairs) > 0.95 * 2000  # a cut parts some


def test_many_of_one_direction_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_duplicates, "CLUSTER", 20)
    same = np.repeat(on_sphere(1, 8, 0), 500, axis=0)
    assert (first_alike(same, np.arange(500), 0.9) == 0).all()


def test_null_is_like_nothing() -> None:
    e = np.repeat(on_sphere(1, 4, 0), 3, axis=0)
    e[1] = np.nan
    assert first_alike(e, np.arange(3), 0.5).tolist() == [0, 1, 0]
