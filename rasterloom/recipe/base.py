"""Base class of the sections of a recipe: frozen, without unknown fields."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    """A field's docstring is its description: in docs/recipe.md, and where an editor completes a recipe."""
