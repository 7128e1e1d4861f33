"""The average of the weights beside one of a plain loop in float64, at several numbers of ranks."""

import json
from dataclasses import replace

import pytest
import ranks
import torch
from plain_loop import plain_loop
from safetensors.torch import load_file

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Ema, Guard, Stage, Train
from rasterloom.train.checkpoint.export import export_checkpoint
from rasterloom.train.checkpoint.saver import complete, latest
from rasterloom.train.job import Vocabulary
from rasterloom.train.optim.weight_average import whole_average

STEPS = 6


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=STEPS, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(
        stages=(stage,), heldout=0.2, cfg_drop=0.0, dropout=0.0, checkpoint_every=2, ema=Ema(decay=0.7)
    )
    return new_job(stage, train)


def changed(job, **changes):
    return replace(job, train=job.train.model_copy(update=changes))


def doubles(lm):
    return {name: p.detach().double() for name, p in lm.named_parameters()}


def oracle(job, without=(), last=STEPS):
    """The average in float64 after step ``last``, updated at every so many steps, if they were taken."""
    seen = []
    plain_loop(job, without, lambda lm: seen.append(doubles(lm)))
    steps = [step for step in range(1, STEPS + 1) if step not in without]
    ema, average = job.train.ema, seen[0]
    for step, weights in zip(steps, seen[1:], strict=True):
        if step % ema.every == 0 and step <= last:
            average = {name: ema.decay * average[name] + (1 - ema.decay) * p for name, p in weights.items()}
    return average


def average_of(job):
    return load_file(job.average_dir / "model.safetensors")


def assert_close(found, expected, atol=2e-5):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.float(), rtol=1e-3, atol=atol, msg=name)


@pytest.mark.parametrize(
    ("world", "zero", "every"), [(1, 0, 1), (2, 0, 2), (2, 1, 1), (1, 2, 1), (2, 2, 1), (2, 3, 2), (3, 3, 1)]
)
def test_the_average_is_that_of_a_plain_loop(job, world, zero, every):
    job = changed(job, deepspeed=DeepSpeed(zero=zero), ema=Ema(decay=0.7, every=every))
    ranks.train(job, world)
    found, expected = average_of(job), oracle(job)
    assert_close(found, expected)
    weights = load_file(job.model_dir / "model.safetensors")
    assert (found["lm_head.weight"] - weights["lm_head.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_other_numbers_of_ranks_go_on_with_the_average(job, zero):
    """Cut at a checkpoint that was asked for, and killed between two."""
    job = changed(job, deepspeed=DeepSpeed(zero=zero))
    assert ranks.train(job, 2, stop_at=1) == "stopped"
    with pytest.raises(RuntimeError):
        ranks.train(job, 3, die_at=3)
    assert ranks.train(job, 1) == "done"
    assert_close(average_of(job), oracle(job))


def test_another_zero_stage_goes_on_with_the_average(job):
    for zero, world in ((0, 2), (3, 1), (2, 2)):
        job = changed(job, deepspeed=DeepSpeed(zero=zero))
        ranks.train(job, world, stop_at=2)
    assert_close(average_of(job), oracle(job))


@pytest.mark.parametrize("on", ["skip", "rollback"])
def test_a_step_that_is_refused_is_in_no_average(job, on):
    """Rolled back, the average is that of the checkpoint, too."""
    job = changed(job, guard=Guard(on=on))
    ranks.train(job, 2, poison=(4,))
    assert_close(average_of(job), oracle(job, without={"skip": (4,), "rollback": (3, 4)}[on]))


@pytest.mark.parametrize(
    ("zero", "more", "lora", "frozen"),
    [
        (1, {"bf16": True}, None, ()),
        (3, {"bf16": True}, None, ("embeddings",)),
        (2, {"offload": "cpu"}, None, ("norms",)),
        (2, {}, Lora(rank=2, alpha=6, vocabulary=True), ()),
    ],
)
def test_an_average_that_forgets_all_is_the_weights_as_they_are_trained(job, zero, more, lora, frozen):
    """In float32 also under bf16, and merged with its adapters."""
    job = changed(job, deepspeed=DeepSpeed(zero=zero, **more), model=Model(lora=lora), ema=Ema(decay=1e-9))
    job = replace(job, stage=job.stage.model_copy(update={"freeze": frozen}))
    ranks.train(job, 2)
    assert_close(average_of(job), load_file(job.model_dir / "model.safetensors"), atol=1e-6)
    assert (job.average_dir / "adapter").exists() == (lora is not None)


def test_the_average_of_a_checkpoint_is_exported(job, profile, tmp_path):
    job = changed(job, deepspeed=DeepSpeed(zero=2), keep_checkpoints=3)
    text = Vocabulary("{}", first_id=4, digest="a1")
    job = replace(job, vocabulary=text)
    ranks.train(job, 2)
    there = {one.position.step: one for one in complete(job.checkpoint_store, job.digest())}
    for step, checkpoint in there.items():
        folder, given = tmp_path / str(step), {"lora": None, "vocabulary": text, "average": True}
        export_checkpoint(job.checkpoint_store, checkpoint, profile, folder, **given)
    averages = {step: load_file(tmp_path / str(step) / "model.safetensors") for step in there}
    assert sorted(averages) == [2, 4, 6]
    assert_close(averages[6], average_of(job), atol=0)
    assert_close(averages[2], oracle(job, last=2))
    for name in ("tokenizer.json", "profile.json", "README.md"):  # as beside the weights
        expected = (job.model_dir / name).read_text()
        assert expected == (job.average_dir / name).read_text() == (tmp_path / "6" / name).read_text()


def test_without_an_average_nothing_is_kept(job, profile, tmp_path):
    plain = changed(job, ema=None)
    ranks.train(plain, 1)
    assert not plain.average_dir.exists()
    last = latest(plain.checkpoint_store, plain.digest())
    assert not [name for name in last.files if name.startswith("ema")]
    with pytest.raises(ValueError, match=r"has no average of weights \(train.ema\)"):
        export_checkpoint(plain.checkpoint_store, last, profile, tmp_path / "none", lora=None, average=True)
    fields = json.loads(plain.train.model_dump_json())
    assert "ema" not in fields  # so that earlier results keep their fingerprints


def test_a_checkpoint_whose_average_is_not_whole_is_named(job, tmp_path):
    job = changed(job, deepspeed=DeepSpeed(zero=2))
    ranks.train(job, 2, stop_at=3)
    last = latest(job.checkpoint_store, job.digest())
    (job.folder / "checkpoints" / last.name / "ema-1.pt").unlink()
    record = next((job.folder / "checkpoints").glob("step-00000003.json"))
    text = json.loads(record.read_text())
    del text["files"]["ema-1.pt"]
    record.write_text(json.dumps(text))
    with pytest.raises(RuntimeError, match=r"StorageError: .*step-00000003-.* is not whole"):
        ranks.train(job, 1)
    with pytest.raises(ValueError, match="has no average"):
        whole_average(tmp_path, {})
