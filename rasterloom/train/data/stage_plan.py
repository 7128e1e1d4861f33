"""Plan of a stage: its global batches, in order.

They are epochs of its rows, or of a mixture, until the stage is long enough.

A mixture's epoch has as many tokens as all of its parts have together, dealt out by the parts' weights. Each
part is an endless row of passes over its rows, every pass shuffled anew, of which an epoch takes the next
stretch. So a part that is asked for more than it has comes again, one that is asked for less goes on in the
next epoch where it stopped, and at any time no row of a part has come more than once oftener than another.
The parts are spread evenly over the epoch, so that batches are mixed alike.

A pass over rows with weights (`row_weights`) has as many rows as the part has, some of them several times and
some not at all.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rasterloom.train.data.batching import WINDOW_GROUPS, Rows, cut, plan_batches, shuffled
from rasterloom.train.data.row_weights import WeightedRows
from rasterloom.utils.random_streams import stream_generator


class GlobalBatch(NamedTuple):
    """Global batch: its optimizer step, counted from 0, epoch and rows."""

    step: int
    epoch: int
    rows: Rows
    passes: Rows  # of each row, the pass over its part, from 0; with weights, its number among all draws


@dataclass(frozen=True)
class StageLength:
    """Length of a stage in epochs, optimizer steps or tokens: just one of them.

    Raises:
        ValueError: none is given, or several are.
    """

    epochs: float | None = None
    steps: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if sum(length is not None for length in (self.epochs, self.steps, self.tokens)) != 1:
            raise ValueError("give one of epochs, steps and tokens")


@dataclass(frozen=True)
class BatchSize:
    """Size of a global batch."""

    tokens: int
    """The most tokens."""
    rows_multiple: int = 1
    """See `batching.plan_batches`; an epoch leaves out the fewer than so many rows left over."""


@dataclass(frozen=True)
class Mixture:
    """Parts of a stage's rows and their shares of its tokens."""

    parts: Sequence[ArrayLike]
    """Row numbers of each part."""
    weights: Sequence[float] | None = None
    """None: every row comes once an epoch."""
    row_weights: ArrayLike | None = None
    """Sampling weight of each row, relative to the others of its part, [n]; None: all have the same."""


@dataclass(frozen=True)
class StagePlan:
    """The global batches of a stage, in order; made by `stage_plan`."""

    lengths: NDArray[np.int64]
    length: StageLength
    seed: int
    stage: int
    """Number of the stage, from 0: each has streams of its own."""
    batch_tokens: int
    parts: tuple[Rows, ...]
    passes: tuple[float, ...]
    """How often an epoch goes through each part."""
    groups: NDArray[np.int64] | None
    """Of each row, the number of the row group that it is read with (`batching.shuffled`)."""
    rows_multiple: int = 1
    weighted: tuple[WeightedRows, ...] = ()
    """Each part's rows with their weights; empty: rows have none."""

    @cached_property
    def steps(self) -> int:
        """Optimizer steps in the stage. A part of an epoch is that part of its batches, rounded up."""
        if self.length.steps is not None:
            return self.length.steps
        if self.length.tokens is not None:
            return self._steps_of(self.length.tokens)
        epochs = self.length.epochs or 0.0
        whole = int(epochs)
        steps = sum(len(self.epoch(epoch)) for epoch in range(whole))
        part = epochs - whole
        return steps + (math.ceil(part * len(self.epoch(whole)) - 1e-9) if part else 0)

    def _steps_of(self, tokens: int) -> int:
        """The steps that train on so many tokens, and their last batch."""
        steps, epoch = 0, 0
        while True:
            batches = self.epoch(epoch)
            reached = np.cumsum([self.lengths[rows].sum() for rows in batches])
            if reached[-1] >= tokens:
                return steps + int(np.searchsorted(reached, tokens)) + 1
            tokens -= int(reached[-1])
            steps += len(batches)
            epoch += 1

    def batches(self, start: int = 0) -> Iterator[GlobalBatch]:
        """Yield the batches from step ``start`` to the end of the stage."""
        step, epoch = 0, 0
        while step < self.steps:
            batches = self._epoch(epoch)
            for rows, passes in batches[: self.steps - step][max(0, start - step) :]:
                yield GlobalBatch(max(step, start), epoch, rows, passes)
                start = max(step, start) + 1
            step += len(batches)
            epoch += 1

    def epoch(self, number: int) -> list[Rows]:
        """Return the batches of an epoch."""
        return [rows for rows, _ in self._epoch(number)]

    def _epoch(self, number: int) -> list[tuple[Rows, Rows]]:
        """The batches of an epoch, and the passes of their rows."""
        if len(self.parts) == 1:
            return self._shuffled(number)
        order, passes = self._mixed(number)
        batches, start = [], 0
        for rows in cut(order, self.lengths, self.batch_tokens, self.rows_multiple):
            batches.append((rows, passes[start : start + len(rows)]))
            start += len(rows)
        return batches

    def _shuffled(self, number: int) -> list[tuple[Rows, Rows]]:
        """The batches of an epoch of one part, with passes."""
        rows, passes = self._pass(0, number)
        batches = plan_batches(
            self.lengths[rows],
            seed=self.seed,
            epoch=number,
            stage=self.stage,
            batch_tokens=self.batch_tokens,
            rows_multiple=self.rows_multiple,
            groups=None if self.groups is None else self.groups[rows],
        )
        return [(rows[batch], passes[batch]) for batch in batches]

    def _pass(self, part: int, number: int) -> tuple[Rows, Rows]:
        """The rows of a pass, before they are shuffled, with passes."""
        if self.weighted:
            return self.weighted[part].drawn(number)
        return self.parts[part], np.full(len(self.parts[part]), number)

    def _mixed(self, epoch: int) -> tuple[Rows, Rows]:
        """The rows of an epoch and their passes: each part's next stretch, spread evenly."""
        drawn, passes, places = [], [], []
        for number in range(len(self.parts)):
            rows, of_rows = self._stretch(number, epoch)
            rng = stream_generator("mixture", seed=self.seed, stage=self.stage, part=number, epoch=epoch)
            drawn.append(rows)
            passes.append(of_rows)
            places.append((np.arange(len(rows)) + rng.random(len(rows))) / max(1, len(rows)))
        order = np.argsort(np.concatenate(places), kind="stable")
        return np.concatenate(drawn)[order], np.concatenate(passes)[order]

    def _stretch(self, number: int, epoch: int) -> tuple[Rows, Rows]:
        """Rows of an epoch from a part's endless sequence of passes. Beside it, their passes."""
        count = len(self.parts[number])
        start, end = (round(self.passes[number] * e * count) for e in (epoch, epoch + 1))
        taken, passes = [self.parts[number][:0]], [self.parts[number][:0]]
        for a_pass in range(start // count, -(-end // count)):
            rows, of_rows = self._pass(number, a_pass)
            groups = None if self.groups is None else self.groups[rows]
            rng = stream_generator("order", seed=self.seed, stage=self.stage, part=number, pass_=a_pass)
            order = shuffled(count, rng, groups, WINDOW_GROUPS // len(self.parts))
            first = a_pass * count
            order = order[max(0, start - first) : end - first]
            taken.append(rows[order])
            passes.append(of_rows[order])
        return np.concatenate(taken), np.concatenate(passes)


def stage_plan(
    lengths: ArrayLike,
    length: StageLength,
    *,
    seed: int,
    stage: int = 0,
    batch: BatchSize,
    mixture: Mixture | None = None,
    groups: ArrayLike | None = None,
) -> StagePlan:
    """Plan the global batches of a stage.

    Args:
        lengths: tokens of each row, [n].
        stage: its number, from 0: the same rows come in another order in another stage.
        mixture: parts of the rows; all rows are one part when None.
        groups: for each row, the number of the row group that it is read with, [n].

    Raises:
        ValueError: there are no rows, fewer than ``rows_multiple``, or one is longer than ``batch``.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    mixture = mixture or Mixture([np.arange(len(lengths))])
    rows, weights = tuple(np.asarray(part, np.int64) for part in mixture.parts), mixture.weights
    if not all(len(part) for part in rows):
        raise ValueError("the stage has no rows to train on" + _which(rows))
    if (longest := max(int(lengths[part].max()) for part in rows)) > batch.tokens:
        raise ValueError(
            f"batch_tokens {batch.tokens} is smaller than the longest sequence ({longest} tokens)"
        )
    if weights is None:
        rows = (np.concatenate(rows),)
    weighted: tuple[WeightedRows, ...] = ()
    if mixture.row_weights is not None:
        of_rows = np.asarray(mixture.row_weights, np.float64)
        weighted = tuple(
            WeightedRows(part, of_rows[part], seed=seed, stage=stage, part=number)
            for number, part in enumerate(rows)
        )
        tokens = [round(part.expected(lengths)) for part in weighted]
    else:
        tokens = [int(lengths[part].sum()) for part in rows]
    passes = epoch_passes(tokens, weights)
    # Rounded as stretches are: a part of one row that an epoch goes through once has that row.
    fewest = sum(int(share * len(part) + 1e-6) for share, part in zip(passes, rows, strict=True))
    if batch.rows_multiple > 1 and fewest < batch.rows_multiple:
        raise ValueError(
            f"rows_multiple {batch.rows_multiple} is more than the rows of an epoch ({fewest}): lower it"
        )
    numbers = None if groups is None else np.asarray(groups)
    return StagePlan(
        lengths, length, seed, stage, batch.tokens, rows, passes, numbers, batch.rows_multiple, weighted
    )


def _which(parts: Sequence[Rows]) -> str:
    empty = [str(number) for number, part in enumerate(parts) if not len(part)]
    return f" in mixture[{', '.join(empty)}]" if len(parts) > 1 else ""


def epoch_passes(tokens: Sequence[int], weights: Sequence[float] | None) -> tuple[float, ...]:
    """Return each part's passes an epoch, from tokens and weights."""
    if weights is None:
        return (1.0,) * len(tokens)
    whole = sum(tokens) / sum(weights)
    return tuple(weight * whole / of_part for weight, of_part in zip(weights, tokens, strict=True))
