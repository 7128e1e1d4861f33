import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rasterloom.errors import TrainingDiverged
from rasterloom.recipe.train import DeepSpeed, Guard, Stage, Train
from rasterloom.schema import TOKENS
from rasterloom.train import trainer as engine_module
from rasterloom.train.checkpoint import resume
from rasterloom.train.checkpoint.saver import latest
from rasterloom.train.deepspeed_compat import local_part
from rasterloom.train.deepspeed_config import BETAS
from rasterloom.train.job import StageJob, WorkerTakes, finished
from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.monitoring.metrics_log import MetricsLog, read_metrics
from rasterloom.train.optim.loss_guard import check_end
from rasterloom.train.trainer import run_worker
from rasterloom.train.validate import check

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def job(new_job, write_tokens):
    stage = Stage(target=64, steps=8, lr=1e-2, warmup_steps=2, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.2, checkpoint_every=3, cfg_drop=0.3, dropout=0.1)
    return new_job(stage, train, token_files=(write_tokens(30), write_tokens(20, first=30)), workers=1)


def losses(job: StageJob) -> list[float]:
    return [record["loss"] for record in read_metrics(job.metrics_file)]


def elsewhere(job: StageJob, name: str, **changes) -> StageJob:
    return replace(job, out_dir=str(job.folder.with_name(name)), **changes)


def with_train(job: StageJob, name: str, **changes) -> StageJob:
    return elsewhere(job, name, train=job.train.model_copy(update=changes))


class Crash(Exception):
    pass


@pytest.mark.parametrize(
    ("deterministic", "gpus", "chosen"), [(True, 1, True), (False, 1, False), (True, 0, False)]
)
def test_deterministic_kernels_are_chosen_before_anything_runs_on_a_gpu(
    deterministic, gpus, chosen, job, monkeypatch
):
    def opened(job):
        seen.append(torch.are_deterministic_algorithms_enabled())
        seen.append(torch.is_deterministic_algorithms_warn_only_enabled())
        seen.append("CUBLAS_WORKSPACE_CONFIG" in os.environ)
        raise Crash

    seen: list[bool] = []
    monkeypatch.setattr(engine_module, "_open", opened)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    asked = with_train(job, "asked", deterministic=deterministic)
    try:
        with pytest.raises(Crash):
            run_worker(replace(asked, takes=WorkerTakes(gpus=gpus)))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert seen == [chosen] * 3


@pytest.fixture
def crash_at(monkeypatch):
    """Make the loop die when it is about to note a step, as if killed."""

    def arm(step: int) -> None:
        original = MetricsLog.write

        def write(self, *args, **kwargs):
            if kwargs["step"] == step:
                monkeypatch.undo()
                raise Crash
            return original(self, *args, **kwargs)

        monkeypatch.setattr(MetricsLog, "write", write)

    return arm


def test_a_stage_learns_and_leaves_what_it_says(job):
    run_worker(job)
    result = finished(job)
    assert result is not None
    records = read_metrics(job.metrics_file)
    assert [record["step"] for record in records] == list(range(1, 9))
    assert records[0]["lr"] == pytest.approx(0.005)
    assert result.steps == 8
    assert result.tokens == sum(record["tokens"] for record in records)
    heldout = json.loads(job.heldout_file.read_text())
    assert heldout["end"]["all"]["loss"] < heldout["start"]["all"]["loss"] - 0.5
    buckets = heldout["end"]["buckets"]
    assert set(buckets) <= {"64x64", "96x32", "32x96", "32x32"}
    assert sum(b["rows"] for b in buckets.values()) == heldout["end"]["all"]["rows"] > 0
    mean = sum(b["loss"] * b["tokens"] for b in buckets.values()) / heldout["end"]["all"]["tokens"]
    assert mean == pytest.approx(heldout["end"]["all"]["loss"])
    assert result.heldout == heldout
    trained = build_model(result.model_dir, job.profile)
    start = build_model(job.init, job.profile)
    assert not torch.allclose(trained.lm_head.weight, start.lm_head.weight)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_zero_stages_train_alike(job, zero):
    plain = with_train(job, "zero0", deepspeed=DeepSpeed(zero=0), dropout=0.0)
    sharded = with_train(job, f"zero{zero}", deepspeed=DeepSpeed(zero=zero), dropout=0.0)
    run_worker(plain)
    run_worker(sharded)
    assert losses(sharded) == pytest.approx(losses(plain), abs=1e-4)
    one, other = (build_model(str(j.model_dir), job.profile).state_dict() for j in (plain, sharded))
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("has_units", [True, False])
def test_auto_trains_in_what_the_machine_has_units_for(job, has_units, monkeypatch):
    monkeypatch.setattr("rasterloom.train.devices.has_bf16", lambda *, use_gpu: has_units)
    chosen = with_train(job, "chosen", deepspeed=DeepSpeed(bf16=has_units), dropout=0.0)
    auto = with_train(job, "auto", deepspeed=DeepSpeed(bf16="auto"), dropout=0.0)
    for one in (chosen, auto):
        assert run_worker(one) == "done"
    assert losses(auto) == losses(chosen)


def test_bf16_follows_fp32(job):
    half = with_train(job, "bf16", deepspeed=DeepSpeed(bf16=True), dropout=0.0)
    full = with_train(job, "fp32", dropout=0.0)
    run_worker(half)
    run_worker(full)
    assert losses(half) == pytest.approx(losses(full), rel=0.05)


@pytest.mark.parametrize(
    ("optimizer", "zero", "step"), [("adamw", 2, 2), ("adamw", 2, 5), ("adamw", 3, 7), ("muon", 0, 4)]
)
def test_a_stage_that_is_cut_off_goes_on_as_if_nothing_had_happened(job, optimizer, zero, step, crash_at):
    whole = with_train(job, "whole", deepspeed=DeepSpeed(zero=zero), optimizer=optimizer)
    run_worker(whole)
    cut = elsewhere(whole, "cut")
    crash_at(step)
    with pytest.raises(Crash):
        run_worker(cut)
    assert finished(cut) is None
    run_worker(cut)
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)
    assert [r["tokens"] for r in read_metrics(cut.metrics_file)] == [
        r["tokens"] for r in read_metrics(whole.metrics_file)
    ]


@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_learning_rate_goes_on_in_each_of_its_phases(job, step, crash_at):
    """Warm-up, constant, decay."""
    stage = job.stage.model_copy(
        update={"schedule": "wsd", "decay_steps": 3, "decay": "linear", "min_lr": 1e-3}
    )
    cut = replace(with_train(job, "cut", checkpoint_every=1), stage=stage)
    crash_at(step)
    with pytest.raises(Crash):
        run_worker(cut)
    run_worker(cut)
    rates = [record["lr"] for record in read_metrics(cut.metrics_file)]
    assert rates == pytest.approx([5e-3, 1e-2, 1e-2, 1e-2, 1e-2, 7e-3, 4e-3, 1e-3])


def test_a_half_written_checkpoint_is_not_used(job, crash_at, monkeypatch):
    def die(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("rasterloom.train.checkpoint.saver.asdict", die)  # all but the record has been written
        with pytest.raises(Crash):
            run_worker(job)
    folder = job.folder / "checkpoints"
    assert [path.name[:14] for path in folder.iterdir()] == ["step-00000003-"]
    run_worker(job)
    assert finished(job) is not None
    # The record of each, and its folder: what was half-written is gone.
    assert [path.name[:13] for path in sorted(folder.iterdir())] == ["step-00000006"] * 2 + [
        "step-00000008"
    ] * 2


def test_the_last_checkpoint_is_enough_to_finish(job, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "_export", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            run_worker(job)
    run_worker(job)
    assert len(losses(job)) == 8
    assert finished(job).loss == pytest.approx(losses(job)[-1])


def test_checkpoints_of_another_job_are_refused(job):
    run_worker(job)
    for other, reason in (
        (replace(job, tokens_snapshot="2"), "other settings or other data"),
        (replace(job, train=job.train.model_copy(update={"z_loss": 0.1})), "other settings or other data"),
    ):
        assert finished(other) is None
        with pytest.raises(ValueError, match=reason):
            run_worker(other)
    assert finished(replace(job, workers=5)) is not None  # how many do it is not what is done


def test_nothing_to_train_on_and_nothing_held_out(job, write_tokens):
    with pytest.raises(ValueError, match="no rows to train on"):
        run_worker(with_train(job, "all", heldout=0.999999))
    none = with_train(job, "none", heldout=0.0)
    run_worker(none)
    assert json.loads(none.heldout_file.read_text())["end"] == {
        "all": {"loss": None, "tokens": 0, "rows": 0},
        "tasks": {},
        "buckets": {},
    }


def test_a_loss_that_is_not_finite_stops_the_stage(job):
    wild = elsewhere(job, "wild", stage=job.stage.model_copy(update={"lr": 1e30, "warmup_steps": 0}))
    with pytest.raises(TrainingDiverged, match=r"not finite at step .*lower the stage's lr"):
        run_worker(wild)


def test_what_cannot_work_is_reported_before_anything_starts(job, tmp_path):
    check(job)
    with pytest.raises(ValueError, match="no tokens of target 64"):
        check(replace(job, token_files=()))
    with pytest.raises(ValueError, match=r"no checkpoint at .*nowhere"):
        check(replace(job, init=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="vocabulary of 48, but the tokens are of profile 'test' with 99"):
        check(replace(job, profile=replace(job.profile, vocab_size=99)))


def test_a_metrics_file_with_a_torn_line_is_read(job):
    run_worker(job)
    text = job.metrics_file.read_text()
    torn = Path(shutil.copy(job.metrics_file, job.metrics_file.with_name("torn.jsonl")))
    torn.write_text(text[:-20])
    assert [r["step"] for r in read_metrics(torn)] == list(range(1, 8))
    MetricsLog(torn, keep=3).close()
    assert [r["step"] for r in read_metrics(torn)] == [1, 2, 3]


def test_a_stage_of_all_kinds_of_samples(job, tmp_path, profile):
    """Text alone, pictures in questions, several answers: a mixed batch trains, and each bucket is judged."""
    p = profile
    draw = [p.boi, p.grid0 + 1, p.grid0 + 1, *[4, 5, p.eol] * 2, p.eoi]
    n = len(draw)
    kinds = {
        "text": ([p.bos, 30, p.sep, 31, p.sep, 32, p.sep, 33, 34, p.sep], [3, 5, 7, 10], (0, 0)),
        "vqa": ([p.bos, 30, *draw, p.sep, 31, p.sep], [3 + n, 5 + n], (32, 32)),
        "edit": ([p.bos, 30, *draw, p.sep, *draw, p.sep], [3 + n, 4 + 2 * n], (32, 32)),
        "turns": (
            [p.bos, 30, p.sep, *draw, p.sep, 31, p.sep, *draw, p.sep],
            [3, 4 + n, 6 + n, 7 + 2 * n],
            (32, 32),
        ),
    }
    rows = [
        {
            "target": 64,
            "bucket": "text" if not width else f"{width}x{height}",
            "key": f"{task} {number}",
            "width": width,
            "height": height,
            "task": task,
            "input_ids": ids,
            "loss_spans": spans,
            "n_tokens": len(ids),
        }
        for number in range(10)
        for task, (ids, spans, (width, height)) in kinds.items()
    ]
    file = tmp_path / "mixed.parquet"
    pq.write_table(pa.Table.from_pylist(rows, TOKENS), file)
    mixed = elsewhere(job, "mixed", token_files=(str(file), *job.token_files))
    run_worker(mixed)
    found = losses(mixed)
    assert len(found) == 8 and all(math.isfinite(loss) for loss in found)
    heldout = json.loads(mixed.heldout_file.read_text())["end"]["buckets"]
    assert {"text", "32x32"} <= heldout.keys() and math.isfinite(heldout["text"]["loss"])


@pytest.mark.parametrize("zero", [0, 1, 3])
@pytest.mark.parametrize(("spoilt_at", "kept"), [(3, None), (7, 6), (8, 6)])
def test_weights_that_are_not_finite_are_no_result(job, monkeypatch, zero, spoilt_at, kept):
    """Neither saved nor exported: the last good checkpoint stays."""
    guarded = with_train(job, "spoilt", deepspeed=DeepSpeed(zero=zero), guard=Guard(on="skip"))
    original, taken = engine_module.train_step, []

    def spoil(engine, *args, **kwargs):
        sums = original(engine, *args, **kwargs)
        taken.append(sums)
        if len(taken) == spoilt_at:
            with torch.no_grad():
                local_part(engine.module.lm.lm_head.weight).view(-1)[0] = math.nan
        return sums

    monkeypatch.setattr(engine_module, "train_step", spoil)
    with pytest.raises(TrainingDiverged, match=r"the weights are not finite at step [38]: lower"):
        run_worker(guarded)
    last = latest(guarded.checkpoint_store, guarded.digest())
    assert (last and last.position.step) == kept
    assert finished(guarded) is None and not guarded.model_dir.exists()


def test_a_stage_of_refused_steps_is_no_result(job):
    """Its weights are finite, but so large that each later loss is not; nor is it one when run again."""
    stage = job.stage.model_copy(update={"steps": 4, "lr": 1e30, "warmup_steps": 0})
    bad = replace(with_train(job, "refused", guard=Guard(on="skip"), checkpoint_every=1), stage=stage)
    for _ in range(2):
        with pytest.raises(TrainingDiverged, match="none of the last 3 steps was taken at step 4"):
            run_worker(bad)
        assert latest(bad.checkpoint_store, bad.digest()).position.step == 1
    assert finished(bad) is None and not bad.model_dir.exists()


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"refused": 2}, None),
        ({"refused": 3}, "none of the last 3 steps was taken"),
        ({"finite": False}, "the weights are not finite"),
        ({"heldout": {"loss": None, "tokens": 9}}, "the held-out loss is not finite"),
        ({"heldout": {"loss": None, "tokens": 0}}, None),
    ],
)
def test_what_is_no_result(facts, reason):
    given = {"finite": True, "refused": 0, "heldout": {"loss": 2.0, "tokens": 9}, **facts}
    if reason is None:
        check_end(8, **given)
        return
    with pytest.raises(TrainingDiverged, match=f"^{reason} at step 8: lower"):
        check_end(8, **given)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_kept_optimizer_has_the_values_of_its_own_recipe(job, monkeypatch, zero):
    """Field by field, of each group; the moments are those of the stage before."""
    given = {"deepspeed": DeepSpeed(zero=zero), "dropout": 0.0}
    before = with_train(job, "before", weight_decay=0.3, **given)
    run_worker(before)
    after = with_train(job, "after", weight_decay=0.0, **given)
    after = replace(after, init=str(before.model_dir), keep_optimizer_from=before.out_dir)
    load, groups = resume.load, []

    def values(engine):
        return [{k: v for k, v in g.items() if k != "params"} for g in engine.optimizer.param_groups]

    def watched(engine, *args):
        groups.append(values(engine))
        load(engine, *args)
        groups.append(values(engine))
        steps = {int(state["step"]) for state in engine.basic_optimizer.state.values()}
        assert steps == {8}

    monkeypatch.setattr(resume, "load", watched)
    run_worker(after)
    expected, found = groups
    assert found == expected
    assert {group["weight_decay"] for group in found} == {0.0}
    assert all(tuple(group["betas"]) == BETAS and group["eps"] == 1e-8 for group in found)
