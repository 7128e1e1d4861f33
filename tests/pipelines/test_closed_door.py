"""Who gets into a Ray of ours: its own processes, through loopback, and nobody else."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from listening import assert_only_loopback, command_of, family, listening

from rasterloom.local_ray import LOOPBACK

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
        yield root, heard
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
