"""Private parts of Ray: they are there in the version that is pinned, and do what they are for.

tests/pipelines/test_closed_door.py shows that a Ray started with them lets nobody in.
"""

import logging
from importlib.metadata import version

import ray
from ray._private import ray_constants
from ray._raylet import validate_authentication_token
from ray.util import placement_group, placement_group_table

from rasterloom.utils.local_ray import start_local_ray
from rasterloom.utils.ray_compat import (
    HOLDS_FOR,
    TALKATIVE,
    forget_token,
    free_groups_of_actors,
    ignore_rules,
    loopback,
    quiet_clients,
    server_version,
)


def test_they_hold_for_the_version_that_is_installed():
    assert version("ray").startswith(f"{HOLDS_FOR}."), "look through ray_compat.py again"


def test_ignore_files_are_read_as_git_and_ray_do(tmp_path):
    (tmp_path / ".gitignore").write_text("/data\n")
    (tmp_path / ".rayignore").write_text("*.bin\n")
    rules = ignore_rules(tmp_path)
    assert [
        any(rule(tmp_path / name) for rule in rules) for name in ("data", "a/b.bin", "a/data", "recipe.yaml")
    ] == [True, True, False, False]
    assert ignore_rules(tmp_path / "nothing") == []


def test_ray_knows_of_the_loopback_interface_only_meanwhile():
    before = ray_constants.ENABLE_RAY_CLUSTER
    with loopback():
        assert ray_constants.ENABLE_RAY_CLUSTER is False
    assert before == ray_constants.ENABLE_RAY_CLUSTER


def test_a_token_is_read_again_once_it_is_forgotten(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    try:
        for token in ("a" * 32, "b" * 32):
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
            forget_token()
            assert validate_authentication_token(f"Bearer {token}")
            assert not validate_authentication_token(f"Bearer {'c' * 32}")
    finally:
        monkeypatch.undo()
        forget_token()


def test_clients_are_quiet():
    quiet_clients()
    assert all(logging.getLogger(name).level == logging.WARNING for name in TALKATIVE)


def test_a_client_says_which_ray_its_server_has():
    from ray.dashboard.modules.dashboard_sdk import SubmissionClient

    client = SubmissionClient("http://127.0.0.1:1", create_cluster_if_needed=False)
    assert hasattr(client, "_server_ray_version")
    client._server_ray_version = "2.60.0"
    assert server_version(client) == "2.60.0"


class Maker:
    """An actor that makes a placement group of a CPU."""

    def make(self):
        group = placement_group([{"CPU": 1}])
        ray.get(group.ready())
        return group.id.hex()


def test_groups_of_dead_actors_are_removed_and_no_others():
    start_local_ray(num_cpus=2, object_store_memory=100 * 2**20)
    mine = placement_group([{"CPU": 1}])
    ray.get(mine.ready())
    maker = ray.remote(num_cpus=0)(Maker).remote()
    theirs = ray.get(maker.make.remote())
    ray.kill(maker)
    assert free_groups_of_actors() == 1
    again = placement_group([{"CPU": 1}])
    assert again.wait(timeout_seconds=60)  # there is room
    states = {name: group["state"] for name, group in placement_group_table().items()}
    assert (states[mine.id.hex()], states[theirs]) == ("CREATED", "REMOVED")
    assert free_groups_of_actors() == 0
