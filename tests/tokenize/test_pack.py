import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.tokenize.pack import order_key, plan_files, shuffled

key_sets = st.lists(st.text(alphabet="0123456789abcdef", min_size=1, max_size=8), unique=True, max_size=40)


@given(key_sets, st.integers(0, 100), st.randoms())
def test_the_order_does_not_depend_on_the_order_of_input(keys, seed, rng):
    ordered = [keys[row] for row in shuffled(keys, seed)]
    assert sorted(ordered) == sorted(keys)
    rng.shuffle(keys)
    assert [keys[row] for row in shuffled(keys, seed)] == ordered


@given(key_sets.filter(len), st.integers(0, 100))
def test_a_row_taken_away_leaves_the_others_in_order(keys, seed):
    ordered = [keys[row] for row in shuffled(keys, seed)]
    rest = keys[1:]
    assert [rest[row] for row in shuffled(rest, seed)] == [key for key in ordered if key != keys[0]]


def test_seeds_give_different_orders():
    keys = [f"{number:032x}" for number in range(200)]
    first, second = shuffled(keys, 0), shuffled(keys, 1)
    assert first.tolist() != second.tolist() != sorted(second.tolist())
    assert order_key(0, "a") != order_key(1, "a")


@given(st.integers(0, 5000), st.integers(1, 6000))
def test_files_are_few_and_even(rows, rows_per_file):
    files = plan_files(rows, rows_per_file)
    assert sum(files) == rows
    assert len(files) == -(-rows // rows_per_file)
    if files:
        assert max(files) <= rows_per_file
        assert max(files) - min(files) <= 1
        assert min(files) >= 1


def test_files_of_nothing_are_refused():
    assert plan_files(0, 10) == []
    for rows, per_file in ((-1, 10), (5, 0)):
        with pytest.raises(ValueError, match="cannot put"):
            plan_files(rows, per_file)
