"""Environment variables of the submitter for the job's processes.

What a job is given as variables of its runtime environment, Ray shows to everyone who may see the dashboard:
in the list of jobs, in the state API, in logs. So the values travel in a file of the job's package, which is
shown nowhere; only the file's name is a variable of the runtime environment.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from rasterloom.errors import RecipeError

FILE = ".rasterloom-variables.json"  # in the job's package
NAMES_FILE = "RASTERLOOM_VARIABLES_FILE"
HOOK = "rasterloom.pipelines.cluster.environment.take"  # what Ray calls in each new worker process


def collect(names: Iterable[str]) -> dict[str, str]:
    """Return the values of variables. RecipeError: unset, or Ray's own."""
    found = {}
    for name in names:
        if "=" in name:
            message = f"takes a name, not a value; export {name.split('=')[0]} and name it"
            raise RecipeError(message, field="env")
        if name.startswith("RAY_"):
            message = f"{name} is the cluster's own; its nodes are started with it"
            raise RecipeError(message, field="env")
        if name not in os.environ:
            raise RecipeError(f"{name} is not set here", field="env")
        found[name] = os.environ[name]
    return found


def take() -> None:
    """Set the variables from the job's package, before all else."""
    name = os.environ.get(NAMES_FILE)
    if not name:
        return
    file = Path(name)
    file.chmod(0o600)  # Ray unpacks it for every user of the node
    os.environ.update(json.loads(file.read_text(encoding="utf-8")))
