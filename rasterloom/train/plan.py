"""Which rows make up which global batch, and which rank takes which of them.

The plan is a pure function of the rows' lengths, the seed and the epoch, and knows nothing of ranks: the
global batches are the same at any world size, so the position in a stage is one integer, and a run can
go on with other hardware. `balance` then deals one global batch out to the ranks.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.int64]

LINEAR_COST = 12 * 4096
"""c in the cost c*L + L*L of a sequence of L tokens: matrix products grow with 12 * width * L, causal
attention with L * L. The width is that of a 7B model; balance hardly depends on it below 4k tokens."""


def plan_batches(
    lengths: ArrayLike, *, seed: int, epoch: int, batch_tokens: int, rows_multiple: int = 1
) -> list[Rows]:
    """Cut the shuffled rows of one epoch into global batches.

    Rows are taken in an order that depends on ``seed`` and ``epoch`` only; a batch takes rows as long as
    their lengths sum to at most ``batch_tokens``. So the last batch of an epoch may be smaller; it is
    trained on like the others. Every row comes once, except that with ``rows_multiple`` m > 1, and a
    number of rows that m does not divide, the (fewer than m) rows left over rest for this epoch; the
    next epoch's shuffle leaves out others.

    Args:
        lengths: tokens of each row, [n] integers.
        seed: of the run.
        epoch: number of the pass over the rows.
        batch_tokens: the most tokens in a global batch.
        rows_multiple: batches have a multiple of so many rows, and at least so many, even where these
            together exceed ``batch_tokens``.

    Returns:
        Row numbers of each batch, int64.

    Raises:
        ValueError: a row alone is longer than ``batch_tokens``.
    """
    lengths = _checked(lengths, batch_tokens)
    if rows_multiple < 1:
        raise ValueError(f"rows_multiple must be at least 1, not {rows_multiple}")
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    units = len(order) // rows_multiple  # what is dealt out whole: rows_multiple rows each
    order = order[: units * rows_multiple]
    ends = np.cumsum(lengths[order].reshape(units, rows_multiple).sum(axis=1))
    starts = np.concatenate([[0], ends[:-1]]) if units else ends
    # following[i]: the unit after a batch that starts at unit i. One look-up for all i, then hop.
    following = np.searchsorted(ends, starts + batch_tokens, side="right")
    hops = np.maximum(following, np.arange(1, units + 1)).tolist()
    batches, unit = [], 0
    while unit < units:
        batches.append(order[unit * rows_multiple : hops[unit] * rows_multiple])
        unit = hops[unit]
    return batches


def balance(batch_rows: ArrayLike, lengths: ArrayLike, world_size: int) -> list[Rows]:
    """Deal the rows of a global batch out so that every rank has about the same to compute.

    The longest row goes first, each to the rank with the least cost so far. A sequence of L tokens costs
    ``LINEAR_COST * L + L * L``.

    Args:
        batch_rows: row numbers of the batch.
        lengths: tokens of each row of the stage, [n].
        world_size: number of ranks.

    Returns:
        Row numbers a rank, int64, longest first. Empty for some ranks where rows are fewer than ranks.
    """
    rows = np.asarray(batch_rows, dtype=np.int64)
    tokens = np.asarray(lengths)[rows].astype(np.float64)
    cost = LINEAR_COST * tokens + tokens * tokens
    shares: list[list[int]] = [[] for _ in range(world_size)]
    heap = [(0.0, rank) for rank in range(world_size)]
    for i in np.lexsort((rows, -cost)).tolist():
        load, rank = heap[0]
        shares[rank].append(i)
        heapq.heapreplace(heap, (load + cost[i], rank))
    return [rows[share] for share in shares]


def micro_batches(rows: ArrayLike, lengths: ArrayLike, max_tokens: int) -> list[Rows]:
    """Cut one rank's rows of a global batch into parts that it works on one after the other.

    Args:
        rows: row numbers, in the order in which they are taken.
        lengths: tokens of each row of the stage, [n].
        max_tokens: the most tokens of a part; a row that is longer is a part of its own.

    Returns:
        Row numbers of each part, int64; no part is empty.
    """
    rows = np.asarray(rows, dtype=np.int64)
    parts: list[list[int]] = []
    room = 0
    for row, length in zip(rows.tolist(), np.asarray(lengths)[rows].tolist(), strict=True):
        if length > room:
            parts.append([])
            room = max_tokens
        parts[-1].append(row)
        room -= length
    return [np.array(part, dtype=np.int64) for part in parts]


class Batch(NamedTuple):
    step: int
    epoch: int
    rows: Rows


@dataclass(frozen=True)
class StagePlan:
    """The global batches of a stage, in order; made by `stage_plan`."""

    lengths: NDArray[np.int64]
    seed: int
    batch_tokens: int
    epochs: float | None
    max_steps: int | None

    @cached_property
    def steps(self) -> int:
        """Optimizer steps in the stage. A part of an epoch is that part of its batches, rounded up."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.epochs is not None
        whole = int(self.epochs)
        steps = sum(len(self._epoch(epoch)) for epoch in range(whole))
        part = self.epochs - whole
        return steps + (math.ceil(part * len(self._epoch(whole)) - 1e-9) if part else 0)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches from step ``start`` to the end of the stage."""
        step, epoch = 0, 0
        while step < self.steps:
            batches = self._epoch(epoch)
            for rows in batches[: self.steps - step][max(0, start - step) :]:
                yield Batch(max(step, start), epoch, rows)
                start = max(step, start) + 1
            step += len(batches)
            epoch += 1

    def _epoch(self, epoch: int) -> list[Rows]:
        return plan_batches(self.lengths, seed=self.seed, epoch=epoch, batch_tokens=self.batch_tokens)


def stage_plan(
    lengths: ArrayLike, *, seed: int, batch_tokens: int, epochs: float | None = None, steps: int | None = None
) -> StagePlan:
    """Plan a stage of so many epochs, or of so many steps.

    Raises:
        ValueError: there are no rows, one is longer than ``batch_tokens``, or not exactly one of
            ``epochs`` and ``steps`` is given.
    """
    if (epochs is None) == (steps is None):
        raise ValueError("give either epochs or steps")
    lengths = _checked(lengths, batch_tokens)
    if not len(lengths):
        raise ValueError("the stage has no rows to train on")
    return StagePlan(lengths, seed, batch_tokens, epochs, steps)


def _checked(lengths: ArrayLike, batch_tokens: int) -> NDArray[np.int64]:
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) and (longest := int(lengths.max())) > batch_tokens:
        raise ValueError(
            f"batch_tokens {batch_tokens} is smaller than the longest sequence ({longest} tokens)"
        )
    return lengths
