import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rasterloom.train.data.batching import balance, plan_batches
from rasterloom.train.data.stage_plan import BatchSize, Mixture, StageLength, stage_plan


def planned(
    lengths,
    *,
    batch_tokens,
    rows_multiple=1,
    parts=None,
    weights=None,
    epochs=None,
    steps=None,
    tokens=None,
    **options,
):
    """A plan, from the fields of its length, its batches and its mixture."""
    mixture = None if parts is None else Mixture(parts, weights)
    batch = BatchSize(batch_tokens, rows_multiple)
    return stage_plan(lengths, StageLength(epochs, steps, tokens), batch=batch, mixture=mixture, **options)


@settings(max_examples=30)
@given(st.integers(1, 60), st.floats(0.1, 3.5), st.integers(0, 40))
def test_a_stage_goes_on_from_any_step(rows, epochs, start):
    lengths = np.arange(rows) % 7 + 1
    plan = planned(lengths, seed=3, batch_tokens=20, epochs=epochs)
    whole = list(plan.batches())
    assert [batch.step for batch in whole] == list(range(plan.steps))
    for one, other in zip(whole[start:], plan.batches(start), strict=True):
        assert (one.step, one.epoch, one.rows.tolist()) == (other.step, other.epoch, other.rows.tolist())
        assert one.passes.tolist() == other.passes.tolist()


def test_a_stage_of_whole_epochs_is_their_batches():
    plan = planned(np.full(30, 10), seed=0, batch_tokens=100, epochs=2)
    assert plan.steps == 6
    for epoch in (0, 1):
        rows = np.concatenate([batch.rows for batch in plan.batches() if batch.epoch == epoch])
        assert sorted(rows.tolist()) == list(range(30))


def test_half_an_epoch_and_a_number_of_steps():
    lengths = np.full(30, 10)
    assert planned(lengths, seed=0, batch_tokens=100, epochs=0.5).steps == 2
    plan = planned(lengths, seed=0, batch_tokens=100, steps=7)
    assert [batch.epoch for batch in plan.batches()] == [0, 0, 0, 1, 1, 1, 2]


def test_a_stage_needs_rows_and_one_length():
    with pytest.raises(ValueError, match="no rows"):
        planned([], seed=0, batch_tokens=10, steps=1)
    for both in ({}, {"epochs": 1.0, "steps": 1}):
        with pytest.raises(ValueError, match="one of epochs, steps and tokens"):
            planned([1], seed=0, batch_tokens=10, **both)


def test_a_plain_stage_is_just_plan_batches():
    lengths = np.arange(50) % 7 + 1
    plan = planned(lengths, seed=2, batch_tokens=20, epochs=2)
    for epoch in (0, 1):
        ours = [batch.rows.tolist() for batch in plan.batches() if batch.epoch == epoch]
        assert ours == [b.tolist() for b in plan_batches(lengths, seed=2, epoch=epoch, batch_tokens=20)]


@given(st.integers(1, 12), st.booleans(), st.integers(0, 20))
def test_rows_come_in_multiples_of_mixtures_too(multiple, mixed, start):
    lengths = np.arange(60) % 5 + 8
    parts = [np.arange(40), np.arange(40, 60)] if mixed else None
    plan = planned(
        lengths,
        seed=1,
        batch_tokens=150,
        rows_multiple=multiple,
        epochs=3,
        parts=parts,
        weights=[1, 2] if mixed else None,
    )
    batches = list(plan.batches())
    assert not any(len(batch.rows) % multiple for batch in batches)
    again = [batch.rows.tolist() for batch in plan.batches(start)]
    assert again == [batch.rows.tolist() for batch in batches[start:]]


def test_a_multiple_that_an_epoch_has_too_few_rows_for_is_refused():
    planned(np.full(4, 5), seed=0, batch_tokens=10, rows_multiple=4, steps=1)
    with pytest.raises(ValueError, match=r"rows_multiple 5 is more than the rows of an epoch \(4\)"):
        planned(np.full(4, 5), seed=0, batch_tokens=10, rows_multiple=5, steps=1)


@given(st.integers(1, 3000), st.integers(0, 3))
def test_a_stage_of_so_many_tokens_ends_with_the_batch_that_reaches_them(tokens, seed):
    lengths = np.arange(40) % 9 + 1
    plan = planned(lengths, seed=seed, batch_tokens=25, tokens=tokens)
    totals = [int(lengths[batch.rows].sum()) for batch in plan.batches()]
    assert len(totals) == plan.steps
    assert sum(totals) >= tokens > sum(totals[:-1])


mixtures = st.lists(
    st.tuples(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.floats(0.1, 10)),
    min_size=1,
    max_size=4,
)


def mixed(mixture, **options):
    """Plan a mixture of (lengths, weight); give the plan and the part of each row."""
    lengths = [n for part, _ in mixture for n in part]
    part_of = np.repeat(np.arange(len(mixture)), [len(part) for part, _ in mixture])
    parts = [np.flatnonzero(part_of == number) for number in range(len(mixture))]
    weights = [weight for _, weight in mixture]
    plan = planned(lengths, seed=1, batch_tokens=60, parts=parts, weights=weights, **options)
    return plan, part_of


@settings(max_examples=60)
@given(mixtures, st.integers(1, 4))
@example([([3], 5.546875)], 1)  # its share of an epoch is 0.999... rows
def test_parts_have_their_share_and_no_row_comes_oftener_than_it_must(mixture, epochs):
    plan, part_of = mixed(mixture, epochs=epochs)
    came = np.bincount(np.concatenate([b.rows for b in plan.batches()]), minlength=len(part_of))
    whole = sum(sum(part) for part, _ in mixture)
    for number, (part, weight) in enumerate(mixture):
        share = weight / sum(w for _, w in mixture)
        passes = epochs * share * whole / sum(part)
        of_part = came[part_of == number]
        assert of_part.max() <= math.ceil(passes + 1e-6)
        assert of_part.min() >= math.floor(passes - 0.5 / len(part) - 1e-6)
        tokens = int((of_part * np.array(part)).sum())
        # No more than the rows of one pass can differ from their mean, and half a row.
        assert abs(tokens - share * whole * epochs) <= sum(abs(np.array(part) - np.mean(part))) + max(part)


def test_shares_hold_closely_in_a_mixture_of_many_rows(rng):
    big, small = rng.integers(900, 1100, 20_000), rng.integers(2000, 2600, 500)
    lengths = np.concatenate([big, small])
    parts = [np.arange(20_000), np.arange(20_000, 20_500)]
    plan = planned(lengths, seed=0, batch_tokens=300_000, tokens=9_000_000, parts=parts, weights=[7.0, 3.0])
    rows = np.concatenate([batch.rows for batch in plan.batches()])
    small_share = lengths[rows[rows >= 20_000]].sum() / lengths[rows].sum()
    assert small_share == pytest.approx(0.3, abs=0.01)
    of_batches = [lengths[b.rows[b.rows >= 20_000]].sum() / lengths[b.rows].sum() for b in plan.batches()]
    assert min(of_batches) > 0.15 and max(of_batches) < 0.45


@settings(max_examples=30)
@given(mixtures, st.integers(0, 30))
def test_a_mixture_goes_on_from_any_step(mixture, start):
    plan, _ = mixed(mixture, steps=30)
    whole = list(plan.batches())
    for one, other in zip(whole[start:], plan.batches(start), strict=True):
        assert (one.step, one.epoch, one.rows.tolist()) == (other.step, other.epoch, other.rows.tolist())
        assert one.passes.tolist() == other.passes.tolist()


@settings(max_examples=30)
@given(mixtures)
def test_a_row_comes_once_in_each_pass_over_its_part(mixture):
    """Passes are counted through the stage, however small a part and however often it comes."""
    plan, parts = mixed(mixture, steps=30)
    came = [pair for b in plan.batches() for pair in zip(b.rows.tolist(), b.passes.tolist(), strict=True)]
    assert len(set(came)) == len(came)
    for rows in plan.parts:
        passes = [a_pass for row, a_pass in came if row in set(rows.tolist())]
        last = max(passes, default=0)
        assert all(passes.count(a_pass) == len(rows) for a_pass in range(last - 1)), parts


@given(mixtures, st.integers(1, 6))
def test_ranks_share_the_same_batches_at_any_number(mixture, world):
    plan, _ = mixed(mixture, steps=5)
    for batch in plan.batches():
        dealt = np.concatenate(balance(batch.rows, plan.lengths, world))
        assert sorted(dealt.tolist()) == sorted(batch.rows.tolist())  # rows that come twice too


def test_parts_without_weights_come_once_an_epoch():
    lengths = np.arange(30) % 5 + 1
    plan = planned(lengths, seed=0, batch_tokens=20, epochs=1, parts=[range(10), range(20, 30)])
    rows = np.concatenate([batch.rows for batch in plan.batches()])
    assert sorted(rows.tolist()) == [*range(10), *range(20, 30)]


def test_an_empty_part_and_a_row_that_fits_no_batch_are_named():
    with pytest.raises(ValueError, match=r"no rows to train on in mixture\[1\]"):
        planned([3, 4], seed=0, batch_tokens=10, steps=1, parts=[[0, 1], []])
    with pytest.raises(ValueError, match=r"batch_tokens 10 .* longest sequence \(11 tokens\)"):
        planned([3, 11], seed=0, batch_tokens=10, steps=1)
    planned([3, 11], seed=0, batch_tokens=10, steps=1, parts=[[0]])  # a row of no part does not matter
