"""Suites of prompts that a model is judged by."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from rasterloom.recipe.base import Section
from rasterloom.recipe.filtering import Score, by_name

Prompt = TypeVar("Prompt")


def taken(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """Take prompts evenly, up to a suite's limit."""
    number = min(len(prompts), limit or len(prompts))
    return [prompts[i * len(prompts) // number] for i in range(number)]


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


class Suite(Section):
    """Suite of prompts for `rasterloom evaluate` (docs/judging.md)."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the suite, for the command and the page."""
    prompts: str = "scenes"
    """``scenes``, or a file: JSON Lines, GenEval 2's, DPG-Bench's .csv, PartiPrompts' .tsv."""
    judges: tuple[Score, ...] = (Score(name="scene"),)
    """Judges by name, with their options: scene, clip, vqa, hpsv2, pickscore, clip-fd, cmmd, or a
    plug-in's."""
    seeds: int = Field(4, ge=1)
    """Images of each prompt, each from a seed of its own."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels of each image, a bucket of the target; null: a square."""
    limit: int | None = Field(None, ge=1)
    """Prompts at most, taken evenly; null: all."""

    @field_validator("judges", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return [by_name(item) for item in value] if isinstance(value, list | tuple) else value


class Evaluate(Section):
    """Evaluation of checkpoints beside their held-out loss."""

    suites: tuple[Suite, ...] = ()
    """Suites for ``rasterloom evaluate``, which takes them by name."""
