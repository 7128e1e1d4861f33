"""A stage that trains a part of the model: the rest stays as it was, in its checkpoints too."""

from dataclasses import replace

import pytest
import torch

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.monitoring.metrics_log import MetricsLog, read_metrics
from rasterloom.train.trainer import run_worker

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def job(new_job):
    stage = Stage(
        target=64, steps=4, lr=1e-2, warmup_steps=0, batch_tokens=300, freeze=["embeddings", "norms"]
    )
    train = Train(stages=(stage,), heldout=0.1, checkpoint_every=2, dropout=0.0)
    return new_job(stage, train, rows=30, workers=1)


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_what_is_frozen_stays_as_it_was_also_where_the_stage_goes_on(job, zero, monkeypatch):
    job = replace(job, train=job.train.model_copy(update={"deepspeed": DeepSpeed(zero=zero)}))
    original = MetricsLog.write

    def cut_off(self, *args, **kwargs):
        if kwargs["step"] == 4:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_worker(job)
    run_worker(job)
    assert [record["step"] for record in read_metrics(job.metrics_file)] == [1, 2, 3, 4]
    before, after = (build_model(where, job.profile).state_dict() for where in (job.init, str(job.model_dir)))
    for name, weight in before.items():
        same = torch.equal(after[name], weight)
        assert same == ("norm" in name or "embed_tokens" in name), name


def test_an_unknown_pattern_stops_the_stage(job):
    wrong = replace(job, stage=job.stage.model_copy(update={"freeze": ("decoder",)}))
    with pytest.raises(ValueError, match=r"freeze: 'decoder' names no parameter; there are embeddings"):
        run_worker(wrong)
