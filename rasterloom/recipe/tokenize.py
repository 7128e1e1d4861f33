"""`tokenize`: how a kept pair becomes a sequence."""

from typing import Literal

from pydantic import Field, field_validator

from rasterloom.recipe.section import Section

CODECS = ("mini",)


class Tokenize(Section):
    """How a kept pair becomes a Uni-Rep sequence."""

    codec: str = "mini"
    """Network that turns a picture into codes: mini."""
    weights: str | None = None
    """Weights of the codec; mini brings its own."""
    text: str | None = None
    """A tokenizer.json of your own; else a byte-level BPE is trained on the corpus."""
    text_vocab: int = Field(439, ge=256)
    """Size of the text vocabulary when it is trained on the corpus."""
    targets: tuple[int, ...] = (512,)
    """Resolutions: a target of 512 gives buckets of about 512 x 512 pixels."""
    crop: Literal["random", "center"] = "random"
    """Where a crop lies: seeded by the pair's key, or in the middle."""
    batch: int = Field(32, ge=1)
    rows_per_file: int = Field(20_000, ge=1)
    seed: int = 0

    @field_validator("codec")
    @classmethod
    def _known_codec(cls, value: str) -> str:
        if value not in CODECS:
            raise ValueError(f"unknown codec {value!r}; known: {', '.join(CODECS)}")
        return value

    @field_validator("targets")
    @classmethod
    def _multiples(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("name at least one target")
        for target in value:
            if target < 32 or target % 32:
                raise ValueError(f"a target is a multiple of 32 pixels; {target} is not")
        if len(set(value)) != len(value):
            raise ValueError("a target is named twice")
        return value
