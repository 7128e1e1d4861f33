"""A recipe from its first step to its last: what would run, and running it."""

from dataclasses import dataclass

from rasterloom.errors import RecipeError
from rasterloom.pipelines.at_work import at_work
from rasterloom.pipelines.corpus import corpus_steps
from rasterloom.pipelines.existing import is_fixed, refuse_change
from rasterloom.pipelines.preflight import check_training
from rasterloom.pipelines.progress import Progress
from rasterloom.pipelines.retry import ask_for_retry, parse_classes, worked_on
from rasterloom.pipelines.runner import StepFailed, run_step, start_ray
from rasterloom.pipelines.settle import settle
from rasterloom.pipelines.state import Status, file_folder, local_folder, status
from rasterloom.pipelines.step import ShardStep, Step
from rasterloom.pipelines.takedown import refuse_held
from rasterloom.pipelines.training import training_steps
from rasterloom.recipe.recipe import Recipe
from rasterloom.storage.local_disk import advice, is_full
from rasterloom.storage.store import StorageError
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.workspace_check import check_workspace


@dataclass(frozen=True)
class Planned:
    """A step and what is to be done about it."""

    step: Step
    status: Status
    runs: bool


def workflow(recipe: Recipe, until: str | None = None) -> list[Step]:
    """All steps of a recipe in order, or those up to and including ``until``.

    Raises:
        RecipeError: there is no step of that name.
    """
    steps = corpus_steps(recipe)
    if until is None or not _named(steps, until):  # a version that a stage trains on may not be there yet
        steps += training_steps(recipe, steps)
    if until is None:
        return steps
    named = _named(steps, until)
    if not named:
        raise RecipeError(f"no step is called {until}; the steps: {', '.join(step.name for step in steps)}")
    return steps[: named[-1] + 1]


def _named(steps: list[Step], name: str) -> list[int]:
    """Which of the steps bear a name, such as ``tokens/512``, or ``tokens`` for all targets."""
    return [i for i, step in enumerate(steps) if step.name == name or step.name.split("/")[0] == name]


def plan(recipe: Recipe, until: str | None = None) -> list[Planned]:
    """Say of each step whether it would run, and why. Nothing is changed."""
    corpus = Corpus.of(recipe)
    found = [status(corpus, step) for step in workflow(recipe, until)]
    return [Planned(s.step, s, not s.done) for s in found]


def run(recipe: Recipe, until: str | None, progress: Progress, retry: str = "") -> list[Planned]:
    """Run what is not done yet, one step after the other; return what was planned.

    Args:
        retry: classes of error, as in ``timeout,http_5xx``, whose rows of ``images`` are fetched again first.

    Raises:
        StepFailed: a step could not be finished.
        StorageError: the workspace or its catalog cannot be used.
        RecipeError: there is no such step or class, or ``images`` is not finished and cannot be retried.
    """
    corpus = Corpus.of(recipe)
    check_workspace(corpus)
    if retry:
        if is_fixed(corpus):
            refuse_change(corpus, "--retry")
        (images,) = (step for step in workflow(recipe) if step.name == "images")
        assert isinstance(images, ShardStep)
        ask_for_retry(corpus, images, parse_classes(retry), progress.say)
    steps = workflow(recipe, until)
    check_training(recipe, steps)
    return run_steps(recipe, steps, progress)


def run_steps(recipe: Recipe, steps: list[Step], progress: Progress) -> list[Planned]:
    """Run those of the steps that are not done yet; return what was planned.

    Raises:
        StepFailed: a step could not be finished.
        VersionError: the recipe names a version that holds what was taken down since.
    """
    corpus = Corpus.of(recipe)
    with at_work(corpus, "run", worked_on(steps), progress.say):
        if gone := settle(corpus):
            rows = ", ".join(f"{table} {n:,}" for table, n in gone.items())
            progress.say(f"What was taken down and was not out yet is out now: {rows}")
        refuse_held(corpus)
        return _run_steps(corpus, recipe, steps, progress)


def _run_steps(corpus: Corpus, recipe: Recipe, steps: list[Step], progress: Progress) -> list[Planned]:
    planned: list[Planned] = []
    progress.plan(corpus.name, (step.name for step in steps), recipe.run)
    try:
        with progress.showing():
            for step in steps:
                before = status(corpus, step)
                planned.append(Planned(step, before, not before.done))
                if before.done:
                    progress.skip(step.name)
                    continue
                if isinstance(step, ShardStep) and is_fixed(corpus):
                    refuse_change(corpus, step.name)
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
    finally:
        progress.ended([p.step.name for p in planned if p.runs])
    return planned


def summary(done: Status) -> str:
    """One line on a finished step: rows by outcome, and the time it took."""
    record = done.record
    assert record is not None
    biggest = sorted(record.counts.items(), key=lambda item: -item[1])
    counts = ", ".join(f"{name} {number:,}" for name, number in biggest[:6])
    more = f", and {len(biggest) - 6} more" if len(biggest) > 6 else ""
    rows = f"{record.rows:,} rows" if record.rows else ""
    text = ": ".join(part for part in (rows, counts + more) if part)
    return f"{text} in {record.seconds:.1f} s" if text else f"in {record.seconds:.1f} s"


def result_files(recipe: Recipe, last: str, here: bool = False) -> dict[str, str]:
    """Where the results that a person looks at lie, once the step ``last`` is done.

    Args:
        here: bring what lies on S3 to this machine.
    """
    corpus = Corpus.of(recipe)
    found = {}
    place = corpus.store.uri if corpus.store.is_s3 else corpus.store.path
    for step in workflow(recipe, last):
        for kind, name in (("sample", "grid.png"), ("report", "index.html")):
            if step.name == kind and status(corpus, step).done:
                found[kind] = place(f"{file_folder(corpus, step)}/{name}")
                if here and corpus.store.is_s3:
                    found[f"{kind}, a copy"] = str(local_folder(corpus, step) / name)
    return found or {"workspace": recipe.workspace}
