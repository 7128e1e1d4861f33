"""Work in a task that holds a GPU. Ray counts GPUs that it is told of, whether they are there or not."""

import os

import pytest

from rasterloom.errors import RecipeError, StepFailed
from rasterloom.pipelines.execution.gpu_task import on_a_gpu
from rasterloom.recipe.run import Run
from rasterloom.train.job import WorkerTakes
from rasterloom.utils.local_ray import start_local_ray, stop_local_ray

OWN_RAY = True
TAKES = WorkerTakes(cpus=1, gpus=1, resources={"fast": 1})


@pytest.fixture(scope="module")
def ray_with_a_gpu():
    start_local_ray(num_cpus=2, num_gpus=1, resources={"fast": 1}, include_dashboard=False)
    yield
    stop_local_ray()


def told(question):
    import ray

    if question == "refuse":
        raise RecipeError("no such prompt", field="sample.prompts", value="x")
    if question == "die":
        os._exit(1)
    held = ray.get_runtime_context().get_assigned_resources()
    return {name: amount for name, amount in held.items() if name in ("CPU", "GPU", "fast")}


def test_work_holds_a_gpu_and_what_a_worker_takes(ray_with_a_gpu):
    assert on_a_gpu(Run(use_gpu=True), TAKES, told, "held") == {"CPU": 1, "GPU": 1, "fast": 1}


def test_what_the_work_raises_comes_as_it_is_and_a_death_is_said(ray_with_a_gpu):
    with pytest.raises(RecipeError, match=r"sample\.prompts x: no such prompt"):
        on_a_gpu(Run(use_gpu=True), TAKES, told, "refuse")
    with pytest.raises(StepFailed, match="WorkerCrashed"):
        on_a_gpu(Run(use_gpu=True), TAKES, told, "die")
