import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom.filtering import duplicates
from rasterloom.filtering.duplicates import (
    COLOUR_TOLERANCE,
    THUMBNAIL_BYTES,
    Candidates,
    find_duplicates,
    hashes_of,
    thumbnails_of,
)

GREY = bytes([128] * THUMBNAIL_BYTES)


def find(
    sha256: list[str | None],
    phash: list[int | None],
    thumbnail: list[bytes | None] | None = None,
    rank: list[float] | None = None,
    *,
    keys: list[str] | None = None,
    exact: bool = True,
    radius: int | None = 4,
) -> list[int]:
    result, _ = find_duplicates(
        candidates(sha256, phash, thumbnail, rank, keys=keys), exact=exact, radius=radius
    )
    return list(result)


def candidates(
    sha256: list[str | None],
    phash: list[int | None],
    thumbnail: list[bytes | None] | None = None,
    rank: list[float] | None = None,
    *,
    keys: list[str] | None = None,
    earlier: list[bool] | None = None,
    embeddings: np.ndarray | None = None,
) -> Candidates:
    n = len(sha256)
    pictures = thumbnail or [GREY] * n
    return Candidates(
        keys=pa.chunked_array([pa.array(keys or [f"{i:032x}" for i in range(n)], pa.string())]),
        rank=np.array(rank or [0.0] * n),
        earlier=np.array(earlier or [False] * n, bool),
        sha256=np.array(
            [(0, 0) if s is None else (len(s), hash(s) % 2**64) for s in sha256], np.uint64
        ).reshape(n, 2),
        phash=np.array([h or 0 for h in phash], np.uint64),
        thumbnails=np.frombuffer(b"".join(p or GREY for p in pictures), np.uint8).reshape(n, 192),
        known=np.array([h is not None and p is not None for h, p in zip(phash, pictures, strict=True)], bool),
        embeddings=embeddings,
    )


def test_same_bytes_are_exact_duplicates_of_the_best() -> None:
    assert find(["a", "b", "a", "a"], [0, 9, 0, 0], rank=[1, 1, 3, 2], radius=None) == [2, 1, 2, 2]
    assert find(["a", "b", "a", "a"], [0, 9, 0, 0], rank=[1, 1, 3, 2], exact=False, radius=None) == [
        0,
        1,
        2,
        3,
    ]


def test_ties_go_to_the_lower_key_and_nan_is_worst() -> None:
    assert find(["a", "a", "a"], [0, 0, 0], keys=["c", "a", "b"]) == [1, 1, 1]
    nan = float("nan")
    assert find(["a", "a", "a"], [0, 0, 0], rank=[nan, -5, nan]) == [1, 1, 1]


def test_hashes_within_the_radius_are_near_duplicates() -> None:
    assert find(["a", "b"], [0, 0b1111], rank=[1, 2]) == [1, 1]
    assert find(["a", "b"], [0, 0b11111], rank=[1, 2]) == [0, 1]
    assert find(["a", "b"], [0, 1 << 63], radius=0) == [0, 1]
    assert find(["a", "b"], [7, 7], radius=0) == [0, 0]


def test_there_are_no_chains() -> None:
    near = [0, 0b11, 0b1111]  # the ends are 4 apart, the middle 2 from both
    assert find(["a", "b", "c"], near, rank=[3, 2, 1], radius=2) == [0, 0, 2]
    assert find(["a", "b", "c"], near, rank=[1, 3, 2], radius=2) == [1, 1, 1]


def test_an_exact_duplicate_of_what_is_nearly_another_follows_it() -> None:
    assert find(["a", "a", "b"], [1, 1, 0], rank=[1, 2, 3]) == [2, 2, 2]


def test_images_of_another_colour_are_no_duplicates() -> None:
    red, green = bytes([200, 30, 30] * 64), bytes([30, 200, 30] * 64)
    assert find(["a", "b", "c"], [0, 0, 0], [red, green, red]) == [0, 1, 0]


@pytest.mark.parametrize("place", [0, 100, THUMBNAIL_BYTES - 1])
def test_thumbnails_agree_up_to_the_tolerance(place: int) -> None:
    near, far = bytearray(GREY), bytearray(GREY)
    near[place] -= COLOUR_TOLERANCE
    far[place] += COLOUR_TOLERANCE + 1
    assert find(["a", "b"], [0, 0], [GREY, bytes(near)]) == [0, 0]
    assert find(["a", "b"], [0, 0], [GREY, bytes(far)]) == [0, 1]


def test_null_matches_nothing() -> None:
    assert find([None, None], [None, None]) == [0, 1]
    assert find(["a", "b"], [0, 0], [GREY, None]) == [0, 1]
    assert find(["a", "a"], [None, None], [None, None]) == [0, 0]


def test_none_and_one() -> None:
    assert find([], []) == []
    assert find(["a"], [3]) == [0]


def test_hashes_and_thumbnails_of_chunked_and_sliced_columns() -> None:
    def pieces(values: list[object], kind: pa.DataType) -> pa.ChunkedArray:
        whole = pa.array([values[0], *values], kind)
        return pa.chunked_array([whole.slice(1, 2), whole.slice(3), whole.slice(0, 0)])

    white = bytes([255] * THUMBNAIL_BYTES)
    hashes = hashes_of(pieces(["0" * 16, None, "f" * 16, "0123456789abcdef"], pa.string()))
    assert [int(h) for h in hashes] == [0, 0, 2**64 - 1, 0x0123456789ABCDEF]
    thumbnails, known = thumbnails_of(pieces([GREY, None, white, b"short"], pa.binary()))
    assert known.tolist() == [True, False, True, False]
    assert thumbnails[[0, 2]].tolist() == [list(GREY), list(white)]
    assert thumbnails_of(pa.chunked_array([], pa.binary()))[0].shape == (0, THUMBNAIL_BYTES)


def test_what_was_kept_before_stays_kept() -> None:
    same, near = ["a", "a", "a"], [0, 1, 3]
    for sha in (same, ["a", "b", "c"]):
        result, _ = find_duplicates(
            candidates(sha, near, rank=[9, 1, 5], earlier=[False, True, False]), exact=True, radius=4
        )
        assert list(result) == [1, 1, 1]
    both, _ = find_duplicates(
        candidates(same, near, rank=[9, 1, 5], earlier=[False, True, True]), exact=True, radius=4
    )
    assert list(both) == [2, 2, 2]  # of two that were kept, the better


def test_semantic_duplicates_come_after_the_others_and_are_distinguished() -> None:
    turn = np.array([0.0, 0.1, 1.0, 0.05, np.nan])
    embeddings = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float16)
    rows = candidates(list("abcdb"), [0, 2**40 - 1, 255 << 50, 0, 2**40 - 1], embeddings=embeddings)
    result, by_meaning = find_duplicates(rows, exact=True, radius=4, similarity=0.99)
    # 3 nearly is 0; 4 has the bytes of 1, which means what 0 does, so that it follows it there
    assert list(result) == [0, 0, 2, 0, 0]
    assert list(by_meaning) == [False, True, False, False, False]
    assert list(find_duplicates(rows, exact=True, radius=4)[0]) == [0, 1, 2, 0, 1]


def brute_force(
    sha256: list[str], phash: list[int], thumbnail: list[bytes], rank: list[float], exact: bool, radius: int
) -> list[bool]:
    """Which rows are kept: from best to worst, each that doubles none that is kept."""
    kept: list[int] = []
    for row in sorted(range(len(rank)), key=lambda r: (-rank[r], r)):
        if not any(doubles(row, other, sha256, phash, thumbnail, exact, radius) for other in kept):
            kept.append(row)
    return [row in kept for row in range(len(rank))]


def doubles(
    a: int, b: int, sha256: list[str], phash: list[int], thumbnail: list[bytes], exact: bool, radius: int
) -> bool:
    if exact and sha256[a] == sha256[b]:
        return True
    colours = max(abs(x - y) for x, y in zip(thumbnail[a], thumbnail[b], strict=True))
    return (phash[a] ^ phash[b]).bit_count() <= radius and colours <= COLOUR_TOLERANCE


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(0, 40),
    radius=st.integers(0, 16),
    flips=st.integers(0, 12),
    exact=st.booleans(),
)
def test_equals_brute_force(seed: int, n: int, radius: int, flips: int, exact: bool) -> None:
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 2**64, 6, dtype=np.uint64)
    pictures = [int(h) for h in rng.choice(originals, n)]
    phash = [h ^ sum(1 << int(b) for b in rng.choice(64, rng.integers(flips + 1), False)) for h in pictures]
    thumbnail = [bytes([int(v)] * THUMBNAIL_BYTES) for v in rng.choice([100, 110, 120, 130], n)]
    sha256 = [f"{h}{t[0]}" for h, t in zip(phash, thumbnail, strict=True)]  # same bytes, same picture
    rank = [float(r) for r in rng.integers(0, 5, n)]

    result = find(sha256, phash, thumbnail, rank, exact=exact, radius=radius)

    assert [row == to for row, to in enumerate(result)] == brute_force(
        sha256, phash, thumbnail, rank, exact, radius
    )
    for row, to in enumerate(result):
        assert result[to] == to
        assert row == to or doubles(row, to, sha256, phash, thumbnail, exact, radius)
        assert (rank[to], -to) >= (rank[row], -row)


@settings(max_examples=50)
@given(radius=st.integers(0, 16), n=st.sampled_from([10, 10**4, 10**7]), data=st.data())
def test_any_two_hashes_within_the_radius_share_a_mask(radius: int, n: int, data: st.DataObject) -> None:
    bits = data.draw(st.sets(st.integers(0, 63), max_size=radius))
    difference = np.uint64(sum(1 << b for b in bits))
    assert any(difference & mask == 0 for mask in duplicates.masks_of(radius, n))


def test_thousands_of_copies_of_one_image_take_no_quadratic_time() -> None:
    """Each row is compared with the few that are kept, not with each other: counted, not timed."""
    rng = np.random.default_rng(0)
    n = 5000
    hashes = rng.integers(0, 4, n).astype(np.uint64)
    thumbnails = rng.integers(100, 108, (n, THUMBNAIL_BYTES), dtype=np.uint8)
    compared = 0
    original = duplicates._alike

    def counting(thumbnails: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(a)
        return original(thumbnails, a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_alike", counting)
        kept = duplicates._near(hashes, thumbnails, 4)
    assert (kept == 0).all()
    assert compared < 50 * n


def test_fifty_thousand_hashes() -> None:
    """A tenth of the rows are copies with up to 4 bits flipped; all are found, and nothing else."""
    rng = np.random.default_rng(0)
    n, copies = 45_000, 5_000
    originals = rng.integers(0, 2**64, n, dtype=np.uint64)
    flipped = originals[:copies].copy()
    for _ in range(4):
        flipped ^= np.uint64(1) << rng.integers(0, 64, copies).astype(np.uint64)
    hashes = np.concatenate([originals, flipped])
    kept = duplicates._near(hashes, np.full((len(hashes), THUMBNAIL_BYTES), 128, np.uint8), 4)
    assert (kept[n:] == np.arange(copies)).all()
    assert (kept[:n] == np.arange(n)).all()
