"""A workspace and checkpoints that earlier code wrote; tests/data/README.md says how."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from rasterloom.schema import Profile
from rasterloom.storage.store import Store
from rasterloom.train.checkpoint.export import export_checkpoint
from rasterloom.train.checkpoint.saver import latest

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "old_workspace.json").read_text())


@pytest.fixture
def workspace(tmp_path):
    with zipfile.ZipFile(DATA / "old_workspace.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.fixture
def at_its_place(workspace):
    """A function that runs the command line where the workspace was made, and returns what was printed.

    Iceberg's metadata and the digests of training stages hold absolute paths. So the folder is mounted there,
    in a user namespace, which takes no rights of root.
    """

    def run(*arguments, code=0):
        mounted = 'mount --bind "$0" /srv && exec "$@"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, workspace]
        done = subprocess.run(
            [*command, sys.executable, "-m", "rasterloom", *arguments],
            env={**os.environ, "TMPDIR": "/srv/tmp", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr if code else done.stdout

    return run


def planned(at_its_place, recipe):
    """Plan a recipe. Of `half` a run refuses to go on, which the plan says, too."""
    printed = at_its_place("plan", f"/srv/{recipe}.yaml", "--format", "json", code=2 * (recipe == "half"))
    rows = (line for line in printed.splitlines() if line.startswith("{"))
    return {row["step"]: row for row in map(json.loads, rows)}


@pytest.mark.parametrize("recipe", EXPECTED["plans"])
def test_what_is_done_is_not_done_again(at_its_place, recipe):
    steps, before = planned(at_its_place, recipe), EXPECTED["plans"][recipe]
    assert list(steps) == list(before)
    assert {name: row["fingerprint"] for name, row in steps.items()} == {
        name: row["fingerprint"] for name, row in before.items()
    }
    assert {name: not row["runs"] for name, row in steps.items()} == {
        name: row["done"] for name, row in before.items()
    }
    corpus = ("pairs", "images", "scores", "selection", "text", "codes", "tokens")
    assert all(row["done"] == (name.split("/")[0] in corpus) for name, row in before.items())


def test_why_it_is_done_again(at_its_place):
    """Rows are held out by image, and a stage draws from streams of its own: lengths, stages, samples."""
    steps = planned(at_its_place, "done")
    assert {name: row["reason"] for name, row in steps.items() if row["runs"]} == {
        "lengths/64": "code changed: version 1 -> 2",
        "lengths/96": "code changed: version 1 -> 2",
        "train/1-64": "code changed: version 2 -> 4",
        "sample": "code changed: version 1 -> 2",
        "report": "input changed: lengths/64, lengths/96, train/1-64, sample",
    }


@pytest.mark.parametrize("recipe", EXPECTED["exported"])
def test_checkpoints_become_the_same_models(workspace, tmp_path, recipe):
    """Of ZeRO 2 in float32, and of ZeRO 1 in bf16, both of two ranks."""
    stage = {"half": "2-96", "bf16": "1-64"}[recipe]
    half = {file.parent for file in (workspace / "work").rglob("*_optim_states.pt")}
    (state,) = (folder for folder in half if f"train/{stage}" in str(folder))
    profile = json.loads(next((workspace / "work").rglob("profile.json")).read_text())
    store = Store(str(state.parents[1]))
    newest = latest(store, None)
    export_checkpoint(store, newest, Profile(**profile), tmp_path / "model", lora=None)
    tensors = load_file(tmp_path / "model/model.safetensors")
    found = {name: hashlib.sha256(tensor.tobytes()).hexdigest()[:16] for name, tensor in tensors.items()}
    assert found == EXPECTED["exported"][recipe]


def test_a_stage_that_was_cut_off_is_refused_with_the_way_out(at_its_place):
    """Its random draws were others: it can neither go on nor be started over unasked."""
    for command in (("train", "--resume"), ("run",)):
        printed = at_its_place(command[0], "/srv/half.yaml", *command[1:], code=2)
        assert "train/2-96 was begun by an earlier version of Rasterloom" in printed
        assert "finish it with that version, or delete /srv/work/little/files/train/2-96/" in printed
