"""Shards on Ray: as tasks, or in a pool of actors that hold GPUs, a bounded number in flight.

What is lost with a node is done again elsewhere, as often as nodes go: spot workers are meant to vanish. A
worker that dies while its node lives on died of the shard, or of memory: that is tried ``TRIES`` times.
"""

import math
import os
from collections import Counter
from collections.abc import Generator
from typing import Any

from rasterloom.errors import StepFailed, one_line
from rasterloom.pipelines.execution.gpu_actors import AHEAD, TRIES, Actors, options
from rasterloom.pipelines.execution.nodes import LATE_S, Nodes, of_kind
from rasterloom.pipelines.progress.prometheus import Metrics
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import Shard, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.recipe.resources import StepTakes
from rasterloom.recipe.run import Run
from rasterloom.storage.store import Store


def run_on_ray(
    store: Store,
    place: str,
    step: ShardStep,
    shards: list[Shard],
    run: Run,
    progress: Progress,
    metrics: Metrics,
    *more: Any,
) -> Generator[Published, None, None]:
    """Run shards and yield each result as it comes.

    Args:
        more: further arguments of ``staging.run_shard``, the same for all shards; they are sent once.

    Raises:
        StepFailed: the work of a shard raised an error, or its worker died ``TRIES`` times.
    """
    if not shards:
        return
    import ray
    from ray.exceptions import RayError, RayTaskError

    takes = run.takes(step.name)
    nodes = Nodes(needs_of(step, run))
    workers = Actors(step, takes, nodes) if step.uses_gpu and run.use_gpu else _Tasks(step, takes, nodes)
    if why := nodes.no_room():
        progress.say(f"  {step.name} waits for a node: {why}")
    shared, others = ray.put(step), [ray.put(value) for value in more]
    waiting = list(reversed(shards))
    flying: dict[Any, tuple[Shard, frozenset[str]]] = {}
    died = Counter[str]()
    try:
        while waiting or flying:
            workers.adapt(len(waiting) + len(flying))
            while waiting and len(flying) < min(run.in_flight or math.inf, workers.limit):
                shard = waiting.pop()
                reference = workers.start(store, place, shared, shard, *others)
                flying[reference] = shard, nodes.alive()
            at_once = min(run.in_flight or math.inf, workers.room)
            progress.given((shard.id for shard, _ in flying.values()), int(at_once))
            ready, _ = ray.wait([*workers.starting, *flying], num_returns=1, timeout=1.0)
            for reference in ready:
                if reference in workers.starting:
                    workers.started(reference)
                    continue
                shard, there = flying.pop(reference)
                try:
                    result = ray.get(reference)
                except RayTaskError as error:
                    cause = error.cause if isinstance(error.cause, Exception) else error
                    raise StepFailed(
                        f"{step.name}, shard {shard.name}: {one_line(cause, named=True)}"
                    ) from error
                except RayError as error:
                    guilty = workers.died(reference)
                    metrics.lost()
                    progress.lost()
                    if nodes.lost(there, error):
                        progress.say(f"  {step.name}: a node is gone; what it did is done again")
                    elif guilty:
                        died[shard.name] += 1
                        # The head may not have noticed yet; before giving up it is waited for.
                        if died[shard.name] >= TRIES and not nodes.lost(there, error, LATE_S):
                            raise StepFailed(f"{step.name}, shard {shard.name}: {_why(error)}") from error
                    waiting.append(shard)
                else:
                    workers.done(reference)
                    yield result
    finally:
        workers.stop()


def holds(step: ShardStep, run: Run) -> tuple[float, float]:
    """The CPUs and GPUs that a worker at a shard holds."""
    takes = run.takes(step.name)
    cpus = step.cpus if takes.cpus is None else takes.cpus
    return cpus, (takes.gpus or 1.0) if step.uses_gpu and run.use_gpu else 0.0


def needs_of(step: ShardStep, run: Run) -> dict[str, float]:
    """What a worker at a shard takes, in Ray's words."""
    takes = run.takes(step.name)
    cpus, gpus = holds(step, run)
    kind = takes.accelerator if gpus else None
    asked = {"CPU": cpus, "GPU": gpus, "memory": float(takes.memory or 0), **takes.resources, **of_kind(kind)}
    return {name: amount for name, amount in asked.items() if amount}


def _why(error: Exception) -> str:
    from ray.exceptions import OutOfMemoryError

    if isinstance(error, OutOfMemoryError):
        return "its node ran out of memory: give the step more in run.steps, or make its shards smaller"
    return one_line(error, named=True)


class _Tasks:
    """Shards as tasks: Ray uses the processes again, so that what they loaded stays loaded."""

    starting: tuple[Any, ...] = ()

    def __init__(self, step: ShardStep, takes: StepTakes, nodes: Nodes) -> None:
        import ray

        self._nodes = nodes
        work = _run_without_gpu if step.uses_gpu else staging.run_shard
        self._task = ray.remote(max_retries=0, **options(step, takes))(work)

    @property
    def room(self) -> int:
        """How many run at once."""
        return self._nodes.slots()

    @property
    def limit(self) -> int:
        """More than there is room for: an autoscaler adds nodes for what waits."""
        return max(2, AHEAD * self.room)

    def adapt(self, left: int) -> None:
        pass

    def start(self, *arguments: Any) -> Any:
        return self._task.remote(*arguments)

    def started(self, reference: Any) -> None:
        raise AssertionError("tasks need no start")

    def done(self, reference: Any) -> None:
        pass

    def died(self, reference: Any) -> bool:
        return True

    def stop(self) -> None:
        """Leave them: they end with the driver. Ray's cancel can abort it (PR 54798 tells of the race)."""


def _run_without_gpu(store: Store, place: str, step: ShardStep, shard: Shard, *more: Any) -> Published:
    """Ray hides no GPU from tasks (`start_ray`), and as many as there are cores would fill the first one."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return staging.run_shard(store, place, step, shard, *more)
