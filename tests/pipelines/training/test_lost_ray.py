"""A training whose own Ray loses its controller (GCS): it ends in a sentence, and is tried again."""

import json
import os
import re
import sys
import time
from pathlib import Path

import psutil
import pytest
from infra_files import RETRY, Shell

import rasterloom
from rasterloom.errors import FAILED
from rasterloom.pipelines.execution.controller import LOST
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe

PACKAGE = Path(rasterloom.__file__).parent
STEPS = 120
TRAIN = f"""
train:
  heldout: 0.1
  dropout: 0
  checkpoint_every: 20
  stages: [{{target: 64, steps: {STEPS}, lr: 1.0e-3, warmup_steps: 1, batch_tokens: 700}}]
"""
WAITS_S = 500.0  # for workers that start on a machine with other work


@pytest.fixture
def recipe(workshop):
    workshop.run("--until", "lengths")
    workshop.recipe_file.write_text(workshop.recipe_file.read_text() + TRAIN)
    return workshop.recipe_file


def folder_of(recipe):
    (step,) = (p.step for p in Workflow(load_recipe(recipe)).plan() if p.step.name == "train/1-64")
    return recipe.parent / "work/little/files" / step.name / step.fingerprint


def kill_controller(process, folder):
    """Kill the controller of a run's Ray once its training has a checkpoint."""
    until = time.monotonic() + WAITS_S
    while not list(folder.glob("checkpoints/step-*.json")):  # written last
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    (victim,) = (one for one in family if one.name() == "gcs_server")
    victim.kill()


def test_a_training_whose_ray_is_lost_goes_on_from_its_last_checkpoint(recipe, tmp_path):
    """As in the images, where `rasterloom-retry` stands before the command: three tries at most."""
    folder, private = folder_of(recipe), tmp_path / "private"
    private.mkdir()
    quick = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "COLUMNS": "400"}
    places = {"HOME": os.environ["HOME"], "TMPDIR": str(private), "PYTHONPATH": str(PACKAGE.parent)}
    shell = Shell(tmp_path, {}, {**places, **quick})
    process = shell.start(RETRY, sys.executable, "-m", "rasterloom", "train", str(recipe))
    try:
        kill_controller(process, folder)
        process.wait(WAITS_S)
    finally:
        code, printed = shell.end(process)
    first, again, second = printed.partition(f"rasterloom-retry: try 1 of 3 ended with exit code {FAILED}")
    assert again and first.splitlines()[-1] == LOST, printed
    begins = re.search(r"train/1-64 continues from step (\d+)", second)
    assert code == 0 and begins and int(begins[1]) >= 20, printed
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    logs = "".join(path.read_text() for path in private.glob("rasterloom-*/logs/*.log"))
    assert "Ray's controller at 127.0.0.1:" in logs
    assert "without Ray's controller" in logs and "in train_stage" in logs  # where it was
