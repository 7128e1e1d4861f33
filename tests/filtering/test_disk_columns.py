"""Columns on disk give back what was put in, in any pieces."""

import resource
from collections.abc import Iterator

import numpy as np
import pytest

from rasterloom.errors import StorageError
from rasterloom.filtering import disk_columns
from rasterloom.filtering.disk_columns import DiskColumn


@pytest.mark.parametrize("piece_bytes", [1, 48, 1 << 20])
@pytest.mark.parametrize(("kind", "width"), [(np.uint64, 1), (np.uint8, 6), (np.float64, 2)])
def test_rows_come_back(monkeypatch: pytest.MonkeyPatch, piece_bytes: int, kind: type, width: int) -> None:
    monkeypatch.setattr(disk_columns, "PIECE_BYTES", piece_bytes)
    rng, column = np.random.default_rng(0), DiskColumn(kind, width)
    parts = [rng.integers(0, 99, (rows, width) if width > 1 else rows).astype(kind) for rows in (3, 0, 40)]
    for part in parts:
        column.add(part)
    whole = np.concatenate(parts)
    assert column.rows == len(whole)
    for _ in range(2):
        starts, pieces = zip(*column.pieces(), strict=True)
        assert list(starts) == [0, *np.cumsum([len(piece) for piece in pieces])[:-1]]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    rows = np.flatnonzero(rng.random(len(whole)) < 0.4)
    np.testing.assert_array_equal(column.take(rows), whole[rows])
    assert column.take(rows).dtype == kind


def test_a_column_may_be_empty() -> None:
    column = DiskColumn(np.uint64, 2)
    assert list(column.pieces()) == []
    assert column.take(np.empty(0, np.int64)).shape == (0, 2)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """A process whose files end at 64 kB, as on a disk that is full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_that_names_it_and_the_way_out(small_disk: None) -> None:
    column = DiskColumn(np.float64)
    with pytest.raises(StorageError, match=r"rasterloom-\d+/selection: no space is left .* set TMPDIR"):
        for _ in range(10):
            column.add(np.zeros(5_000))
