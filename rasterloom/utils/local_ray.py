"""Ray on this machine alone: loopback interface, token of its own."""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rasterloom.utils.private_folders import MAX_AGE_S, remove, socket_folder
from rasterloom.utils.ray_compat import LOOPBACK, ON_DEMAND, few_processes, forget_token, loopback

_SESSION = re.compile(r"session_\d.*_(\d+)")  # Ray's name of a session's folder, with its driver's process id

# Of variables that lead to storage and its credentials. Ray's processes have those of the moment they began.
_STORAGE = ("AWS_", "GOOGLE_", "HF_")
_inherited: dict[str, str] | None = None


@contextmanager
def private_ray() -> Iterator[None]:
    """Start Ray within this block on loopback with a fresh token."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _environment(LOOPBACK | token), loopback():
        forget_token()
        yield


def start_local_ray(**options: Any) -> None:
    """Start a local Ray that only its own processes can connect to.

    Its processes inherit the token through their environment. It doesn't stay in this process's, where it
    would be given to the next cluster.

    Args:
        options: of `ray.init`.
    """
    import ray  # heavy

    global _inherited
    _inherited = _storage_variables()
    try:
        with private_ray(), _environment(ON_DEMAND), few_processes():
            folder = socket_folder("ray")
            _remove_old_sessions(folder)
            options.setdefault("_temp_dir", str(folder))
            ray.init(address="local", **options)  # not any that happens to run here
    except BaseException:
        stop_local_ray()
        raise


def stop_local_ray() -> None:
    """Stop the local Ray, or disconnect from another one."""
    import ray  # heavy

    global _inherited
    _inherited = None
    ray.shutdown()
    forget_token()


def stop_outdated_ray() -> None:
    """Stop a local Ray that doesn't know this process's storage variables.

    A notebook may set an endpoint or a key after its first run.
    """
    if _inherited not in (None, _storage_variables()):
        stop_local_ray()


def _storage_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_STORAGE)}


def _remove_old_sessions(folder: Path) -> None:
    """Remove old sessions of ended processes, with their logs."""
    for path in folder.glob("session_*"):
        driver = _SESSION.fullmatch(path.name)
        if driver and path.stat().st_mtime < time.time() - MAX_AGE_S and not _is_alive(int(driver[1])):
            remove(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, who has the number now
    return True


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
