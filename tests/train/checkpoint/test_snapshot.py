"""Copies of what a checkpoint's files hold, by one rank in this process."""

import logging

import pytest
import torch
from torch_files import contents

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.checkpoint import snapshot
from rasterloom.train.checkpoint.snapshot import Snapshot
from rasterloom.train.deepspeed_compat import files_given_to
from rasterloom.train.model.packed_lm import training_model
from rasterloom.train.optim.deepspeed_engine import backward, optimizer_step, start_deepspeed

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def engine_of(profile):
    engines = []

    def start(zero, bf16, optimizer="adamw"):
        stage = Stage(target=64, steps=4, lr=1e-2, batch_tokens=300)
        train = Train(stages=(stage,), deepspeed=DeepSpeed(zero=zero, bf16=bf16), optimizer=optimizer)
        engine = start_deepspeed(training_model("tiny", profile, train).train(), train, use_gpu=False)
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.destroy()


def take_a_step(engine):
    ids = torch.arange(40)
    backward(engine, engine(ids, ids.roll(-1), [20, 20]).total, last=True)
    optimizer_step(engine, 1e-2, lambda norm: True)


MODES = [(0, False), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True)]


@pytest.mark.parametrize(
    ("zero", "bf16", "optimizer"), [*((*mode, "adamw") for mode in MODES), (2, False, "muon")]
)
def test_what_is_written_later_is_what_was_there(engine_of, tmp_path, zero, bf16, optimizer):
    """To the bit, although the engine has taken steps meanwhile; and again from the same memory."""
    engine, taken = engine_of(zero, bf16, optimizer), Snapshot()
    for number in range(2):
        take_a_step(engine)
        now, later = tmp_path / f"now-{number}", tmp_path / f"later-{number}"
        engine.save_checkpoint(str(now), tag="state", save_latest=False)
        with files_given_to(engine, taken.take):
            engine.save_checkpoint(str(later), tag="state", save_latest=False)
        assert not contents(later)
        take_a_step(engine)
        taken.write()
        assert contents(later) == contents(now)
        assert len({file for file, _ in contents(now)}) == (1 if zero == 0 else 2)
    assert contents(tmp_path / "now-0") != contents(tmp_path / "now-1")


def test_without_room_training_waits_for_the_file_and_it_is_said(tmp_path, monkeypatch, caplog):
    """1,000 floats of two ranks are 8,000 bytes; tensors that share a storage count once."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    flat = torch.arange(1000.0)
    state = {"whole": flat, "parts": [flat[:500], (flat[500:], "text")]}
    caplog.set_level(logging.WARNING)
    taken = Snapshot()
    monkeypatch.setattr(snapshot, "free_memory", lambda: 8000 / 0.7 - 1)
    taken.take(state, tmp_path / "at-once.pt")
    assert torch.load(tmp_path / "at-once.pt")["parts"][1][0].sum() == flat[500:].sum()
    (record,) = caplog.records
    assert record.getMessage().startswith("no memory is left for a copy of at-once.pt: training waits")
    monkeypatch.setattr(snapshot, "free_memory", lambda: 8000 / 0.7 + 1)
    taken.take(state, tmp_path / "later.pt")
    taken.write()
    monkeypatch.setattr(snapshot, "free_memory", lambda: 0.0)  # its own copy takes it
    taken.take(state, tmp_path / "again" / "later.pt")
    assert len(caplog.records) == 1
    assert (tmp_path / "later.pt").exists() and not (tmp_path / "again").exists()
