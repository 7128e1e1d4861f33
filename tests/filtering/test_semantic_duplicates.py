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


def brute_force(e: np.ndarray, similarity: float) -> np.ndarray:
    """Return for each row, best first, the row kept for it, of all pairs."""
    kept, centres = np.arange(len(e)), []
    for row in range(len(e)):
        cosine = e[centres] @ e[row]
        if len(centres) and cosine.max() >= similarity:
            kept[row] = centres[int(cosine.argmax())]
        else:
            centres.append(row)
    return kept


@pytest.mark.parametrize("spread", ["clustered", "even"])
@pytest.mark.parametrize("angle", [0.15, 0.29])  # of copies; what is alike is within 0.3
def test_what_the_borders_of_clusters_part_is_found_too(
    monkeypatch: pytest.MonkeyPatch, spread: str, angle: float
) -> None:
    """Copies at the very limit of likeness, in 32 dimensions, which cuts part most easily."""
    monkeypatch.setattr(semantic_duplicates, "CLUSTER", 250)
    originals = on_sphere(4000, 32, 0)
    if spread == "clustered":
        originals += 1.5 * on_sphere(40, 32, 3)[np.arange(4000) % 40]
        originals /= np.linalg.norm(originals, axis=1, keepdims=True)
    aside = on_sphere(4000, 32, 1)
    aside -= (aside * originals).sum(1, keepdims=True) * originals
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    both = np.concatenate([originals, np.cos(angle) * originals + np.sin(angle) * aside]).astype(np.float32)
    order = np.random.default_rng(2).permutation(len(both))
    similarity = float(np.cos(0.3))
    found = first_alike(both, order, similarity)
    of_all = brute_force(both[order], similarity)
    dropped, wanted = found != np.arange(len(order)), of_all != np.arange(len(order))
    assert wanted.sum() > 3000
    assert (dropped & wanted).sum() >= 0.99 * wanted.sum()
    assert (dropped & ~wanted).sum() <= 0.01 * wanted.sum()
    # Whatever was missed: a row follows one that is kept, is better, and is like it.
    assert (found[found] == found).all() and (found <= np.arange(len(order))).all()
    of, to = both[order][dropped], both[order][found[dropped]]
    assert ((of * to).sum(1) >= similarity - 1e-5).all()


def test_many_of_one_direction_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_duplicates, "CLUSTER", 20)
    same = np.repeat(on_sphere(1, 8, 0), 500, axis=0)
    assert (first_alike(same, np.arange(500), 0.9) == 0).all()


def test_null_is_like_nothing() -> None:
    e = np.repeat(on_sphere(1, 4, 0), 3, axis=0)
    e[1] = np.nan
    assert first_alike(e, np.arange(3), 0.5).tolist() == [0, 1, 0]
