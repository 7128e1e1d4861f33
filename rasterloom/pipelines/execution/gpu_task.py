"""One piece of work on a GPU of the cluster."""

from collections.abc import Callable
from typing import TypeVar

from rasterloom.errors import StepFailed, one_line
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.recipe.run import Run
from rasterloom.train.job import WorkerTakes

Given = TypeVar("Given")
Found = TypeVar("Found")


def on_a_gpu(run: Run, takes: WorkerTakes, work: Callable[[Given], Found], given: Given) -> Found:
    """Run some work in a Ray task with a GPU.

    Args:
        takes: what the task takes of its node, as a training worker does.

    Raises:
        StepFailed: the task's process or node died; what the work itself raises comes as it is.
    """
    start_ray(run)
    import ray  # heavy

    task = ray.remote(
        num_cpus=takes.cpus,
        num_gpus=1,
        memory=takes.memory or None,
        resources=dict(takes.resources) or None,
        accelerator_type=takes.accelerator,
        max_retries=3,  # where its node is lost
    )(work)
    try:
        found: Found = ray.get(task.remote(given))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise StepFailed(one_line(error, named=True)) from error
    return found
