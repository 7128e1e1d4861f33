"""Losses told apart by task and by bucket, summed up on the device: a cell for each pair of the two."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from rasterloom.train.rows import TokenRows
from rasterloom.train.samples import Packed


@dataclass(frozen=True)
class Groups:
    """The tasks and buckets that the rows of a stage have; cell t * buckets + b has the t-th and b-th."""

    tasks: tuple[str, ...]
    buckets: tuple[str, ...]

    @property
    def cells(self) -> int:
        return len(self.tasks) * len(self.buckets)

    @classmethod
    def of(cls, rows: TokenRows) -> "Groups":
        return cls(tuple(rows.task_names), tuple(rows.bucket_names))

    def of_rows(self, rows: TokenRows, numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the cell of each of some rows."""
        at = np.asarray(numbers, np.int64)
        return rows.task_numbers[at].astype(np.int64) * len(self.buckets) + rows.bucket_numbers[at]

    def losses(self, by_cell: NDArray[np.float64]) -> dict[str, Any]:
        """Return the mean loss in all, and of every task and bucket that has rows.

        Args:
            by_cell: [3, cells]: loss, tokens and rows, as `Sums` has them.

        Returns:
            ``{"all": {"loss", "tokens", "rows"}, "tasks": {name: the same}, "buckets": {name: the same}}``;
            the loss of no tokens is None, and so is one that is not finite.
        """
        by_both = by_cell.reshape(3, len(self.tasks), len(self.buckets))
        return {
            "all": _mean(by_cell.sum(axis=1)),
            "tasks": _named(self.tasks, by_both.sum(axis=2)),
            "buckets": _named(self.buckets, by_both.sum(axis=1)),
        }


class Tally:
    """Sums over some steps, on each rank's own device: nothing waits for it, and no rank for another, until
    it is read."""

    def __init__(self, groups: Groups, device: torch.device) -> None:
        self.groups = groups
        self._by_cell = torch.zeros(3, groups.cells, dtype=torch.float64, device=device)  # loss, tokens, rows
        self._squares, self._waited = 0.0, 0.0

    def add(self, nll: Tensor, packed: Packed) -> None:
        """Add sequences and the loss, [n], of each of their tokens that counts."""
        device = nll.device
        cells, rows = (
            torch.from_numpy(x).to(device, non_blocking=True) for x in (packed.cells, packed.row_cells)
        )
        self._by_cell[0].index_add_(0, cells, nll.detach().double())
        self._by_cell[1].index_add_(0, cells, torch.ones_like(nll, dtype=torch.float64))
        self._by_cell[2].index_add_(0, rows, torch.ones_like(rows, dtype=torch.float64))
        self._squares += float(sum(n * n for n in packed.lengths)) if packed.order else 0.0

    def wait(self, seconds: float) -> None:
        """Add seconds in which this rank waited for data."""
        self._waited += seconds

    def read(self) -> "Sums":
        """Add up the ranks, if there are several, and begin anew; every rank calls this."""
        host = torch.tensor([self._squares, self._waited], dtype=torch.float64)
        sums = torch.cat([self._by_cell.flatten(), host.to(self._by_cell.device)])
        ranks = 1
        if dist.is_initialized():
            dist.all_reduce(sums)
            ranks = dist.get_world_size()
        *by_cell, squares, waited = sums.tolist()
        self._by_cell.zero_()
        self._squares, self._waited = 0.0, 0.0
        return Sums(np.reshape(by_cell, (3, self.groups.cells)), squares, waited / ranks)


class Sums(NamedTuple):
    """What a `Tally` has added up."""

    by_cell: NDArray[np.float64]  # [3, cells]: loss, tokens that count, rows
    squares: float  # of the sequences' lengths
    waited: float  # seconds, in the mean of the ranks


def _mean(sums: NDArray[np.float64]) -> dict[str, Any]:
    loss, tokens, rows = sums.tolist()
    known = tokens and math.isfinite(loss)
    return {"loss": loss / tokens if known else None, "tokens": int(tokens), "rows": int(rows)}


def _named(names: Sequence[str], sums: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    return {name: _mean(part) for name, part in zip(names, sums.T, strict=True) if part[2]}
