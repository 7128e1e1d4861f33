"""Columns of numbers on disk, of which few rows are taken."""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasterloom.storage.local_disk import temporary_disk
from rasterloom.utils.private_folders import private_folder

PIECE_BYTES = 1 << 25  # read at once


class DiskColumn:
    """Column of numbers in a private file without a name.

    Args:
        kind: numpy's type of a number
        width: numbers of a row
    """

    def __init__(self, kind: Any, width: int = 1) -> None:
        self._kind = np.dtype(kind)
        self._width = width
        self._folder = str(private_folder("selection"))
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self.rows = 0

    def add(self, values: NDArray[Any]) -> None:
        """Append rows. StorageError if the disk is full."""
        with temporary_disk(self._folder):
            self._file.write(np.ascontiguousarray(values, self._kind).data)
            self._file.flush()
        self.rows += len(values)

    def pieces(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield all rows in pieces, each with the number of its first."""
        row_bytes = self._kind.itemsize * self._width
        for start in range(0, self.rows, piece := max(1, PIECE_BYTES // row_bytes)):
            rows = min(piece, self.rows - start)
            self._file.seek(start * row_bytes)
            values = np.fromfile(self._file, self._kind, rows * self._width)
            yield start, values.reshape(rows, self._width) if self._width > 1 else values

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, given by their numbers in ascending order."""
        found = np.empty((len(rows), self._width) if self._width > 1 else len(rows), self._kind)
        for start, values in self.pieces():
            first, end = np.searchsorted(rows, [start, start + len(values)])
            found[first:end] = values[rows[first:end] - start]
        return found
