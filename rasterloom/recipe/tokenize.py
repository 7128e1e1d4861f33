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
    shared_crop: bool = True
    """The images of one conversation lie alike in their crops; false: each has a seed of its own."""
    exif: bool = True
    """Turn a picture as its EXIF orientation says; false: take its pixels as they are stored."""
    min_side: float = Field(0.25, ge=0, le=1)
    """Least size of a picture, as a share of its bucket's: 0.25 lets it be enlarged 4 times; 0: any size."""
    max_cut: float = Field(0.5, ge=0, le=1)
    """Largest share of a picture's area that its crop may cut away; 1: any."""
    max_tokens: int | None = Field(None, ge=1)
    """A longer sample is a failure, never cut off; null: no limit."""
    size_in_prompt: float = Field(1.0, ge=0, le=1)
    """Share of the text-to-image prompts that name the picture's size, chosen by key."""
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
