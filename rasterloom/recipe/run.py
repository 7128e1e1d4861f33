"""`run`: how fast, not what."""

from pydantic import Field, field_validator

from rasterloom.recipe.resources import Between, DriverTakes, StepTakes
from rasterloom.recipe.section import Section

SHARDED = ("pairs", "images", "scores", "selection", "codes", "tokens")  # the others run in the driver
ON_GPU = ("scores", "codes")


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
    """What a shard takes, by step: ``images``, ``codes`` for all targets or ``codes/512`` for one."""
    driver: DriverTakes = DriverTakes()
    """What the driver of a submitted job takes."""

    @field_validator("steps")
    @classmethod
    def _are_steps(cls, value: dict[str, StepTakes]) -> dict[str, StepTakes]:
        for name, takes in value.items():
            kind = name.split("/")[0]
            if kind not in SHARDED:
                raise ValueError(f"no step over shards is called {name}; there are {', '.join(SHARDED)}")
            if kind not in ON_GPU and (takes.gpus or takes.actors):
                raise ValueError(f"{name} uses no GPU: gpus and actors are for {' and '.join(ON_GPU)}")
        return value

    def takes(self, step: str) -> StepTakes:
        """What the recipe says of a step: of its own name, else of its kind, else nothing."""
        return self.steps.get(step) or self.steps.get(step.split("/")[0]) or StepTakes()
