"""Running a recipe as a job of a Ray cluster."""

import json
import os
import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rasterloom
from rasterloom.errors import RecipeError
from rasterloom.pipelines.cluster import environment as variables
from rasterloom.pipelines.cluster.job_client import OURS, Jobs
from rasterloom.pipelines.cluster.packaging import Package, package
from rasterloom.pipelines.workflow import check_step_name
from rasterloom.pipelines.workspace.retries import parse_classes
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.recipe import Recipe

STOP_WAIT_S = 30  # that a job has to end by itself when it is stopped; Ray gives 3 otherwise


@dataclass(frozen=True)
class Submission:
    """Job to submit: its command, package and resources."""

    entrypoint: str
    package: Package
    variables: dict[str, str] = field(repr=False)
    """The submitter's, with their values: not to be shown."""
    takes: dict[str, Any]
    corpus: str
    with_code: bool

    def arguments(self, folder: Path) -> dict[str, Any]:
        """Arguments of Ray's ``submit_job``; the package is written into ``folder``."""
        self.package.write(folder / "package.zip", self.variables)
        env: dict[str, Any] = {
            "working_dir": str(folder / "package.zip"),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
        }
        if self.variables:
            env["env_vars"][variables.NAMES_FILE] = variables.FILE
            env["worker_process_setup_hook"] = variables.HOOK
        if self.with_code:
            env["py_modules"] = [str(Path(rasterloom.__file__).parent)]
        return {
            "entrypoint": self.entrypoint,
            "runtime_env": env,
            "metadata": {OURS: self.corpus},
            **self.takes,
        }


def prepare(
    recipe_file: Path,
    until: str | None,
    retry: str,
    env: list[str],
    with_code: bool = False,
    log_options: tuple[str, ...] = (),
) -> Submission:
    """Prepare and check the job of a recipe; nothing is sent.

    Args:
        log_options: further options of ``run``, for its output.

    Raises:
        RecipeError: the recipe, or what is asked for, cannot work on a cluster.
    """
    recipe = load_recipe(recipe_file)
    if until:
        check_step_name(recipe, until)
    if retry:
        parse_classes(retry)
    check_outlives(recipe, recipe_file.resolve().parent)
    options = [*(["--until", until] if until else []), *(["--retry", retry] if retry else []), *log_options]
    driver = recipe.run.driver
    return Submission(
        entrypoint=shlex.join(["python", "-m", "rasterloom", "run", recipe_file.name, *options]),
        package=package(recipe_file, recipe),
        variables=variables.collect(env),
        takes={
            "entrypoint_num_cpus": driver.cpus if driver.cpus is not None else 1.0,
            "entrypoint_memory": int(driver.memory) if driver.memory else None,
            "entrypoint_resources": driver.resources or None,
        },
        corpus=recipe.corpus,
        with_code=with_code,
    )


def submit(submission: Submission, jobs: Jobs) -> str:
    """Submit a job, and return its id. StepFailed: the cluster refuses it."""
    with tempfile.TemporaryDirectory(prefix="rasterloom-submit-") as folder:
        return jobs.submit(**submission.arguments(Path(folder)))


def check_outlives(recipe: Recipe, folder: Path) -> None:
    """Raise RecipeError if the workspace lies in the submitted folder."""
    if not recipe.workspace.startswith("s3://") and Path(recipe.workspace).is_relative_to(folder):
        raise RecipeError(
            f"workspace: {recipe.workspace} lies in the recipe's folder, of which a job gets a copy that "
            "goes when the job does: name s3://bucket/prefix, or a folder elsewhere that all nodes share"
        )


def check_job(recipe: Recipe) -> None:
    """Raise RecipeError if this job's workspace lies in its folder."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if job.get("runtime_env", {}).get("working_dir"):
        check_outlives(recipe, Path.cwd())
