"""Mistakes that would end a training at its last step, refused before the first."""

import pytest
import yaml
from language_models import write_model

from rasterloom.errors import RecipeError
from rasterloom.pipelines.training.preflight import check_training
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.train import devices
from rasterloom.train.model import lora
from rasterloom.train.monitoring import trackers


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"sizes": [[64, 64], [9, 5]]}, r"sample\.sizes \[9, 5\]: no bucket of target 64; .* is \[64, 32\]"),
        ({"suite": {"size": [96, 96]}}, r"sample\.suite\.size \[96, 96\]: no bucket of target 64"),
        ({"best_of": {"judge": "tidy"}}, r"sample\.best_of\.judge tidy: unknown judge 'tidy'; known: scene"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_drawn_are_refused_before_the_training(tmp_path, sample, words):
    train = {"init": "tiny", "stages": [{"target": 64, "steps": 1}]}
    recipe = {
        "corpus": "a",
        "workspace": str(tmp_path / "workspace"),
        "sources": [{"path": "pairs.csv"}],
        "tokenize": {"codec": "mini", "targets": [64]},
    }
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://127.0.0.1/a.jpg,one\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"train": train, "sample": sample}))
    loaded = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match=words):
        check_training(loaded, [step for step in Workflow(loaded).steps if step.name == "sample"])


@pytest.fixture
def folder(tmp_path):
    """A recipe's folder with a list and a language model."""
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://127.0.0.1/a.jpg,one\n")
    write_model(tmp_path / "qwen", "qwen3", tied=True)
    write_model(tmp_path / "window", "mistral", tied=False, sliding_window=16)
    return tmp_path


def write_recipe(folder, text, train, run):
    """Write a recipe that trains a stage."""
    recipe = {
        "corpus": "a",
        "workspace": "workspace",
        "sources": [{"path": "pairs.csv"}],
        "tokenize": {"codec": "mini", "targets": [64], "text": text},
        "train": {"stages": [{"target": 64, "steps": 1}], **train},
        "run": run,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def checked(folder, init, text, **train):
    """Check the training of a recipe with these initial weights and this text."""
    write_recipe(folder, text, {"init": init, **train}, {"cpus": 2, "train_workers": 1})
    loaded = load_recipe(folder / "recipe.yaml")
    steps = Workflow(loaded).steps
    check_training(loaded, [step for step in steps if step.name.startswith("train")])
    return steps


@pytest.mark.parametrize(
    ("init", "text", "words"),
    [
        (
            "qwen",
            None,
            r"^train/1-64: train\.init: .*qwen is a language model, .* tokenize\.text to its folder",
        ),
        ("qwen", "qwen/tokenizer.json", r"has another text vocabulary .* or a language model's folder\)$"),
        ("window", "window", r"^train/1-64: .*window cannot be trained on packed sequences: .* 16 tokens\)$"),
    ],
)
def test_language_models_are_refused_before_there_are_tokens(folder, init, text, words):
    with pytest.raises(RecipeError, match=words):
        checked(folder, init, text)


MISTAKES = {
    "init": ({"init": "tinny"}, {}, "train/1-64: train.init: no checkpoint at tinny; did you mean tiny? ("),
    "hub id": ({"init": "Qwen/Qwen3-0.6B"}, {}, "hub are downloaded first: docs/own-model.md)"),
    "rows that LoRA leaves out": (
        {"init": "qwen", "model": {"lora": {"rank": 4}}},
        {},
        "tokens of images are new to the model, and their rows would stay as they start; "
        "set train.model.lora.vocabulary: true",
    ),
    "peft": (
        {"init": "tiny", "model": {"lora": {"rank": 4}}},
        {},
        "train/1-64: train.model.lora takes peft: pip install 'rasterloom[lora]'",
    ),
    "a tracker": (
        {"init": "tiny", "trackers": ["wandb"]},
        {},
        "wandb is not installed: pip install 'rasterloom[wandb]', or set trackers: []",
    ),
    "deepspeed": (
        {"init": "tiny", "deepspeed": {"extra": {"fp16": {"enabled": True}}}},
        {},
        "float16 is not supported",
    ),
    "workers": (
        {"init": "tiny"},
        {"train_workers": 3, "cpus": 2},
        "train/1-64: run.train_workers asks for 3 workers of CPU 1 each, but Ray has room for 2: ",
    ),
    "GPU": ({"init": "tiny"}, {"use_gpu": True}, "run.use_gpu is set, but there is no GPU here: "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_plan_and_doctor_find_what_a_training_lacks(folder, rasterloom, monkeypatch, name):
    train, run, words = MISTAKES[name]
    if name in ("peft", "a tracker"):
        monkeypatch.setattr(lora if name == "peft" else trackers, "find_spec", lambda package: None)
    monkeypatch.setattr(devices, "gpus", list)
    recipe = write_recipe(folder, "qwen" if train["init"] == "qwen" else None, train, run)
    code, out, err = rasterloom("plan", recipe)
    assert (code, run == {}) in ((2, True), (0, False)) and words in (out if run else err)
    assert "11 of 11 steps would run" in out and not (folder / "workspace").exists()
    code, out, _ = rasterloom("doctor", recipe)
    assert code == 1 and [line for line in out.splitlines() if line.startswith("bad") and words in line]


@pytest.mark.usefixtures("warm_ray")
def test_a_language_model_whose_folder_is_the_text_is_accepted(folder):
    steps = checked(folder, "qwen", "qwen")
    text = next(step for step in steps if step.name == "text")
    other = checked(folder, "qwen", "window")  # the same tokenizer
    assert next(step for step in other if step.name == "text").fingerprint == text.fingerprint
