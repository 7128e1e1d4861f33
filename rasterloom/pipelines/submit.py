"""Running a recipe as a job of a Ray cluster, through Ray's Jobs API."""

import asyncio
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from rasterloom.pipelines.retry import parse_classes
from rasterloom.pipelines.runner import StepFailed


def submit(recipe: Path, address: str, until: str | None, retry: str, follow: bool, console: Console) -> bool:
    """Submit ``python -m rasterloom run RECIPE`` with the recipe's folder as working directory.

    Returns:
        Whether the job is well: submitted, or, with ``follow``, succeeded.

    Raises:
        RecipeError: ``retry`` names a class that there is not.
        StepFailed: nobody answers at the address, or the cluster refuses the job.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    if retry:
        parse_classes(retry)
    options = [*(["--until", until] if until else []), *(["--retry", retry] if retry else [])]
    words = ["python", "-m", "rasterloom", "run", recipe.name, *options]
    folder = recipe.resolve().parent
    try:
        client: Any = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=shlex.join(words), runtime_env={"working_dir": str(folder)})
    except (ConnectionError, RuntimeError) as error:
        raise StepFailed(f"cannot submit to {address}: {str(error).splitlines()[0]}") from None
    console.print(f"submitted as {job}; `ray job logs --address {address} {job} --follow` shows its log")
    if not follow:
        return True
    asyncio.run(_tail(client, job, console))
    while (status := client.get_job_status(job)) in (JobStatus.PENDING, JobStatus.RUNNING):
        time.sleep(0.5)
    console.print(f"{job}: {status.value}")
    return bool(status == JobStatus.SUCCEEDED)


async def _tail(client: Any, job: str, console: Console) -> None:
    async for lines in client.tail_job_logs(job):
        console.print(lines, end="", markup=False, highlight=False)
