"""Our steps beside a plain loop in float32: one process, no DeepSpeed, one document after the other."""

from dataclasses import replace

import pytest
import ranks
import torch
from plain_loop import plain_loop

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.monitoring.metrics_log import read_metrics

STEPS = 6


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=STEPS, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.2, cfg_drop=0.0, dropout=0.0, z_loss=1e-3, grad_clip=0.5, seed=3)
    return new_job(stage, train, rows=50)


@pytest.mark.parametrize(
    ("world", "zero", "micro_batch_tokens"),
    [(1, 0, None), (2, 0, 80), (3, 1, None), (1, 2, 80), (3, 2, 80), (2, 3, None), (3, 3, 80)],
)
def test_steps_are_those_of_a_plain_loop(job, world, zero, micro_batch_tokens):
    changes = {"deepspeed": DeepSpeed(zero=zero), "micro_batch_tokens": micro_batch_tokens}
    ours = replace(job, train=job.train.model_copy(update=changes))
    assert ranks.train(ours, world) == "done"
    losses, grad_norms, weights = plain_loop(job)
    records = read_metrics(job.metrics_file)
    assert [r["loss"] for r in records] == pytest.approx(losses, abs=2e-5)
    assert [r["grad_norm"] for r in records] == pytest.approx(grad_norms, rel=1e-4)
    assert min(grad_norms) > job.train.grad_clip  # so that clipping is in it
    found = build_model(str(job.model_dir), job.profile).state_dict()
    for name, expected in weights.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    ("zero", "more", "tolerance"),
    [
        (1, {"bf16": True}, 0.02),
        (3, {"bf16": True}, 0.02),
        (2, {"offload": "cpu"}, 1e-5),
        (3, {"offload": "cpu"}, 1e-5),
    ],
)
def test_bf16_and_offload_follow(job, zero, more, tolerance):
    changes = {"deepspeed": DeepSpeed(zero=zero, **more), "micro_batch_tokens": 80}
    ranks.train(replace(job, train=job.train.model_copy(update=changes)), 2)
    losses, *_ = plain_loop(job)
    assert [r["loss"] for r in read_metrics(job.metrics_file)] == pytest.approx(losses, rel=tolerance)
