"""Bytes between ranks, counted as GPUs send them, over gloo."""

from dataclasses import replace

import pytest
import ranks
import torch
from plain_loop import plain_loop

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.deepspeed_config import deepspeed_config
from rasterloom.train.estimate.wire import bytes_sent
from rasterloom.train.model.packed_lm import training_model
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.train.optim import deepspeed_engine
from rasterloom.train.optim.deepspeed_engine import backward, optimizer_step, start_deepspeed

ON_GPUS = {
    "communication_data_type": "bf16",
    "zero_optimization": {"overlap_comm": True, "use_multi_rank_bucket_allreduce": False},
}


def train_with(zero, **options):
    stage = Stage(target=64, steps=1)
    return Train(stages=(stage,), deepspeed=DeepSpeed(zero=zero, bf16=zero > 0, **options), dropout=0.0)


@pytest.mark.parametrize(
    ("zero", "micro_batches", "collective", "times"), [(1, 3, "all_reduce", 1), (2, 3, "reduce", 3)]
)
def test_gradients_go_in_bf16_and_zero_2s_to_the_rank_that_keeps_them(
    zero, micro_batches, collective, times, profile, one_rank, monkeypatch
):
    """After each micro-batch, or once a step to all ranks, which takes twice the bytes."""
    from deepspeed import comm

    def on_gpus(train, *, bucket_elements, use_gpu):
        return deepspeed_config(train, bucket_elements=bucket_elements, use_gpu=True)

    monkeypatch.setattr(deepspeed_engine, "deepspeed_config", on_gpus)
    train, sent = train_with(zero), []
    engine = start_deepspeed(training_model("tiny", profile, train).train(), train, use_gpu=False)

    def noting(original, kind):
        def note(tensor, *args, **kwargs):
            sent.append((kind, tensor.dtype, tensor.numel()))
            return original(tensor, *args, **kwargs)

        return note

    for kind in ("reduce", "all_reduce"):
        monkeypatch.setattr(comm, kind, noting(getattr(comm, kind), kind))
    ids = torch.arange(40) % profile.vocab_size
    for number in range(micro_batches):
        backward(engine, engine(ids, ids.roll(-1), [20, 20]).total, last=number + 1 == micro_batches)
    optimizer_step(engine, 1e-4, lambda norm: True)
    params = sum(p.numel() for p in engine.module.parameters())
    engine.destroy()
    large = [(kind, dtype) for kind, dtype, size in sent if size > 100]
    assert set(large) == {(collective, torch.bfloat16)}
    assert sum(size for kind, dtype, size in sent if dtype == torch.bfloat16) == times * params
    told = bytes_sent(train, params, params, 2, micro_batches)
    assert told == (2 * params * (times if collective == "reduce" else 2 * times) + 2 * params) / 2


def test_float32_is_sent_where_it_is_asked_for_and_between_cpus():
    asked = train_with(2, extra={"communication_data_type": "fp32"})
    for config in (deepspeed_config(asked, use_gpu=True), deepspeed_config(train_with(2))):
        assert config["communication_data_type"] == "fp32"
    on_cpus = deepspeed_config(train_with(2))["zero_optimization"]
    assert not {"overlap_comm", "use_multi_rank_bucket_allreduce"} & on_cpus.keys()
    given = deepspeed_config(train_with(2, extra=ON_GPUS))
    assert given == deepspeed_config(train_with(2), use_gpu=True)


@pytest.mark.parametrize(
    "bucket", [10**6, pytest.param(500, marks=pytest.mark.slow)], ids=["one bucket", "many buckets"]
)
def test_losses_are_those_of_a_plain_loop(bucket, new_job):
    """Also where the largest matrices are larger than a bucket, as the 7B's embedding is."""
    stage = Stage(target=64, steps=6, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(
        stages=(stage,), heldout=0.2, cfg_drop=0.0, dropout=0.0, grad_clip=0.5, micro_batch_tokens=80
    )
    job = new_job(stage, train, rows=50)
    zero = {**ON_GPUS["zero_optimization"], "reduce_bucket_size": bucket}
    extra = {**ON_GPUS, "zero_optimization": zero}
    sent = train.model_copy(update={"deepspeed": DeepSpeed(zero=2, bf16=True, extra=extra)})
    assert ranks.train(replace(job, train=sent), 2) == "done"
    losses, *_ = plain_loop(job)
    assert [r["loss"] for r in read_metrics(job.metrics_file)] == pytest.approx(losses, rel=0.02)


@pytest.mark.parametrize(("zero", "expected"), [(0, 8), (1, 6), (2, 10), (3, 24)])
def test_bytes_of_a_parameter_and_step(zero, expected):
    """Of four micro-batches: with many workers each sends to nearly all the others."""
    assert bytes_sent(train_with(zero), 1000, 1000, 10**9, 4) == pytest.approx(1000 * expected, rel=1e-6)
