"""Scheduler of shards on Ray, with a bounded number in flight.

What is lost with a node is done again elsewhere, as often as nodes go: spot workers are meant to vanish. A
worker that dies while its node lives on died of the shard, or of memory: that is tried ``TRIES`` times.
"""

import logging
import math
from collections import Counter
from collections.abc import Generator
from typing import Any

from rasterloom.errors import StepFailed, one_line
from rasterloom.pipelines.execution.gpu_actors import Actors
from rasterloom.pipelines.execution.nodes import LATE_S, Nodes, of_kind
from rasterloom.pipelines.execution.shard_pool import TRIES, ShardPool, Tasks
from rasterloom.pipelines.progress.counts import InFlight, Lost
from rasterloom.pipelines.progress.prometheus import Metrics
from rasterloom.pipelines.progress.reporter import Reporter
from rasterloom.pipelines.step import Shard, ShardStep
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.recipe.run import Run
from rasterloom.storage.store import Store

logger = logging.getLogger(__name__)


def run_on_ray(
    store: Store,
    place: str,
    step: ShardStep,
    shards: list[Shard],
    run: Run,
    progress: Reporter,
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
    import ray  # heavy
    from ray.exceptions import RayError, RayTaskError  # heavy

    nodes = Nodes(needs_of(step, run))
    pool = _pool(step, run, nodes)
    if why := nodes.no_room():
        progress.say(f"  {step.name} waits for a node: {why}")
    shared, others = ray.put(step), [ray.put(value) for value in more]
    waiting = list(reversed(shards))
    flying: dict[Any, tuple[Shard, frozenset[str]]] = {}
    most, losses = run.in_flight or math.inf, _Losses(step.name, nodes, progress)
    try:
        while waiting or flying:
            pool.adapt(len(waiting) + len(flying))
            while waiting and len(flying) < min(most, pool.limit):
                shard = waiting.pop()
                flying[pool.start(store, place, shared, shard, *others)] = shard, nodes.alive()
            progress.counted(InFlight([s.id for s, _ in flying.values()], int(min(most, pool.room))))
            ready, _ = ray.wait([*pool.starting, *flying], num_returns=1, timeout=1.0)
            for reference in ready:
                if reference not in flying:
                    pool.started(reference)
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
                    metrics.lost()
                    losses.take(shard, there, error, pool.died(reference))
                    waiting.append(shard)
                else:
                    pool.done(reference)
                    yield result
    finally:
        pool.stop()


def _pool(step: ShardStep, run: Run, nodes: Nodes) -> ShardPool:
    takes = run.takes(step.name)
    return Actors(step, takes, nodes) if step.uses_gpu and run.use_gpu else Tasks(step, takes, nodes)


class _Losses:
    """Shards whose worker or node died, and how often each one did."""

    def __init__(self, step: str, nodes: Nodes, progress: Reporter) -> None:
        self._step, self._nodes, self._progress = step, nodes, progress
        self._died = Counter[str]()

    def take(self, shard: Shard, there: frozenset[str], error: Exception, guilty: bool) -> None:
        """Count a loss; the last of ``TRIES`` is a StepFailed.

        Args:
            there: the nodes when the shard was given.
            guilty: whether the worker was at this shard.
        """
        self._progress.counted(Lost())
        if self._nodes.lost(there, error):
            logger.warning("%s: a node is gone; shard %s is done again", self._step, shard.name)
            self._progress.say(f"  {self._step}: a node is gone; what it did is done again")
        elif guilty:
            self._died[shard.name] += 1
            number = self._died[shard.name]
            where, reason = f"{self._step}, shard {shard.name}", one_line(error, named=True)
            logger.warning("%s: its worker died, time %d of %d: %s", where, number, TRIES, reason)
            # The head may not have noticed yet; before giving up it is waited for.
            if number >= TRIES and not self._nodes.lost(there, error, LATE_S):
                raise StepFailed(f"{where}: {_why(self._step, error)}") from error


def holds(step: ShardStep, run: Run) -> tuple[float, float]:
    """Return the CPUs and GPUs that a worker at a shard holds."""
    takes = run.takes(step.name)
    cpus = step.cpus if takes.cpus is None else takes.cpus
    return cpus, (takes.gpus or 1.0) if step.uses_gpu and run.use_gpu else 0.0


def needs_of(step: ShardStep, run: Run) -> dict[str, float]:
    """Return the resources of a worker, by Ray's names."""
    takes = run.takes(step.name)
    cpus, gpus = holds(step, run)
    kind = takes.accelerator if gpus else None
    asked = {"CPU": cpus, "GPU": gpus, "memory": float(takes.memory or 0), **takes.resources, **of_kind(kind)}
    return {name: amount for name, amount in asked.items() if amount}


def _why(step: str, error: Exception) -> str:
    from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError  # heavy

    if isinstance(error, OutOfMemoryError):
        reason = "its node ran out of memory"
    elif isinstance(error, (ActorDiedError, WorkerCrashedError)):
        reason = f"its worker died {TRIES} times, of too little memory or a crash in a library"
    else:
        return one_line(error, named=True)
    way_out = "give the step more memory in run.steps, or make its shards smaller (fetch.shard_rows)"
    return f"{reason}: {way_out}{', or lower fetch.max_pixels' if step == 'images' else ''}"
