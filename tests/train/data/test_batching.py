import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.train.data.batching import (
    LINEAR_COST,
    assign_to_ranks,
    balance,
    micro_batches,
    plan_batches,
    shuffled,
)

lengths_strategy = st.lists(st.integers(1, 50), min_size=0, max_size=200)


@given(lengths_strategy, st.integers(0, 5), st.integers(0, 3), st.integers(50, 400))
def test_every_row_comes_once_and_batches_keep_to_their_budget(lengths, seed, epoch, budget):
    batches = plan_batches(lengths, seed=seed, epoch=epoch, batch_tokens=budget)
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    totals = [sum(lengths[i] for i in batch) for batch in batches]
    assert all(total <= budget for total in totals)
    for i in range(len(batches) - 1):  # nothing more would have fitted
        assert totals[i] + lengths[batches[i + 1][0]] > budget


@given(lengths_strategy, st.integers(1, 7), st.integers(50, 400))
def test_rows_come_in_multiples(lengths, multiple, budget):
    batches = plan_batches(lengths, seed=0, epoch=0, batch_tokens=budget, rows_multiple=multiple)
    assert all(len(batch) % multiple == 0 and len(batch) for batch in batches)
    rows = np.concatenate(batches).tolist() if batches else []
    assert len(set(rows)) == len(rows) == len(lengths) - len(lengths) % multiple


def test_epochs_and_seeds_shuffle_anew_and_the_same_ones_alike():
    lengths = np.full(100, 10)
    plans = {
        (seed, epoch): np.concatenate(plan_batches(lengths, seed=seed, epoch=epoch, batch_tokens=60)).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(plan) for plan in plans.values()}) == 4
    again = np.concatenate(plan_batches(lengths, seed=1, epoch=1, batch_tokens=60)).tolist()
    assert again == plans[1, 1]


def test_the_rows_left_over_differ_from_epoch_to_epoch():
    left = set()
    for epoch in range(20):
        batches = plan_batches(np.full(23, 5), seed=0, epoch=epoch, batch_tokens=50, rows_multiple=8)
        left |= set(range(23)) - set(np.concatenate(batches).tolist())
    assert len(left) > 7


def group_reads(order, groups, kept):
    """How often groups are read for rows in this order by a reader that keeps so many of them."""
    cache, reads = [], 0
    for group in groups[order].tolist():
        if group in cache:
            cache.remove(group)
        else:
            reads += 1
        cache = [*cache, group][-kept:]
    return reads


def test_rows_of_many_groups_come_window_by_window(rng):
    groups = np.repeat(np.arange(60), rng.integers(1, 40, 60))
    order = shuffled(len(groups), np.random.default_rng(0), groups, window=10)
    assert sorted(order.tolist()) == list(range(len(groups)))
    assert group_reads(order, groups, kept=20) == 60
    assert group_reads(rng.permutation(len(groups)), groups, kept=20) > 600
    first = groups[order[: len(groups) // 6]]
    assert len(set(first)) > 9 and sorted(first.tolist()) != first.tolist()  # mixed within
    other = shuffled(len(groups), np.random.default_rng(1), groups, window=10)
    assert set(groups[other[:50]]) != set(groups[order[:50]])


def test_few_groups_and_none_are_shuffled_alike():
    groups = np.repeat(np.arange(10), 5)
    for window in (10, 50):
        order = shuffled(50, np.random.default_rng(3), groups, window=window)
        assert order.tolist() == shuffled(50, np.random.default_rng(3), None).tolist()
    lengths = np.full(50, 7)
    plain = plan_batches(lengths, seed=1, epoch=0, batch_tokens=30)
    grouped = plan_batches(lengths, seed=1, epoch=0, batch_tokens=30, groups=groups)
    assert [b.tolist() for b in plain] == [b.tolist() for b in grouped]


def test_a_row_that_fits_no_batch_is_named():
    with pytest.raises(
        ValueError, match=r"batch_tokens 100 is smaller than the longest sequence \(101 tokens\)"
    ):
        plan_batches([5, 101], seed=0, epoch=0, batch_tokens=100)


@given(lengths_strategy.filter(len), st.integers(1, 9))
def test_balance_deals_out_every_row_and_no_rank_is_far_behind(lengths, world):
    rows = np.arange(len(lengths))[::-1]
    shares = balance(rows, lengths, world)
    assert len(shares) == world
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    cost = [sum(LINEAR_COST * lengths[i] + lengths[i] ** 2 for i in share) for share in shares]
    longest = max(LINEAR_COST * n + n * n for n in lengths)
    assert max(cost) - min(cost) <= longest  # what longest-first guarantees
    for share in shares:
        assert [lengths[i] for i in share] == sorted((lengths[i] for i in share), reverse=True)


def test_balance_does_not_depend_on_the_order_of_rows(rng):
    lengths = rng.integers(1, 9, 64)
    rows = rng.permutation(64)
    for one, other in zip(balance(rows, lengths, 5), balance(np.sort(rows), lengths, 5), strict=True):
        assert one.tolist() == other.tolist()


def test_ranks_come_out_even_on_lengths_as_buckets_have_them(rng):
    lengths = rng.integers(916, 1093, 100_000) + rng.integers(10, 80, 100_000)  # target 512, f16
    batches = plan_batches(lengths, seed=0, epoch=0, batch_tokens=32 * 16_384)
    tokens = [[lengths[share].sum() for share in balance(batch, lengths, 32)] for batch in batches[:-1]]
    useful = [sum(ranks) / (32 * max(ranks)) for ranks in tokens]
    assert np.mean(useful) > 0.985


def loads(parts, lengths):
    return [sum(lengths[i] for i in part) for part in parts]


@pytest.mark.parametrize("world", [2, 3, 32, 257, 1024])
def test_exchanging_rows_leaves_no_rank_two_percent_behind(rng, world):
    lengths = rng.integers(916, 1093, 8 * world) + rng.integers(10, 400, 8 * world)
    cost = LINEAR_COST * lengths + lengths**2
    loads = [cost[share].sum() for share in balance(np.arange(8 * world), lengths, world)]
    assert np.mean(loads) / max(loads) > 0.98
    assert sum(loads) == cost.sum()


def test_a_rank_too_many_rows_gets_short_ones():
    lengths = np.array([100] * 8 + [60] * 5)  # longest first leaves 300 and 360, no exchange of one more
    loads = [lengths[share].sum() for share in balance(np.arange(13), lengths, 4)]
    assert max(loads) <= 300


@given(lengths_strategy, st.integers(50, 300), st.integers(1, 5))
def test_micro_batches_hold_every_row_once_and_fit(lengths, most, at_least):
    rows = np.arange(len(lengths))[::-1]
    parts = micro_batches(rows, lengths, most, at_least=at_least)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    assert max(loads(parts, lengths)) <= most
    fewest = max(at_least, -(-sum(lengths) // most))
    assert fewest <= len(parts) <= fewest + sum(lengths) // most  # never twice as many as there must be
    for one, other in zip(parts, micro_batches(rows[::-1], lengths, most, at_least=at_least), strict=True):
        assert one.tolist() == other.tolist()


@given(lengths_strategy.filter(len), st.integers(50, 120), st.integers(1, 7))
def test_every_rank_has_as_many_micro_batches_of_its_own_share(lengths, most, world):
    dealt = assign_to_ranks(np.arange(len(lengths)), lengths, world, most)
    assert len({len(of_rank) for of_rank in dealt}) == 1
    for of_rank, share in zip(dealt, balance(np.arange(len(lengths)), lengths, world), strict=True):
        assert sorted(np.concatenate(of_rank).tolist()) == sorted(share.tolist())
        assert max(loads(of_rank, lengths)) <= most


def test_without_a_limit_a_share_is_one_micro_batch():
    dealt = assign_to_ranks(np.arange(9), np.full(9, 5), 2)
    assert [[len(part) for part in of_rank] for of_rank in dealt] == [[5], [4]]


def test_a_row_that_fits_no_micro_batch_is_named():
    with pytest.raises(ValueError, match=r"train.micro_batch_tokens 7 .*longest sequence \(8 tokens\)"):
        micro_batches([0, 1], [3, 8], 7)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(1, 4))
def test_the_benchmark_s_bound_is_below_every_way_to_deal_rows_out(lengths, ranks):
    """And not far below the best (Dell'Amico and Martello 1995: 2/3 at worst)."""
    file = Path(__file__).parents[3] / "benchmarks" / "bench_plan.py"
    bound = runpy.run_path(str(file))["least_load"](np.array(lengths), ranks)
    ways = itertools.product(range(ranks), repeat=len(lengths))
    best = min(np.bincount(way, weights=lengths, minlength=ranks).max() for way in ways)
    assert 2 / 3 * best <= bound <= best + 1e-9
