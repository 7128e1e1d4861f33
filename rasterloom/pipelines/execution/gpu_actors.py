"""Pool of Ray actors that hold GPUs."""

import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from rasterloom.errors import StepFailed, one_line
from rasterloom.pipelines.execution.nodes import Nodes
from rasterloom.pipelines.execution.shard_pool import AHEAD, TRIES, Death, ShardPool, ShardWorker, options
from rasterloom.pipelines.step import ShardStep
from rasterloom.recipe.resources import StepTakes
from rasterloom.storage import layout

logger = logging.getLogger(__name__)


class Actors(ShardPool):
    """Pool of actors that hold a GPU each.

    A task with a GPU would load its weights for every shard, as Ray ends the process to be sure that the
    GPU's memory is free.

    The pool is as large as the shards that are left keep busy, between the recipe's ``min`` and ``max``. An
    actor that there is no room for yet waits, and holds up no shard; an autoscaler adds a node for it.
    """

    def __init__(self, step: ShardStep, takes: StepTakes, nodes: Nodes) -> None:
        import ray  # heavy

        self._name = step.name
        room = nodes.slots()
        if takes.actors is None and room == 0:
            raise StepFailed(
                f"{step.name}: the recipe says run.use_gpu, but Ray has no GPU here, and no "
                f"run.steps.{step.name.split('/')[0]}.actors says how many to wait for"
            )
        self._min, self._max = (takes.actors.min, takes.actors.max) if takes.actors else (room, room)
        given = {**options(step, takes), "accelerator_type": takes.accelerator}
        self._make = ray.remote(num_gpus=takes.gpus or 1, max_restarts=0, **given)(ShardWorker)
        self._nodes = nodes
        self._starting: dict[Any, tuple[Any, frozenset[str]]] = {}
        self._busy: dict[Any, int] = {}
        self._actor_of: dict[Any, Any] = {}
        self._published: dict[Any, Callable[[], bool]] = {}  # whether the result of a reference's shard is
        self._guilty: set[Any] = set()
        self._failed = 0

    @property
    def room(self) -> int:
        return len(self._busy)

    @property
    def starting(self) -> Iterable[Any]:
        return tuple(self._starting)

    def has_room(self, in_flight: int, alone: bool) -> bool:
        return in_flight < AHEAD * self.room

    def adapt(self, left: int) -> None:
        import ray  # heavy

        wanted = max(self._min, min(self._max, math.ceil(left / AHEAD)))
        for _ in range(wanted - len(self._starting) - len(self._busy)):
            actor = self._make.remote()
            self._starting[actor.ready.remote()] = actor, self._nodes.alive()
        for reference in list(self._starting)[: max(0, len(self._starting) + len(self._busy) - wanted)]:
            ray.kill(self._starting.pop(reference)[0])
        idle = [actor for actor, shards in self._busy.items() if not shards]
        for actor in idle[: max(0, len(self._starting) + len(self._busy) - wanted)]:
            del self._busy[actor]
            ray.kill(actor)

    def start(self, *arguments: Any, alone: bool = False) -> Any:
        actor = min(self._busy, key=lambda a: self._busy[a])
        self._busy[actor] += 1
        reference = actor.run.remote(*arguments)
        self._actor_of[reference] = actor
        store, place, _, shard, *_more = arguments
        self._published[reference] = partial(store.exists, layout.staged_shard(place, shard.id))
        return reference

    def started(self, reference: Any) -> None:
        import ray  # heavy
        from ray.exceptions import RayError  # heavy

        actor, there = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._failed += not self._nodes.lost(there, error)
            reason = one_line(error, named=True)
            logger.warning("%s: an actor did not start and is started again: %s", self._name, reason)
            if self._failed == TRIES:
                raise StepFailed(f"{self._name}: its actors do not start: {reason}") from error
            time.sleep(1.0)
        else:
            self._busy[actor] = 0

    def done(self, reference: Any) -> None:
        self._busy[self._actor_of.pop(reference)] -= 1
        del self._published[reference]

    def died(self, reference: Any) -> Death:
        """Drop an actor; its first unpublished shard is guilty."""
        actor = self._actor_of[reference]
        if self._busy.pop(actor, None) is not None:
            given = [r for r, a in self._actor_of.items() if a is actor]  # in the order of their work
            failed = [r for r in given if r == reference or _failed(r)]
            # Of a shard that is published, the answer alone was lost with the actor.
            self._guilty.add(next((r for r in failed if not self._published[r]()), failed[0]))
            logger.warning("%s: an actor died with %d shards; another one is started", self._name, len(given))
        del self._actor_of[reference], self._published[reference]
        return "guilty" if reference in self._guilty else "innocent"

    def stop(self) -> None:
        import ray  # heavy

        for actor in [*self._busy, *(actor for actor, _ in self._starting.values())]:
            ray.kill(actor)


def _failed(reference: Any) -> bool:
    """Return whether there is no answer on a dead actor's shard."""
    import ray  # heavy

    try:
        ray.get(reference)
    except ray.exceptions.RayError:
        return True
    return False
