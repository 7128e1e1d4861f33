"""Scheduler of shards on Ray, with a bounded number in flight.

What is lost with a node is done again elsewhere, as often as nodes go: spot workers are meant to vanish. A
worker that dies while its node lives on died of the shard, or of memory: that is tried ``TRIES`` times, or
halved until the row is found where the step can tell its rows apart.
"""

import logging
import math
from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Any

from rasterloom.errors import RunPaused, StepFailed, one_line
from rasterloom.pipelines.execution.gpu_actors import Actors
from rasterloom.pipelines.execution.halving import Halving, Job
from rasterloom.pipelines.execution.nodes import LATE_S, Nodes, of_kind
from rasterloom.pipelines.execution.overlapping import Overlapping
from rasterloom.pipelines.execution.shard_pool import Death, ShardPool, Tasks
from rasterloom.pipelines.progress.counts import InFlight, Lost
from rasterloom.pipelines.progress.prometheus import Metrics
from rasterloom.pipelines.progress.reporter import Reporter
from rasterloom.pipelines.step import Shard, ShardStep
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.recipe.run import Run
from rasterloom.storage.store import Store

FEW_SHARDS = 6  # for each slot

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
        StepFailed: the work of a shard raised an error, or its workers died and no row is to blame.
    """
    if not shards:
        return
    import ray  # heavy
    from ray.exceptions import RayError, RayTaskError  # heavy

    nodes = Nodes(needs_of(step, run))
    pool = _pool(step, run, nodes, len(shards), progress)
    shared, others = ray.put(step), [ray.put(value) for value in more]
    halving = Halving(store, place, step)
    waiting = [job for shard in reversed(shards) for job in halving.jobs(shard)]
    flying: dict[Any, tuple[Job, frozenset[str]]] = {}
    most, losses = run.in_flight or math.inf, _Losses(step.name, halving, nodes, progress)
    pause = _Pause(step)
    try:
        while waiting or flying:
            pool.adapt(len(waiting) + len(flying))
            while waiting and len(flying) < most and pool.has_room(len(flying), waiting[-1].alone):
                job = waiting.pop()
                given = store, place, shared if job.step is step else job.step, job.given, *others
                flying[pool.start(*given, alone=job.alone)] = job, nodes.alive()
            progress.counted(InFlight(_ids(flying.values()), int(min(most, pool.room))))
            ready, _ = ray.wait([*pool.starting, *flying], num_returns=1, timeout=1.0)
            for reference in ready:
                if reference not in flying:
                    pool.started(reference)
                    continue
                job, there = flying.pop(reference)
                try:
                    result = ray.get(reference)
                except RayTaskError as error:
                    waiting = pause.take(job, error)
                except RayError as error:
                    metrics.lost()
                    waiting += losses.take(job, there, error, pool.died(reference))
                else:
                    pool.done(reference)
                    waiting += halving.done(job, result)
                    if job.rows is None:
                        yield result
        pause.end()
    finally:
        pool.stop()


def _ids(flying: Iterable[tuple[Job, Any]]) -> list[str]:
    """The shards at work, each once."""
    return list(dict.fromkeys(job.shard.id for job, _ in flying))


def _failed(step: ShardStep, job: Job, error: Any) -> StepFailed:
    cause = error.cause if isinstance(error.cause, Exception) else error
    return StepFailed(f"{step.name}, shard {job.name}: {one_line(cause, named=True)}")


class _Pause:
    """Reason to begin no more shards. Those under way are done first."""

    def __init__(self, step: ShardStep) -> None:
        self._step = step
        self._why: StepFailed | None = None

    def take(self, job: Job, error: Any) -> list[Job]:
        """Note the reason, and return what is left to begin. Other errors are raised."""
        if not isinstance(error.cause, RunPaused):
            raise _failed(self._step, job, error) from error
        self._why = StepFailed(f"{self._step.name}: {one_line(error.cause)}")
        return []

    def end(self) -> None:
        """Raise StepFailed if there was a reason."""
        if self._why:
            raise self._why


def _pool(step: ShardStep, run: Run, nodes: Nodes, count: int, progress: Reporter) -> ShardPool:
    takes = run.takes(step.name)
    if why := nodes.no_room():
        progress.say(f"  {step.name} waits for a node: {why}")
    if step.uses_gpu and run.use_gpu:
        return Actors(step, takes, nodes)
    # Tasks find processes that are there already: for few shards, new ones would cost more than they save.
    many = step.workers is not None or count >= FEW_SHARDS * max(1, nodes.slots())
    return Overlapping(step, takes, nodes) if step.overlap > 1 and many else Tasks(step, takes, nodes)


class _Losses:
    """Jobs whose worker or node died, and what follows."""

    def __init__(self, step: str, halving: Halving, nodes: Nodes, progress: Reporter) -> None:
        self._step, self._halving, self._nodes, self._progress = step, halving, nodes, progress
        self._said = False

    def take(self, job: Job, there: frozenset[str], error: Exception, death: Death) -> list[Job]:
        """Count a loss and return what is to be done. StepFailed if nothing is left to try.

        Args:
            there: the nodes when the job was given.
            death: whether the worker died of this job.
        """
        self._progress.counted(Lost())
        if self._nodes.lost(there, error):
            logger.warning("%s: a node is gone; shard %s is done again", self._step, job.name)
            self._progress.say(f"  {self._step}: a node is gone; what it did is done again")
            return [job]
        if death != "guilty":
            return [replace(job, suspect=death == "suspect")]
        number, where = self._halving.died(job), f"{self._step}, shard {job.name}"
        logger.warning("%s: its worker died, time %d: %s", where, number, one_line(error, named=True))
        # The head may not have noticed yet; before giving up it is waited for.
        if self._halving.is_last(job) and self._nodes.lost(there, error, LATE_S):
            return [job]
        instead = self._halving.instead(job, error)
        if not instead:
            raise StepFailed(f"{where}: {_why(self._step, error, number)}") from error
        if instead != [job] and not self._said:
            self._said = True
            self._progress.say(f"  {where} kills its worker: it is halved until the row is found")
        return instead


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


def _why(step: str, error: Exception, number: int) -> str:
    from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError  # heavy

    if isinstance(error, OutOfMemoryError):
        reason = "its node ran out of memory"
    elif isinstance(error, (ActorDiedError, WorkerCrashedError)):
        reason = f"its worker died {number} times, of too little memory or a crash in a library"
    else:
        return one_line(error, named=True)
    way_out = "give the step more memory in run.steps, or make its shards smaller (fetch.shard_rows)"
    return f"{reason}: {way_out}{', or lower fetch.max_pixels' if step == 'images' else ''}"
