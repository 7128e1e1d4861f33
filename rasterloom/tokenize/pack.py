"""The order of rows in the ``tokens`` table, and how many files a bucket takes.

Both are pure functions of the rows themselves, so the same rows give the same files whatever the number
of workers and the order in which they finish.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def order_key(seed: int, key: str) -> bytes:
    """Return the 16 bytes that the row of this key is sorted by: a digest, so that order is random."""
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=16, person=b"rasterloom.pack").digest()


def shuffled(keys: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the positions of ``keys`` in the seeded global order, int64 [n].

    Where a key stands depends on its digest, not on where it was: a row that is added or taken away
    leaves the others in their order.
    """
    order = sorted(range(len(keys)), key=lambda row: (order_key(seed, keys[row]), keys[row]))
    return np.array(order, np.int64)


def plan_files(rows: int, rows_per_file: int) -> list[int]:
    """Return the number of rows of each file of a bucket: as few files as may be, and even to one row.

    Raises:
        ValueError: ``rows`` is negative or ``rows_per_file`` is below 1.
    """
    if rows < 0 or rows_per_file < 1:
        raise ValueError(f"cannot put {rows} rows into files of {rows_per_file}")
    files = -(-rows // rows_per_file)
    return [rows // files + (number < rows % files) for number in range(files)]
