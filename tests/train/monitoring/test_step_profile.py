"""Traces of torch's profiler, written by a stage that trains."""

import gzip
import json
import logging
from dataclasses import replace

import pytest
import ranks

from rasterloom.recipe.monitoring import Profiling
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.train.monitoring.step_profile import StepProfile
from rasterloom.train.trainer import run_worker


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=5, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.2, dropout=0.1, checkpoint_every=2, deepspeed=DeepSpeed(zero=0))
    return new_job(stage, train, workers=1)


def profiled(job, first, last, name="out"):
    train = job.train.model_copy(update={"profile": Profiling(steps=(first, last))})
    return replace(job, train=train, out_dir=str(job.folder.with_name(name)))


def trace(file):
    with gzip.open(file) as text:
        return json.load(text)["traceEvents"]


def traces(job):
    return sorted(path.name for path in job.profiles_dir.iterdir())


def test_a_trace_changes_no_result_and_is_no_part_of_the_job(job, one_rank, caplog):
    run_worker(job)
    seen = profiled(job, 2, 3, "seen")
    with caplog.at_level(logging.INFO, "rasterloom"):
        run_worker(seen)
    assert seen.digest() == job.digest()
    assert not job.profiles_dir.exists()
    assert [r["loss"] for r in read_metrics(seen.metrics_file)] == [
        r["loss"] for r in read_metrics(job.metrics_file)
    ]
    one, other = ((j.model_dir / "model.safetensors").read_bytes() for j in (job, seen))
    assert one == other
    assert traces(seen) == ["steps-2-3.json.gz"]
    names = [event.get("name", "") for event in trace(seen.profiles_dir / "steps-2-3.json.gz")]
    assert sum(name == "Optimizer.step#AdamW.step" for name in names) == 2
    (line,) = [record.getMessage() for record in caplog.records if "the trace of" in record.getMessage()]
    assert line == f"64: the trace of steps 2 to 3 is in {seen.profiles_dir / 'steps-2-3.json.gz'}"


def test_a_stage_that_ends_or_resumes_among_the_steps_has_a_trace_of_the_rest(job):
    job = profiled(job, 2, 9)
    assert ranks.train(job, 2, stop_at=3) == "stopped"
    assert traces(job) == ["steps-2-3.json.gz"]
    ranks.train(job, 1)
    assert traces(job) == ["steps-2-3.json.gz", "steps-4-5.json.gz"]


def test_steps_that_are_not_reached_leave_no_trace(tmp_path):
    profile = StepProfile(Profiling(steps=(7, 9)), tmp_path / "profiles", "64")
    for step in range(1, 5):
        profile.before(step)
        profile.after(step)
    profile.close()
    assert not (tmp_path / "profiles").exists()
