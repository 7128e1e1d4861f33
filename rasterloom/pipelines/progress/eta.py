"""Estimate of the time that a step over shards has left.

The mean of the shards that are finished tells it too early. Those that finish first are the fast ones, so
early on the slow ones are missing from it (length bias); shards have unequal numbers of rows; and at the end
all wait for a few stragglers, while work left divided by workers takes it to be spread evenly.

So the estimator is this. What is observed of a shard is its *pace*, seconds a row. Of a running shard it is
known only that its pace is at least its age over its rows: a right-censored observation. The product-limit
estimator (Kaplan and Meier 1958), each shard weighing as much as it has rows, gives the distribution of
paces without that bias. Half a shard more counts as running for ever, so that the next one may be slower than
all n so far (with a chance of about 1/2n, Hazen's plotting position); beyond the slowest that finished, the
tail is exponential, as wide as the rest is (its standard deviation). While more than half of the distribution
lies there, nothing is said. Then what is left of the step is played through: each running shard gets a pace
from the part of the distribution beyond its age, each waiting one from all of it, the next shard goes to the
worker that is free first, and the end is when the last one is done. The mean over ``DRAWS`` such plays is the
answer.

It takes waiting shards to be like those seen lately (the last ``SEEN``): what nobody has begun cannot be
known to be slower.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KNOWN = 0.5  # share of the distribution of paces that must be known before anything is said
SEEN = 1000  # finished shards that are looked at
PLAYED = 500  # waiting shards that are played one by one; of more, those before are work spread evenly
DRAWS = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Taken:
    """Shard with the seconds that it has taken so far."""

    rows: int
    seconds: float


def seconds_left(
    finished: Sequence[Taken], running: Sequence[Taken], waiting: Sequence[int], workers: int
) -> float | None:
    """Return the seconds until all shards are done, None while unknown.

    Args:
        finished: shards, the latest last.
        waiting: rows of the shards that are not begun, in the order in which they will be.
        workers: how many shards run at once; at least those that do.
    """
    if not running and not waiting:
        return 0.0
    finished = finished[-SEEN:]
    if not finished or not sum(shard.seconds for shard in finished):
        return None
    paces = _Paces(finished, running)
    if paces.unknown > 1 - KNOWN:
        return None
    rng = np.random.default_rng(0)  # the same question gets the same answer
    of_running = np.array([max(1, shard.rows) for shard in running])
    ages = np.array([shard.seconds for shard in running]) / of_running if running else np.empty(0)
    left = (paces.draw(rng, ages) - ages) * of_running
    early, late = waiting[: len(waiting) - PLAYED], waiting[max(0, len(waiting) - PLAYED) :]
    each = max(workers, len(running), 1)
    before = paces.mean * sum(map(float, early)) / each
    of_waiting = paces.draw(rng, np.zeros(len(late))) * np.maximum(1, np.array(late, dtype=float))
    return before + float(np.mean([_end(*play, each) for play in zip(left, of_waiting, strict=True)]))


def _end(running: Floats, waiting: Floats, workers: int) -> float:
    """Return when the last shard ends, if free workers take waiting ones."""
    free = [*running.tolist(), *[0.0] * (workers - len(running))]
    heapq.heapify(free)
    for seconds in waiting.tolist():
        heapq.heapreplace(free, free[0] + seconds)
    return float(max(free))


class _Paces:
    """Distribution of seconds a row, from finished and running shards."""

    def __init__(self, finished: Sequence[Taken], running: Sequence[Taken]) -> None:
        rows = np.array([max(1, shard.rows) for shard in (*finished, *running)], dtype=float)
        seconds = np.array([shard.seconds for shard in (*finished, *running)])
        over = np.arange(len(rows)) < len(finished)
        order = np.lexsort((~over, seconds / rows))  # of equals, those that finished come first
        at, rows_at, over_at = (seconds / rows)[order], rows[order], over[order]
        to_come = rows.mean() / 2  # what may be slower than all
        at_risk = np.cumsum(rows_at[::-1])[::-1] + to_come
        survival = np.cumprod(1.0 - np.where(over_at, rows_at / at_risk, 0.0))
        self._at, self._survival = at[over_at], np.maximum(survival[over_at], 0.0)
        self.unknown = float(self._survival[-1])
        share = np.append(-np.diff(self._survival, prepend=1.0), self.unknown)
        paces = np.append(self._at, at[-1])
        self._tail = float(np.sqrt(max(0.0, share @ paces**2 - (share @ paces) ** 2)))
        self.mean = float(share @ paces + self.unknown * self._tail)

    def draw(self, rng: np.random.Generator, beyond: Floats) -> Floats:
        """Draw seconds a row [DRAWS, len(beyond)], each above its ``beyond``."""
        passed = np.searchsorted(self._at, beyond, side="right")
        above = np.concatenate([[1.0], self._survival])[passed]  # share of rows slower than that
        chance = rng.random((DRAWS, len(beyond))) * above
        # The first pace at which no larger share than `chance` is slower.
        index = len(self._at) - np.searchsorted(self._survival[::-1], chance, side="right")
        known = self._at[np.minimum(index, len(self._at) - 1)]
        tail = np.maximum(beyond, self._at[-1]) + rng.exponential(self._tail, chance.shape)
        found: Floats = np.where(index < len(self._at), np.maximum(known, beyond), tail)
        return found
