"""Fields of `train` for monitoring: they change no weights and are part of no identity."""

from typing import Literal

from pydantic import Field, field_validator

from rasterloom.recipe.base import Section

Tracker = Literal["tensorboard", "wandb"]


class Profiling(Section):
    """Trace of torch's profiler, in ``profiles/`` of a stage's folder."""

    steps: tuple[int, int]
    """First and last step, counted from 1, of each stage."""

    @field_validator("steps")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError(f"takes the first and the last step, such as [10, 12], not {list(value)}")
        return value


class Watch(Section):
    """Monitoring of a stage; a change here trains nothing again."""

    trackers: tuple[Tracker, ...] = Field(("tensorboard",), exclude=True)
    """Trackers that get the metrics beside ``metrics.jsonl``; ``wandb`` needs the extra of that name."""
    log_every: int = Field(10, ge=1, exclude=True)
    """Steps between two log entries."""
    evaluate_every: int | None = Field(None, ge=1, exclude=True)
    """Steps between measurements of the held-out loss; at the start and the end of a stage when null."""
    sample_every: int | None = Field(None, ge=1, exclude=True)
    """Steps between sampled images of the recipe's ``sample.prompts``; null: no images."""
    profile: Profiling | None = Field(None, exclude=True)
    """Trace of some steps with torch's profiler; null: none."""
