"""Muon under ZeRO 1 and 2 beside Muon without ZeRO, on several ranks."""

from dataclasses import replace

import pytest
import ranks
import torch
from safetensors.torch import load_file

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.monitoring.metrics_log import read_metrics

STEPS = 6
ROUNDING = 3e-3  # of a loss: gradients that differ in their last bit are orthogonalized in bfloat16


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=STEPS, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(
        stages=(stage,),
        optimizer="muon",
        deepspeed=DeepSpeed(zero=0),
        heldout=0.2,
        cfg_drop=0.0,
        dropout=0.0,
        grad_clip=0.5,
        checkpoint_every=2,
    )
    return new_job(stage, train)


def changed(job, name, **changes):
    return replace(job, out_dir=f"{job.out_dir}-{name}", train=job.train.model_copy(update=changes))


def seen(job):
    records = read_metrics(job.metrics_file)
    return [r["loss"] for r in records], [r["grad_norm"] for r in records]


def assert_alike(found, expected, rel=ROUNDING):
    (losses, norms), (their_losses, their_norms) = seen(found), seen(expected)
    assert len(losses) == STEPS
    assert losses == pytest.approx(their_losses, rel=rel)
    assert norms == pytest.approx(their_norms, rel=20 * rel)
    assert min(their_norms) > found.train.grad_clip  # so that clipping is in it


@pytest.mark.parametrize(
    ("zero", "world", "micro_batch_tokens"), [(1, 2, None), (2, 2, 80), (2, 3, None), (1, 1, None)]
)
def test_losses_and_norms_are_those_without_zero(job, zero, world, micro_batch_tokens):
    """Matrices lie on borders between ranks; gradients are summed up before they are orthogonalized."""
    ranks.train(job, 1)
    found = changed(job, "zero", deepspeed=DeepSpeed(zero=zero), micro_batch_tokens=micro_batch_tokens)
    ranks.train(found, world)
    assert_alike(found, job)
    start, ours, theirs = (
        load_file(f"{folder}/model.safetensors") for folder in (job.init, found.model_dir, job.model_dir)
    )
    for name, tensor in theirs.items():
        moved = (tensor - start[name]).norm()
        assert moved > 0 and (ours[name] - tensor).norm() < 0.05 * moved, name


@pytest.mark.parametrize("zero", [1, 2])
def test_bf16_follows(job, zero):
    """Its momentum is in float32, also after a resume."""
    ranks.train(job, 1)
    half = changed(job, "half", deepspeed=DeepSpeed(zero=zero, bf16=True))
    assert ranks.train(half, 2, stop_at=3) == "stopped"
    assert ranks.train(half, 2) == "done"
    assert_alike(half, job, rel=0.03)


@pytest.mark.parametrize("zero", [1, 2])
def test_other_numbers_of_ranks_go_on_as_if_nothing_had_happened(job, zero):
    """With the momentum, and with AdamW's of the rest."""
    whole = changed(job, "whole", deepspeed=DeepSpeed(zero=zero))
    ranks.train(whole, 2)
    cut = changed(job, "cut", deepspeed=DeepSpeed(zero=zero))
    assert ranks.train(cut, 2, stop_at=2) == "stopped"
    assert ranks.train(cut, 3, stop_at=2) == "stopped"
    assert ranks.train(cut, 1) == "done"
    assert_alike(cut, whole)


def test_adapters_and_what_is_frozen(job):
    """A rank may have nothing of a matrix, and a group nothing to train."""
    lora = Model(lora=Lora(rank=2, alpha=6, vocabulary=True))
    alone, shared = changed(job, "alone", model=lora), changed(job, "shared", model=lora)
    shared = changed(shared, "", deepspeed=DeepSpeed(zero=2))
    stage = job.stage.model_copy(update={"freeze": ("norms", "embeddings")})
    alone, shared = (replace(one, stage=stage) for one in (alone, shared))
    ranks.train(alone, 1)
    ranks.train(shared, 3)
    assert seen(shared)[0] == pytest.approx(seen(alone)[0], rel=ROUNDING)
    ours, theirs = (load_file(one.model_dir / "model.safetensors") for one in (shared, alone))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0.05, atol=5e-3, msg=name)


@pytest.mark.parametrize(
    ("settings", "rel"),
    [
        ([{"zero": 0}, {"zero": 2}, {"zero": 0}], ROUNDING),
        ([{"zero": 1}, {"zero": 0}, {"zero": 1}], ROUNDING),
        ([{"zero": 1, "bf16": True}, {"zero": 2, "bf16": True}, {"zero": 1, "bf16": True}], 0.03),
    ],
)
def test_a_stage_goes_on_with_another_zero_stage(job, settings, rel):
    """With the momentum, which has another name and form there, and with AdamW's of the rest."""
    ranks.train(job, 1)
    for one, world, stop_at in zip(settings, (2, 1, 2), (2, 2, None), strict=True):
        cut = changed(job, "cut", deepspeed=DeepSpeed(**one))
        assert ranks.train(cut, world, stop_at=stop_at) == ("stopped" if stop_at else "done")
    assert_alike(cut, job, rel)
