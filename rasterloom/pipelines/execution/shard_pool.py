"""Protocol of the workers that run shards, and tasks."""

import os
from collections.abc import Iterable
from typing import Any, Literal, Protocol

from rasterloom.pipelines.execution.nodes import Nodes
from rasterloom.pipelines.step import Shard, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.recipe.resources import StepTakes
from rasterloom.storage.store import Store

TRIES = 5  # of a shard whose worker died and that cannot be halved, or of an actor that does not start
AHEAD = 2  # shards a slot: one at work and one that waits, so that no CPU or GPU does

Death = Literal["guilty", "innocent", "suspect"]  # a shard's part in the death of its worker


class ShardPool(Protocol):
    """Workers of a step. References are those of Ray."""

    @property
    def room(self) -> int:
        """Number of shards that are at work at once."""

    @property
    def starting(self) -> Iterable[Any]:
        """References of the workers that are not there yet."""

    def adapt(self, left: int) -> None:
        """Grow or shrink to what ``left`` shards keep busy."""

    def started(self, reference: Any) -> None:
        """Take in a worker that is there, or that failed to start."""

    def has_room(self, in_flight: int, alone: bool) -> bool:
        """Return whether one more shard can be started beside so many.

        Args:
            alone: whether it shall be the only one in its process.
        """

    def start(self, *arguments: Any, alone: bool = False) -> Any:
        """Submit the arguments of ``staging.run_shard``; return Ray's reference."""

    def done(self, reference: Any) -> None:
        """Take in that a shard is done."""

    def died(self, reference: Any) -> Death:
        """Drop a dead worker; return whether it died of this shard."""

    def stop(self) -> None:
        """End the workers that would stay."""


class Tasks(ShardPool):
    """Shards as Ray tasks.

    Ray uses the processes again, so that what they loaded stays loaded.
    """

    def __init__(self, step: ShardStep, takes: StepTakes, nodes: Nodes) -> None:
        import ray  # heavy

        self._nodes = nodes
        work = _run_without_gpu if step.uses_gpu else staging.run_shard
        self._task = ray.remote(max_retries=0, **options(step, takes))(work)

    @property
    def room(self) -> int:
        return self._nodes.slots()

    @property
    def starting(self) -> Iterable[Any]:
        return ()

    def has_room(self, in_flight: int, alone: bool) -> bool:
        return in_flight < max(2, AHEAD * self.room)  # more than slots: an autoscaler adds nodes for them

    def adapt(self, left: int) -> None:
        pass

    def started(self, reference: Any) -> None:
        raise AssertionError("tasks need no start")

    def start(self, *arguments: Any, alone: bool = False) -> Any:
        return self._task.remote(*arguments)

    def done(self, reference: Any) -> None:
        pass

    def died(self, reference: Any) -> Death:
        return "guilty"

    def stop(self) -> None:
        """Leave the tasks: they end with the driver.

        Ray's cancel can abort it (PR 54798 tells of the race).
        """


class ShardWorker:
    """Actor that runs shards."""

    def ready(self) -> None:
        """Return when the actor is there."""

    def run(self, store: Store, place: str, step: ShardStep, shard: Shard, *more: Any) -> Published:
        return staging.run_shard(store, place, step, shard, *more)


def options(step: ShardStep, takes: StepTakes) -> dict[str, Any]:
    """Return a worker's resources, as options of Ray's ``remote``."""
    cpus = step.cpus if takes.cpus is None else takes.cpus
    return {
        "num_cpus": cpus,
        "memory": int(takes.memory) if takes.memory else None,
        "resources": takes.resources or None,
    }


def _run_without_gpu(store: Store, place: str, step: ShardStep, shard: Shard, *more: Any) -> Published:
    """Run a shard without GPUs.

    Ray hides none (`start_ray`), and all tasks would fill the first.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return staging.run_shard(store, place, step, shard, *more)
