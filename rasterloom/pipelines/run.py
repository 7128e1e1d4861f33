"""Running the steps of a recipe, from the first to the last."""

from collections.abc import Mapping

from rasterloom.errors import StepFailed, StepImpossible, StorageError
from rasterloom.pipelines.corpus.existing_steps import is_fixed, refuse_change
from rasterloom.pipelines.execution.budget import budget
from rasterloom.pipelines.execution.controller import controller
from rasterloom.pipelines.execution.deadline import deadline
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.maintenance.apply_takedowns import apply_pending
from rasterloom.pipelines.maintenance.takedown import refuse_held
from rasterloom.pipelines.progress.notify import notifying
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import HasResult, ShardStep
from rasterloom.pipelines.training.preflight import check_training
from rasterloom.pipelines.workflow import Planned, Workflow
from rasterloom.pipelines.workspace.leases import hold_lease
from rasterloom.pipelines.workspace.retries import ask_for_retry, parse_classes, worked_on
from rasterloom.pipelines.workspace.status import Status, file_folder, local_folder, status
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import StepKind
from rasterloom.sources.readers.registry import source_name, survey_source
from rasterloom.storage.layout import GRID, INDEX_HTML
from rasterloom.storage.local_disk import advice, is_full
from rasterloom.utils.formatting import counted
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record
from rasterloom.versions.workspace_check import check_workspace

KEPT = ("kept", "adopted")  # outcomes of a selection, ours or an imported one


def run(
    workflow: Workflow, until: str | None, progress: Progress, retry: str = "", retry_captions: str = ""
) -> list[Planned]:
    """Run the steps that are not done, in order; return the plan.

    Args:
        retry: classes of error, as in ``timeout,http_5xx``, whose rows of ``images`` are fetched again first.
        retry_captions: the same of ``captions``, which are asked for again.

    Raises:
        StepFailed: a step could not be finished.
        StorageError: the workspace or its catalog cannot be used.
        RecipeError: there is no such step or class, or ``images`` is not finished and cannot be retried.
    """
    asked = workflow.recipe.run
    with (
        notifying(workflow.recipe, progress),
        deadline(asked.deadline_minutes, progress.say),
        budget(asked, progress.say),
    ):
        return _run(workflow, until, progress, {StepKind.IMAGES: retry, StepKind.CAPTIONS: retry_captions})


def _run(
    workflow: Workflow, until: str | None, progress: Progress, retries: Mapping[StepKind, str]
) -> list[Planned]:
    recipe, corpus = workflow.recipe, workflow.corpus
    check_workspace(corpus)
    for kind, classes in retries.items():
        if not classes:
            continue
        if is_fixed(corpus):
            refuse_change(corpus, "a retry")
        field = "retry" if kind is StepKind.IMAGES else f"retry_{kind}"
        errors = parse_classes(classes, field)
        for step in (step for step in workflow.corpus_steps if step.kind is kind):
            assert isinstance(step, ShardStep)
            ask_for_retry(corpus, step, errors, progress.say, field)
        workflow.refresh(steps=True)  # the retry is part of its steps
    steps = workflow.until(until)
    check_training(recipe, steps, progress.say)
    try:
        return run_steps(recipe, steps, progress)
    finally:
        workflow.refresh()


def run_steps(recipe: Recipe, steps: list[HasResult], progress: Progress) -> list[Planned]:
    """Run those of some steps that are not done; return the plan.

    Raises:
        StepFailed: a step could not be finished.
        VersionError: the recipe names a version that holds what was taken down since.
    """
    corpus = Corpus.of(recipe)
    with controller.heeded(), hold_lease(corpus, "run", worked_on(steps), progress.say):
        if gone := apply_pending(corpus):
            rows = ", ".join(f"{table} {n:,}" for table, n in gone.items())
            progress.say(f"What was taken down and was not out yet is out now: {rows}")
        refuse_held(corpus)
        return _run_steps(corpus, recipe, steps, progress)


def _run_steps(corpus: Corpus, recipe: Recipe, steps: list[HasResult], progress: Progress) -> list[Planned]:
    planned: list[Planned] = []
    progress.plan(corpus.name, (step.name for step in steps), recipe.run)
    try:
        with progress.showing():
            for step in steps:
                before = status(corpus, step)
                planned.append(Planned(step, before, not before.done))
                if before.done:
                    progress.skip(step.name)
                    _check_kept(step, before)
                    continue
                if isinstance(step, ShardStep) and is_fixed(corpus):
                    refuse_change(corpus, step.name)
                if step.kind is StepKind.PAIRS:
                    _say_unread(recipe, progress)
                with progress.step(step.name, before.reason) as seen:
                    start_ray(recipe.run)
                    try:
                        after = run_step(corpus, step, recipe.run, recipe.digest, progress)
                    except Exception as error:
                        if is_full(error) and not isinstance(error, StorageError):  # of a catalog, say
                            raise StepFailed(f"{step.name}: {advice(corpus.store.root)}") from error
                        if not isinstance(error, StepFailed | StorageError | OSError):
                            raise
                        # pyarrow's errors of S3 do not always tell why: a HEAD that fails has no body.
                        if (why := corpus.store.refusal()) and why not in str(error):
                            raise StepFailed(f"{error}; {why}") from error
                        raise
                    seen.result(after.record, summary(after))
                _check_kept(step, after)
    finally:
        progress.ended([p.step.name for p in planned if p.runs])
    return planned


def _say_unread(recipe: Recipe, progress: Progress) -> None:
    """Print which files of the sources are not read."""
    for source in recipe.sources:
        survey = survey_source(source)
        for line in survey.lines()[1 if survey.read else 0 :] if survey else ():
            progress.say(f"source {source_name(source)}: {line}")


def _check_kept(step: HasResult, done: Status) -> None:
    """Raise StepImpossible if a step leaves no row."""
    if step.kind is StepKind.SELECTION and done.record is not None:
        check_kept(step.name, done.record)
    if step.kind is StepKind.CODES and done.record is not None:
        _check_codes(step.name, done.record)


def check_kept(name: str, record: Record) -> None:
    """Raise StepImpossible if the selection of a record keeps no row."""
    if any(map(record.counts.get, KEPT)):
        return
    reasons = ", ".join(
        f"{name} {n:,}" for name, n in sorted(record.counts.items(), key=lambda item: -item[1])
    )
    raise StepImpossible(f"{name}: none of {record.rows:,} rows is kept: {reasons or 'there are none'}")


def _check_codes(name: str, record: Record) -> None:
    """Raise StepImpossible if each row of a record failed."""
    counts = record.counts
    if counts and all(reason.startswith("failed: ") for reason in counts):
        reasons = ", ".join(f"{reason.removeprefix('failed: ')} {n:,}" for reason, n in counts.items())
        raise StepImpossible(f"{name}: none of {sum(counts.values()):,} rows became a sequence: {reasons}")


def summary(done: Status) -> str:
    """One line on a finished step: rows by outcome, and the time it took."""
    record = done.record
    assert record is not None
    biggest = sorted(record.counts.items(), key=lambda item: -item[1])
    counts = ", ".join(counted(name, number) for name, number in biggest[:6])
    more = f", and {len(biggest) - 6} more" if len(biggest) > 6 else ""
    rows = f"{record.rows:,} row{'s' if record.rows != 1 else ''}" if record.rows else ""
    text = ": ".join(part for part in (rows, counts + more) if part)
    return f"{text} in {record.seconds:.1f} s" if text else f"in {record.seconds:.1f} s"


def result_files(workflow: Workflow, last: str, here: bool = False) -> dict[str, str]:
    """Paths of the results to look at, after the step ``last``.

    Args:
        here: bring what lies on S3 to this machine.
    """
    corpus = workflow.corpus
    found: dict[str, str] = {}
    place = corpus.store.uri if corpus.store.is_s3 else corpus.store.path
    for step in workflow.until(last):
        for kind, name in ((StepKind.SAMPLE, GRID), (StepKind.REPORT, INDEX_HTML)):
            if step.kind is kind and workflow.status(step).done:
                file = f"{file_folder(corpus, step)}/{name}"
                if not corpus.store.exists(file):  # without prompts, or a decoder, there are no samples
                    continue
                found[kind] = place(file)
                if here and corpus.store.is_s3:
                    found[f"{kind}, a copy"] = str(local_folder(corpus, step) / name)
    return found or {"workspace": workflow.recipe.workspace}
