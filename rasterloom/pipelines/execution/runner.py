"""One step, from its plan to its commit."""

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rasterloom import __version__
from rasterloom.errors import RecipeError, StepFailed, one_line
from rasterloom.pipelines.execution.scheduler import holds, run_on_ray
from rasterloom.pipelines.execution.success_guard import SuccessGuard
from rasterloom.pipelines.maintenance import rewrite
from rasterloom.pipelines.maintenance.apply_takedowns import apply_pending
from rasterloom.pipelines.progress.counts import Note, ShardPlan, Workers
from rasterloom.pipelines.progress.prometheus import Metrics
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import FileStep, HasResult, Shard, ShardStep, Step, StepContext
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.pipelines.workspace.status import (
    Status,
    earlier,
    file_folder,
    inputs_of,
    status,
    work_folder,
    write_record,
)
from rasterloom.pipelines.workspace.tombstones import latest_takedown, tombstones
from rasterloom.recipe.run import Run
from rasterloom.storage.transfer import upload
from rasterloom.utils import private_folders
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

logger = logging.getLogger(__name__)


def run_step(corpus: Corpus, step: HasResult, run: Run, recipe_digest: str, progress: Progress) -> Status:
    """Run a step to its end, from where an earlier run stopped.

    Raises:
        StepFailed: a shard or the step's work raised an error; the message says which and what.
    """
    progress.step_started(step.name)
    if isinstance(step, FileStep):
        _run_files(corpus, step, run, recipe_digest, progress)
    elif isinstance(step, ShardStep):
        _run_shards(corpus, step, run, recipe_digest, progress)
    else:
        raise StepFailed(f"{step.name}: the result that was to be read has been replaced; run it again")
    return status(corpus, step)


def _record(corpus: Corpus, step: Step, recipe_digest: str, started: float, **found: Any) -> Record:
    parents = {given.name: status(corpus, given).snapshot_id for given in step.inputs}
    parents["earlier"] = earlier(corpus, step)
    return Record(
        step=step.name,
        fingerprint=step.fingerprint,
        code_version=step.code_version,
        config=step.settings,
        other_settings=step.other_settings,
        inputs={given.name: given.fingerprint for given in step.inputs},
        parents={name: str(snapshot) for name, snapshot in parents.items() if snapshot is not None},
        seconds=time.monotonic() - started,
        **found,
    ).signed(recipe_digest, __version__)


def _run_shards(corpus: Corpus, step: ShardStep, run: Run, recipe_digest: str, progress: Progress) -> None:
    started = time.monotonic()
    place = corpus.layout.staging(step.name, step.fingerprint)
    inputs = inputs_of(corpus, step)
    shards = corpus.with_retries(f"plan of {step.name}", lambda: step.plan(corpus.store, inputs, step.config))
    taken_down = tombstones(corpus.store, corpus.name)
    done = staging.published(corpus.store, place)
    done |= _taken_over(corpus, step, place, [shard for shard in shards if shard.id not in done])
    left = [shard for shard in shards if shard.id not in done]
    earlier_ones = [done[shard.id] for shard in shards if shard.id in done]
    progress.counted(ShardPlan(left, earlier_ones, *holds(step, run)))
    guard = SuccessGuard(corpus.store, run) if step.guarded else None
    metrics = Metrics(corpus.name, step.name)
    results = run_on_ray(corpus.store, place, step, left, run, progress, metrics, taken_down)
    beside = step.beside(left) if step.beside and left else nullcontext()
    with beside, closing(results):  # what is in flight ends here, not when somebody lets go of an error
        for number, result in enumerate(results, start=1):
            done[result.id] = result
            metrics.finished(result, len(left) - number)
            progress.counted(result)
            if guard and (why := guard.verdict(result)):
                raise StepFailed(f"{step.name}: {why}")
    found = [done[shard.id] for shard in shards]
    _check_finished(step, found)
    taken_down = tombstones(corpus.store, corpus.name)  # those that came meanwhile, too
    whole = corpus.with_retries(
        f"takedowns from {step.name}",
        lambda: rewrite.without(corpus.store, place, found, step.name, taken_down),
    )
    record = _record(
        corpus,
        step,
        recipe_digest,
        started,
        counts=staging.add_up([r.counts for r in whole]),
        rows=sum(r.rows for r in whole),
        n_bytes=sum(r.bytes for r in whole),
        shards=len(whole),
        worker_seconds=sum(r.seconds for r in whole),
        takedowns=taken_down.number,
        taken_down=max((r.taken_down for r in whole), default=0),
    )
    if step.table is None:
        staging.finish(corpus.store, place, whole)
        write_record(corpus, record)
        return
    commit(
        corpus,
        step.table,
        step.schema,
        dict(sorted((f.name, r.footers.get(f.name, "")) for r in whole for f in r.data_files if f.rows)),
        record,
        replaces=step.replaces,
        partition_by=step.partition_by,
    )
    if latest_takedown(corpus.store, corpus.name) > taken_down.number:
        apply_pending(corpus)


def _check_finished(step: ShardStep, found: Iterable[Published]) -> None:
    """Raise StepFailed where rows are left to a further run."""
    counts = staging.add_up([result.counts for result in found])
    if left := [f"{name} {counts[name]:,}" for name in step.unfinished if counts.get(name)]:
        raise StepFailed(f"{step.name} is not finished: rows left: {', '.join(left)}; run again to go on")


def _taken_over(corpus: Corpus, step: ShardStep, place: str, shards: list[Shard]) -> dict[str, Published]:
    """Publish shards that the last version made from the same input."""
    last = status(corpus, step).record
    earlier: dict[str, Published] = {}
    if last and (last.config, last.code_version) == (step.settings, step.code_version):
        there = staging.published(corpus.store, corpus.layout.staging(step.name, last.fingerprint))
        earlier = {result.spec: result for result in there.values() if result.spec}
    found = {}
    for shard in shards:
        made = Published(**shard.made) if shard.made else earlier.get(shard.digest)
        if made:
            found[shard.id] = staging.take_over(corpus.store, place, shard, made)
    if found:
        logger.info("%s: %d shards are taken over from an earlier version", step.name, len(found))
    return found


def _run_files(corpus: Corpus, step: FileStep, run: Run, recipe_digest: str, progress: Progress) -> None:
    """Run a FileStep in a local folder, then store the folder."""
    started = time.monotonic()
    progress.counted(Workers(1, run.driver.cpus or 0.0, 0.0))
    final = file_folder(corpus, step)
    folder = work_folder(corpus, step)
    with _alone(folder, progress):
        if status(corpus, step).done:  # by the run that was waited for
            return
        takedowns = latest_takedown(corpus.store, corpus.name)
        if not step.resumes:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        inputs = inputs_of(corpus, step)
        context = StepContext(corpus, inputs, step, folder, run, progress)
        make = partial(step.make, context)
        try:
            counts = make() if step.resumes else corpus.with_retries(step.name, make)
        except RecipeError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            failed = StepFailed(f"{step.name}: {one_line(error, named=True)}")
            failed.exit_code = getattr(error, "exit_code", failed.exit_code)
            raise failed from error
        files = private_folders.plain_files(folder)
        if corpus.store.is_s3:
            upload(corpus.store, folder, final)
        size = sum(path.stat().st_size for path in files)
        record = _record(
            corpus, step, recipe_digest, started, counts=counts, n_bytes=size, takedowns=takedowns
        )
        write_record(corpus, record)
        if corpus.store.is_s3:
            shutil.rmtree(folder, ignore_errors=True)
            private_folders.remove_old(folder.parent)


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a folder; it ends with the process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    while True:
        try:
            lock.acquire(timeout=1.0)
            break
        except Timeout:
            progress.counted(Note("waiting for another run that makes it"))
    try:
        yield
    finally:
        lock.release()
