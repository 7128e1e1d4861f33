"""Connect to a Ray cluster, or start one on this machine."""

import json
import logging
import os
from typing import Any

from rasterloom.errors import StepFailed, StorageError
from rasterloom.pipelines.execution.controller import controller
from rasterloom.pipelines.execution.nodes import shared_folder
from rasterloom.recipe.run import Run
from rasterloom.utils.last_words import last_words
from rasterloom.utils.local_ray import start_local_ray, stop_outdated_ray
from rasterloom.utils.ray_compat import forget_token
from rasterloom.utils.sigterm import sigterm

DIED = (
    "Rasterloom was killed, or ended by Ray, whose own message is above: on this machine a process of Ray "
    "was lost, on a cluster its head. What was finished is kept: run the same command again."
)
# For every worker. torch's threads wait for each other by spinning, which is 30 times slower where cores are
# shared; and tasks without a GPU look after themselves (`shard_pool._run_without_gpu`).
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of shards that were under way when another one ended the step
    "OMP_WAIT_POLICY": "PASSIVE",
}


def start_ray(run: Run) -> None:
    """Connect to the recipe's or the job's cluster, or start Ray here.

    Raises:
        StepFailed: there is no such cluster, it does not let us in, or Ray does not start here.
    """
    ours = {name: value for name, value in VARIABLES.items() if name not in os.environ}
    os.environ.update(ours)
    import ray  # heavy

    stop_outdated_ray()
    if not ray.is_initialized():
        last_words.arm(DIED)  # Ray's C++ code ends this process where its controller or raylet is gone
        sigterm.heed()
        _init(run, ours)
        sigterm.heed()  # Ray sets a handler of its own, which ends the process where it stands
        controller.watch(is_local=not _address(run))


def _check_folders(nodes: list[dict[str, Any]]) -> None:
    """Check that no node would delete this job's package under another's workers.

    Each Ray node unpacks the package anew, into the folder of its session.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if job.get("runtime_env", {}).get("working_dir") and (place := shared_folder(nodes)):
        raise StepFailed(
            f"two Ray nodes share {place}, where each deletes what the other has unpacked of this job: start "
            "one on each machine, or each with a temporary folder of its own"
        )


def _address(run: Run) -> str | None:
    """Address of a cluster; None for a Ray of this run's own."""
    return run.ray_address or os.environ.get("RAY_ADDRESS")


def _init(run: Run, variables: dict[str, str]) -> None:
    import ray  # heavy

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address := _address(run):
        forget_token()  # of a Ray that this process started before
        try:
            ray.init(address=address, runtime_env={"env_vars": variables}, **quiet)
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            reason = str(error).splitlines()[0]
            raise StepFailed(f"cannot connect to the Ray cluster {address}: {reason}") from None
        _check_folders(ray.nodes())
        return
    try:
        start_local_ray(
            num_cpus=run.cpus or os.cpu_count() or 1,
            object_store_memory=256 * 2**20,  # paths travel between tasks, not pixels
            **quiet,
        )
    except StorageError:  # of the folder for Ray's sockets, with the way out
        raise
    except Exception as error:  # Ray's own class for a machine that is too busy to start it in time
        reason = str(error).splitlines()[0].rstrip(".")
        raise StepFailed(
            f"Ray did not start on this machine: {reason}: run it again when it has less to do"
        ) from None
