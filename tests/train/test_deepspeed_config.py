import json

import pytest

from rasterloom.errors import RecipeError
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.deepspeed_config import deepspeed_config


def train(extra=None, **changes):
    stage = Stage(target=64, steps=8)
    return Train(stages=(stage,), deepspeed=DeepSpeed(extra=extra or {}, **changes))


def test_what_the_user_adds_is_merged_into_what_the_recipe_says():
    extra = {
        "wall_clock_breakdown": True,
        "train_batch_size": "auto",
        "bf16": {"enabled": "auto", "immediate_grad_update": True},
        "zero_optimization": {"stage": 3, "overlap_comm": False, "reduce_bucket_size": 1000},
        "optimizer": {"params": {"betas": [0.9, 0.99], "lr": "auto"}},
        "fp16": {"enabled": False},
    }
    plain, found = deepspeed_config(train(zero=3)), deepspeed_config(train(extra, zero=3))
    assert found["wall_clock_breakdown"] is True
    assert "train_batch_size" not in found
    assert found["bf16"] == {"enabled": False, "immediate_grad_update": True}
    zero = {"overlap_comm": False, "reduce_bucket_size": 1000}
    assert found["zero_optimization"] == plain["zero_optimization"] | zero
    assert found["optimizer"]["params"] == plain["optimizer"]["params"] | {"betas": [0.9, 0.99]}
    assert found["gradient_clipping"] == plain["gradient_clipping"] == 4.0


def test_auto_leaves_a_value_to_the_recipe_at_any_depth():
    """transformers' own example of a file for ZeRO 3."""
    extra = {
        "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
        "bf16": {"enabled": "auto"},
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
        },
        "scheduler": {
            "type": "WarmupLR",
            "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"},
        },
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "none", "pin_memory": True},
            "overlap_comm": True,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
        },
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
    }
    plain, found = deepspeed_config(train(zero=3)), deepspeed_config(train(extra, zero=3))
    given = {"offload_optimizer": {"device": "none", "pin_memory": True}, "overlap_comm": True}
    fp16 = {"loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16}
    zero = plain["zero_optimization"] | given
    assert found == plain | {"zero_optimization": zero, "fp16": fp16}
    with pytest.raises(ValueError, match=r"scheduler cannot be .*warmup_steps"):
        scheduler = {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_num_steps": 5}}
        deepspeed_config(train({"scheduler": scheduler}))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"train_batch_size": 64}, "train_batch_size cannot be 64: it is set by the stage's batch_tokens"),
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps cannot be 8: .*micro_batch_tokens"),
        ({"optimizer": {"params": {"lr": 1e-4}}}, "optimizer.params.lr cannot be 0.0001: .*the stage's lr"),
        ({"optimizer": {"type": "Lamb"}}, "optimizer.type cannot be 'Lamb': it is set by train.optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler cannot be .*warmup_steps"),
        ({"zero_optimization": {"stage": 1}}, "zero_optimization.stage cannot be 1: .*train.deepspeed.zero"),
        ({"fp16": {"enabled": True}}, "fp16 cannot be .*float16 is not supported"),
        ({"gradient_clipping": 2.0}, "gradient_clipping cannot be 2.0: it is set by train.grad_clip"),
    ],
)
def test_what_contradicts_the_recipe_is_refused(extra, message):
    with pytest.raises(ValueError, match=rf"train.deepspeed: DeepSpeed's {message}"):
        deepspeed_config(train(extra))


def test_a_file_in_deepspeeds_own_json(tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"overlap_comm": False}}))
    recipe = tmp_path / "recipe.yaml"
    start = "corpus: demo\nsources: [{path: pairs.parquet}]\n"
    stages = "stages: [{target: 512, steps: 1}]"
    recipe.write_text(start + f"train: {{deepspeed: {{config: ds.json}}, {stages}}}")
    found = load_recipe(recipe).train.deepspeed
    assert found.extra == {"zero_optimization": {"overlap_comm": False}}
    assert found.config is None  # its content is what counts
    for given, words in (
        ("{config: none.json}", "cannot read .*none.json as JSON"),
        ("{config: ds.json, extra: {a: 1}}", "give either config or extra"),
        ("{zero: 0, offload: cpu}", "offload takes zero 1, 2 or 3"),
        ("{zero: 0, bf16: true}", "bf16 takes zero 1, 2 or 3"),
    ):
        recipe.write_text(start + f"train: {{deepspeed: {given}, {stages}}}")
        with pytest.raises(RecipeError, match=words):
            load_recipe(recipe)


@pytest.mark.parametrize("name", ["round_robin_gradients", "elastic_checkpoint"])
def test_what_deepspeed_does_wrong_is_refused(name):
    """Its map of round-robin partitions is that of partitions in order; elastic checkpoints do not load."""
    with pytest.raises(ValueError, match=rf"leave out DeepSpeed's zero_optimization\.{name}: "):
        deepspeed_config(train({"zero_optimization": {name: True}}, zero=2))
    for left in (False, "auto"):
        deepspeed_config(train({"zero_optimization": {name: left}}, zero=2))


@pytest.mark.parametrize(
    ("name", "wrong", "default"),
    [("gradient_predivide_factor", 2.0, 1.0), ("prescale_gradients", True, False)],
)
def test_gradients_scaled_before_they_are_summed_are_refused(name, wrong, default):
    """ZeRO ends with them in an AssertionError, after the workers have started."""
    with pytest.raises(ValueError, match=rf"leave out DeepSpeed's {name}: "):
        deepspeed_config(train({name: wrong}, zero=2))
    for left in (default, "auto"):
        deepspeed_config(train({name: left}, zero=2))
