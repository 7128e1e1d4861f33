"""Who gets into a Ray of ours: its own processes, through loopback, and nobody else."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
from listening import assert_only_loopback, command_of, family, listening
from ray._raylet import validate_authentication_token

from rasterloom.utils.local_ray import start_local_ray, stop_local_ray
from rasterloom.utils.ray_compat import LOOPBACK

OWN_RAY = True

TRAIN = """
train:
  heldout: 0.1
  dropout: 0
  stages: [{target: 64, steps: 100000, lr: 1.0e-3, warmup_steps: 2, batch_tokens: 700}]
run:
  cpus: 2
  train_workers: 2
"""
INTRUDER = """
import os, sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("ran in", ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote()))
"""
DEADLINE_S = 400.0
ROOT = Path(__file__).parents[2]
STARTED = r"ray\.init\((?!\))|(?<!\w)Cluster\(initialize_head|(?<!\w)Cluster\(\n|RAY_AUTH_MODE=\"disabled\""


@pytest.fixture(scope="module")
def training(workshop_at, tmp_path_factory):
    """A run that is training; all that it has listened on so far."""
    shop = workshop_at(tmp_path_factory.mktemp("door") / "recipe.yaml")
    process = shop.write(**{"run: {cpus: 2, in_flight: 2}": TRAIN}).start("--log", "json")
    root, heard, until = psutil.Process(process.pid), set(), time.monotonic() + DEADLINE_S
    try:
        while not list(shop.recipe_file.parent.rglob("metrics.jsonl")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            heard |= listening(root)
            time.sleep(0.2)
        yield root, heard | listening(root)  # the last sockets may be younger than the last look
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)


def test_a_run_listens_on_loopback_alone(training):
    root, heard = training
    assert_only_loopback(root, heard)
    assert_only_loopback(root)
    everything = " ".join(command for command, *_ in heard)
    for part in ("gcs_server", "raylet/raylet", "DashboardAgent", "RuntimeEnvAgent"):
        assert part in everything
    # Ray's own socket and gloo's of two ranks, and the first one's store.
    assert len([command for command, *_ in heard if "RayTrainWorker" in command]) >= 5


def test_only_who_has_the_token_gets_into_a_run(training):
    root, _ = training
    raylet = next(p for p in family(root) if "raylet/raylet" in command_of(p))
    address = re.search(r"--gcs-address=(\S+)", command_of(raylet))[1]
    token = raylet.environ()["RAY_AUTH_TOKEN"]
    for given in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_TOKEN": ""}):
        ended = intrude(address, **given)
        assert ended.returncode and "ran in" not in ended.stdout, given
        assert "AuthenticationError" in ended.stderr, ended.stderr
    assert "ran in" in intrude(address, RAY_AUTH_TOKEN=token).stdout  # it would have, else

    host = socket.gethostbyname(socket.gethostname())
    if not host.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(address.rpartition(":")[2])), timeout=10)

    commands = [command_of(process) for process in psutil.process_iter()]
    assert not [command for command in commands if token in command]


@pytest.mark.parametrize("script", ["examples/quickstart/demo.py", "benchmarks/bench_runner.py"])
def test_the_demo_and_the_benchmarks_listen_on_loopback_alone(script, workshop, free_port, tmp_path):
    workshop.site = tmp_path / "site", free_port()  # a site that the demo draws and serves
    workshop.write()
    given = ["--recipe", workshop.recipe_file, "--scenes", "24"] if "demo" in script else ["20"]
    with open(tmp_path / "printed", "w") as out:
        process = subprocess.Popen([sys.executable, ROOT / script, *given], stdout=out, stderr=out)
    heard = set()
    while process.poll() is None:
        heard |= listening(psutil.Process(process.pid))
        time.sleep(0.2)
    assert process.returncode == 0, (tmp_path / "printed").read_text()
    assert_only_loopback(None, heard)
    assert any("raylet/raylet" in command for command, *_ in heard)


def test_a_token_goes_with_its_ray(monkeypatch):
    """The next cluster that this process connects to is asked for its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    seen = []
    for _ in range(2):
        start_local_ray(num_cpus=1, object_store_memory=100 * 2**20)
        seen.append(ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()))
        assert_only_loopback(psutil.Process())
        assert os.environ["RAY_AUTH_TOKEN"] == "1" * 64 and not LOOPBACK.keys() & os.environ.keys()
        stop_local_ray()
    assert len({*seen, "1" * 64}) == 3
    assert validate_authentication_token(f"Bearer {'1' * 64}")
    assert not validate_authentication_token(f"Bearer {seen[1]}")


# Who starts Ray or connects to one, and how; all others go through `local_ray` or `runner`.
STARTS = {
    "rasterloom/utils/local_ray.py": 1,
    "rasterloom/pipelines/execution/ray_cluster.py": 1,  # to a cluster, by its address
    "infra/clip-retrieval/on_ray.py": 1,  # likewise
    "tests/train/test_ray_trainer.py": 3,  # likewise, within `private_ray`
    "tests/pipelines/test_closed_door.py": 1,  # who breaks in
    "tests/support/ray_cluster.py": 1,
}
SHELLS = {  # with a token, as tests/infra and the walk of the page see
    "docs/cluster-quickstart.md",
    "infra/ray/aws-p4d.yaml",
    "infra/skypilot/corpus.yaml",
    "infra/slurm/rasterloom.sbatch",
}


def test_ray_is_started_in_these_places_alone():
    found, shells = {}, set()
    for folder in ("rasterloom", "examples", "benchmarks", "scripts", "infra", "tests", "docs"):
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix == ".py":
                if count := len(re.findall(STARTED, path.read_text())):
                    found[name] = count
            elif path.suffix in {".md", ".yaml", ".sbatch", ".sh", ".Dockerfile"}:
                if re.search(r"^(?!.*`ray start).*\bray start --", path.read_text(), re.M):
                    shells.add(name)
                assert "RAY_AUTH_MODE=disabled" not in path.read_text(), name
    assert found == STARTS
    assert shells == SHELLS


def intrude(address, **variables):
    """Try to run code in a Ray, as another process with other variables would."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", INTRUDER, address],
        env={**kept, **LOOPBACK, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
