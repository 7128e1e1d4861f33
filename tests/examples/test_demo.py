"""The demo ends without a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from rasterloom.errors import INTERRUPTED, WRONG_USE

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = EXAMPLES / "quickstart" / "demo.py"


def started(folder, *options, **changes):
    """Start the demo with its small recipe, changed, in a folder of its own."""
    text = (EXAMPLES / "quickstart-small.yaml").read_text().replace("../work", str(folder))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**yaml.safe_load(text), **changes}))
    command = [sys.executable, str(DEMO), "--recipe", str(folder / "recipe.yaml"), *options]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_ends_it_in_one_line(tmp_path):
    with started(tmp_path, "--scenes", "100000") as demo:
        assert demo.stdout.readline().startswith("Rendering 100,000 scenes")
        demo.send_signal(signal.SIGINT)
        _, error = demo.communicate(timeout=60)
    assert demo.returncode == INTERRUPTED
    assert error.count("\n") == 1 and "run the same command to continue" in error


def test_a_wrong_recipe_is_one_line(tmp_path):
    with started(tmp_path, keep="no_such_score > 1") as demo:
        _, error = demo.communicate(timeout=60)
    assert demo.returncode == WRONG_USE
    assert error.count("\n") == 1 and "no_such_score" in error
