"""Choices by a GPU's memory, and the error where it is too small."""

from itertools import islice

import pytest

from rasterloom.recipe.model import Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.estimate import fit
from rasterloom.train.estimate.fit import GIB, cannot_fit, settled, usable, ways_out
from rasterloom.train.model.shapes import SIZES

A100, A100_80, H200 = 39.4 * GIB, 79.1 * GIB, 139.8 * GIB
LONGEST = {512: 1500, 1024: 4600}


def train_with(target=512, zero=2, bf16=True, offload=None, **options):
    deepspeed = DeepSpeed(zero=zero, bf16=bf16, offload=offload)
    return Train(stages=(Stage(target=target, epochs=1),), deepspeed=deepspeed, **options)


def of(workers, target=512, size="7b"):
    return fit.Stage(SIZES[size], (), workers, LONGEST[target])


@pytest.mark.parametrize("target", LONGEST)
@pytest.mark.parametrize("workers", [8, 16, 32, 64])
@pytest.mark.parametrize("gpu", [A100, A100_80, H200])
def test_a_7b_is_cut_to_what_a_gpu_holds(target, workers, gpu):
    found = fit.fit(train_with(target), of(workers, target), gpu)
    assert found.is_there and not found.ways_out
    assert found.tokens >= LONGEST[target]
    if found.train.tokens_at_once:  # a tenth more would not fit
        more = of(workers, target).memory(found.train, found.tokens + max(512, found.tokens // 10))
        assert more.total > usable(gpu)


def test_the_more_memory_the_less_is_computed_again():
    found = [fit.fit(train_with(), of(16), gpu).train for gpu in (A100, A100_80, H200)]
    order = ["full", "selective", "none"]
    chosen = [order.index(train.model.remat) for train in found]
    assert chosen == sorted(chosen) and chosen[0] < chosen[-1]


def test_the_less_its_operators_keep_the_more_tokens_fit_at_once():
    kept = [Model(kernels="eager", remat="none"), Model(remat="none"), Model(compile=True, remat="selective")]
    found = [fit.fit(train_with(model=model), of(16), A100_80) for model in kept]
    tokens = [one.tokens for one in found]
    assert tokens == sorted(tokens) and len(set(tokens)) == 3
    assert [fit.in_words(one).split(", ")[0] for one in found] == [
        "remat none with PyTorch's operators",
        "remat none with fused kernels",
        "remat selective with compiled layers",
    ]


def test_a_large_memory_is_no_reason_for_more_tokens_than_kernels_can_index():
    """Flash-attention counts in 32 bits in some versions, as in those that torch brings."""
    stage = fit.Stage(SIZES["small"], (), 1, LONGEST[512])
    large = train_with(model=Model(remat="full")).model_copy(
        update={"stages": (Stage(target=512, epochs=1, batch_tokens=4_000_000),)}
    )
    found = fit.fit(large, stage, 8 * H200)
    assert found.is_there and found.tokens == 2**30 // 1024 == found.train.tokens_at_once


@pytest.mark.parametrize("gpu", [None, A100, H200])
def test_what_the_recipe_says_stays(gpu):
    given = train_with(micro_batch_tokens=5000, model=Model(remat="selective"))
    assert settled(given, of(16), gpu) == given
    whole = train_with(micro_batch_tokens=None, model=Model(remat="none"))
    assert settled(whole, of(16), gpu) == whole
    tokens = train_with(micro_batch_tokens=5000)
    assert settled(tokens, of(16), gpu).micro_batch_tokens == 5000


def test_nothing_is_cut_where_there_is_no_gpu():
    found = settled(train_with(), of(2), None)
    assert found.micro_batch_tokens is None and found.model.remat == "none"


def test_what_cannot_fit_is_said_with_changes_that_make_it_fit():
    """The runbook's own stage, as it was: ZeRO 2, nothing computed again, two workers."""
    given = train_with(micro_batch_tokens=None, model=Model(remat="none"))
    found = fit.fit(given, of(2), A100)
    assert found.memory.total > 500 * GIB
    assert found.ways_out == (
        "train.deepspeed: {zero: 2, offload: cpu}, with train.micro_batch_tokens and train.model.remat: auto",
        "train.deepspeed: {zero: 3, offload: cpu}, with train.micro_batch_tokens and train.model.remat: auto",
        "run.train_workers: 8, with train.micro_batch_tokens and train.model.remat: auto",
    )
    assert "and of a GPU with 39.4 GiB 35.1 can be used; it would fit with train.deepspeed" in cannot_fit(
        found
    )
    assert fit.fit(train_with(offload="cpu"), of(2), A100).is_there
    assert fit.fit(train_with(zero=3, offload="cpu"), of(2), A100).is_there
    assert fit.fit(train_with(), of(8), A100).is_there
    assert not fit.fit(train_with(), of(4), A100).is_there  # fewer workers would not do


def test_a_model_for_which_nothing_helps_has_no_ways_out():
    given = train_with(optimizer="muon")
    assert list(ways_out(given, of(2, size="34b"), 8 * GIB)) == []
    assert "no other ZeRO stage" in cannot_fit(fit.fit(given, of(2, size="34b"), 8 * GIB))


def test_sharded_weights_and_offloading_are_told_where_they_help():
    out = list(islice(ways_out(train_with(), of(4), A100), 5))
    assert "train.deepspeed: {zero: 3}" in out or "train.deepspeed: {zero: 2, offload: cpu}" in out
