"""Recipes that the docs give for GPUs fit the memory of the machines that they name."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rasterloom.errors import RecipeError
from rasterloom.pipelines.training import gpu_memory
from rasterloom.pipelines.training.gpu_memory import gpu_sizes, refuse_what_cannot_fit
from rasterloom.recipe.model import Model
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.run import Run
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.profiles import CHAMELEON
from rasterloom.tokenize.unirep import image_length
from rasterloom.train.devices import Gpu, with_precision
from rasterloom.train.estimate import fit
from rasterloom.train.estimate.fit import ACCELERATORS, GIB
from rasterloom.train.job import WorkerTakes
from rasterloom.train.model.shapes import SIZES

ROOT = Path(__file__).parents[3]
PROMPT = 340  # tokens, of a long one
NODE = 8  # GPUs of a p4d


def runbook():
    """The recipe of docs/runbook.md: its section 3, with the training of its section 6."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/runbook.md").read_text(), flags=re.S)
    (corpus,) = (block for block in blocks if "corpus: photos" in block)
    (train,) = (block for block in blocks if block.startswith("train:"))
    return yaml.safe_load(corpus) | yaml.safe_load(train)


def of_kuberay():
    return yaml.safe_load((ROOT / "infra/kuberay/overlays/aws/train/recipe.yaml").read_text())


def held_by(train, run, target):
    longest = max(image_length(*size, CHAMELEON) for size in bucket_sizes(target)) + PROMPT
    return fit.Stage(SIZES["7b"], (), run.train_workers.min, longest)


@pytest.mark.parametrize("given", [runbook, of_kuberay])
def test_the_stages_of_the_docs_fit_the_machines_that_they_name(given):
    """On p4d.24xlarge, whose A100 are those with 40 GB."""
    fields = given()
    fields["train"]["init"] = "7b"
    recipe = Recipe.model_validate(fields)
    run, train = recipe.run, with_precision(recipe.train.of_stage(0), use_gpu=recipe.run.use_gpu)
    takes = run.takes("train/1-512")
    assert run.use_gpu and train.deepspeed.bf16 and run.train_workers.min % NODE == 0
    assert NODE * takes.cpus <= 90 and NODE * takes.memory <= 1000 * GIB
    smallest = min(gpu_sizes(WorkerTakes(gpus=1, accelerator=takes.accelerator)))
    assert smallest == 39.4 * GIB
    assert fit.fit(train, held_by(train, run, 512), smallest).is_there
    # As the runbook was: two workers, nothing computed again, a whole share at once.
    before = train.model_copy(update={"model": Model(remat="none"), "micro_batch_tokens": None})
    found = fit.fit(before, replace(held_by(train, run, 512), workers=2), smallest)
    assert not found.is_there and len(found.ways_out) == 3


@pytest.mark.parametrize(
    ("takes", "sizes"),
    [
        (WorkerTakes(), ()),
        (WorkerTakes(gpus=1, accelerator="A100"), (39.4, 79.1)),
        (WorkerTakes(gpus=1, accelerator="H200"), (139.8,)),
        (WorkerTakes(gpus=1), (16.0, 24.0)),
        (WorkerTakes(gpus=1, accelerator="AMD-Instinct-MI210"), (16.0, 24.0)),
    ],
)
def test_the_memory_is_that_of_the_kind_that_is_named_else_of_this_machine(takes, sizes, monkeypatch):
    here = [Gpu("a", 24 * GIB, bf16=True), Gpu("b", 16 * GIB, bf16=True)]
    monkeypatch.setattr(gpu_memory, "gpus", lambda: here)
    monkeypatch.setattr(gpu_memory, "_kinds_on_cluster", tuple)
    assert gpu_sizes(takes) == tuple(size * GIB for size in sizes)
    monkeypatch.setattr(gpu_memory, "_kinds_on_cluster", lambda: ("L4", "H100"))
    if takes == WorkerTakes(gpus=1):
        assert gpu_sizes(takes) == (22.0 * GIB, 79.1 * GIB)


def test_what_cannot_fit_is_refused_in_one_line(monkeypatch):
    class Config:
        train = Train(stages=(Stage(target=512, epochs=1),), deepspeed=DeepSpeed(zero=2), init="7b")

    class Step:
        name, config = "train/1-512", Config

    run = Run(use_gpu=True, steps={"train": {"accelerator": "A100"}})
    stage = replace(held_by(Config.train, run, 512), workers=1)
    monkeypatch.setattr("rasterloom.train.devices.gpus", list)
    message = r"^train/1-512: a worker takes [\d.]+ GiB, and of a GPU with 79\.1 GiB .* it would fit with "
    with pytest.raises(RecipeError, match=message):
        refuse_what_cannot_fit(Step, run, stage)
    refuse_what_cannot_fit(Step, run, replace(stage, workers=8))
    refuse_what_cannot_fit(Step, Run(), stage)  # on a CPU nobody knows


def test_every_gpu_that_is_known_has_its_peak():
    from rasterloom.train.estimate.flops import peak_flops

    assert all(peak_flops(name) for name in ACCELERATORS if name != "T4")
