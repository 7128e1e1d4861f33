"""Pool of Ray actors that work on several shards at once.

For a step that waits for the network: while the last rows of a shard wait for hosts that do not answer,
the core works on the next ones. Each shard is published as it is done, as by a task.
"""

import logging
from collections.abc import Iterable
from typing import Any

from rasterloom.errors import StepFailed, one_line
from rasterloom.pipelines.execution.nodes import Nodes
from rasterloom.pipelines.execution.shard_pool import (
    AHEAD,
    TRIES,
    Death,
    ShardPool,
    ShardWorker,
    Tasks,
    options,
)
from rasterloom.pipelines.step import ShardStep
from rasterloom.recipe.resources import StepTakes

logger = logging.getLogger(__name__)


class Overlapping(ShardPool):
    """Actors with a core each.

    Of the shards in an actor that died, all may be innocent but one. Each is done again alone, as a task,
    before anything is concluded; the actors leave these tasks their room.
    """

    def __init__(self, step: ShardStep, takes: StepTakes, nodes: Nodes) -> None:
        import ray  # heavy

        self._name, self._nodes, self._overlap, self._most = step.name, nodes, step.overlap, step.workers
        given = options(step, takes)
        self._make = ray.remote(max_concurrency=step.overlap, max_restarts=0, **given)(ShardWorker)
        self._starting: dict[Any, tuple[Any, frozenset[str]]] = {}  # by the reference of their start
        self._failed = 0
        self._shards: dict[Any, set[Any]] = {}  # references of an actor's shards
        self._wanted = 0
        self._tasks = Tasks(step, takes, nodes)
        self._alone: set[Any] = set()

    @property
    def room(self) -> int:
        return self._overlap * len(self._at_work()) + min(len(self._alone), self._nodes.slots())

    @property
    def starting(self) -> Iterable[Any]:
        return tuple(self._starting)

    def has_room(self, in_flight: int, alone: bool) -> bool:
        return alone or in_flight - len(self._alone) < self._overlap * len(self._at_work())

    def _at_work(self) -> list[Any]:
        """The actors that get shards; those beyond finish theirs and end."""
        return list(self._shards)[: self._wanted]

    def adapt(self, left: int) -> None:
        import ray  # heavy

        slots = self._nodes.slots()
        if self._alone:
            self._wanted = max(0, min(left, slots) - len(self._alone))
        else:
            self._wanted = min(left, max(1, AHEAD * slots))  # an autoscaler adds nodes for those that wait
        if self._most is not None:
            self._wanted = min(self._wanted, self._most)
        for _ in range(self._wanted - len(self._starting) - len(self._shards)):
            actor = self._make.remote()
            self._starting[actor.ready.remote()] = actor, self._nodes.alive()
        surplus = len(self._starting) + len(self._shards) - self._wanted
        for reference in list(self._starting)[: max(0, surplus)]:
            ray.kill(self._starting.pop(reference)[0])
        for actor in list(self._shards)[self._wanted :]:
            if not self._shards[actor]:
                del self._shards[actor]
                ray.kill(actor)

    def start(self, *arguments: Any, alone: bool = False) -> Any:
        if alone:
            reference = self._tasks.start(*arguments)
            self._alone.add(reference)
            return reference
        actor = min(self._at_work(), key=lambda one: len(self._shards[one]))
        reference = actor.run.remote(*arguments)
        self._shards[actor].add(reference)
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
            logger.warning("%s: a worker did not start and is started again: %s", self._name, reason)
            if self._failed == TRIES:
                raise StepFailed(f"{self._name}: its workers do not start: {reason}") from error
        else:
            self._shards[actor] = set()

    def done(self, reference: Any) -> None:
        self._alone.discard(reference)
        for given in self._shards.values():
            given.discard(reference)

    def died(self, reference: Any) -> Death:
        if reference in self._alone:
            self._alone.remove(reference)
            return "guilty"
        for actor, given in self._shards.items():
            if reference in given:
                logger.warning("%s: a worker died with %d shards in it", self._name, len(given))
                del self._shards[actor]
                break
        return "suspect"

    def stop(self) -> None:
        import ray  # heavy

        for actor in [*self._shards, *(actor for actor, _ in self._starting.values())]:
            ray.kill(actor)
        self._tasks.stop()
