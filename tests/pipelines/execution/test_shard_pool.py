"""Imports of a worker's process before its first shard, and the processes of a local Ray."""

import subprocess
import sys

import psutil
import ray

from rasterloom.utils.local_ray import start_local_ray

OWN_RAY = True

# Each takes a tenth of a second of CPU or more, in every worker of every machine. So does pandas, which
# pyarrow imports by itself.
HEAVY = {"boto3", "datasets", "diffusers", "duckdb", "pyiceberg", "requests", "scipy", "sqlalchemy"}
HEAVY |= {"tokenizers", "torch", "transformers", "typer"}
LOAD = """
import pickle, sys
steps = pickle.load(sys.stdin.buffer)
print(*{name.partition(".")[0] for name in sys.modules})
"""
DUMP = """
import sys
import ray.cloudpickle
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
steps = Workflow(load_recipe(sys.argv[1])).until("scores")
sys.stdout.buffer.write(ray.cloudpickle.dumps([staging.run_shard, steps]))
"""


def test_a_worker_that_fetches_and_scores_imports_nothing_heavy(tmp_path):
    """As Ray does it: the step and the function come as a pickle, which imports what they are of."""
    (tmp_path / "urls.csv").write_text("url,caption\nhttp://example.org/a.jpg,a\n")
    (tmp_path / "recipe.yaml").write_text("corpus: demo\nworkspace: work\nsources: [{path: urls.csv}]\n")
    # In a process of its own: here others' tests have put marks on the classes.
    dump = [sys.executable, "-c", DUMP, str(tmp_path / "recipe.yaml")]
    sent = subprocess.run(dump, capture_output=True, check=True).stdout
    done = subprocess.run([sys.executable, "-c", LOAD], input=sent, capture_output=True, check=True)
    found = set(done.stdout.decode().split())
    assert {"rasterloom", "aiohttp", "cv2", "pyarrow"} <= found
    assert not HEAVY & found


def test_a_local_ray_has_no_processes_that_only_a_cluster_needs():
    start_local_ray(num_cpus=1, object_store_memory=100 * 2**20)
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    python = {command for command in commands if "python" in command and "ray::" not in command}
    for part in ("dashboard/dashboard.py", "monitor.py"):
        assert not any(part in command.partition(" --")[0] for command in python), python
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
