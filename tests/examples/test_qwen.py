"""The example of a language model, from drawn rooms to a model that transformers opens."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from language_models import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """A folder with the rooms that the example's list names."""
    folder = tmp_path_factory.mktemp("rooms")
    sys.path.insert(0, str(EXAMPLES / "tasks"))
    try:
        importlib.import_module("make").make(folder / "work/tasks", 2)
    finally:
        sys.path.remove(str(EXAMPLES / "tasks"))
    return folder


@pytest.mark.parametrize("start", ["as it is", "folder"])
def test_it_runs_whole(rooms, start):
    """From random weights, and from a folder whose vocabulary grows."""
    folder = rooms / start.replace(" ", "-")
    folder.mkdir()
    recipe = (EXAMPLES / "qwen.yaml").read_text()
    if start == "folder":
        write_model(folder / "Qwen3", "qwen3", tied=True)
        recipe = recipe.replace("init: qwen3-tiny", "init: ./Qwen3").replace(
            "codec: mini", "codec: mini\n  text: ./Qwen3"
        )
    recipe = recipe.replace("../work/qwen", "work") + "run: {cpus: 2, train_workers: 1}\n"
    (folder / "recipe.yaml").write_text(recipe)
    for words in (
        ["run", "recipe.yaml"],
        ["sample", "recipe.yaml", "--prompt", "a red ball", "--out", "a.png"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "rasterloom", *words], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "a.png").exists()
    (model,) = folder.glob("work/qwen/files/train/1-64/*/model")
    lm, profile = (
        AutoModelForCausalLM.from_pretrained(model),
        json.loads((model / "profile.json").read_text()),
    )
    assert lm.config.vocab_size == profile["vocab_size"] and lm.config.model_type == "qwen3"
    with torch.no_grad():
        assert torch.isfinite(lm(input_ids=torch.tensor([[profile["bos"], profile["boi"]]])).logits).all()
    if start == "folder":
        prompt = AutoTokenizer.from_pretrained(model)("a red ball").input_ids
        assert (prompt[0], prompt[-1]) == (profile["bos"], profile["sep"])
