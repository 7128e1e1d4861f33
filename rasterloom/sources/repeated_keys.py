"""Repeated keys of a long list, found on disk in little memory."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

PARTITION_BITS = 6  # 64 files: a hundred million keys are 1.6 million, 38 MB, a file
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u8")])


class Repeats:
    """Finds rows whose 128-bit key repeats an earlier one. A context manager.

    Args:
        folder: an empty folder for its files; they take 24 bytes a key.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[BinaryIO] = []
        self.rows = 0

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files = [open(path, "wb") for path in self._paths]  # noqa: SIM115
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    @property
    def _paths(self) -> list[Path]:
        return [self._folder / f"{number:02d}.keys" for number in range(1 << PARTITION_BITS)]

    def add(self, keys: Sequence[str]) -> None:
        """Add the keys of the next rows, as ``schema.pair_key`` gives them."""
        halves = np.frombuffer(bytes.fromhex("".join(keys)), ">u8").reshape(-1, 2)
        records = np.empty(len(keys), _RECORD)
        records["high"], records["low"] = halves[:, 0], halves[:, 1]
        records["row"] = np.arange(self.rows, self.rows + len(keys))
        partition = records["high"] >> np.uint64(64 - PARTITION_BITS)
        order = np.argsort(partition, kind="stable")
        ends = np.cumsum(np.bincount(partition.astype(np.int64), minlength=len(self._files)))
        for file, part in zip(self._files, np.split(records[order], ends[:-1]), strict=True):
            part.tofile(file)
        self.rows += len(keys)

    def find(self) -> NDArray[np.bool_]:
        """Return for each row, bool [rows], whether its key is repeated."""
        repeated = np.zeros(self.rows, np.bool_)
        for file, path in zip(self._files, self._paths, strict=True):
            file.flush()
            records = np.fromfile(path, _RECORD)
            order = np.lexsort((records["row"], records["low"], records["high"]))
            high, low, row = (records[name][order] for name in ("high", "low", "row"))
            again = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
            repeated[row[1:][again]] = True
        return repeated
