"""Forecast of training: steps, tokens, memory and GPU hours of each stage."""

from dataclasses import dataclass, field

from rasterloom.errors import RecipeError
from rasterloom.pipelines.training.preflight import job_of
from rasterloom.pipelines.training.stage_step import StageStep, missing_inputs, stage_before, worker_takes
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import Status, status
from rasterloom.recipe.run import Run
from rasterloom.train.data.stage_data import open_stage
from rasterloom.train.devices import with_precision
from rasterloom.train.estimate.cost import DEVICES, Estimate, device_hours, estimate
from rasterloom.train.estimate.memory import Memory, memory
from rasterloom.train.job import WorkerTakes
from rasterloom.train.model.shapes import check_init, shape_of
from rasterloom.versions.corpus import Corpus

ALL = "all"
MFU = 0.4  # of a GPU's peak, assumed: what well-tuned training of such models reaches


def stages_of(workflow: Workflow, which: str = ALL) -> list[StageStep]:
    """Training steps of a recipe: of all stages, or of one, by its number from 1.

    Raises:
        RecipeError: the recipe has no such stage, or none at all.
    """
    stages = workflow.stages
    if not stages:
        raise RecipeError("the recipe trains nothing: it has no train section")
    if which == ALL:
        return stages
    if not (which.isdecimal() and 1 <= int(which) <= len(stages)):
        names = ", ".join(step.part for step in stages)
        message = f"takes all, or a number from 1 to {len(stages)} ({names})"
        raise RecipeError(message, field="stage", value=which)
    return [stages[int(which) - 1]]


@dataclass(frozen=True)
class Forecast:
    """Resources that a stage would take."""

    step: StageStep
    status: Status
    workers: tuple[int, int]
    """How many, at least and at most."""
    takes: WorkerTakes
    """What each takes of its node."""
    missing: tuple[str, ...]
    """Steps that have to run before anything can be said."""
    estimate: Estimate | None = None
    memory: Memory | None = None
    gpu_hours: dict[str, float] = field(default_factory=dict)
    """By the name of a GPU."""


def forecast(workflow: Workflow, which: str, mfu: float) -> list[Forecast]:
    """Plan stages and add up what they would take. Nothing is changed.

    Args:
        mfu: share of a GPU's peak that is assumed.

    Raises:
        RecipeError: a stage cannot work as the recipe has it.
    """
    run = workflow.recipe.run
    return [forecast_of(workflow.corpus, step, run, mfu) for step in stages_of(workflow, which)]


def forecast_of(corpus: Corpus, step: StageStep, run: Run, mfu: float) -> Forecast:
    """Plan one stage, as `forecast` does all."""
    missing = missing_inputs(corpus, step)
    asked = status(corpus, step), (run.train_workers.min, run.train_workers.max), worker_takes(step, run)
    if not asked[0].done and stage_before(step) is None:
        try:
            check_init(step.config.train.init)
        except ValueError as error:
            raise RecipeError(f"{step.name}: {error}") from None
    if missing:
        return Forecast(step, *asked, tuple(missing))
    job = job_of(corpus, step, run)
    try:
        shape = shape_of(job.train.init, job.profile.vocab_size)
        figures = estimate(open_stage(job), shape, job.train, job.workers)
        train = with_precision(job.train, use_gpu=job.use_gpu)
        held = memory(shape, train, job.stage.freeze, job.workers, figures.rank_tokens)
    except (ValueError, OSError) as error:
        raise RecipeError(f"{step.name}: {error}") from None
    hours = {device: device_hours(figures.flops, device, mfu) for device in DEVICES}
    return Forecast(step, *asked, (), figures, held, hours)


def in_short(workflow: Workflow, step: StageStep, mfu: float) -> str | None:
    """One line on a stage's cost, or its error. None before its tokens are there."""
    try:
        one = forecast_of(workflow.corpus, step, workflow.recipe.run, mfu)
    except RecipeError as error:
        return str(error)
    if one.estimate is None:
        return None
    total = f"{one.estimate.steps:,} steps, {one.estimate.tokens:,} tokens"
    each = ", ".join(f"{hours_text(hours)} of {device}" for device, hours in one.gpu_hours.items())
    return f"{step.name}: {total}; {each}, at {mfu:.0%} MFU"


def hours_text(hours: float) -> str:
    """Format a duration in hours or seconds."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 3600:,.3g} s"
