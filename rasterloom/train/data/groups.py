"""Groups of losses by task, bucket and caption, in cells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasterloom.recipe.captions import ALT
from rasterloom.train.data.token_dataset import TokenRows

NO_PROMPT = "none"
"""Name in place of a caption's, of a row that comes without its prompt."""
OTHER = "other"
"""Name of the captions of rows that have none of those drawn from."""


@dataclass(frozen=True)
class Groups:
    """The tasks, buckets and captions that the rows of a stage have.

    Cell (c * tasks + t) * buckets + b has the c-th caption, the t-th task and the b-th bucket.
    """

    tasks: tuple[str, ...]
    buckets: tuple[str, ...]
    captions: tuple[str, ...] = (ALT,)

    @property
    def cells(self) -> int:
        return len(self.captions) * len(self.tasks) * len(self.buckets)

    @classmethod
    def of(cls, rows: TokenRows) -> "Groups":
        captions = (ALT,) if rows.captions is None else caption_names(rows.captions)
        return cls(tuple(rows.task_names), tuple(rows.bucket_names), captions)

    def of_rows(
        self,
        rows: TokenRows,
        numbers: Sequence[int] | NDArray[np.int64],
        captions: Sequence[str] | None = None,
    ) -> NDArray[np.int64]:
        """Return the cell of each of some rows.

        Args:
            captions: name of the caption of each; None: the first.
        """
        at = np.asarray(numbers, np.int64)
        tasks = rows.task_numbers[at].astype(np.int64)
        if captions is not None:
            tasks += len(self.tasks) * np.array([self.captions.index(name) for name in captions], np.int64)
        return tasks * len(self.buckets) + rows.bucket_numbers[at]

    def known(self, names: Sequence[str] | None) -> list[str] | None:
        """Names of captions as they are counted."""
        return None if names is None else [name if name in self.captions else OTHER for name in names]

    def losses(self, by_cell: NDArray[np.float64]) -> dict[str, Any]:
        """Return the mean loss overall, and by task and bucket with rows.

        Args:
            by_cell: [3, cells]: loss, tokens and rows, as `Sums` has them.

        Returns:
            ``{"all": {"loss", "tokens", "rows"}, "tasks": {name: the same}, "buckets": {name: the same}}``,
            and ``captions`` where there are several; the loss of no tokens is None, and so is one that is not
            finite.
        """
        by_all = by_cell.reshape(3, len(self.captions), len(self.tasks), len(self.buckets))
        of_captions = {"captions": _named(self.captions, by_all.sum(axis=(2, 3)))}
        return {
            "all": _mean(by_cell.sum(axis=1)),
            "tasks": _named(self.tasks, by_all.sum(axis=(1, 3))),
            "buckets": _named(self.buckets, by_all.sum(axis=(1, 2))),
            **(of_captions if len(self.captions) > 1 else {}),
        }


def caption_names(weights: Mapping[str, float]) -> tuple[str, ...]:
    """Names that rows are counted by."""
    return tuple(dict.fromkeys((*weights, ALT, OTHER, NO_PROMPT)))


def _mean(sums: NDArray[np.float64]) -> dict[str, Any]:
    loss, tokens, rows = sums.tolist()
    known = tokens and math.isfinite(loss)
    return {"loss": loss / tokens if known else None, "tokens": int(tokens), "rows": int(rows)}


def _named(names: Sequence[str], sums: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    return {name: _mean(part) for name, part in zip(names, sums.T, strict=True) if part[2]}
