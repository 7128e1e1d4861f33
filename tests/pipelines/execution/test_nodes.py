"""Ray nodes of one machine that share a session folder."""

import json

import pytest

from rasterloom.errors import StepFailed
from rasterloom.pipelines.execution.nodes import shared_folder
from rasterloom.pipelines.execution.ray_cluster import _check_folders

SESSION = "/tmp/ray/session_1"


def node(host, session=SESSION, number="", alive=True):
    """A node as `ray.nodes` has it."""
    socket = f"{session}/sockets/raylet{number}"
    return {"Alive": alive, "NodeManagerAddress": host, "RayletSocketName": socket}


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (node("10.0.0.1", number=".1"), f"{SESSION} on 10.0.0.1"),
        (node("10.0.0.2"), None),
        (node("10.0.0.1", session="/scratch/ray/session_1"), None),
        (node("10.0.0.1", number=".1", alive=False), None),
    ],
)
def test_two_nodes_of_a_machine_share_a_folder(other, found):
    assert shared_folder([node("10.0.0.1"), other]) == found


def test_a_job_with_a_package_is_refused_there(monkeypatch):
    both = [node("10.0.0.1"), node("10.0.0.1", number=".1")]
    _check_folders(both)  # no job, or one without a package
    job = {"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    _check_folders([node("10.0.0.1"), node("10.0.0.2")])
    with pytest.raises(
        StepFailed, match=rf"two Ray nodes share {SESSION} on 10.0.0.1, .* a temporary folder of its own"
    ):
        _check_folders(both)
