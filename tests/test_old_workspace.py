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

    def run(*arguments):
        mounted = 'mount --bind "$0" /srv && exec "$@"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, workspace]
        done = subprocess.run(
            [*command, sys.executable, "-m", "rasterloom", *arguments],
            env={**os.environ, "TMPDIR": "/srv/tmp", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def planned(at_its_place, recipe):
    rows = at_its_place("plan", f"/srv/{recipe}.yaml", "--format", "json").splitlines()
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


@pytest.mark.parametrize("recipe", EXPECTED["exported"])
def test_checkpoints_become_the_same_models(at_its_place, workspace, recipe):
    """Of ZeRO 2 in float32, and of ZeRO 1 in bf16, both of two ranks."""
    stage = {"half": "2", "bf16": "1"}[recipe]
    drawn = ("--prompt", "a red circle", "--stage", stage, "--step", "latest", "--out", "/srv/drawn")
    at_its_place("sample", f"/srv/{recipe}.yaml", *drawn)
    (file,) = (workspace / "tmp").rglob("model.safetensors")
    tensors = load_file(file)
    found = {name: hashlib.sha256(tensor.tobytes()).hexdigest()[:16] for name, tensor in tensors.items()}
    assert found == EXPECTED["exported"][recipe]


def test_a_stage_that_was_cut_off_goes_on_to_the_same_end(at_its_place, workspace):
    before, stopped = EXPECTED["resumed"], EXPECTED["resumed"]["from"]
    printed = at_its_place("train", "/srv/half.yaml", "--resume")
    assert f"train/2-96 continues from step {stopped}, " in printed
    steps = planned(at_its_place, "half")
    assert not steps["train/2-96"]["runs"]
    folder = workspace / "work/little/files/train/2-96" / steps["train/2-96"]["fingerprint"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows]
    assert losses[:stopped] == before["losses"][:stopped]
    assert losses == pytest.approx(before["losses"], rel=1e-4)
    held = json.loads((folder / "heldout.json").read_text())
    held_losses = {name: held[name]["all"]["loss"] for name in ("start", "end")}
    assert held_losses == pytest.approx(before["heldout"], rel=1e-4)
