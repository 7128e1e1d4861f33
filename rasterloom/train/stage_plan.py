"""The global batches of a stage, in order: epochs of its rows, or of a mixture, until it is long enough.

A mixture's epoch has as many tokens as all of its parts have together, dealt out by the parts' weights. Each
part is an endless row of passes over its rows, every pass shuffled anew, of which an epoch takes the next
stretch. So a part that is asked for more than it has comes again, one that is asked for less goes on in the
next epoch where it stopped, and at any time no row of a part has come more than once oftener than another.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rasterloom.train.plan import Rows, plan_batches


class Batch(NamedTuple):
    """A global batch: the optimizer step that it makes, counted from 0, its epoch and its rows."""

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
    max_tokens: int | None
    parts: tuple[Rows, ...]
    passes: tuple[float, ...]
    """How often an epoch goes through each part."""

    @cached_property
    def steps(self) -> int:
        """Optimizer steps in the stage. A part of an epoch is that part of its batches, rounded up."""
        if self.max_steps is not None:
            return self.max_steps
        if self.max_tokens is not None:
            return self._steps_of(self.max_tokens)
        assert self.epochs is not None
        whole = int(self.epochs)
        steps = sum(len(self.epoch(epoch)) for epoch in range(whole))
        part = self.epochs - whole
        return steps + (math.ceil(part * len(self.epoch(whole)) - 1e-9) if part else 0)

    def _steps_of(self, tokens: int) -> int:
        """The steps until so many tokens have been trained on, and the batch that reaches them."""
        steps, epoch = 0, 0
        while True:
            batches = self.epoch(epoch)
            reached = np.cumsum([self.lengths[rows].sum() for rows in batches])
            if reached[-1] >= tokens:
                return steps + int(np.searchsorted(reached, tokens)) + 1
            tokens -= int(reached[-1])
            steps += len(batches)
            epoch += 1

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches from step ``start`` to the end of the stage."""
        step, epoch = 0, 0
        while step < self.steps:
            batches = self.epoch(epoch)
            for rows in batches[: self.steps - step][max(0, start - step) :]:
                yield Batch(max(step, start), epoch, rows)
                start = max(step, start) + 1
            step += len(batches)
            epoch += 1

    def epoch(self, number: int) -> list[Rows]:
        """Return the batches of an epoch."""
        drawn = epoch_rows(self.parts, self.passes, seed=self.seed, epoch=number)
        batches = plan_batches(
            self.lengths[drawn], seed=self.seed, epoch=number, batch_tokens=self.batch_tokens
        )
        return [drawn[batch] for batch in batches]


def stage_plan(
    lengths: ArrayLike,
    *,
    seed: int,
    batch_tokens: int,
    epochs: float | None = None,
    steps: int | None = None,
    tokens: int | None = None,
    parts: Sequence[ArrayLike] | None = None,
    weights: Sequence[float] | None = None,
) -> StagePlan:
    """Plan a stage of so many epochs, steps or tokens.

    Args:
        lengths: tokens of each row, [n].
        parts: row numbers of each part of a mixture; all rows are one part when None.
        weights: the parts' shares of the tokens; when None every row comes once an epoch.

    Raises:
        ValueError: there are no rows, or one is longer than ``batch_tokens``; or not exactly one of
            ``epochs``, ``steps`` and ``tokens`` is given.
    """
    if sum(length is not None for length in (epochs, steps, tokens)) != 1:
        raise ValueError("give one of epochs, steps and tokens")
    lengths = np.asarray(lengths, dtype=np.int64)
    rows = tuple(
        np.asarray(part, np.int64) for part in ([np.arange(len(lengths))] if parts is None else parts)
    )
    if not all(len(part) for part in rows):
        raise ValueError("the stage has no rows to train on" + _which(rows))
    if (longest := max(int(lengths[part].max()) for part in rows)) > batch_tokens:
        raise ValueError(
            f"batch_tokens {batch_tokens} is smaller than the longest sequence ({longest} tokens)"
        )
    passes = epoch_passes([int(lengths[part].sum()) for part in rows], weights)
    if weights is None:
        rows, passes = (np.concatenate(rows),), (1.0,)
    return StagePlan(lengths, seed, batch_tokens, epochs, steps, tokens, rows, passes)


def _which(parts: Sequence[Rows]) -> str:
    empty = [str(number) for number, part in enumerate(parts) if not len(part)]
    return f" in mixture[{', '.join(empty)}]" if len(parts) > 1 else ""


def epoch_passes(tokens: Sequence[int], weights: Sequence[float] | None) -> tuple[float, ...]:
    """Return how often an epoch goes through each part, from the parts' tokens and weights."""
    if weights is None:
        return (1.0,) * len(tokens)
    whole = sum(tokens) / sum(weights)
    return tuple(weight * whole / of_part for weight, of_part in zip(weights, tokens, strict=True))


def epoch_rows(parts: Sequence[Rows], passes: Sequence[float], *, seed: int, epoch: int) -> Rows:
    """Return the rows that an epoch has, part by part; those of a part that is passed once in its own order.

    Args:
        parts: row numbers of each part.
        passes: how often an epoch goes through each.
    """
    drawn: list[Rows] = []
    for number, (rows, often) in enumerate(zip(parts, passes, strict=True)):
        if often == 1:
            drawn.append(rows)
            continue
        start, end = (round(often * e * len(rows)) for e in (epoch, epoch + 1))
        for a_pass in range(start // len(rows), -(-end // len(rows))):
            order = np.random.default_rng([seed, number, a_pass]).permutation(len(rows))
            first = a_pass * len(rows)
            drawn.append(rows[order[max(0, start - first) : end - first]])
    return np.concatenate(drawn)
