"""What of `train` only watches: it changes nothing in the weights, and so is nobody's identity."""

from typing import Literal

from pydantic import Field

from rasterloom.recipe.base import Section

Tracker = Literal["tensorboard", "wandb"]


class Watch(Section):
    """How a stage is looked at while it trains; changing this trains nothing again."""

    trackers: tuple[Tracker, ...] = Field(("tensorboard",), exclude=True)
    """Where figures go beside ``metrics.jsonl``; ``wandb`` takes the extra of that name."""
    log_every: int = Field(10, ge=1, exclude=True)
    """Steps between two readings of what the device has summed up."""
    evaluate_every: int | None = Field(None, ge=1, exclude=True)
    """Steps between measurements of the held-out loss; at the start and the end of a stage when null."""
    sample_every: int | None = Field(None, ge=1, exclude=True)
    """Steps between pictures of the recipe's ``sample.prompts``; none are drawn when null."""
