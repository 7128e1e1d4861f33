"""Checkpoints on their way to S3, and what a cut-off guard remembers, by one rank in this process."""

import errno
import logging
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch_files import contents

from rasterloom.errors import StorageError, TrainingDiverged
from rasterloom.recipe.train import Ema, Guard, Stage, Train
from rasterloom.storage import transfer
from rasterloom.storage.store import Store
from rasterloom.train import trainer
from rasterloom.train.checkpoint.saver import Position, Saver, complete, latest
from rasterloom.train.checkpoint.snapshot import Snapshot
from rasterloom.train.job import Request
from rasterloom.train.monitoring.metrics_log import read_metrics
from rasterloom.train.trainer import run_worker

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=8, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.2, dropout=0.0, checkpoint_every=3, keep_checkpoints=1)
    return new_job(stage, train, rows=50, workers=1)


@pytest.fixture
def on_s3(job, s3, tmp_path):
    return replace(job, checkpoints=f"{s3}/{tmp_path.name}/checkpoints")


def test_training_goes_on_while_a_checkpoint_is_uploaded(on_s3, monkeypatch):
    """The first upload does not end before step 5 is taken: who waited for it would wait in vain."""
    copy, taken, seen = transfer.copy_files, threading.Event(), []

    def late(*args):
        assert taken.wait(120)
        copy(*args)

    def on_step(record):
        if record["step"] == 5:
            seen.append(latest(on_s3.checkpoint_store, on_s3.digest()))  # not complete yet
            taken.set()

    monkeypatch.setattr(transfer, "copy_files", late)
    assert run_worker(on_s3, on_step=on_step) == "done"
    assert seen == [None]
    assert latest(on_s3.checkpoint_store, on_s3.digest()).position.step == 8
    assert len([n for n in on_s3.checkpoint_store.list("") if n.endswith(".json") and "/" not in n]) == 1


def test_an_upload_that_fails_is_tried_again(on_s3, monkeypatch):
    copy, failed = transfer.copy_files, []

    def shaky(*args):
        if len(failed) < transfer.UPLOADS.tries - 1:
            failed.append(args)
            raise OSError("connection reset")
        copy(*args)

    monkeypatch.setattr(transfer, "copy_files", shaky)
    assert run_worker(on_s3) == "done"
    assert len(failed) == transfer.UPLOADS.tries - 1


def test_an_upload_that_fails_for_good_ends_the_stage_in_one_line(on_s3, monkeypatch):
    def broken(*args):
        raise OSError("connection\nreset")

    monkeypatch.setattr(transfer, "copy_files", broken)
    with pytest.raises(
        StorageError, match=r"^s3://lake/.*/step-00000003-\w+: cannot be uploaded: connection reset$"
    ):
        run_worker(on_s3)
    assert latest(on_s3.checkpoint_store, on_s3.digest()) is None


def test_a_checkpoint_on_demand(job):
    """Asked for once, as on notice that a machine will go, training goes on after it."""
    asked = iter([Request.NOTHING, Request.SAVE])
    kept = []

    def on_step(record):
        kept.append(latest(job.checkpoint_store, job.digest()))

    assert run_worker(job, request=lambda: next(asked, Request.NOTHING), on_step=on_step) == "done"
    assert [k and k.position.step for k in kept] == [None, None, 2, 3, 3, 3, 6, 6]


def test_a_guard_that_was_cut_off_decides_as_one_that_was_not(job, tmp_path):
    """Every step whose loss is over a hair above the usual is passed over, so some are."""
    guard = Guard(on="skip", factor=1.0001, window=2, limit=100)
    stage = job.stage.model_copy(update={"steps": 12, "lr": 0.1})
    picky = replace(job, stage=stage, train=job.train.model_copy(update={"guard": guard, "seed": 1}))
    whole = replace(picky, out_dir=str(tmp_path / "whole"))
    run_worker(whole)
    expected = read_metrics(whole.metrics_file)
    assert 0 < sum("note" in record for record in expected) < 10
    stops = iter([Request.NOTHING] * 4 + [Request.STOP])
    assert run_worker(picky, request=lambda: next(stops)) == "stopped"
    assert run_worker(picky) == "done"
    found = read_metrics(picky.metrics_file)
    assert [r.get("note") for r in found] == [r.get("note") for r in expected]
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], abs=1e-5)


def saver_behind(*args, **options):
    """A saver as that of a training on GPUs, which writes behind it."""
    return Saver(*args, **options | {"behind": True})


@pytest.fixture
def behind(monkeypatch):
    monkeypatch.setattr(trainer, "Saver", saver_behind)


def newest(job):
    """Objects that torch wrote into the newest checkpoint."""
    last = latest(job.checkpoint_store, job.digest())
    return contents(Path(job.checkpoint_store.path(last.name)))


def test_checkpoints_written_behind_are_those_of_a_training_that_waits(job, tmp_path, monkeypatch):
    """To the bit, with the average of the weights, and what goes on from one goes on alike."""
    job = replace(job, train=job.train.model_copy(update={"ema": Ema(decay=0.5), "dropout": 0.2}))
    other = replace(job, out_dir=str(tmp_path / "behind"))
    stops = [Request.NOTHING] * 4 + [Request.STOP]
    run_worker(job, request=iter(stops).__next__)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "Saver", saver_behind)
        run_worker(other, request=iter(stops).__next__)
    assert newest(other) == newest(job)
    assert len({file for file, _ in newest(job)}) == 4
    run_worker(job)
    run_worker(other)
    assert newest(other) == newest(job)
    weights = [(one.model_dir / "model.safetensors").read_bytes() for one in (job, other)]
    assert weights[0] == weights[1]


def test_training_goes_on_while_a_checkpoint_is_written(job, behind, monkeypatch):
    """The first is not whole before step 5 is taken: who waited for it would wait in vain."""
    write, taken, seen = Snapshot.write, threading.Event(), []

    def late(self):
        assert taken.wait(120)
        write(self)

    def on_step(record):
        if record["step"] == 5:
            seen.append(latest(job.checkpoint_store, job.digest()))
            taken.set()

    monkeypatch.setattr(Snapshot, "write", late)
    assert run_worker(job, on_step=on_step) == "done"
    assert seen == [None]
    assert [one.position.step for one in complete(job.checkpoint_store, job.digest())] == [8]


def test_one_checkpoint_waits_for_the_other_and_it_is_said(job, behind, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    write, finish, waited_for, going = Snapshot.write, Saver.finish, threading.Event(), []

    def late(self):
        going.append(self)
        assert len(going) == 1 and waited_for.wait(120)
        write(self)
        waited_for.clear()
        going.pop()

    def waiting(self):
        if self._under_way is not None:
            waited_for.set()
        finish(self)

    monkeypatch.setattr(Snapshot, "write", late)
    monkeypatch.setattr(Saver, "finish", waiting)
    assert run_worker(job) == "done"
    said = [record.getMessage() for record in caplog.records]
    assert "the checkpoint of step 6 waits for that of step 3 to be written" in said
    assert [one.position.step for one in complete(job.checkpoint_store, job.digest())] == [8]


def test_a_checkpoint_that_cannot_be_written_behind_ends_the_stage(job, behind, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Snapshot, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        run_worker(job)
    assert latest(job.checkpoint_store, job.digest()) is None
    assert not job.result_file.exists()


def test_a_stage_that_diverges_keeps_the_checkpoint_that_is_being_written(job, behind, monkeypatch):
    write, take_step, diverged = Snapshot.write, trainer._step, threading.Event()

    def late(self):
        assert diverged.wait(120)
        write(self)

    def step(stage, *args, **kwargs):
        if stage.position.step == 4:
            diverged.set()
            raise TrainingDiverged("the loss is not finite")
        return take_step(stage, *args, **kwargs)

    monkeypatch.setattr(Snapshot, "write", late)
    monkeypatch.setattr(trainer, "_step", step)
    with pytest.raises(TrainingDiverged):
        run_worker(job)
    assert latest(job.checkpoint_store, job.digest()).position.step == 3


class Written:
    """An engine whose checkpoint is two small files."""

    module = SimpleNamespace(
        lm=SimpleNamespace(
            config=SimpleNamespace(save_pretrained=lambda folder: (folder / "config.json").write_text("{}"))
        )
    )

    def save_checkpoint(self, folder, tag, save_latest):
        (Path(folder) / tag).mkdir()
        for name in ("model.pt", "optimizer.pt"):
            (Path(folder) / tag / name).write_bytes(b"four")


def save_until(store, scratch, keep, steps):
    """An attempt that saves a checkpoint at each of these steps."""
    saver = Saver(store, scratch, keep=keep, notes=())
    for step in steps:
        saver.save(Written(), Position("mine", "1", world_size=1, step=step, tokens=0, seconds=0.0))
        saver.finish()


def damage(store, name, harm):
    if harm == "gone":
        store.delete(name)
    else:
        store.put(name, store.read(name)[:-1] if harm == "short" else b"")


@pytest.mark.parametrize("place", ["disk", "S3"])
@pytest.mark.parametrize("harm", ["gone", "short", "empty"])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_training_gets_further_whatever_is_damaged(tmp_path, request, keep, harm, place):
    """Any file of any kept checkpoint, one of each, or all: the next checkpoint is the one that counts."""
    root = tmp_path if place == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"

    def kept(name):
        store = Store(f"{root}/{name}")
        save_until(store, tmp_path / "scratch", keep, (4, 8, 12))
        return store, store.list("")

    count = len(kept("whole")[1])
    one_each = [number for number in range(count) if number % (count // keep) == 0]
    cases = [*([number] for number in range(count)), one_each, range(count)]
    for number, lost in enumerate(cases if place == "disk" else cases[-2:]):
        store, names = kept(f"damaged-{number}")
        for at in lost:
            damage(store, names[at], harm)
        step = reached(store)
        for _ in range(4):  # each attempt is lost after its first checkpoint
            step += 4
            save_until(store, tmp_path / "scratch", keep, (step,))
            assert reached(store) == step
        records = [name for name in store.list("") if "/" not in name]
        assert len(records) == keep


def reached(store):
    last = latest(store, "mine")
    return last.position.step if last else 0
