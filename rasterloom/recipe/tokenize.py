"""`tokenize`: how a kept pair becomes a sequence."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rasterloom.recipe.section import Section

# owner/name or owner/name@revision on the Hugging Face hub, but not the relative path of a file
HUB_ID = re.compile(
    r"(\w[\w.-]*/[\w.-]+?)(?:@([\w./-]+))?(?<!\.ckpt)(?<!\.safetensors)(?<!\.pt)(?<!\.pth)(?<!\.bin)"
)
CODECS = ("mini", "chameleon", "movq")


class Tokenize(Section):
    """How a kept pair becomes a Uni-Rep sequence."""

    codec: str = "mini"
    """Network that turns a picture into codes: mini, chameleon (Lumina-mGPT) or movq (Lumina-mGPT 2.0)."""
    weights: str | None = None
    """Weights of the codec: a file, a folder, or an id on the Hugging Face hub; mini brings its own."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the codec's network. bf16 is faster where the processor has units for it, and turns some codes."""
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

    @model_validator(mode="after")
    def _codec_can_run(self) -> "Tokenize":
        if self.codec == "mini":
            if self.precision != "fp32":
                raise ValueError(f"precision: {self.precision} is for chameleon and movq; mini takes fp32")
        elif not self.weights:
            raise ValueError(
                f"weights: required, as {self.codec} brings none. It takes a file with the names of taming "
                "(Meta's vqgan.ckpt, SBER's movqgan_270M.ckpt), a folder of transformers' Chameleon or of "
                "diffusers' VQModel, or the id of one of these on the Hugging Face hub; see docs/codecs.md"
            )
        return self

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
