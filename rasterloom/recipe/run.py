"""Section `run`: resources and speed, part of no step's identity."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rasterloom.recipe.base import Section
from rasterloom.recipe.price import Price
from rasterloom.recipe.resources import Between, DriverTakes, StepTakes
from rasterloom.schema import StepKind
from rasterloom.utils.suggest import did_you_mean

# Kinds of steps over shards; the others run in the driver.
SHARDED = (
    StepKind.PAIRS,
    StepKind.IMAGES,
    StepKind.SCORES,
    StepKind.SELECTION,
    StepKind.CAPTIONS,
    StepKind.CODES,
    StepKind.PROMPTS,
    StepKind.TOKENS,
    StepKind.SUITE,
)
ON_GPU = (StepKind.SCORES, StepKind.CAPTIONS, StepKind.CODES, StepKind.SUITE)
TRAIN = StepKind.TRAIN


HostLimits = Literal["auto", "worker", "cluster"]


class Run(Section):
    """Resources and speed; nothing here is part of a step's identity."""

    ray_address: str | None = None
    """Address of a Ray cluster; null starts Ray on this machine."""
    cpus: int | None = Field(None, ge=1)
    """CPUs of a Ray started here; null: all."""
    in_flight: int | None = Field(None, ge=1)
    """Shards in flight; null: two for each CPU."""
    train_workers: Between = Between(min=2, max=2)
    """Training workers, one for each GPU or CPU; ``{min, max}`` uses as many as the cluster has room for, and
    adapts as nodes come and go."""
    max_failures: int = Field(3, ge=0)
    """Times that lost training workers are replaced before a stage fails; a preemption that Ray announces
    does not count."""
    deadline_minutes: float | None = Field(None, gt=0)
    """Minutes after which a run stops as SIGTERM stops it, with exit code 3; null: none."""
    max_usd: float | None = Field(None, gt=0)
    """Dollars after which a run stops in the same way. Every node of the cluster counts from the run's start,
    idle or not, with its CPUs and GPUs at ``price``; null: no limit."""
    node_wait_minutes: float = Field(30, ge=0)
    """Minutes that training waits on a cluster for nodes that are not there yet, such as those of an
    autoscaler; 0: a run whose training has too few is refused at its start."""
    notify: tuple[Literal["end", "failure", "stall"], ...] = ()
    """Messages of a run to the webhook in the variable ``RASTERLOOM_WEBHOOK``: its end, its failure, and a
    step that has not come on for ``stall_minutes``."""
    stall_minutes: float = Field(60, gt=0)
    """Minutes in which a step must come on, if ``notify`` has ``stall``."""
    use_gpu: bool = False
    """Use GPUs for training, and in an actor on each for scores and codecs."""
    min_success: float = Field(0.05, ge=0, le=1)
    """Stop fetching when a smaller share of the last ``success_window`` pairs became images; 0: never."""
    success_window: int = Field(2000, ge=1)
    """Number of pairs that ``min_success`` is measured on."""
    img2dataset_python: str | None = None
    """Python with img2dataset installed, for ``fetch: {engine: img2dataset}``; null: this one."""
    host_limits: HostLimits = "auto"
    """For whom ``per_host``, ``host_rate`` and what hosts ask for count: ``worker``, for each alone;
    ``cluster``, for all workers of a run together; ``auto``: the latter above a million pairs."""
    steps: dict[str, StepTakes] = Field({})
    """Resources of a shard by step: ``images``, ``codes`` for all targets or ``codes/512`` for one; and of a
    training worker: ``train`` in all stages, ``train/2`` in the second."""
    driver: DriverTakes = DriverTakes()
    """Resources of a submitted job's driver."""
    price: Price = Price()
    """Prices of a CPU and a GPU, for the cost that a run reports and for ``max_usd``."""

    @model_validator(mode="after")
    def _limit_has_a_price(self) -> "Run":
        if self.max_usd is not None and not (self.price.cpu or self.price.gpu):
            raise ValueError("max_usd: takes the price of an hour, such as price: {cpu: 0.05, gpu: 2.5}")
        return self

    @field_validator("steps")
    @classmethod
    def _are_steps(cls, value: dict[str, StepTakes]) -> dict[str, StepTakes]:
        for name, takes in value.items():
            kind = StepKind.of(name)
            if kind is TRAIN:
                _check_training(name, takes)
                continue
            if kind not in SHARDED:
                known = did_you_mean(name, (*SHARDED, TRAIN), "there are ")
                raise ValueError(f"no step over shards is called {name}, and none trains; {known}")
            if kind not in ON_GPU and (takes.gpus or takes.actors or takes.accelerator):
                raise ValueError(
                    f"{name} uses no GPU: gpus, actors and accelerator are for {' and '.join(ON_GPU)}"
                )
            if takes.placement:
                raise ValueError(f"{name}: placement is for training workers, {TRAIN}")
        return value

    def takes(self, step: str) -> StepTakes:
        """Return the resources of a step: by its name, else by its kind, else the defaults.

        A training stage is called ``train/2-512`` and may also be named ``train/2``.
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
