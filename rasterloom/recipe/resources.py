"""What parts of a run take of a Ray cluster: `run.steps`, `run.driver`, `run.train_workers`."""

from typing import Any, Literal

from pydantic import ByteSize, Field, field_validator, model_validator

from rasterloom.recipe.base import Section

Custom = dict[str, float]


class Between(Section):
    """How many of something: from ``min`` to ``max``, as there is need and room; one number: so many."""

    min: int = Field(1, ge=1)
    """The least."""
    max: int
    """The most."""

    @model_validator(mode="before")
    @classmethod
    def _just_so_many(cls, data: Any) -> Any:
        return {"min": data, "max": data} if isinstance(data, int) else data

    @model_validator(mode="after")
    def _in_order(self) -> "Between":
        if self.max < self.min:
            raise ValueError(f"max {self.max} is smaller than min {self.min}")
        return self


class Takes(Section):
    """What a process takes of the node that it runs on."""

    cpus: float | None = Field(None, ge=0)
    """CPUs; one when null."""
    memory: ByteSize | None = None
    """Memory that Ray sets aside, as in ``2GB``; null: Ray does not count it."""
    resources: Custom = Field({})
    """Custom resources of the nodes to run on, as in ``{fetch: 1}``."""

    @field_validator("resources")
    @classmethod
    def _are_custom(cls, value: Custom) -> Custom:
        for name, amount in value.items():
            if name.lower() in ("cpu", "gpu", "memory"):
                raise ValueError(f"{name} is no custom resource: give cpus, gpus or memory")
            if amount <= 0:
                raise ValueError(f"{name}: takes a number above 0, not {amount:g}")
        return value


class StepTakes(Takes):
    """What one shard of a step takes, or one training worker."""

    gpus: float | None = Field(None, gt=0)
    """GPUs of an actor, where the step uses one; one when null, 0.5 puts two actors on each."""
    actors: Between | None = None
    """Actors of a step that uses GPUs, a number or ``{min, max}``; one a GPU of the cluster when null."""
    accelerator: str | None = None
    """Kind of GPU, as Ray names them, such as ``A100`` or ``H100``; any when null."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] | None = None
    """How training workers are placed: ``PACK`` (when null) on as few nodes as hold them, ``SPREAD`` on as
    many as there are, ``STRICT_PACK`` all on one, ``STRICT_SPREAD`` each on one of its own."""


class DriverTakes(Takes):
    """What a submitted job's driver takes."""

    cpus: float | None = Field(1.0, ge=0)
    """CPUs; 0, with no memory and no resources, puts the driver on the head node."""
