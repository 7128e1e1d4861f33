"""Fields of `train` for monitoring: they change no weights and are part of no identity."""

from typing import Literal

from pydantic import Field

from rasterloom.recipe.base import Section

Tracker = Literal["tensorboard", "wandb"]


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
