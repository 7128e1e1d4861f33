"""Shards on Ray: as tasks, or in a pool of actors that hold GPUs, a bounded number in flight.

What is lost with a node is done again elsewhere, as often as nodes go: spot workers are meant to vanish. A
worker that dies while its node lives on died of the shard, or of memory: that is tried ``TRIES`` times.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from rasterloom.pipelines import staging
from rasterloom.pipelines.metrics import Metrics
from rasterloom.pipelines.nodes import Nodes
from rasterloom.pipelines.staging import Published
from rasterloom.pipelines.step import Shard, ShardStep
from rasterloom.recipe import Run, StepTakes
from rasterloom.storage import Store

TRIES = 5  # of a shard whose worker died, or of an actor that does not start
AHEAD = 2  # shards a slot: one at work and one that waits, so that no CPU or GPU does


class StepFailed(RuntimeError):
    """A step could not be finished; what it published so far stays, and a further run goes on from there."""


def one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"


def run_on_ray(
    store: Store,
    place: str,
    step: ShardStep,
    shards: list[Shard],
    run: Run,
    console: Console,
    metrics: Metrics,
    *more: Any,
) -> Iterator[Published]:
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
    nodes = Nodes(_needs(step, takes, run))
    workers = _Actors(step, takes, nodes) if step.uses_gpu and run.use_gpu else _Tasks(step, takes, nodes)
    if why := nodes.no_room():
        console.print(f"  {step.name} waits for a node: {why}", highlight=False)
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
                    raise StepFailed(f"{step.name}, shard {shard.name}: {one_line(cause)}") from error
                except RayError as error:
                    guilty = workers.died(reference)
                    metrics.lost()
                    if nodes.lost(there, error):
                        console.print(f"  {step.name}: a node is gone; what it did is done again")
                    elif guilty:
                        died[shard.name] += 1
                        if died[shard.name] == TRIES:
                            raise StepFailed(f"{step.name}, shard {shard.name}: {_why(error)}") from error
                    waiting.append(shard)
                else:
                    workers.done(reference)
                    yield result
    finally:
        workers.stop(list(flying))


def _needs(step: ShardStep, takes: StepTakes, run: Run) -> dict[str, float]:
    """What a worker takes, in Ray's words."""
    needs = {"CPU": step.cpus if takes.cpus is None else takes.cpus, **takes.resources}
    if takes.memory:
        needs["memory"] = float(takes.memory)
    if step.uses_gpu and run.use_gpu:
        needs["GPU"] = takes.gpus or 1.0
    return needs


def _options(step: ShardStep, takes: StepTakes) -> dict[str, Any]:
    cpus = step.cpus if takes.cpus is None else takes.cpus
    return {
        "num_cpus": cpus,
        "memory": int(takes.memory) if takes.memory else None,
        "resources": takes.resources or None,
    }


def _why(error: Exception) -> str:
    from ray.exceptions import OutOfMemoryError

    if isinstance(error, OutOfMemoryError):
        return "its node ran out of memory: give the step more in run.steps, or make its shards smaller"
    return one_line(error)


class _Tasks:
    """Shards as tasks: Ray uses the processes again, so that what they loaded stays loaded."""

    starting: tuple[Any, ...] = ()

    def __init__(self, step: ShardStep, takes: StepTakes, nodes: Nodes) -> None:
        import ray

        self._nodes = nodes
        work = _run_without_gpu if step.uses_gpu else staging.run_shard
        self._task = ray.remote(max_retries=0, **_options(step, takes))(work)

    @property
    def limit(self) -> int:
        """More than there is room for: an autoscaler adds nodes for what waits."""
        return max(2, AHEAD * self._nodes.slots())

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

    def stop(self, flying: list[Any]) -> None:
        import ray

        for reference in flying:
            ray.cancel(reference, force=True)


def _run_without_gpu(store: Store, place: str, step: ShardStep, shard: Shard, *more: Any) -> Published:
    """Ray hides no GPU from tasks (`start_ray`), and as many as there are cores would fill the first one."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return staging.run_shard(store, place, step, shard, *more)


class _Actors:
    """Shards in a pool of actors that hold a GPU each: a task with a GPU would load its weights for every
    shard, as Ray ends the process to be sure that the GPU's memory is free.

    The pool is as large as the shards that are left keep busy, between the recipe's ``min`` and ``max``. An
    actor that there is no room for yet waits, and holds up no shard; an autoscaler adds a node for it.
    """

    def __init__(self, step: ShardStep, takes: StepTakes, nodes: Nodes) -> None:
        import ray

        self._name = step.name
        room = nodes.slots()
        if takes.actors is None and room == 0:
            raise StepFailed(
                f"{step.name}: the recipe says run.use_gpu, but Ray has no GPU here, and no "
                f"run.steps.{step.name.split('/')[0]}.actors says how many to wait for"
            )
        self._min, self._max = (takes.actors.min, takes.actors.max) if takes.actors else (room, room)
        self._make = ray.remote(num_gpus=takes.gpus or 1, max_restarts=0, **_options(step, takes))(_Worker)
        self._nodes = nodes
        self.starting: dict[Any, tuple[Any, frozenset[str]]] = {}
        self._busy: dict[Any, int] = {}
        self._actor_of: dict[Any, Any] = {}
        self._guilty: set[Any] = set()
        self._failed = 0

    @property
    def limit(self) -> int:
        return AHEAD * len(self._busy)

    def adapt(self, left: int) -> None:
        """Grow or shrink to what ``left`` shards keep busy."""
        import ray

        wanted = max(self._min, min(self._max, math.ceil(left / AHEAD)))
        for _ in range(wanted - len(self.starting) - len(self._busy)):
            actor = self._make.remote()
            self.starting[actor.ready.remote()] = actor, self._nodes.alive()
        for reference in list(self.starting)[: max(0, len(self.starting) + len(self._busy) - wanted)]:
            ray.kill(self.starting.pop(reference)[0])
        idle = [actor for actor, shards in self._busy.items() if not shards]
        for actor in idle[: max(0, len(self.starting) + len(self._busy) - wanted)]:
            del self._busy[actor]
            ray.kill(actor)

    def start(self, *arguments: Any) -> Any:
        actor = min(self._busy, key=lambda a: self._busy[a])
        self._busy[actor] += 1
        reference = actor.run.remote(*arguments)
        self._actor_of[reference] = actor
        return reference

    def started(self, reference: Any) -> None:
        """Take in an actor that is there, or find out that it never will be."""
        import ray
        from ray.exceptions import RayError

        actor, there = self.starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._failed += not self._nodes.lost(there, error)
            if self._failed == TRIES:
                raise StepFailed(f"{self._name}: its actors do not start: {one_line(error)}") from error
            time.sleep(1.0)
        else:
            self._busy[actor] = 0

    def done(self, reference: Any) -> None:
        self._busy[self._actor_of.pop(reference)] -= 1

    def died(self, reference: Any) -> bool:
        """Drop an actor, whose shards come back one by one; say whether this is the one that it was at."""
        actor = self._actor_of[reference]
        if self._busy.pop(actor, None) is not None:
            given = [r for r, a in self._actor_of.items() if a is actor]  # in the order of their work
            self._guilty.add(next(r for r in given if r == reference or _failed(r)))
        del self._actor_of[reference]
        return reference in self._guilty

    def stop(self, flying: list[Any]) -> None:
        import ray

        for actor in [*self._busy, *(actor for actor, _ in self.starting.values())]:
            ray.kill(actor)


def _failed(reference: Any) -> bool:
    """Whether what a dead actor was given came to nothing; it may as well have been done before."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayError:
        return True
    return False


class _Worker:
    def ready(self) -> None:
        """Return when the actor is there."""

    def run(self, store: Store, place: str, step: ShardStep, shard: Shard, *more: Any) -> Published:
        return staging.run_shard(store, place, step, shard, *more)
