"""`run`: how fast, not what."""

import re

from pydantic import Field, field_validator

from rasterloom.recipe.base import Section
from rasterloom.recipe.price import Price
from rasterloom.recipe.resources import Between, DriverTakes, StepTakes
from rasterloom.schema import StepKind

# Kinds of steps over shards; the others run in the driver.
SHARDED = (
    StepKind.PAIRS,
    StepKind.IMAGES,
    StepKind.SCORES,
    StepKind.SELECTION,
    StepKind.CODES,
    StepKind.TOKENS,
)
ON_GPU = (StepKind.SCORES, StepKind.CODES)
TRAIN = StepKind.TRAIN


class Run(Section):
    """How fast, not what: nothing here is part of a step's identity."""

    ray_address: str | None = None
    """Address of a Ray cluster; null starts Ray on this machine."""
    cpus: int | None = Field(None, ge=1)
    """CPUs of a Ray started here; all of them when null."""
    in_flight: int | None = Field(None, ge=1)
    """Shards under way at once; two a CPU when null."""
    train_workers: Between = Between(min=2, max=2)
    """Training workers, each a GPU or a CPU; ``{min, max}`` takes as many as there is room for, and goes on
    with other numbers as nodes come and go."""
    max_failures: int = Field(3, ge=0)
    """How often lost training workers are replaced before a stage fails; a machine whose end is announced to
    Ray does not count."""
    use_gpu: bool = False
    """Take GPUs: for training, and an actor on each for the scores that gain by it."""
    min_success: float = Field(0.05, ge=0, le=1)
    """Fetching stops when a smaller share of the last ``success_window`` pairs became images; 0: never."""
    success_window: int = Field(2000, ge=1)
    """Pairs that ``min_success`` looks back on."""
    img2dataset_python: str | None = None
    """Python that has img2dataset installed, for ``fetch: {engine: img2dataset}``; this one when null."""
    steps: dict[str, StepTakes] = Field({})
    """What a shard takes, by step: ``images``, ``codes`` for all targets or ``codes/512`` for one; and what a
    training worker takes: ``train`` in all stages, ``train/2`` in the second."""
    driver: DriverTakes = DriverTakes()
    """What the driver of a submitted job takes."""
    price: Price = Price()
    """Dollars an hour of a CPU and a GPU, for what a run tells of its cost."""

    @field_validator("steps")
    @classmethod
    def _are_steps(cls, value: dict[str, StepTakes]) -> dict[str, StepTakes]:
        for name, takes in value.items():
            kind = StepKind.of(name)
            if kind is TRAIN:
                _check_training(name, takes)
                continue
            if kind not in SHARDED:
                known = ", ".join((*SHARDED, TRAIN))
                raise ValueError(f"no step over shards is called {name}, and none trains; there are {known}")
            if kind not in ON_GPU and (takes.gpus or takes.actors or takes.accelerator):
                raise ValueError(
                    f"{name} uses no GPU: gpus, actors and accelerator are for {' and '.join(ON_GPU)}"
                )
            if takes.placement:
                raise ValueError(f"{name}: placement is for training workers, {TRAIN}")
        return value

    def takes(self, step: str) -> StepTakes:
        """What the recipe says of a step: of its own name, else of its kind, else nothing.

        A training stage is called ``train/2-512`` and may be spoken of as ``train/2``.
        """
        names = (step, step.partition("-")[0], step.partition("/")[0])
        return next((self.steps[name] for name in names if name in self.steps), StepTakes())


def _check_training(name: str, takes: StepTakes) -> None:
    if not re.fullmatch(rf"{TRAIN}(/[1-9][0-9]*)?", name):
        raise ValueError(f"{name}: it takes {TRAIN}, or {TRAIN}/2 for the second stage")
    if takes.actors:
        raise ValueError(f"{name}: run.train_workers says how many training workers there are, not actors")
    if takes.gpus not in (None, 1):
        raise ValueError(f"{name}: a training worker has one GPU (run.use_gpu), not {takes.gpus:g}")
    if takes.cpus == 0:
        raise ValueError(f"{name}: a training worker takes CPUs; cpus is how many threads it has")
