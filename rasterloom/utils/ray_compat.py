"""Private parts of Ray 2.60 that Rasterloom relies on."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

HOLDS_FOR = "2.60"
# Ray offers single machines this for macOS and Windows: it binds nothing but 127.0.0.1 then. It turns
# `_node_ip_address="127.0.0.1"` and `--node-ip-address=127.0.0.1` back into the machine's address without it.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Workers start when there is work for them, not one a CPU at once: a list of one shard takes one.
ON_DEMAND = {"RAY_prestart_worker_first_driver": "0"}
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


def forget_token() -> None:
    """Make Ray read its token from the environment again.

    It keeps mode and token that it has once read.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # heavy

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def loopback() -> Iterator[None]:
    """Have this process's Ray heed LOOPBACK.

    It reads the variable only when it is imported.
    """
    from ray._private import ray_constants  # heavy

    with _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def few_processes() -> Iterator[None]:
    """Start Ray within this block without what only a cluster needs.

    These are Python processes that take half a second of CPU each before any work begins: the dashboard,
    which `include_dashboard=False` only empties; the autoscaler's monitor; and the log monitor. `ray start`
    has options against the latter two, `ray.init` has none. Nor are the dashboard's libraries imported to
    see whether they are there.
    """
    from ray._private import parameter, services, utils  # heavy

    params = partial(parameter.RayParams, no_monitor=True, include_log_monitor=False)
    with (
        _replaced(parameter, "RayParams", params),
        _replaced(services, "start_api_server", lambda *_, **__: (None, None)),
        _replaced(utils, "get_dashboard_dependency_error", lambda: None),
    ):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def free_groups_of_actors() -> int:
    """Remove the placement groups that actors of this job made.

    Returns how many there were. A group outlives the actor that made it as long as the job does. Ray
    Train has a cleaner that looks by the dashboard's API whether its controller is alive; where there is
    no dashboard it looks forever, and where several Rays are on one machine it may ask another one.
    """
    import ray  # heavy
    from ray._private.state import state  # heavy
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # heavy
    from ray.util.placement_group import PlacementGroup, remove_placement_group  # heavy

    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    removed = 0
    for data in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(data)
        by_actor = group.creator_actor_id.strip(b"\xff") != b""
        is_there = group.state != PlacementGroupTableData.PlacementGroupState.REMOVED
        if group.creator_job_id == job and by_actor and is_there:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            removed += 1
    return removed


def ignore_rules(folder: Path) -> list[Callable[[Path], bool]]:
    """Return the ignore rules of a folder, as Ray reads them."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files  # heavy

    silent = logging.Logger("rasterloom.silent", logging.CRITICAL)  # Ray would tell of each ignore file
    rules: list[Callable[[Path], bool]] = get_excludes_from_ignore_files(
        folder, include_gitignore=True, logger=silent
    )
    return rules


def server_version(client: Any) -> str:
    """Return the cluster's version of Ray from a client.

    The client's public ``get_version`` is that of the API.
    """
    return str(client._server_ray_version)


def quiet_clients() -> None:
    """Silence the progress messages of Ray's clients."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
