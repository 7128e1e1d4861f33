"""Rows drawn by sampling weight: each comes as often as its weight says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.train.data.row_weights import WeightedRows
from rasterloom.train.data.stage_plan import BatchSize, Mixture, StageLength, stage_plan


def weighted(weights, seed=0):
    rows = np.arange(len(weights)) * 3
    return WeightedRows(rows, np.asarray(weights, float), seed=seed, stage=0, part=0)


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=60), st.integers(0, 5), st.integers(1, 40))
def test_a_row_comes_as_often_as_its_weight_says(weights, seed, passes):
    rows = weighted(weights, seed)
    came = np.zeros(len(weights))
    occurrences = []
    for number in range(passes):
        drawn, times = rows.drawn(number)
        assert len(drawn) == len(weights)
        assert np.all(np.diff(drawn) >= 0)  # in the order of the table: groups are read in turn
        came += np.bincount(drawn // 3, minlength=len(weights))
        occurrences += list(zip(drawn.tolist(), times.tolist(), strict=True))
    share = np.asarray(weights) / np.mean(weights) * passes
    assert np.all(np.abs(came - share) < 3)
    assert len(set(occurrences)) == len(occurrences)


def test_equal_weights_are_none():
    lengths = np.arange(40) % 7 + 1
    plain, equal = (
        stage_plan(
            lengths,
            StageLength(epochs=3),
            seed=5,
            batch=BatchSize(20),
            mixture=Mixture([np.arange(25), np.arange(25, 40)], shares, of_rows),
        )
        for shares in ([1.0, 2.0],)
        for of_rows in (None, np.full(40, 2.5))
    )
    for one, other in zip(plain.batches(), equal.batches(), strict=True):
        assert one.rows.tolist() == other.rows.tolist()


def test_neighbours_in_the_table_do_not_take_turns():
    """Rows at even places are of one kind: half of each comes, in each pass."""
    rows = weighted([0.5] * 1000 + [1.5] * 1000)
    for number in range(4):
        drawn = rows.drawn(number)[0] // 3
        light = drawn[drawn < 1000]
        assert 150 < np.sum(light % 2 == 0) < 350  # of 500 drawn


@pytest.mark.parametrize("parts", [1, 2])
def test_a_stage_has_the_weights_shares_and_goes_on_from_any_step(parts):
    lengths = np.full(60, 10)
    weights = np.where(np.arange(60) < 30, 3.0, 1.0)
    halves = [np.arange(60)] if parts == 1 else [np.arange(0, 60, 2), np.arange(1, 60, 2)]
    plan = stage_plan(
        lengths,
        StageLength(epochs=4),
        seed=1,
        batch=BatchSize(50),
        mixture=Mixture(halves, [1.0] * parts if parts > 1 else None, weights),
    )
    batches = list(plan.batches())
    rows = np.concatenate([batch.rows for batch in batches])
    assert len(rows) == 240
    assert 170 <= np.sum(rows < 30) <= 190
    assert [b.rows.tolist() for b in plan.batches(7)] == [b.rows.tolist() for b in batches[7:]]


def test_parts_have_their_shares_of_tokens_whatever_their_rows_weigh():
    """Long rows that come often do not make a part larger than its share."""
    lengths = np.array([90] * 20 + [10] * 20 + [50] * 40)
    weights = np.array([5.0] * 20 + [1.0] * 20 + [1.0] * 40)
    plan = stage_plan(
        lengths,
        StageLength(epochs=6),
        seed=0,
        batch=BatchSize(400),
        mixture=Mixture([np.arange(40), np.arange(40, 80)], [1.0, 1.0], weights),
    )
    rows = np.concatenate([batch.rows for batch in plan.batches()])
    of_first = lengths[rows[rows < 40]].sum()
    assert abs(of_first / lengths[rows].sum() - 0.5) < 0.02
