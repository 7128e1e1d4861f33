import pytest
import torch

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.model.initialization import build_model, image_ids
from rasterloom.train.model.zero3_init import build_partitioned
from rasterloom.train.optim.deepspeed_engine import set_up_deepspeed


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("init", ["tiny", "checkpoint"])
def test_it_has_the_weights_that_the_whole_model_has(init, profile, small_checkpoint):
    import deepspeed

    init = small_checkpoint if init == "checkpoint" else init
    set_up_deepspeed(use_gpu=False)
    train = Train(stages=(Stage(target=64, steps=1),), deepspeed=DeepSpeed(zero=3), seed=3)
    dealt = build_partitioned(init, profile, train, zero_image_head="true")
    whole = build_model(init, profile, seed=3, zero_image_head="true")
    assert [name for name, _ in dealt.named_parameters()] == [name for name, _ in whole.named_parameters()]
    for name, parameter in dealt.named_parameters():
        assert parameter.numel() == 0
        with deepspeed.zero.GatheredParameters([parameter]):
            assert torch.equal(parameter.data, whole.get_parameter(name)), name
    assert (whole.lm_head.weight[image_ids(profile)] == 0).all()
    assert torch.equal(dealt.model.rotary_emb.inv_freq, whole.model.rotary_emb.inv_freq)
