"""`sample`: pictures that the trained model draws."""

from pydantic import Field, field_validator

from rasterloom.recipe.base import Section


class ColourCheck(Section):
    """Does the model draw the colour that it is asked for? The shares are in the report."""

    palette: dict[str, tuple[int, int, int]] = Field(min_length=2)
    """Colours by name, RGB."""
    prompts: tuple[str, ...] = Field(min_length=1)
    """Prompts with ``{colour}`` in them, each drawn in every colour of the palette."""
    draws: int = Field(1, ge=1)
    """Pictures for each prompt and colour."""
    size: tuple[int, int]
    """(width, height) in pixels of each picture, a bucket of the last target."""

    @field_validator("prompts")
    @classmethod
    def _has_colour(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in value:
            if "{colour}" not in prompt:
                raise ValueError(f"{prompt!r} lacks {{colour}}")
        return value


class Sample(Section):
    """Pictures drawn by the last checkpoint, for the report."""

    prompts: tuple[str, ...] = ()
    """What to draw, each in every one of ``sizes``."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) in pixels, buckets of the last target; a square, a wide and a tall one when empty."""
    cfg: float = Field(3.0, ge=1)
    """Strength of the classifier-free guidance; 1: none."""
    temperature: float = Field(1.0, gt=0)
    """Below 1 likely codes become likelier."""
    top_k: int = Field(2000, ge=1)
    """Only so many of the likeliest codes are drawn from."""
    seed: int = 0
    """Of the dice: the same seed draws the same pictures."""
    colour_check: ColourCheck | None = None
    """Measure how often the colour asked for is drawn; not measured when null."""
