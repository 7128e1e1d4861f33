"""Stages keep their fingerprints unless their results change."""

import pytest

from rasterloom.pipelines.training.stage_step import _code_version
from rasterloom.recipe.train import DeepSpeed, Stage, Train


@pytest.mark.parametrize(("optimizer", "version"), [("adamw", "2"), ("muon", "3")])
def test_torchs_muon_makes_stages_with_muon_alone_anew(optimizer, version):
    stage = Stage(target=64, steps=8, lr=1e-2, batch_tokens=300)
    train = Train(stages=(stage,), optimizer=optimizer, deepspeed=DeepSpeed(zero=0))
    assert _code_version(train) == version
