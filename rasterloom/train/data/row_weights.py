"""Rows that come more often than others, by their sampling weights."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rasterloom.utils.random_streams import stream_generator

GOLDEN = (5**0.5 - 1) / 2  # steps of it spread most evenly over [0, 1)


@dataclass(frozen=True)
class WeightedRows:
    """Rows of a part of a stage, drawn by weight.

    A pass has as many rows as there are. A row of w times the mean weight comes w times a pass on average,
    rounded up or down in each: systematic sampling, from a start that moves on by the golden ratio. So after
    any number of passes each row has come as often as its weight says, but for a few times.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float64]
    """Of each of ``rows``, above 0."""
    seed: int
    stage: int
    part: int

    def expected(self, lengths: NDArray[np.int64]) -> float:
        """Tokens of a pass on average.

        Args:
            lengths: tokens of each row of the stage, [n].
        """
        return float((self.weights * lengths[self.rows]).sum() / self.weights.mean())

    def drawn(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw the rows of a pass, in their order.

        Beside them, a number for each occurrence of a row in any pass.
        """
        start = (self._start + number * GOLDEN) % 1
        upto = np.floor(self._ends + start).astype(np.int64)
        upto = np.minimum(upto, len(self.rows))  # which rounding may exceed
        counts = np.empty(len(self.rows), np.int64)
        counts[self._order] = np.diff(upto, prepend=0)
        rows = np.repeat(self.rows, counts)
        again = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, number * self._most + again

    @cached_property
    def _draw(self) -> tuple[NDArray[np.int64], float]:
        rng = stream_generator("weights", seed=self.seed, stage=self.stage, part=self.part)
        return rng.permutation(len(self.rows)), float(rng.random())

    @property
    def _order(self) -> NDArray[np.int64]:
        """Neighbours in the table do not take turns."""
        return self._draw[0]

    @property
    def _start(self) -> float:
        return self._draw[1]

    @cached_property
    def _ends(self) -> NDArray[np.float64]:
        """Sums of the weights, in units of their mean."""
        ends = np.cumsum(self.weights[self._order])
        ends *= len(self.rows) / ends[-1]
        ends[-1] = len(self.rows)  # not less by rounding: a pass has so many rows
        return ends

    @cached_property
    def _most(self) -> int:
        """The most that a row comes in a pass."""
        return int(np.ceil(self.weights.max() / self.weights.mean())) + 1
