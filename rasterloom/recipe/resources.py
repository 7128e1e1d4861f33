"""Resources in a Ray cluster: `run.steps`, `run.driver`, `run.train_workers`."""

from typing import Any, Literal

from pydantic import ByteSize, Field, field_validator, model_validator

from rasterloom.recipe.base import Section

Custom = dict[str, float]


class Between(Section):
    """Range from ``min`` to ``max``. A single number stands for both."""

    min: int = Field(1, ge=1)
    """Minimum."""
    max: int
    """Maximum."""

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
    """Resources of a process on its node."""

    cpus: float | None = Field(None, ge=0)
    """CPUs; null: one."""
    memory: ByteSize | None = None
    """Memory that Ray reserves, such as ``2GB``; null: none."""
    resources: Custom = Field({})
    """Custom resources of the node, such as ``{fetch: 1}``."""

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
    """Resources of one shard of a step, or of one training worker."""

    gpus: float | None = Field(None, gt=0)
    """GPUs of an actor, where the step uses one; null: one; 0.5: two actors on each GPU."""
    actors: Between | None = None
    """Actors of a step that uses GPUs, a number or ``{min, max}``; null: one for each GPU of the cluster."""
    accelerator: str | None = None
    """Accelerator type in Ray's terms, such as ``A100`` or ``H100``; null: any."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] | None = None
    """Placement strategy of training workers: ``PACK`` (the default) on as few nodes as possible, ``SPREAD``
    on as many as possible, ``STRICT_PACK`` all on one, ``STRICT_SPREAD`` each on its own."""


class DriverTakes(Takes):
    """Resources of the driver of a submitted job."""

    cpus: float | None = Field(1.0, ge=0)
    """CPUs; 0, with no memory and no resources, puts the driver on the head node."""
