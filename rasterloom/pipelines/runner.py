"""Running one step to its end: shards as Ray tasks, a bounded number in flight, one commit."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rasterloom import __version__
from rasterloom.pipelines import clean, staging
from rasterloom.pipelines.guard import SuccessGuard
from rasterloom.pipelines.progress import Progress
from rasterloom.pipelines.settle import settle
from rasterloom.pipelines.staging import Published
from rasterloom.pipelines.state import (
    Status,
    earlier,
    file_folder,
    inputs_of,
    scratch_folder,
    status,
    write_record,
)
from rasterloom.pipelines.step import FileStep, Shard, ShardStep, Step
from rasterloom.pipelines.tombstones import NONE, Tombstones, latest_takedown, tombstones
from rasterloom.recipe import Run
from rasterloom.storage import Store
from rasterloom.versions.commit import commit
from rasterloom.versions.record import Record
from rasterloom.versions.tables import Corpus

TRIES = 5  # of a shard whose worker died


class StepFailed(RuntimeError):
    """A step could not be finished; what it published so far stays, and a further run goes on from there."""


def start_ray(run: Run) -> None:
    """Connect to the recipe's cluster, or start Ray on this machine."""
    import logging

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # torch's threads wait for each other by spinning, which is 30 times slower where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address := run.ray_address or os.environ.get("RAY_ADDRESS"):  # a job of a cluster has the latter
        ray.init(address=address, **quiet)
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a Ray of our own, on loopback
    ray.init(
        address="local",  # not one that happens to run on this machine
        num_cpus=run.cpus or os.cpu_count() or 1,
        include_dashboard=False,
        object_store_memory=256 * 2**20,  # paths travel between tasks, not pixels
        **quiet,
    )


def run_step(corpus: Corpus, step: Step, run: Run, recipe_digest: str, progress: Progress) -> Status:
    """Bring a step to its end, from wherever an earlier run left it.

    Raises:
        StepFailed: a shard or the step's work raised an error; the message says which and what.
    """
    if isinstance(step, FileStep):
        _run_files(corpus, step, run, recipe_digest, progress)
    else:
        assert isinstance(step, ShardStep)
        _run_shards(corpus, step, run, recipe_digest, progress)
    return status(corpus, step)


def _record(corpus: Corpus, step: Step, recipe_digest: str, started: float, **found: Any) -> Record:
    parents = {given.name: status(corpus, given).snapshot_id for given in step.inputs}
    parents["earlier"] = earlier(corpus, step)
    return Record(
        step=step.name,
        fingerprint=step.fingerprint,
        code_version=step.code_version,
        config=step.settings,
        inputs={given.name: given.fingerprint for given in step.inputs},
        parents={name: str(snapshot) for name, snapshot in parents.items() if snapshot is not None},
        seconds=time.monotonic() - started,
        **found,
    ).signed(recipe_digest, __version__)


def _run_shards(corpus: Corpus, step: ShardStep, run: Run, recipe_digest: str, progress: Progress) -> None:
    started = time.monotonic()
    place = staging.folder(corpus.name, step.name, step.fingerprint)
    shards = step.plan(corpus.store, inputs_of(corpus, step), step.config)
    taken_down = tombstones(corpus.store, corpus.name)
    done = staging.published(corpus.store, place)
    done |= _taken_over(corpus, step, place, [shard for shard in shards if shard.id not in done])
    left = [shard for shard in shards if shard.id not in done]
    progress.start(step.name, total=len(shards), done=len(shards) - len(left))
    guard = SuccessGuard(corpus.store, run) if step.guarded else None
    for result in _on_ray(corpus.store, place, step, left, run, taken_down):
        done[result.id] = result
        progress.advance(rows=result.rows)
        if guard and (why := guard.verdict(result)):
            raise StepFailed(f"{step.name}: {why}")
    taken_down = tombstones(corpus.store, corpus.name)  # those that came meanwhile, too
    results = clean.without(corpus.store, place, [done[shard.id] for shard in shards], step.name, taken_down)
    record = _record(
        corpus,
        step,
        recipe_digest,
        started,
        counts=staging.add_up([r.counts for r in results]),
        rows=sum(r.rows for r in results),
        n_bytes=sum(r.bytes for r in results),
        shards=len(results),
        worker_seconds=sum(r.seconds for r in results),
        takedowns=taken_down.number,
        taken_down=max((r.taken_down for r in results), default=0),
    )
    if step.table is None:
        staging.finish(corpus.store, place, results)
        write_record(corpus, record)
        return
    commit(
        corpus,
        step.table,
        step.schema,
        sorted(file.name for r in results for file in r.data_files if file.rows),
        record,
        replaces=step.replaces,
        partition_by=step.partition_by,
    )
    if latest_takedown(corpus.store, corpus.name) > taken_down.number:
        settle(corpus)


def _taken_over(corpus: Corpus, step: ShardStep, place: str, shards: list[Shard]) -> dict[str, Published]:
    """Publish those shards that the step's last version made from the very same files in the same way."""
    last = status(corpus, step).record
    earlier: dict[str, Published] = {}
    if last and (last.config, last.code_version) == (step.settings, step.code_version):
        there = staging.published(corpus.store, staging.folder(corpus.name, step.name, last.fingerprint))
        earlier = {result.spec: result for result in there.values() if result.spec}
    found = {}
    for shard in shards:
        made = Published(**shard.made) if shard.made else earlier.get(shard.digest)
        if made:
            found[shard.id] = staging.take_over(corpus.store, place, shard, made)
    return found


def _on_ray(
    store: Store, place: str, step: ShardStep, shards: list[Shard], run: Run, taken_down: Tombstones = NONE
) -> Iterator[Published]:
    """Run shards as Ray tasks, or in actors that have a GPU each, and yield each result as it comes.

    Ray starts a task again when its worker dies; an error that the work itself raises ends the step.
    """
    if not shards:
        return
    import ray

    workers = _Actors(step) if step.uses_gpu and run.use_gpu else _Tasks(step)
    limit = run.in_flight or workers.limit
    shared, known = ray.put(step), ray.put(taken_down)
    waiting = list(reversed(shards))
    flying: dict[Any, Shard] = {}
    try:
        while waiting or flying:
            while waiting and len(flying) < limit:
                shard = waiting.pop()
                flying[workers.start(store, place, shared, shard, known)] = shard
            ready, _ = ray.wait(list(flying), num_returns=1, timeout=1.0)
            for reference in ready:
                shard = flying.pop(reference)
                workers.done(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    cause = error.cause if isinstance(error.cause, Exception) else error
                    raise StepFailed(f"{step.name}, shard {shard.name}: {_one_line(cause)}") from error
                except ray.exceptions.RayError as error:
                    raise StepFailed(f"{step.name}, shard {shard.name}: {_one_line(error)}") from error
    finally:
        workers.stop(list(flying))


class _Tasks:
    """Shards as tasks: Ray uses the processes again, so that what they loaded stays loaded."""

    def __init__(self, step: ShardStep) -> None:
        import ray

        self.limit = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        work = _run_without_gpu if step.uses_gpu else staging.run_shard
        self._task = ray.remote(num_cpus=step.cpus, max_retries=TRIES)(work)

    def start(self, *arguments: Any) -> Any:
        return self._task.remote(*arguments)

    def done(self, reference: Any) -> None:
        pass

    def stop(self, flying: list[Any]) -> None:
        import ray

        for reference in flying:
            ray.cancel(reference, force=True)


def _run_without_gpu(
    store: Store, place: str, step: ShardStep, shard: Shard, taken_down: Tombstones
) -> Published:
    """Ray hides no GPU from tasks (`start_ray`), and as many as there are cores would fill the first one."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return staging.run_shard(store, place, step, shard, taken_down)


class _Actors:
    """Shards in a pool of actors, one for each GPU of the cluster: a task with a GPU would load its weights
    for every shard, as Ray ends the process to be sure that the GPU's memory is free."""

    def __init__(self, step: ShardStep) -> None:
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus == 0:
            raise StepFailed(f"{step.name}: the recipe says run.use_gpu, but Ray has no GPU here")
        make = ray.remote(num_gpus=1, num_cpus=step.cpus, max_restarts=TRIES, max_task_retries=TRIES)(_Worker)
        # Those that there are no CPUs for would wait for ever, and shards with them.
        cpus = int(ray.cluster_resources().get("CPU", 1) // step.cpus) if step.cpus else gpus
        self._busy: dict[Any, int] = {make.remote(): 0 for _ in range(max(1, min(gpus, cpus)))}
        self._actor_of: dict[Any, Any] = {}
        self.limit = 2 * len(self._busy)  # one at work and one that waits, so that no GPU does

    def start(self, *arguments: Any) -> Any:
        actor = min(self._busy, key=lambda a: self._busy[a])
        self._busy[actor] += 1
        reference = actor.run.remote(*arguments)
        self._actor_of[reference] = actor
        return reference

    def done(self, reference: Any) -> None:
        self._busy[self._actor_of.pop(reference)] -= 1

    def stop(self, flying: list[Any]) -> None:
        import ray

        for actor in self._busy:
            ray.kill(actor)


class _Worker:
    def run(
        self, store: Store, place: str, step: ShardStep, shard: Shard, taken_down: Tombstones
    ) -> Published:
        return staging.run_shard(store, place, step, shard, taken_down)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"


def _run_files(corpus: Corpus, step: FileStep, run: Run, recipe_digest: str, progress: Progress) -> None:
    """Let a FileStep fill a local folder, then put the folder where its result belongs."""
    started = time.monotonic()
    progress.start(step.name, total=None)
    final = file_folder(corpus, step)
    folder = Path(corpus.store.path(final)) if not corpus.store.is_s3 else scratch_folder(step)
    with _alone(folder, progress):
        if status(corpus, step).done:  # by the run that was waited for
            return
        takedowns = latest_takedown(corpus.store, corpus.name)
        if not step.resumes:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            counts = step.make(corpus, inputs_of(corpus, step), step, folder, run, progress)
        except (OSError, ValueError, RuntimeError) as error:
            raise StepFailed(f"{step.name}: {_one_line(error)}") from error
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if corpus.store.is_s3:
            for path in files:
                corpus.store.put(f"{final}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        size = sum(path.stat().st_size for path in files)
        record = _record(
            corpus, step, recipe_digest, started, counts=counts, n_bytes=size, takedowns=takedowns
        )
        write_record(corpus, record)


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Be the only run on this machine that works in a folder; the lock ends with the process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    while True:
        try:
            lock.acquire(timeout=1.0)
            break
        except Timeout:
            progress.update(0, "waiting for another run that makes it")
    try:
        yield
    finally:
        lock.release()
