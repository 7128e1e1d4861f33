"""The time that a step over shards still takes, on simulated shards."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom.pipelines.progress.eta import PLAYED, Taken, seconds_left

SHARDS, WORKERS, RUNS = 100, 12, 60
PACES = {
    "all alike": lambda rng, n: rng.uniform(0.9, 1.1, n),
    "slow hosts": lambda rng, n: np.where(rng.random(n) < 0.15, 12.0, 1.0) * rng.uniform(0.8, 1.2, n),
    "exponential": lambda rng, n: rng.exponential(1.0, n),
    "lognormal": lambda rng, n: rng.lognormal(0.0, 1.0, n),
}


def simulated(paces, seed):
    """Rows, begin and end of shards that go to the worker that is free first."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(20, 400, SHARDS)
    takes = rows * PACES[paces](rng, SHARDS)
    free, begin = [0.0] * WORKERS, np.zeros(SHARDS)
    for shard in range(SHARDS):
        begin[shard] = heapq.heappop(free)
        heapq.heappush(free, begin[shard] + takes[shard])
    return rows, begin, begin + takes


def seen(rows, begin, end, now):
    """What a driver knows at a moment: finished, running and waiting shards."""
    order = [int(i) for i in np.argsort(end) if end[i] <= now]
    finished = [Taken(int(rows[i]), float(end[i] - begin[i])) for i in order]
    at_work = np.flatnonzero((begin <= now) & (end > now))
    running = [Taken(int(rows[i]), float(now - begin[i])) for i in at_work]
    return finished, running, rows[begin > now].tolist()


def naive(finished, running, waiting):
    """What one would write first: the mean of the finished shards, for each that is not."""
    return np.mean([shard.seconds for shard in finished]) * (len(running) + len(waiting)) / WORKERS


@pytest.mark.parametrize("paces", PACES)
@pytest.mark.parametrize("over", [25, 50, 85, 95])
def test_it_is_right_on_average_where_the_naive_one_is_too_early(paces, over):
    """Looked at when so many of the 100 shards are over: with stragglers at the end, many waiting before."""
    ours, theirs, true = [], [], []
    for seed in range(RUNS):
        rows, begin, end = simulated(paces, seed)
        now = float(np.sort(end)[over - 1])
        known = seen(rows, begin, end, now)
        ours.append(seconds_left(*known, WORKERS))
        theirs.append(naive(*known))
        true.append(end.max() - now)
    ratio, of_naive = np.sum(ours) / np.sum(true), np.sum(theirs) / np.sum(true)
    assert 0.7 < ratio < 1.45
    assert of_naive < (0.9 if paces == "all alike" else 0.5)
    assert abs(np.log(ratio)) < abs(np.log(of_naive)) / 2


sizes = st.integers(1, 1000)
paces = st.floats(0.01, 100.0)


@given(paces, st.lists(sizes, min_size=1), st.lists(sizes, max_size=60), st.integers(1, 40))
def test_shards_of_one_pace_are_known_by_their_rows(pace, done, waiting, workers):
    """All of one pace, none running: the makespan of the rows, whatever their sizes."""
    finished = [Taken(rows, rows * pace) for rows in done * 100]  # so many that none slower is expected
    free = [0.0] * workers
    for rows in waiting:
        heapq.heapreplace(free, free[0] + rows * pace)
    assert seconds_left(finished, [], waiting, workers) == pytest.approx(max(free), rel=1e-6)


taken = st.builds(Taken, sizes, st.floats(0.1, 1e4))


@given(st.lists(taken, max_size=30), st.lists(taken, max_size=8), st.lists(sizes, max_size=30), paces)
@settings(max_examples=50)
def test_it_scales_with_time_and_is_never_negative(finished, running, waiting, factor):
    left = seconds_left(finished, running, waiting, 4)
    scaled = [[Taken(s.rows, s.seconds * factor) for s in shards] for shards in (finished, running)]
    if left is None:
        assert seconds_left(*scaled, waiting, 4) is None
        return
    assert left >= 0
    assert seconds_left(*scaled, waiting, 4) == pytest.approx(left * factor, rel=1e-6)
    assert (left == 0) == (not running and not waiting)


def test_nothing_is_said_while_most_of_the_first_shards_are_running():
    assert seconds_left([], [Taken(10, 5.0)], [10], 1) is None
    running = [Taken(10, 5.1)] * 7
    assert seconds_left([Taken(10, 5.0)], running, [10] * 50, 8) is None
    assert seconds_left([Taken(10, 5.0)] * 6, running[:2], [10] * 50, 8) > 30


def test_a_straggler_holds_the_end_up():
    """As its age grows beyond all that was seen, it does not come to nothing."""
    finished = [Taken(10, 10.0 + i / 10) for i in range(50)]
    assert seconds_left(finished, [Taken(10, 60.0)], [], 8) > 0
    even = seconds_left(finished, [], [10] * 80, 8)
    assert seconds_left([*finished, *[Taken(10, 200.0)] * 5], [], [10] * 80, 8) > even + 50


def test_many_waiting_shards_are_work_spread_evenly():
    finished = [Taken(10, 10.0)] * 900
    many = seconds_left(finished, [], [10] * 100 * PLAYED, 10)
    assert many == pytest.approx(100 * PLAYED * 10 / 10, rel=0.01)
