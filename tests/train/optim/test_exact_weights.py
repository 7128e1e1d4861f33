"""A stage in bf16 begins with all bits of the weights of the one before."""

import pytest
import ranks
import torch

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.model.packed_lm import build_model, training_model
from rasterloom.train.optim.deepspeed_engine import full_weights, set_up_deepspeed, start_deepspeed
from rasterloom.train.optim.exact_weights import exact_weights, restore_exact

STILL = 1e-60  # a learning rate that moves no weight


@pytest.mark.parametrize(("world", "zero"), [(2, 2), (3, 1), (3, 3)])
def test_what_a_stage_hands_on_is_not_rounded(world, zero, new_job):
    stage = Stage(target=64, steps=1, lr=STILL, warmup_steps=0, batch_tokens=300)
    deepspeed = DeepSpeed(zero=zero, bf16=True)
    job = new_job(stage, Train(stages=(stage,), deepspeed=deepspeed, heldout=0.0))
    assert ranks.train(job, world) == "done"
    before, after = (build_model(place, job.profile) for place in (job.init, str(job.model_dir)))
    for name, weight in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight), name
    assert any((p != p.bfloat16().float()).any() for p in before.parameters())


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_adapters_and_the_vocabulary_that_is_trained_keep_their_bits(zero, profile, one_rank):
    """Under ZeRO 3 new adapters are rounded, of which no earlier stage knows anything."""
    lora = Lora(rank=4, vocabulary=True)
    train = Train(
        stages=(Stage(target=64, steps=1),), deepspeed=DeepSpeed(zero=zero, bf16=True), model=Model(lora=lora)
    )
    plain = build_model("tiny", profile, seed=train.seed)
    set_up_deepspeed(use_gpu=False)
    model = training_model("tiny", profile, train).train()
    exact = exact_weights(model, "tiny", profile, train)
    drawn = {name: p.detach().clone() for name, p in model.lm.named_parameters() if ".lora_A" in name}
    engine = start_deepspeed(model, train, use_gpu=False)
    restore_exact(engine, exact)
    found = full_weights(engine, keep=True)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(found[name], plain.state_dict()[name])
    if zero < 3:
        assert all(torch.equal(found[name], weight) for name, weight in drawn.items())
    engine.destroy()


def test_in_float32_nothing_is_kept(profile):
    train = Train(stages=(Stage(target=64, steps=1),))
    assert list(exact_weights(training_model("tiny", profile, train), "tiny", profile, train)) == []
