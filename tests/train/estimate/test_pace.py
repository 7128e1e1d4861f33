import pytest

from rasterloom.recipe.model import Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.estimate.pace import paces


def train_with(remat="none", **deepspeed):
    given = DeepSpeed(**deepspeed)
    model = Model(remat=remat, kernels="eager")
    return Train(stages=(Stage(target=512, steps=1),), deepspeed=given, model=model)


def test_hours_follow_the_gpu_and_what_is_computed_again():
    none, some, full = (paces(train_with(remat)) for remat in ("none", "selective", "full"))
    assert none["A100"].hours(312e12 * 0.59 * 3600) == pytest.approx(1)
    assert none["H200"].peak == none["H100"].peak == 989e12
    for device, pace in none.items():
        assert full[device].mfu < some[device].mfu < pace.mfu
        assert pace.source == "operators counted, not measured"


@pytest.mark.parametrize("model", [Model(), Model(compile=True), Model(remat="full")])
def test_fused_operators_are_counted_apart(model):
    eager = paces(train_with(model.recomputed))
    fused = paces(train_with().model_copy(update={"model": model}))
    for device, pace in fused.items():
        assert 1.15 < pace.mfu / eager[device].mfu < 1.35
        assert pace.source == "operators counted with fused kernels, not measured"


@pytest.mark.parametrize(("deepspeed", "peak"), [
    ({}, 312e12), ({"bf16": True}, 312e12), ({"bf16": "auto"}, 312e12),
    ({"bf16": False}, 19.5e12), ({"zero": 0}, 19.5e12),
])  # fmt: skip
def test_prices_follow_the_precision(deepspeed, peak):
    """A stage in float32, without TF32, has a sixteenth of the peak."""
    assert paces(train_with(**deepspeed))["A100"].peak == peak


def test_a_share_that_is_given_counts_for_every_gpu():
    found = paces(train_with("full"), 0.3)
    assert {pace.mfu for pace in found.values()} == {0.3}
    assert {pace.source for pace in found.values()} == {"given"}
