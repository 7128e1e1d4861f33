"""Base class of the sections of a recipe: frozen, without unknown fields."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    """A field's docstring is its description: in docs/recipe.md, and where an editor completes a recipe."""


def is_default(default: Any) -> Callable[[Any], bool]:
    """Condition of ``exclude_if`` for a field that was added later.

    At its default it is left out of what is dumped, so that the fingerprints of earlier results stay theirs.
    """
    return lambda value: bool(value == default)
