"""Train, resume or restart the stages of a recipe."""

import shutil
from collections.abc import Callable

from filelock import FileLock, Timeout

from rasterloom.errors import RecipeError
from rasterloom.pipelines.execution.budget import budget
from rasterloom.pipelines.execution.deadline import deadline
from rasterloom.pipelines.models.forecast import stages_of
from rasterloom.pipelines.progress.notify import notifying
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import run_steps
from rasterloom.pipelines.step import HasResult
from rasterloom.pipelines.training.earlier_stages import refuse_earlier
from rasterloom.pipelines.training.preflight import check_training, job_of
from rasterloom.pipelines.training.stage_step import missing_inputs, training_store
from rasterloom.pipelines.workflow import Planned, Workflow
from rasterloom.pipelines.workspace.status import delete_record, file_folder, status, work_folder
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.workspace_check import check_workspace


def train(workflow: Workflow, which: str, progress: Progress) -> list[Planned]:
    """Train stages, what they need first; return what was planned.

    Args:
        which: ``all``, or the number of a stage, from 1.

    Raises:
        RecipeError: there is no such stage, or one cannot work; nothing was started.
        StepFailed: a step could not be finished; the next run goes on from there.
    """
    steps = workflow.with_inputs(stages_of(workflow, which))
    check_workspace(workflow.corpus)
    recipe = workflow.recipe
    with (
        notifying(recipe, progress),
        deadline(recipe.run.deadline_minutes, progress.say),
        budget(recipe.run, progress.say),
    ):
        check_training(recipe, steps, progress.say)
        try:
            return run_steps(recipe, steps, progress)
        finally:
            workflow.refresh()


def check_unfinished(workflow: Workflow, which: str) -> None:
    """Check that the first unfinished stage can be continued.

    Raises:
        RecipeError: the first stage that is not done has no checkpoint.
    """
    from rasterloom.train.checkpoint.saver import latest  # heavy

    corpus = workflow.corpus
    left = [step for step in stages_of(workflow, which) if not workflow.status(step).done]
    if not left:
        return
    for step in left:
        refuse_earlier(corpus, step)
    step = left[0]
    found = None
    if not missing_inputs(corpus, step):
        job = job_of(corpus, step, workflow.recipe.run)
        try:
            found = latest(job.checkpoint_store, job.digest())
        except (ValueError, OSError) as error:
            raise RecipeError(f"{step.name}: {error}") from None
    if found is None:
        raise RecipeError(
            f"{step.name} has no checkpoint to resume from",
            hint="without {resume} it starts anew",
        )


def start_over(
    workflow: Workflow, which: str, agreed: Callable[[str], bool], say: Callable[[str], None]
) -> None:
    """Delete results of stages, so that they start over.

    Args:
        agreed: is asked before anything is deleted.

    Raises:
        RecipeError: it was not agreed, or a stage is being trained at this moment.
    """
    corpus = workflow.corpus
    begun = [step for step in stages_of(workflow, which) if _has_begun(corpus, step)]
    if not begun:
        return
    names = ", ".join(step.name for step in begun)
    if not agreed(f"Delete the checkpoints, models and metrics of {names}?"):
        raise RecipeError("nothing was deleted")
    for step in begun:
        folder = work_folder(corpus, step)
        lock = FileLock(f"{folder}.lock")
        try:
            with lock.acquire(timeout=0):
                delete_record(corpus, step)
                shutil.rmtree(folder, ignore_errors=True)
                _delete_all(corpus, file_folder(corpus, step))
                _delete_all(corpus, training_store(corpus, step))
        except Timeout:
            raise RecipeError(f"{step.name} is being trained at this moment: stop it first") from None
        say(f"{step.name}: deleted, it starts over")
    workflow.refresh()


def _has_begun(corpus: Corpus, step: HasResult) -> bool:
    places = (file_folder(corpus, step), training_store(corpus, step))
    return status(corpus, step).done or any(corpus.store.list(place) for place in places)


def _delete_all(corpus: Corpus, place: str) -> None:
    for name in corpus.store.list(place):
        corpus.store.delete(name)
