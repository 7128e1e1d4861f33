"""DeepSpeed's private parts are where this version of Rasterloom looks for them."""

import inspect

import deepspeed
import pytest
import torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.deepspeed_compat import (
    DeepSpeedMoved,
    StepGate,
    files_given_to,
    flat_place,
    own_share,
    universal_loading,
)
from rasterloom.train.model.packed_lm import training_model
from rasterloom.train.optim.deepspeed_engine import backward, full_weights, optimizer_step, start_deepspeed

MOVED = (
    f"DeepSpeed {deepspeed.__version__} moved {{what}}: mend rasterloom/train/deepspeed_compat.py or "
    "deepspeed_files.py, or pin DeepSpeed in pyproject.toml"
)
MODES = [(0, False), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True)]
pytestmark = pytest.mark.usefixtures("one_rank")


def engine_of(profile, zero, bf16):
    stage = Stage(target=64, steps=4, lr=1e-2, batch_tokens=300)
    train = Train(stages=(stage,), deepspeed=DeepSpeed(zero=zero, bf16=bf16), grad_clip=1e-3)
    return start_deepspeed(training_model("tiny", profile, train).train(), train, use_gpu=False)


def weights(engine):
    return list(full_weights(engine, keep=True).values())


@pytest.mark.parametrize(("zero", "bf16"), MODES)
def test_the_gate_is_asked_between_the_norm_and_the_step(profile, zero, bf16):
    engine = engine_of(profile, zero, bf16)
    gate, asked = engine.basic_optimizer.step, []
    assert isinstance(gate, StepGate), MOVED.format(what="the inner optimizer")
    ids = torch.arange(40) % profile.vocab_size
    for answer in (False, True):
        before = weights(engine)
        backward(engine, engine(ids, ids.roll(-1), [20, 20]).total, last=True)
        norm = optimizer_step(engine, 1e-2, lambda norm, answer=answer: not asked.append(norm) and answer)
        assert asked, MOVED.format(what="the inner step")
        # Before clipping: clipped it would be a thousandth.
        assert norm > 0.1 and set(asked) == {norm}, MOVED.format(what="_global_grad_norm")
        changed = any(not torch.equal(a, b) for a, b in zip(before, weights(engine), strict=True))
        assert changed == answer, MOVED.format(what="the inner step, which alone changes weights")
        asked.clear()
    assert engine.basic_optimizer.step is gate  # made once
    engine.destroy()


def test_a_reduction_waits_for_all_streams_that_have_written_its_gradients():
    """Those of compiled layers come from several streams. Only a GPU has any, so it is read off."""
    source = inspect.getsource(DeepSpeedZeroOptimizer.average_tensor)
    assert "bucket.copy_streams" in source, MOVED.format(what="the streams of ZeRO 2's buckets")


@pytest.mark.parametrize(("zero", "bf16"), MODES)
def test_the_share_of_a_rank_alone_is_the_whole_weight(profile, zero, bf16):
    """In float32, after a step that bf16 would round away."""
    engine = engine_of(profile, zero, bf16)
    ids = torch.arange(40) % profile.vocab_size
    backward(engine, engine(ids, ids.roll(-1), [20, 20]).total, last=True)
    optimizer_step(engine, 1e-5, lambda norm: True)
    named = dict(engine.module.lm.named_parameters())
    for name, weight in full_weights(engine, keep=True).items():
        start, values = own_share(named[name])
        assert (start, values.dtype) == (0, torch.float32), MOVED.format(what="the share of a rank")
        assert torch.equal(values, weight.view(-1)), MOVED.format(what="the share of a rank")
        if zero in (1, 2):
            place = flat_place(named[name])
            assert (place.begins, place.size) == (0, weight.numel()), MOVED.format(what="_hp_mapping")
    engine.destroy()


def test_an_engine_is_made_to_load_the_universal_form(profile):
    engine = engine_of(profile, 2, False)
    with universal_loading(engine):
        assert engine.load_universal_checkpoint(), MOVED.format(what="_config.load_universal_checkpoint")
    assert not engine.load_universal_checkpoint()
    engine.destroy()


def test_an_engine_gives_the_contents_of_files_away(profile, tmp_path):
    engine, given = engine_of(profile, 2, True), {}
    with files_given_to(engine, lambda contents, file: given.update({file.name: contents})):
        engine.save_checkpoint(str(tmp_path / "given"), tag="state", save_latest=False)
    moved = MOVED.format(what="engine.checkpoint_engine.save")
    assert not list((tmp_path / "given").rglob("*.pt")), moved
    engine.save_checkpoint(str(tmp_path / "whole"), tag="state", save_latest=False)
    assert given.keys() == {file.name for file in (tmp_path / "whole/state").glob("*.pt")}, moved
    assert len(given) == 2
    engine.destroy()


def test_a_parameter_without_zeros_mapping_is_named():
    with pytest.raises(DeepSpeedMoved, match=r"has no _hp_mapping"):
        flat_place(torch.zeros(3))


def test_what_is_gone_is_named(profile):
    engine = engine_of(profile, 2, False)
    del engine._config.load_universal_checkpoint
    with (
        pytest.raises(DeepSpeedMoved, match=r"has no engine._config.load_universal"),
        universal_loading(engine),
    ):
        pass
    engine.destroy()
