import itertools
import math

import pytest
import torch
from transformers import get_wsd_schedule

from rasterloom.recipe.train import Stage
from rasterloom.train.optim.lr_schedule import learning_rate, warmup_steps


def test_warm_up_then_constant():
    stage = Stage(target=64, steps=10, lr=1.0, warmup_steps=4)
    assert [learning_rate(i, 10, stage) for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_half_cosine_ends_at_min_lr():
    stage = Stage(target=64, steps=12, lr=1.0, min_lr=0.2, warmup_steps=2)
    rates = [learning_rate(i, 12, stage) for i in range(12)]
    assert rates[1] == 1.0
    assert rates[6] == pytest.approx(0.6)  # halfway down
    assert rates[-1] == pytest.approx(0.2)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_no_warm_up():
    assert learning_rate(0, 5, Stage(target=64, steps=5, lr=0.5, warmup_steps=0)) == 0.5


def test_a_line_ends_at_min_lr_and_without_one_at_nothing():
    stage = Stage(target=64, steps=12, lr=1.0, min_lr=0.2, warmup_steps=2, schedule="linear")
    rates = [learning_rate(i, 12, stage) for i in range(12)]
    assert rates[1] == 1.0
    assert rates[6] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.2)
    bare = Stage(target=64, steps=12, lr=1.0, warmup_steps=0, schedule="linear")
    assert learning_rate(11, 12, bare) == 0
    assert learning_rate(2, 12, bare) == pytest.approx(0.75)


def test_the_warm_up_is_a_share_of_the_steps_unless_it_is_given_in_steps():
    stage = Stage(target=64, steps=1000, lr=1.0)
    assert warmup_steps(1000, stage) == 5  # 0.01 epochs of 2, as in the reference
    assert [learning_rate(i, 1000, stage) for i in (0, 3, 4, 999)] == pytest.approx([0.2, 0.8, 1.0, 1.0])
    assert warmup_steps(30, stage) == 1
    assert warmup_steps(30, stage.model_copy(update={"warmup_share": 0.1})) == 3
    assert warmup_steps(30, stage.model_copy(update={"warmup_steps": 7})) == 7


@pytest.mark.parametrize("shape", ["linear", "1-sqrt"])
def test_wsd_is_warm_up_then_constant_then_a_decay_to_min_lr(shape):
    stage = Stage(target=64, steps=20, lr=2.0, warmup_steps=4, schedule="wsd", min_lr=0.5, decay=shape)
    rates = [learning_rate(i, 20, stage) for i in range(20)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:16] == [2.0] * 12
    left = {"linear": lambda x: 1 - x, "1-sqrt": lambda x: 1 - math.sqrt(x)}[shape]
    assert rates[16:] == pytest.approx([0.5 + 1.5 * left(x) for x in (0.25, 0.5, 0.75, 1.0)])


@pytest.mark.parametrize(
    ("shape", "warmup", "decay", "min_lr", "steps"),
    [
        (*case, steps)
        for steps in (1, 7, 30)
        for case in itertools.product(("linear", "1-sqrt"), (0, 3), (1, 10), (None, 0.1))
        if case[1] + case[2] <= steps
    ],
)
def test_wsd_is_that_of_transformers(shape, warmup, decay, min_lr, steps):
    """transformers counts the warm-up from 0, we count from 1: a first step at 0 would be wasted."""
    stage = Stage(
        target=64,
        steps=steps,
        lr=1.0,
        warmup_steps=warmup,
        schedule="wsd",
        decay_steps=decay,
        decay=shape,
        min_lr=min_lr,
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = get_wsd_schedule(
        optimizer,
        num_warmup_steps=warmup,
        num_decay_steps=decay,
        num_training_steps=steps,
        decay_type=shape,
        min_lr_ratio=min_lr or 0.0,
    )
    theirs = []
    for _ in range(steps + 1):
        theirs.append(peer.get_last_lr()[0])
        optimizer.step()
        peer.step()
    ours = [learning_rate(i, steps, stage) for i in range(steps)]
    assert ours[warmup:] == pytest.approx(theirs[warmup + 1 :])
    assert ours[:warmup] == pytest.approx([(i + 1) / warmup for i in range(warmup)])


def test_the_decay_of_wsd_is_a_share_of_the_steps_unless_it_is_given_in_steps():
    stage = Stage(target=64, steps=1000, lr=1.0, schedule="wsd", warmup_steps=0)
    assert [learning_rate(i, 1000, stage) for i in (0, 799)] == [1.0, 1.0]
    assert learning_rate(800, 1000, stage) == pytest.approx(1 - math.sqrt(1 / 200))
    told = stage.model_copy(update={"decay_steps": 30})
    assert learning_rate(969, 1000, told) == 1.0
    assert learning_rate(970, 1000, told) == pytest.approx(1 - math.sqrt(1 / 30))


def test_a_decay_longer_than_what_the_warm_up_leaves_begins_after_it():
    stage = Stage(target=64, steps=10, lr=1.0, schedule="wsd", warmup_steps=6, decay_steps=30, decay="linear")
    rates = [learning_rate(i, 10, stage) for i in range(10)]
    assert rates[5] == 1.0
    assert rates[6:] == pytest.approx([0.75, 0.5, 0.25, 0.0])
