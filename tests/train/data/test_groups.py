import numpy as np
import pytest
import torch

from rasterloom.train.data.collate import IGNORE, pack
from rasterloom.train.data.groups import Groups
from rasterloom.train.data.token_dataset import TokenSample
from rasterloom.train.monitoring.tally import Tally

GROUPS = Groups(("edit", "t2i"), ("32x32", "64x64", "text"))


def batch(rng, cells):
    """Sequences of random length, some part of each in the loss."""
    samples = []
    for _ in cells:
        n = int(rng.integers(4, 12))
        samples.append(
            TokenSample(rng.integers(0, 9, n).astype(np.int32), np.array([[int(rng.integers(1, 4)), n]], np.int32))
        )
    return samples, pack(samples, cells)


def test_losses_by_task_and_bucket_are_the_means_of_their_tokens(rng):
    tally = Tally(GROUPS, torch.device("cpu"))
    losses: dict[int, list[float]] = {cell: [] for cell in range(GROUPS.cells)}
    rows, squares = np.zeros(GROUPS.cells, int), 0
    for cells in ([1, 4, 5], [4, 4], []):
        samples, packed = batch(rng, cells)
        nll = torch.from_numpy(rng.random(int((packed.targets != IGNORE).sum()))).float()
        tally.add(nll, packed)
        parts = iter(nll.tolist())
        for number in packed.order:  # longest first, as they are packed
            ((start, end),) = samples[number].loss_spans
            losses[cells[number]] += [next(parts) for _ in range(end - start)]
            rows[cells[number]] += 1
            squares += len(samples[number].input_ids) ** 2
    tally.wait(0.5)
    sums = tally.read()
    assert sums.squares == squares and sums.waited == 0.5
    found = GROUPS.losses(sums.by_cell)
    everything = [loss for of_cell in losses.values() for loss in of_cell]
    assert found["all"] == {"loss": pytest.approx(np.mean(everything)), "tokens": len(everything), "rows": 5}
    for kind, names, part in (
        ("tasks", GROUPS.tasks, lambda c: c // 3),
        ("buckets", GROUPS.buckets, lambda c: c % 3),
    ):
        for number, name in enumerate(names):
            mine = [loss for cell, of_cell in losses.items() if part(cell) == number for loss in of_cell]
            count = sum(rows[cell] for cell in losses if part(cell) == number)
            if count:
                assert found[kind][name] == {
                    "loss": pytest.approx(np.mean(mine)),
                    "tokens": len(mine),
                    "rows": count,
                }
            else:
                assert name not in found[kind]
    assert "32x32" not in found["buckets"]
    assert tally.read().by_cell.sum() == 0  # begun anew


def test_no_rows_have_no_loss():
    assert GROUPS.losses(np.zeros((3, GROUPS.cells))) == {
        "all": {"loss": None, "tokens": 0, "rows": 0},
        "tasks": {},
        "buckets": {},
    }


def test_a_loss_that_is_not_finite_is_none_and_spares_the_others():
    sums = np.zeros((3, GROUPS.cells))
    sums[:, 1], sums[:, 5] = (np.nan, 3, 1), (4.0, 2, 1)  # edit at 64x64, t2i as text
    found = GROUPS.losses(sums)
    assert found["all"] == {"loss": None, "tokens": 5, "rows": 2}
    assert found["tasks"]["edit"]["loss"] is None and found["tasks"]["t2i"]["loss"] == 2.0
