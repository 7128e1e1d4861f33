"""A pool of actors that hold GPUs, and what it shares with tasks that hold none."""

import math
import time
from typing import Any

from rasterloom.errors import StepFailed, one_line
from rasterloom.pipelines.execution.nodes import Nodes
from rasterloom.pipelines.step import Shard, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.recipe.resources import StepTakes
from rasterloom.storage.store import Store

TRIES = 5  # of a shard whose worker died, or of an actor that does not start
AHEAD = 2  # shards a slot: one at work and one that waits, so that no CPU or GPU does


def options(step: ShardStep, takes: StepTakes) -> dict[str, Any]:
    """What a worker of a step takes, as options of Ray's ``remote``."""
    cpus = step.cpus if takes.cpus is None else takes.cpus
    return {
        "num_cpus": cpus,
        "memory": int(takes.memory) if takes.memory else None,
        "resources": takes.resources or None,
    }


class Actors:
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
        given = {**options(step, takes), "accelerator_type": takes.accelerator}
        self._make = ray.remote(num_gpus=takes.gpus or 1, max_restarts=0, **given)(_Worker)
        self._nodes = nodes
        self.starting: dict[Any, tuple[Any, frozenset[str]]] = {}
        self._busy: dict[Any, int] = {}
        self._actor_of: dict[Any, Any] = {}
        self._guilty: set[Any] = set()
        self._failed = 0

    @property
    def room(self) -> int:
        """How many shards are at work at once: one an actor."""
        return len(self._busy)

    @property
    def limit(self) -> int:
        return AHEAD * self.room

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
                raise StepFailed(
                    f"{self._name}: its actors do not start: {one_line(error, named=True)}"
                ) from error
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

    def stop(self) -> None:
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
