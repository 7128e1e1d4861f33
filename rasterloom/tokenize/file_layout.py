"""Order of rows and their files in the ``tokens`` table.

Both are pure functions of the rows themselves, so the same rows give the same files whatever the number
of workers and the order in which they finish. A file is a range of the order, so that whoever writes it
needs to know two numbers and not the keys of the other files.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rasterloom.utils.random_streams import stream_digest


def order_of(keys: Iterable[str], seed: int) -> NDArray[np.uint64]:
    """Return where each row stands in the seeded global order, uint64 [n]. Equal ones go by key.

    It is a digest, so the order is random. Where a key stands does not depend on the others: a row that
    is added or taken away leaves them in their order.
    """
    digests = (stream_digest("pack", seed=seed, key=key) for key in keys)
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def plan_files(rows: int, rows_per_file: int) -> list[int]:
    """Return the number of rows of each file of a bucket: as few files as may be, and even to one row.

    Raises:
        ValueError: ``rows`` is negative or ``rows_per_file`` is below 1.
    """
    if rows < 0 or rows_per_file < 1:
        raise ValueError(f"cannot put {rows} rows into files of {rows_per_file}")
    files = -(-rows // rows_per_file)
    return [rows // files + (number < rows % files) for number in range(files)]


def file_starts(order: NDArray[np.uint64], rows_per_file: int) -> list[int]:
    """Return where in the order each file of a bucket begins: it holds what stands there or later, and
    before the next file's start.

    Args:
        order: of every row of the bucket, see ``order_of``; it is sorted in place.
    """
    order.sort()
    first = np.cumsum([0, *plan_files(len(order), rows_per_file)])[:-1]
    return [int(order[row]) for row in first]
