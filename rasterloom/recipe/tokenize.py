"""Section `tokenize`: tokenization of selected pairs."""

import re
import string
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rasterloom.recipe.base import Section
from rasterloom.utils import plugins

# owner/name or owner/name@revision on the Hugging Face hub, but not the relative path of a file
HUB_ID = re.compile(
    r"(\w[\w.-]*/[\w.-]+?)(?:@([\w./-]+))?(?<!\.ckpt)(?<!\.safetensors)(?<!\.pt)(?<!\.pth)(?<!\.bin)"
)
WEIGHTS = {  # of codecs without weights of their own, what they are read from
    "chameleon": "Meta's vqgan.ckpt, a folder of transformers' Chameleon or of diffusers' VQModel",
    "movq": "SBER's movqgan_270M.ckpt, a folder of diffusers' VQModel",
    "llamagen": "LlamaGen's vq_ds16_c2i.pt or vq_ds16_t2i.pt, a folder of Janus or of diffusers' VQModel",
    "emu3": "a folder of transformers' Emu3 or Emu3VQVAE",
}
CODECS = ("mini", "chameleon", "movq", "llamagen", "emu3")


class Prompt(Section):
    """Prompt template of a task. ``<|image|>`` stands for an image, ``{name}`` for a column of its row.

    ``{width}`` and ``{height}`` are the answer image's size in pixels, ``{caption}`` is the caption.
    """

    human: str
    """Question."""
    gpt: str = "<|image|>"
    """Answer, which is in the loss; by default an image alone."""

    @field_validator("human", "gpt")
    @classmethod
    def _has_names(cls, value: str) -> str:
        return _checked(value)


def _checked(template: str) -> str:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}; a brace that is meant as such is written twice") from None
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{template!r}: {{{name}}} is no name of a column")
    return template


class Tokenize(Section):
    """Tokenization of selected pairs into Uni-Rep sequences."""

    codec: str = "mini"
    """Image tokenizer: mini, chameleon (Lumina-mGPT), movq (Lumina-mGPT 2.0), llamagen (LlamaGen, Janus),
    emu3, or a plug-in's (docs/codecs.md, docs/extending.md)."""
    weights: str | None = None
    """Weights of the codec: a file, a folder, or an id on the Hugging Face Hub; mini has its own."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of the codec. tf32, for GPUs, and bf16 are faster on hardware that supports them, and change
    some codes."""
    text: str | None = None
    """Path of a tokenizer.json, or the folder of a language model, whose vocabulary grows by the tokens of
    images (docs/own-model.md); null: a byte-level BPE is trained on the corpus."""
    text_vocab: int = Field(439, ge=256)
    """Size of the text vocabulary when it is trained on the corpus."""
    targets: tuple[int, ...] = (512,)
    """Resolutions: a target of 512 gives buckets of about 512 x 512 pixels."""
    crop: Literal["random", "center"] = "random"
    """Position of a crop: random by the pair's key, or in the middle."""
    shared_crop: bool = True
    """Same crop position for all images of a conversation; false: each has its own."""
    exif: bool = True
    """Apply the EXIF orientation; false: use the pixels as stored."""
    min_side: float = Field(0.25, ge=0, le=1)
    """Minimum size of an image as a share of its bucket's: 0.25 allows 4-fold enlargement; 0: any size."""
    max_cut: float = Field(0.5, ge=0, le=1)
    """Largest share of an image's area that its crop may remove; 1: any."""
    max_tokens: int | None = Field(None, ge=1)
    """Length limit of a sample; a longer one fails and is never truncated; null: no limit."""
    size_in_prompt: float = Field(1.0, ge=0, le=1)
    """Share of text-to-image prompts that name the image's size, chosen by key."""
    prompts: dict[str, str | Prompt] = Field(default_factory=dict)
    """Prompt templates of tasks, beside or instead of docs/tasks.md's: ``depth: "Depth. <|image|>"``."""
    prompt_target: int | None = None
    """Resolution of images in prompts, if lower than that of answers."""
    view_side: int = 384
    """Side of the views of the task multiview, in pixels; at most the target."""
    batch: int = Field(32, ge=1)
    """Images of one bucket that are prepared together and, on a GPU, encoded as a batch."""
    rows_per_file: int = Field(20_000, ge=1)
    """Maximum number of sequences in a file of the table ``tokens``."""
    seed: int = 0
    """Random seed of crop positions and of the order of rows, together with a pair's key."""

    def __hash__(self) -> int:  # of its values: `prompts` is a dict
        return hash(self.model_dump_json())

    @field_validator("codec")
    @classmethod
    def _known_codec(cls, value: str) -> str:
        if value not in CODECS and plugins.find(plugins.CODECS, value) is None:
            known = plugins.known_names(plugins.CODECS, value, CODECS)
            raise ValueError(f"unknown codec {value!r}; {known}")
        return value

    @field_validator("prompts")
    @classmethod
    def _have_names(cls, value: dict[str, str | Prompt]) -> dict[str, str | Prompt]:
        for prompt in value.values():
            if isinstance(prompt, str):
                _checked(prompt)
        return value

    @field_validator("prompt_target", "view_side")
    @classmethod
    def _multiple(cls, value: int | None) -> int | None:
        return value if value is None else _multiple_of_32(value)

    @model_validator(mode="after")
    def _codec_can_run(self) -> "Tokenize":
        if self.codec == "mini":
            if self.precision != "fp32":
                raise ValueError(f"precision: {self.precision} is for codecs with weights; mini takes fp32")
        elif self.codec in CODECS and not self.weights:
            raise ValueError(
                f"weights: required, as {self.codec} brings none. It takes {WEIGHTS[self.codec]}, or the id "
                "of one on the Hugging Face hub; see docs/codecs.md"
            )
        return self

    @field_validator("targets")
    @classmethod
    def _multiples(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("name at least one target")
        for target in value:
            _multiple_of_32(target)
        if len(set(value)) != len(value):
            raise ValueError("a target is named twice")
        return value


def _multiple_of_32(target: int) -> int:
    if target < 32 or target % 32:
        raise ValueError(f"a target is a multiple of 32 pixels; {target} is not")
    return target
