"""Models of checkpoints in the middle of a stage, whatever ZeRO has sharded."""

import subprocess
import sys
from dataclasses import replace

import pytest
import ranks
import torch
from safetensors.torch import load_file

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.checkpoint.export import export_checkpoint
from rasterloom.train.checkpoint.saver import complete, latest
from rasterloom.train.model.shapes import CONFIG_FILE
from rasterloom.train.sampling.sampler import open_sampler

LORA = Lora(rank=2, alpha=6, vocabulary=True)


@pytest.fixture
def job(new_job):
    stage = Stage(target=64, steps=4, lr=1e-2, warmup_steps=0, batch_tokens=300)
    train = Train(stages=(stage,), heldout=0.2, dropout=0.0, checkpoint_every=2)
    return new_job(stage, train)


def model_of(job, profile, folder, step=None):
    """The tensors of a checkpoint's model; of the newest if no step is named."""
    found = {one.position.step: one for one in complete(job.checkpoint_store, job.digest())}
    one = found[step or max(found)]
    export_checkpoint(job.checkpoint_store, one, profile, folder, lora=job.train.model.lora)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("zero", "bf16", "lora", "frozen"),
    [
        (0, False, LORA, ()),
        (1, True, None, ("embeddings",)),
        (1, False, LORA, ("norms",)),
        (2, False, LORA, ()),
        (3, True, None, ()),
        (3, False, LORA, ("norms",)),
    ],
)
def test_the_last_checkpoint_is_the_model_that_the_stage_ends_with(
    job, profile, tmp_path, zero, bf16, lora, frozen
):
    train = job.train.model_copy(
        update={"deepspeed": DeepSpeed(zero=zero, bf16=bf16), "model": Model(lora=lora)}
    )
    job = replace(job, train=train, stage=job.stage.model_copy(update={"freeze": frozen}))
    ranks.train(job, 2)
    ours, ended = model_of(job, profile, tmp_path / "at"), load_file(job.model_dir / "model.safetensors")
    assert ours.keys() == ended.keys()
    for name, tensor in ended.items():
        assert torch.equal(ours[name], tensor), name
    assert (tmp_path / "at" / CONFIG_FILE).read_text() == (job.model_dir / CONFIG_FILE).read_text()
    middle = model_of(job, profile, tmp_path / "middle", step=2)
    assert not torch.equal(middle["lm_head.weight"], ended["lm_head.weight"])
    open_sampler(tmp_path / "middle", profile)


def test_a_checkpoint_on_s3(job, profile, s3, tmp_path):
    job = replace(job, checkpoints=f"{s3}/{tmp_path.name}/checkpoints")
    ranks.train(job, 1)
    ours = model_of(job, profile, tmp_path / "at")
    ended = load_file(job.model_dir / "model.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in ended.items())
    assert sorted(path.name for path in (tmp_path / "at").iterdir()) == [
        "README.md",
        CONFIG_FILE,
        "model.safetensors",
        "profile.json",
    ]
    assert not list(tmp_path.glob("writing-*"))


def test_one_without_a_config_is_refused(job, profile, tmp_path):
    ranks.train(job, 1, stop_at=1)
    last = latest(job.checkpoint_store, None)
    older = replace(last, files={name: size for name, size in last.files.items() if name != CONFIG_FILE})
    with pytest.raises(ValueError, match=r"^step-00000001-\w+ has no config.json: an earlier version"):
        export_checkpoint(job.checkpoint_store, older, profile, tmp_path / "at", lora=None)


def test_nothing_is_printed(job, tmp_path):
    """In a process that has not had DeepSpeed yet: what a command prints as JSON stays that."""
    ranks.train(job, 1, stop_at=1)
    folder = job.checkpoint_store.path(latest(job.checkpoint_store, None).name)
    code = f"from rasterloom.train.checkpoint.export import *; whole_weights(Path({folder!r}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == ""
