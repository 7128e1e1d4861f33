import math
from dataclasses import replace

import pytest
import ranks
import torch
from plain_loop import plain_loop

from rasterloom.errors import TrainingDiverged
from rasterloom.recipe.train import DeepSpeed, Guard, Stage, Train
from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.train.optim.loss_guard import Seen, after_objection, after_step, objection

SPIKES = Guard(on="skip", factor=2.0, window=3, limit=2)


def test_what_is_not_finite_is_always_refused():
    for bad in (math.nan, math.inf, -math.inf):
        assert objection(Guard(), Seen(), bad, 1.0) == "the loss is not finite"
        assert objection(Guard(), Seen(), 1.0, bad) == "the gradients are not finite"
    assert objection(Guard(), Seen(), 1e9, 1e9) is None


def test_a_spike_is_distinguished_from_the_last_steps_that_were_taken():
    seen = Seen()
    for loss in (9.0, 1.0, 1.2, 1.1):
        assert objection(SPIKES, seen, 100.0, 1.0) is None or len(seen.losses) == 3
        seen = after_step(SPIKES, seen, loss)
    assert seen.losses == (1.0, 1.2, 1.1)  # the window
    assert objection(SPIKES, seen, 2.2, 1.0) is None
    assert objection(SPIKES, seen, 2.21, 1.0) == "the loss 2.21 is more than 2 times the usual 1.1"
    assert after_step(Guard(), Seen(), 1.0) == Seen()  # nothing to remember where no factor is given


def test_it_steps_in_a_bounded_number_of_times():
    seen = Seen()
    for step in (5, 6):
        seen = after_objection(SPIKES, seen, "why", step)
    assert seen.objections == 2
    with pytest.raises(TrainingDiverged, match="why at step 7, after 2 such steps: lower the stage's lr"):
        after_objection(SPIKES, seen, "why", 7)
    with pytest.raises(TrainingDiverged, match=r"why at step 1: .*let train.guard skip such steps"):
        after_objection(Guard(), Seen(), "why", 1)


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=8, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.2, cfg_drop=0.0, dropout=0.0, checkpoint_every=3)
    return new_job(stage, train, rows=50)


@pytest.mark.parametrize(
    ("zero", "on", "spoilt", "at", "without", "note"),
    [
        (0, "skip", "loss", 5, {5}, "the loss is not finite"),
        (1, "rollback", "gradients", 2, {1, 2}, "the gradients are not finite; back to step 0"),
        (2, "skip", "gradients", 5, {5}, "the gradients are not finite"),
        (3, "rollback", "loss", 5, {4, 5}, "the loss is not finite; back to step 3"),
    ],
)
def test_a_bad_batch_leaves_no_trace(job, zero, on, spoilt, at, without, note):
    """The weights are those of a plain loop that never saw it, nor what is passed over with it."""
    changes = {"deepspeed": DeepSpeed(zero=zero), "guard": Guard(on=on)}
    guarded = replace(job, train=job.train.model_copy(update=changes))
    assert ranks.train(guarded, 2, poison=(at,), spoilt=spoilt) == "done"
    records = read_metrics(job.metrics_file)
    assert [r.get("note") for r in records] == [note if r["step"] == at else None for r in records]
    losses, _, weights = plain_loop(job, without)
    assert [r["loss"] for r in records[at:]] == pytest.approx(losses[at:], abs=2e-5)
    found = build_model(str(job.model_dir), job.profile).state_dict()
    for name, expected in weights.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=2e-5, msg=name)
