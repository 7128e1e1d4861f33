"""What is seen of a stage while it trains; by two ranks the same as by one."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import ranks
import torch
from eventfiles import scalars

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.data.token_dataset import open_rows
from rasterloom.train.estimate.flops import train_flops
from rasterloom.train.job import Preview
from rasterloom.train.model.shapes import shape_of
from rasterloom.train.monitoring.metrics_log import MetricsLog, read_metrics
from rasterloom.train.monitoring.monitor import Monitor
from rasterloom.train.sampling.sampler import open_sampler
from rasterloom.train.trainer import run_worker

RANK = """
import pickle, sys, warnings
import torch, torch.distributed as dist
torch.set_num_threads(1)
from rasterloom.train.trainer import run_worker
job, store, rank = pickle.load(open(sys.argv[1], "rb")), sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
run_worker(job)
dist.destroy_process_group()
"""


@pytest.fixture
def job(new_job, write_tokens):
    stage = Stage(target=64, steps=7, lr=1e-2, warmup_steps=2, batch_tokens=300)
    train = Train(
        stages=(stage,), heldout=0.2, checkpoint_every=4, log_every=2, evaluate_every=3, sample_every=3,
        deepspeed=DeepSpeed(zero=2), dropout=0.0,
    )  # fmt: skip
    drawing = Preview(
        prompts=("a", "b"),
        prompt_ids=((0, 30, 16), (0, 31, 31, 16)),
        sizes=((64, 64), (32, 64)),
        cfg=2.0,
        temperature=1.0,
        top_k=5,
        seed=3,
    )
    files = (write_tokens(30), write_tokens(20, first=30))
    return new_job(stage, train, token_files=files, workers=1, preview=drawing)


def drawn(job):
    return {path.name: json.loads(path.read_text()) for path in sorted(job.samples_dir.glob("*.json"))}


def test_a_stage_is_measured_drawn_and_tracked(job, one_rank):
    run_worker(job)
    heldout = json.loads(job.heldout_file.read_text())
    assert list(heldout["steps"]) == ["0", "3", "6", "7"]
    assert heldout["start"] == heldout["steps"]["0"] and heldout["end"] == heldout["steps"]["7"]
    for losses in heldout["steps"].values():
        assert losses["tasks"] == {"t2i": losses["all"]}
    pictures = drawn(job)
    assert list(pictures) == [f"step-{step:08d}.json" for step in (3, 6, 7)]
    last = pictures["step-00000007.json"]
    assert last["prompts"] == ["a", "b"] and "prompt_ids" not in last
    assert [np.shape(codes) for codes in last["codes"]] == [(4, 4), (4, 2)]
    # The last pictures are those of the model that the stage leaves.
    sampler = open_sampler(job.model_dir, job.profile)
    again = sampler.sample(
        job.preview.prompt_ids, job.preview.sizes, cfg=2.0, temperature=1.0, top_k=5, seed=3
    )
    assert last["codes"] == [codes.tolist() for codes in again]

    lines = read_metrics(job.metrics_file)
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert [line["step"] for line in lines if "tasks" in line] == [2, 4, 6, 7]
    assert lines[-1]["eta_s"] == 0 and lines[-1]["memory_bytes"] > 10_000_000
    assert 0 <= lines[-1]["wait_share"] <= 1 and "mfu" not in lines[-1]  # a CPU's peak is not known
    for one, two in zip(lines[:6:2], lines[1:6:2], strict=True):  # two steps, then what is said of both
        count = one["loss_tokens"] + two["loss_tokens"]
        mean = (one["loss"] * one["loss_tokens"] + two["loss"] * two["loss_tokens"]) / count
        assert two["all"]["tokens"] == sum(b["tokens"] for b in two["buckets"].values()) == count
        assert two["all"]["loss"] == pytest.approx(mean, abs=1e-5)
    found = scalars(job.folder / "events")
    assert {step for name, step in found if name == "train/loss"} == set(range(1, 8))
    assert found["train/loss", 7] == pytest.approx(lines[-1]["loss"], abs=1e-5)
    assert found["heldout/all/loss", 3] == pytest.approx(heldout["steps"]["3"]["all"]["loss"], abs=1e-5)
    assert ("heldout/tasks/t2i/loss", 7) in found and ("train/buckets/64x64/loss", 7) in found


def test_mfu_is_the_share_of_the_peak(job, one_rank, monkeypatch):
    """Told that it runs on an H100, a stage says what share of one its steps took."""
    place, name, given = "rasterloom.train.monitoring.monitor", "NVIDIA H100 80GB HBM3", []
    monkeypatch.setattr(f"{place}.device_name", lambda device: name)
    monkeypatch.setattr(f"{place}.mfu", lambda *values: given.append(values) or 0.25)  # a CPU's rounds to 0
    rows = open_rows(job.token_files)
    whole = job.stage.model_copy(update={"steps": 1, "batch_tokens": int(rows.lengths.sum())})
    train = job.train.model_copy(update={"heldout": 0.0, "cfg_drop": 0.0, "stages": (whole,)})
    run_worker(replace(job, stage=whole, train=train, preview=None))  # one step of all rows
    (line,) = read_metrics(job.metrics_file)
    flops = train_flops(
        shape_of(job.init, job.profile.vocab_size),
        tokens=int(rows.lengths.sum()),
        squares=sum(int(n) ** 2 for n in rows.lengths),
        loss_tokens=line["loss_tokens"],
    )
    ((found, seconds, devices),) = given
    assert (found, devices) == (pytest.approx(flops), [name])
    assert seconds >= line["seconds"] - 1e-4 and line["mfu"] == 0.25


def test_watching_changes_no_weight(job, one_rank):
    run_worker(job)
    unseen = replace(
        job,
        out_dir=f"{job.out_dir}-unseen",
        preview=None,
        train=job.train.model_copy(
            update={"trackers": (), "log_every": 100, "evaluate_every": None, "sample_every": None}
        ),
    )
    run_worker(unseen)
    assert [r["loss"] for r in read_metrics(unseen.metrics_file)] == [
        r["loss"] for r in read_metrics(job.metrics_file)
    ]
    assert not (unseen.folder / "events").exists() and not unseen.samples_dir.exists()
    one, other = ((j.model_dir / "model.safetensors").read_bytes() for j in (job, unseen))
    assert one == other


def test_a_stage_that_goes_on_forgets_what_was_seen_of_lost_steps(job, one_rank, monkeypatch):
    run_worker(job)
    whole = json.loads(job.heldout_file.read_text())
    cut = replace(job, out_dir=f"{job.out_dir}-cut")
    original = MetricsLog.write

    def write(self, sums, **noted):
        if noted["step"] == 7:  # checkpoint at 4, measured at 6
            raise KeyboardInterrupt
        return original(self, sums, **noted)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run_worker(cut)
    seen = json.loads(cut.heldout_file.read_text())
    assert list(seen["steps"]) == ["0", "3", "6"]
    run_worker(cut)
    again = json.loads(cut.heldout_file.read_text())
    assert list(again["steps"]) == ["0", "3", "6", "7"]
    assert again["end"]["all"]["loss"] == pytest.approx(whole["end"]["all"]["loss"], abs=1e-5)


@pytest.mark.parametrize("zero", [0, 3])
def test_two_ranks_see_what_one_sees(job, zero, tmp_path, one_rank):
    alone = replace(job, train=job.train.model_copy(update={"deepspeed": DeepSpeed(zero=0)}))
    run_worker(alone)
    shared = replace(
        job,
        out_dir=f"{job.out_dir}-shared",
        train=job.train.model_copy(update={"deepspeed": DeepSpeed(zero=zero)}),
    )
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(shared))
    arguments = [sys.executable, "-c", RANK, str(tmp_path / "job.pickle"), str(tmp_path / "store")]
    with open(tmp_path / "log", "w") as log:
        ranks = [subprocess.Popen([*arguments, str(r)], stdout=log, stderr=log) for r in (0, 1)]
        codes = [process.wait(timeout=1800) for process in ranks]
    assert codes == [0, 0], (tmp_path / "log").read_text()[-3000:]
    ours, theirs = read_metrics(shared.metrics_file), read_metrics(alone.metrics_file)
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], abs=1e-4)
    assert [r["tokens"] for r in ours] == [r["tokens"] for r in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for kind in ("tasks", "buckets"):
            for name, losses in other.get(kind, {}).items():
                assert one[kind][name]["tokens"] == losses["tokens"]
                assert one[kind][name]["loss"] == pytest.approx(losses["loss"], abs=1e-4)
    first, last = (json.loads(j.heldout_file.read_text())["steps"] for j in (shared, alone))
    for step, losses in last.items():
        assert first[step]["all"]["loss"] == pytest.approx(losses["all"]["loss"], abs=1e-4)
        assert first[step]["all"]["rows"] == losses["all"]["rows"]
    assert drawn(shared).keys() == drawn(alone).keys()
    assert all(np.shape(a["codes"][0]) == (4, 4) for a in drawn(shared).values())


@pytest.mark.parametrize("world", [1, 2])
def test_a_summary_after_a_resume_is_of_all_its_steps(job, world):
    """Also of those before the cut, by whatever ranks: as if nothing had happened."""
    changes = {"log_every": 5, "checkpoint_every": 3, "deepspeed": DeepSpeed(zero=0)}
    job = replace(job, preview=None, train=job.train.model_copy(update=changes))
    whole = replace(job, out_dir=f"{job.out_dir}-whole")
    ranks.train(whole, 1)
    with pytest.raises(RuntimeError):
        ranks.train(job, 2, die_at=5)  # goes on from step 3, without the sums of step 4
    ranks.train(job, world, stop_at=1)  # saved at step 4
    ranks.train(job, world)
    ours, theirs = ({r["step"]: r for r in read_metrics(j.metrics_file)} for j in (job, whole))
    for step in (5, 7):
        for kind in ("tasks", "buckets"):
            for name, losses in theirs[step][kind].items():
                assert ours[step][kind][name]["tokens"] == losses["tokens"]
                assert ours[step][kind][name]["rows"] == losses["rows"]
                assert ours[step][kind][name]["loss"] == pytest.approx(losses["loss"], abs=1e-4)
    assert 0 <= ours[5]["wait_share"] <= 1


class Weights:
    """Of an engine that is not asked for more."""

    def parameters(self):
        return iter([torch.zeros(1)])


def test_sums_of_another_checkpoint_are_not_taken_up(job, one_rank):
    """Nor are there any beside checkpoints of earlier versions."""
    job.make_folder()
    for kept in (None, {"step": 3}):
        if kept:
            job.sums_file.write_text(json.dumps(kept))
        rows = open_rows(job.token_files)
        with Monitor(Weights(), job, rows, np.zeros(0, np.int64), start=4, total=7) as monitor:
            assert monitor.tally.read().by_cell.sum() == 0
