"""Private parts of Ray 2.60 that Rasterloom relies on."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOLDS_FOR = "2.60"
# Ray offers single machines this for macOS and Windows: it binds nothing but 127.0.0.1 then. It turns
# `_node_ip_address="127.0.0.1"` and `--node-ip-address=127.0.0.1` back into the machine's address without it.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
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

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


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
