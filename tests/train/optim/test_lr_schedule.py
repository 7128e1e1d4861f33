import pytest

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


def test_the_warm_up_is_a_share_of_the_steps_unless_it_is_told_in_steps():
    stage = Stage(target=64, steps=1000, lr=1.0)
    assert warmup_steps(1000, stage) == 5  # 0.01 epochs of 2, as in the reference
    assert [learning_rate(i, 1000, stage) for i in (0, 3, 4, 999)] == pytest.approx([0.2, 0.8, 1.0, 1.0])
    assert warmup_steps(30, stage) == 1
    assert warmup_steps(30, stage.model_copy(update={"warmup_share": 0.1})) == 3
    assert warmup_steps(30, stage.model_copy(update={"warmup_steps": 7})) == 7
