"""Forecast of training: steps, tokens, memory and GPU hours of each stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from rasterloom.errors import RecipeError
from rasterloom.pipelines.training.gpu_memory import fits_of, memory_of
from rasterloom.pipelines.training.preflight import job_of, longest_image, profile_before_tokens
from rasterloom.pipelines.training.stage_step import StageStep, missing_inputs, stage_before, worker_takes
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import Status, status
from rasterloom.recipe.run import Run
from rasterloom.recipe.train import Train
from rasterloom.train.data.stage_data import open_stage
from rasterloom.train.devices import with_kernels, with_precision
from rasterloom.train.estimate.cost import Estimate, estimate
from rasterloom.train.estimate.fit import Fit, Stage, settled
from rasterloom.train.estimate.flops import token_flops
from rasterloom.train.estimate.memory import Memory
from rasterloom.train.estimate.pace import Pace, paces
from rasterloom.train.estimate.wire import bytes_sent
from rasterloom.train.job import WorkerTakes
from rasterloom.train.model.shapes import check_init
from rasterloom.versions.corpus import Corpus

ALL = "all"


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
    """Steps that have to run before rows and steps are known."""
    estimate: Estimate | None = None
    memory: Memory | None = None
    fits: tuple[Fit, ...] = ()
    """Fit into each GPU that it may get, by their memory; empty where that is not known."""
    sent: float = 0.0
    """Bytes that a worker sends in a step."""
    paces: dict[str, Pace] = field(default_factory=dict)
    """Assumed pace of each GPU, by its name."""
    token_flops: float = 0.0
    """FLOPs of a token, on average."""
    longest: int = 0
    """Tokens of the longest sequence; of the longest image, where there are no tokens yet."""

    @property
    def tokens_per_s(self) -> dict[str, float]:
        """Tokens that a GPU trains on in a second, by its name."""
        return {device: pace.rate(self.token_flops) for device, pace in self.paces.items()}

    @property
    def gpu_hours(self) -> dict[str, float]:
        """By the name of a GPU."""
        flops = self.estimate.flops if self.estimate else 0.0
        return {device: pace.hours(flops) for device, pace in self.paces.items()}


def forecast(workflow: Workflow, which: str, mfu: float | None) -> list[Forecast]:
    """Plan stages and add up what they would take. Nothing is changed.

    Args:
        mfu: share of a GPU's peak that is assumed; None: by GPU and activation checkpointing.

    Raises:
        RecipeError: a stage cannot work as the recipe has it.
    """
    run = workflow.recipe.run
    return [forecast_of(workflow.corpus, step, run, mfu) for step in stages_of(workflow, which)]


def forecast_of(corpus: Corpus, step: StageStep, run: Run, mfu: float | None = None) -> Forecast:
    """Plan one stage, as `forecast` does all."""
    missing = missing_inputs(corpus, step)
    asked = status(corpus, step), (run.train_workers.min, run.train_workers.max), worker_takes(step, run)
    if not asked[0].done and stage_before(step) is None:
        try:
            check_init(step.config.train.init)
        except ValueError as error:
            raise RecipeError(f"{step.name}: {error}") from None
    figures = None
    try:
        if missing:
            profile = profile_before_tokens(step.config.tokenize)
            stage = memory_of(step, run, profile, longest_image(step.config))
            fits, train = _settled(step, run, stage)
            most = stage.share(train)
            tokens = min(most, train.tokens_at_once or most)
            parts = ceil(most / tokens)
            flops = token_flops(stage.shape, stage.longest)
        else:
            job = job_of(corpus, step, run)
            data = open_stage(job)
            stage = memory_of(step, run, job.profile, int(data.plan.lengths.max()))
            fits, train = _settled(step, run, stage)
            figures = estimate(data, stage.shape, train, stage.workers)
            tokens, parts = figures.rank_tokens, figures.micro_batches
            flops = figures.flops / figures.tokens
        held = stage.memory(train, tokens)
    except (ValueError, OSError) as error:
        raise RecipeError(f"{step.name}: {error}") from None
    of_gpu = {"model": step.config.train.model.model_copy(update={"remat": train.model.remat})}
    priced = step.config.train.model_copy(update=of_gpu)
    sent = bytes_sent(train, held.params, held.trained, stage.workers, parts)
    found = _of_kind(paces(priced, mfu), asked[2].accelerator)
    return Forecast(step, *asked, tuple(missing), figures, held, fits, sent, found, flops, stage.longest)


def _settled(step: StageStep, run: Run, stage: Stage) -> tuple[tuple[Fit, ...], Train]:
    """Fit of a stage into each GPU, and its settings.

    The settings are those on the smallest GPU that it may get, or on a CPU.
    """
    fits = fits_of(step, run, stage)
    if fits:
        return fits, fits[0].train
    train = with_kernels(with_precision(step.config.train, use_gpu=run.use_gpu), there=run.use_gpu)
    return fits, settled(train, stage, None)


def _of_kind(found: dict[str, Pace], kind: str | None) -> dict[str, Pace]:
    """Paces of the GPU that the recipe names, or all."""
    return {name: pace for name, pace in found.items() if kind and kind.split("-")[0] == name} or found


def in_short(workflow: Workflow, step: StageStep) -> str | None:
    """One line on a stage's cost, or its error. None before its tokens are there."""
    try:
        one = forecast_of(workflow.corpus, step, workflow.recipe.run)
    except RecipeError as error:
        return str(error)
    if one.estimate is None:
        return None
    total = f"{one.estimate.steps:,} steps, {one.estimate.tokens:,} tokens"
    each = ", ".join(f"{hours_text(hours)} of {device}" for device, hours in one.gpu_hours.items())
    return f"{step.name}: {total}; {each}, {assumption(one.paces)}"


def assumption(paces: Mapping[str, Pace]) -> str:
    """Assumption behind a forecast's hours, in words."""
    shares = list(dict.fromkeys(f"{pace.mfu:.0%}" for pace in paces.values()))
    sources = " or ".join(dict.fromkeys(pace.source for pace in paces.values()))
    return f"at {' / '.join(shares)} MFU ({sources})"


def hours_text(hours: float) -> str:
    """Format a duration in hours or seconds."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 3600:,.3g} s"
