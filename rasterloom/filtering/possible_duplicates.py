"""Rows that may have a duplicate, found in little memory.

All other rows are kept whatever the order, so that only these need be compared with each other at once. What
is held of every row are three bytes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasterloom.filtering.disk_columns import DiskColumn
from rasterloom.filtering.duplicates import Rows, Runs, first_of_equal_pairs, masks_of

PART_ROWS = 1 << 22  # compared at once: some hundred bytes a row
_MIX = np.uint64(0x9E3779B97F4A7C15)

Flags = NDArray[np.bool_]


def with_same_digest(digests: DiskColumn) -> Flags:
    """Rows whose digest, two numbers, another row has too. (0, 0) is no digest."""
    repeated, _ = _repeated(digests)
    return repeated


def with_near_hash(hashes: DiskColumn, known: Flags, radius: int) -> Flags:
    """Rows with a known hash within ``radius`` bits of another row's."""
    repeated, first = _repeated(hashes, known)
    # One row speaks for all with its hash, however many they are.
    for mask in masks_of(radius, int(known.sum())):
        for rows, values in _parts(hashes, first, mask):
            repeated[rows] |= _near(values, mask, radius, repeated[rows])
    return repeated


def _repeated(column: DiskColumn, known: Flags | None = None) -> tuple[Flags, Flags]:
    """Return rows whose value occurs again, and first rows of each value."""
    repeated = np.zeros(column.rows, bool)
    first = np.zeros(column.rows, bool)
    for rows, values in _parts(column, known):
        pairs = values if values.ndim > 1 else np.stack([values, ~values], axis=1)  # which is never (0, 0)
        equal = first_of_equal_pairs(pairs)
        later = equal != np.arange(len(rows))
        repeated[rows[later]] = repeated[rows[equal[later]]] = True
        first[rows[~later]] = True
    return repeated, first


def _parts(
    column: DiskColumn, wanted: Flags | None, mask: np.uint64 = np.uint64(2**64 - 1)
) -> Iterator[tuple[Rows, NDArray[Any]]]:
    """Yield wanted rows and their values, those of equal masked values together."""
    count = column.rows if wanted is None else int(wanted.sum())
    parts = max(1, -(-count // PART_ROWS))
    for part in range(parts):
        rows, found = [np.empty(0, np.int64)], []
        for start, values in column.pieces():
            here = np.ones(len(values), bool) if wanted is None else wanted[start : start + len(values)]
            if parts > 1:
                heads = values[:, 0] if values.ndim > 1 else values
                here = here & (_mixed(heads & mask) % np.uint64(parts) == part)
            rows.append(start + np.flatnonzero(here))
            found.append(values[here])
        if found:
            yield np.concatenate(rows), np.concatenate(found)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.asarray(((values ^ (values >> np.uint64(32))) * _MIX) >> np.uint64(32))


def _near(hashes: NDArray[np.uint64], mask: np.uint64, radius: int, known: Flags) -> Flags:
    """Return rows near another one of their masked hash, and known ones."""
    found = known.copy()
    open_ = ~known
    order = np.argsort(hashes & mask, kind="stable")
    # Each row that is still open with those before it, then with those behind: who is found looks no further.
    for ordered in (order, order[::-1]):
        for one, other in Runs.of(hashes[ordered] & mask, ordered).pairs(open_):
            looking = open_[other] | open_[one]
            a, b = one[looking], other[looking]
            near = np.bitwise_count(hashes[a] ^ hashes[b]) <= radius
            found[a[near]] = found[b[near]] = True
            open_[a[near]] = open_[b[near]] = False
    return found
