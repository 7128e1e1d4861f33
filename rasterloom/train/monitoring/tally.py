"""Sums of losses by group over some steps."""

from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from rasterloom.train.data.collate import Packed
from rasterloom.train.data.groups import Groups


class Tally:
    """Per-group sums of losses over some steps, on each rank's own device.

    Nothing waits for it, and no rank for another, until it is read.
    """

    def __init__(self, groups: Groups, device: torch.device) -> None:
        self.groups = groups
        self._by_cell = torch.zeros(3, groups.cells, dtype=torch.float64, device=device)  # loss, tokens, rows
        self._squares, self._waited = 0.0, 0.0

    def add(self, nll: Tensor, packed: Packed) -> None:
        """Add sequences and the loss, [n], of their counted tokens."""
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

    def take_up(self, sums: "Sums") -> None:
        """Count in what ranks had added up when a checkpoint was written. One rank calls this."""
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        self._by_cell += torch.from_numpy(sums.by_cell).to(self._by_cell.device)
        self._squares += sums.squares
        self._waited += sums.waited * ranks

    def read(self) -> "Sums":
        """Add up the ranks, if there are several, and begin anew. Every rank calls this."""
        sums = self.total()
        self._by_cell.zero_()
        self._squares, self._waited = 0.0, 0.0
        return sums

    def total(self) -> "Sums":
        """Add up the ranks, if there are several. Every rank calls this."""
        host = torch.tensor([self._squares, self._waited], dtype=torch.float64)
        sums = torch.cat([self._by_cell.flatten(), host.to(self._by_cell.device)])
        ranks = 1
        if dist.is_initialized():
            dist.all_reduce(sums)
            ranks = dist.get_world_size()
        *by_cell, squares, waited = sums.tolist()
        return Sums(np.reshape(by_cell, (3, self.groups.cells)), squares, waited / ranks)


class Sums(NamedTuple):
    """Totals of a `Tally`."""

    by_cell: NDArray[np.float64]  # [3, cells]: loss, tokens that count, rows
    squares: float  # of the sequences' lengths
    waited: float  # seconds, in the mean of the ranks
