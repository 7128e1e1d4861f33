import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.tokenize.file_layout import file_starts, order_of, plan_files

key_sets = st.lists(st.text(alphabet="0123456789abcdef", min_size=1, max_size=8), unique=True, max_size=40)


@given(key_sets, st.integers(0, 100), st.randoms())
def test_where_a_key_stands_does_not_depend_on_the_others(keys, seed, rng):
    order = dict(zip(keys, order_of(keys, seed).tolist(), strict=True))
    rng.shuffle(keys)
    some = keys[: len(keys) // 2]
    assert order_of(some, seed).tolist() == [order[key] for key in some]


def test_the_order_is_pinned():
    """A change of it reshuffles every corpus."""
    assert order_of(["a", "b"], 0).tolist() == [5596526862903424701, 7483019637803231158]
    assert order_of([], 0).shape == (0,)


def test_seeds_give_different_orders():
    keys = [f"{number:032x}" for number in range(200)]
    first, second = (np.argsort(order_of(keys, seed)).tolist() for seed in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(200)) != first


def test_the_order_is_even():
    order = order_of([str(number) for number in range(20_000)], 0) >> np.uint64(60)
    assert np.bincount(order.astype(int), minlength=16).min() > 1100  # of 1250


@given(st.integers(0, 5000), st.integers(1, 6000))
def test_files_are_few_and_even(rows, rows_per_file):
    files = plan_files(rows, rows_per_file)
    assert sum(files) == rows
    assert len(files) == -(-rows // rows_per_file)
    if files:
        assert max(files) <= rows_per_file
        assert max(files) - min(files) <= 1
        assert min(files) >= 1


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, min_size=1, max_size=60), st.integers(1, 70))
def test_files_are_ranges_of_the_order(order, rows_per_file):
    starts = file_starts(np.array(order, np.uint64), rows_per_file)
    assert starts[0] == min(order)
    files = [
        [row for row in order if start <= row < end]
        for start, end in zip(starts, [*starts[1:], 2**64], strict=True)
    ]
    assert [len(file) for file in files] == plan_files(len(order), rows_per_file)


def test_files_of_nothing_are_refused():
    assert plan_files(0, 10) == []
    for rows, per_file in ((-1, 10), (5, 0)):
        with pytest.raises(ValueError, match="cannot put"):
            plan_files(rows, per_file)
