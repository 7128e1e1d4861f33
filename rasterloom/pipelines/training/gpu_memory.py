"""Memory of GPUs, and whether a stage fits it, before anything starts."""

from rasterloom.errors import RecipeError
from rasterloom.pipelines.training.stage_step import StageStep, worker_takes
from rasterloom.recipe.run import Run
from rasterloom.schema import Profile
from rasterloom.train.devices import gpus, with_precision
from rasterloom.train.estimate.fit import ACCELERATORS, GIB, Fit, Stage, cannot_fit, fit
from rasterloom.train.job import WorkerTakes
from rasterloom.train.model.shapes import shape_of


def memory_of(step: StageStep, run: Run, profile: Profile, longest: int) -> Stage:
    """Input of the estimate of memory, for the fewest workers.

    Args:
        longest: tokens of the longest sequence.
    """
    shape = shape_of(step.config.train.init, profile.vocab_size)
    return Stage(shape, step.config.stage.freeze, run.train_workers.min, longest)


def fits_of(step: StageStep, run: Run, stage: Stage) -> tuple[Fit, ...]:
    """Fit a stage into each size of GPU that it may get."""
    train = with_precision(step.config.train, use_gpu=run.use_gpu)
    return tuple(fit(train, stage, size) for size in gpu_sizes(worker_takes(step, run)))


def gpu_sizes(takes: WorkerTakes) -> tuple[float, ...]:
    """Bytes of memory that a worker's GPU may have, in order. Empty: there is none, or it is not known.

    The GPU is the kind that the recipe names, else of the kinds on the cluster, else of this machine.
    """
    if not takes.gpus:
        return ()
    kinds = (takes.accelerator,) if takes.accelerator else _kinds_on_cluster()
    sizes = {size * GIB for kind in kinds for size in ACCELERATORS.get(kind, ())}
    return tuple(sorted(sizes or {float(gpu.memory) for gpu in gpus()}))


def _kinds_on_cluster() -> tuple[str, ...]:
    """Kinds of GPUs of the connected Ray cluster, in Ray's words."""
    import ray  # heavy

    if not ray.is_initialized():
        return ()
    prefix = "accelerator_type:"
    return tuple(name.removeprefix(prefix) for name in ray.cluster_resources() if name.startswith(prefix))


def refuse_what_cannot_fit(step: StageStep, run: Run, stage: Stage) -> None:
    """Raise RecipeError if a stage fits no GPU that it may get."""
    fits = fits_of(step, run, stage)
    if fits and not any(one.is_there for one in fits):
        raise RecipeError(f"{step.name}: {cannot_fit(fits[-1])}")
