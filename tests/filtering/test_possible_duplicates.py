"""Comparing only the rows that may have a duplicate gives what comparing all of them gives, row for row."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom.filtering import duplicates, possible_duplicates
from rasterloom.filtering.disk_columns import DiskColumn
from rasterloom.filtering.duplicates import THUMBNAIL_BYTES, Candidates, find_duplicates
from rasterloom.filtering.possible_duplicates import with_near_hash, with_same_digest


def drawn(seed: int, n: int, flips: int, others: int) -> Candidates:
    """Rows around a few originals, and ``others`` of hashes at random."""
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 2**64, 5, dtype=np.uint64)
    hashes = rng.choice(originals, n)
    for _ in range(flips):
        hashes ^= np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64)
    hashes = np.concatenate([hashes, rng.integers(0, 2**64, others, dtype=np.uint64)])
    order = rng.permutation(len(hashes))
    rows = len(hashes)
    sha256 = rng.integers(0, 4, (rows, 2)).astype(np.uint64) * (rng.random(rows) < 0.3)[:, None]
    sha256[rng.random(rows) < 0.6, 0] = rng.integers(2**63)
    sha256[:, 1] += (np.arange(rows) * (rng.random(rows) < 0.8)).astype(np.uint64)
    return Candidates(
        keys=pa.chunked_array(
            [pa.array([f"{number:032x}" for number in rng.permutation(rows)], pa.string())]
        ),
        rank=np.where(rng.random(rows) < 0.1, np.nan, rng.integers(0, 5, rows)),
        earlier=rng.random(rows) < 0.2,
        sha256=sha256,
        phash=hashes[order],
        thumbnails=np.repeat(rng.choice([100, 110, 120], rows), THUMBNAIL_BYTES)
        .reshape(rows, THUMBNAIL_BYTES)
        .astype(np.uint8),
        known=rng.random(rows) < 0.9,
    )


def stored(values: np.ndarray) -> DiskColumn:
    column = DiskColumn(values.dtype, values.shape[1] if values.ndim > 1 else 1)
    column.add(values)
    return column


def masks_by_rows(radius: int, n: int) -> list[np.uint64]:
    """Other masks for few rows than for many, as there are for real from half a million rows on."""
    return original(radius, 10 if n < 60 else 10**7)


original = duplicates.masks_of


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(0, 80),
    others=st.integers(0, 40),
    radius=st.one_of(st.none(), st.integers(0, 8)),
    flips=st.integers(0, 5),
    exact=st.booleans(),
    part_rows=st.sampled_from([1, 7, 10**6]),
)
def test_equals_comparing_all(
    seed: int, n: int, others: int, radius: int | None, flips: int, exact: bool, part_rows: int
) -> None:
    rows = drawn(seed, n, flips, others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(possible_duplicates, "PART_ROWS", part_rows)
        patch.setattr(duplicates, "masks_of", masks_by_rows)
        possible = np.zeros(len(rows.rank), bool)
        if exact:
            possible |= with_same_digest(stored(rows.sha256))
        if radius is not None:
            possible |= with_near_hash(stored(rows.phash), rows.known, radius)
        places = np.flatnonzero(possible)
        some = replace(
            rows,
            keys=rows.keys.take(pa.array(places)),
            **{name: getattr(rows, name)[places] for name in ("rank", "earlier", "sha256", "phash", "known")},
            thumbnails=rows.thumbnails[places],
        )
        left_out = int((rows.known & ~possible).sum())
        of_some, _ = find_duplicates(some, exact=exact, radius=radius, others=left_out)
        of_all, _ = find_duplicates(rows, exact=exact, radius=radius)
    found = np.arange(len(rows.rank))
    found[places] = places[of_some]
    np.testing.assert_array_equal(found, of_all)


@pytest.mark.parametrize("part_rows", [100, 10**6])
@pytest.mark.parametrize("radius", [0, 3, 9])
def test_those_and_no_others(monkeypatch: pytest.MonkeyPatch, radius: int, part_rows: int) -> None:
    monkeypatch.setattr(possible_duplicates, "PART_ROWS", part_rows)
    rng = np.random.default_rng(radius)
    hashes = rng.integers(0, 2**64, 400, dtype=np.uint64)
    hashes[200:] = hashes[:200]
    for _ in range(4):
        hashes[200:] ^= np.uint64(1) << rng.integers(0, 64, 200).astype(np.uint64)
    known = rng.random(400) < 0.9
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    near = (apart <= radius) & known[:, None] & known[None, :] & ~np.eye(400, dtype=bool)
    np.testing.assert_array_equal(with_near_hash(stored(hashes), known, radius), near.any(axis=1))


def test_thousands_of_like_hashes_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is found looks no further: counted, not timed."""
    rng, n, compared = np.random.default_rng(0), 5000, 0
    hashes = np.uint64(2**40) + rng.permutation(n).astype(np.uint64)
    pairs = duplicates.Runs.pairs

    def counting(self: duplicates.Runs, open_: np.ndarray):  # type: ignore[no-untyped-def]
        nonlocal compared
        for one, other in pairs(self, open_):
            compared += len(one)
            yield one, other

    monkeypatch.setattr(duplicates.Runs, "pairs", counting)
    assert with_near_hash(stored(hashes), np.ones(n, bool), 4).all()
    assert compared < 50 * n


def test_parts_are_of_like_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks leave the ends of a hash; the parts must not all be one then."""
    monkeypatch.setattr(possible_duplicates, "PART_ROWS", 1000)
    values = np.random.default_rng(0).integers(0, 2**64, 8000, dtype=np.uint64)
    for mask in duplicates.masks_of(4, 10**8):
        sizes = [len(rows) for rows, _ in possible_duplicates._parts(stored(values), None, mask)]
        assert sum(sizes) == len(values) and max(sizes) < 1500, (f"{mask:016x}", sizes)
