"""Suites of prompts that a model is judged by."""

from typing import Literal

from pydantic import Field

from rasterloom.recipe.base import Section


class SceneSuite(Section):
    """Prompts of drawn scenes, judged fact by fact (docs/judging.md)."""

    prompts: Literal["scenes"] = "scenes"
    """Prompts: ``scenes``."""
    seeds: int = Field(4, ge=1)
    """Images of each prompt, each from a seed of its own."""
    size: tuple[int, int]
    """(width, height) in pixels of each image, a bucket of the last target."""
    limit: int | None = Field(None, ge=1)
    """Prompts at most, taken evenly; null: all 120."""
