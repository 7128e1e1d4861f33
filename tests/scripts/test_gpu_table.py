"""The rehearsal of the GPU's benchmark, and its table."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOUND = {
    "header": {"rehearsal": False, "torch": "2.11.0", "gpu": "NVIDIA H200, 580.1, 1980 MHz", "triton": None},
    "outcomes": {
        "train": {"seconds": 140.2},
        "clip": {"seconds": 30.0, "failed": 1, "said": "Traceback ...\nOutOfMemoryError: a | b"},
        "resume": {"skipped": "budget"},
    },
    "records": [
        {
            "stage": "train", "name": "MFU", "value": 0.5123, "unit": "", "goal": 0.48,
            "op": ">=", "ok": True, "predicted": "50-53 %", "n": 5, "spread": 0.02,
            "args": {"target": 512}, "t": 9.0,
        },
        {
            "stage": "train", "name": "kernel", "value": "sdpa", "unit": "", "goal": None,
            "op": None, "ok": None, "predicted": None, "n": 1, "spread": None, "args": {}, "t": 1.0,
        },
    ],
}  # fmt: skip


def test_the_table_has_every_figure_beside_its_goal(tmp_path):
    script = runpy.run_path(str(ROOT / "scripts/gpu_table.py"))
    (tmp_path / "gpu.json").write_text(json.dumps(FOUND))
    script["main"](tmp_path / "gpu.json", tmp_path / "GPU.md")
    page = (tmp_path / "GPU.md").read_text()
    assert "Measured with torch 2.11.0, gpu NVIDIA H200, 580.1, 1980 MHz." in page
    assert "| MFU | target 512 | 0.5123 ± 1.0% | >= 0.48 | yes | 50-53 % |" in page
    assert "| kernel |  | sdpa |  |  |  |" in page
    assert "Not run: budget." in page
    assert "Ended early, after 30 s: OutOfMemoryError: a | b" in page


def test_every_stage_is_rehearsed_on_a_cpu(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--out", str(tmp_path), "--rehearse"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "gpu.json").read_text()[-5000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    stages = {record["stage"] for record in found["records"]}
    assert stages == set(found["outcomes"]) == {
        "ceilings", "attention", "equality", "train", "codec", "sample", "clip", "resume",
    }  # fmt: skip
    assert not any("failed" in outcome for outcome in found["outcomes"].values())
    named = {record["name"] for record in found["records"]}
    assert {"tokens/s", "times the padded peer", "encoded", "step", "tower"} <= named
    right = {record["name"]: record for record in found["records"]}
    # What holds on a CPU as well.
    assert right["bits that another sequence changes"]["value"] == 0
    assert right["loss, full, bits that differ"]["value"] == 0
    assert right["same weights, bit for bit"]["value"] == 1
    with pytest.raises(ValueError, match="rehearsal"):
        runpy.run_path(str(ROOT / "scripts/gpu_table.py"))["page"](found)
