"""Groups of losses by task and bucket, a cell for each pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasterloom.train.data.token_dataset import TokenRows


@dataclass(frozen=True)
class Groups:
    """The tasks and buckets that the rows of a stage have. Cell t * buckets + b has the t-th and b-th."""

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
        """Return the mean loss overall, and by task and bucket with rows.

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


def _mean(sums: NDArray[np.float64]) -> dict[str, Any]:
    loss, tokens, rows = sums.tolist()
    known = tokens and math.isfinite(loss)
    return {"loss": loss / tokens if known else None, "tokens": int(tokens), "rows": int(rows)}


def _named(names: Sequence[str], sums: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    return {name: _mean(part) for name, part in zip(names, sums.T, strict=True) if part[2]}
