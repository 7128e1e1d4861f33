"""`train.model`: how the model is held in memory, what of it is trained, and how it starts."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from rasterloom.recipe.base import Section

Matrix = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The matrices of a layer."""


class Lora(Section):
    """Train small matrices beside the large ones (Hu et al. 2021, arXiv 2106.09685), by peft."""

    rank: int = Field(16, ge=1)
    """Inner width of a pair of small matrices."""
    alpha: int = Field(32, ge=1)
    """What a pair of small matrices adds is scaled by alpha / rank."""
    targets: tuple[Matrix, ...] = Field(get_args(Matrix), min_length=1)
    """The matrices of each layer that get a pair."""
    vocabulary: bool = False
    """Train embeddings and head as well, in full: needed where image tokens are new to the model."""


class Model(Section):
    """How the model is held in memory, what of it is trained, and how it starts; see docs/training.md."""

    remat: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again to save memory: nothing; all but attention and the projections
    around it; or whole layers."""
    compile: bool = False
    """Compile each layer with torch.compile; takes a C++ compiler, and no ``deepspeed: {zero: 3}``."""
    zero_image_head: Literal["auto", "true", "false"] = "auto"
    """Start with zeros in the head's rows of image tokens. ``auto``: where the checkpoint masks these tokens
    (Meta's Chameleon does), so that they have never been trained to be drawn."""
    lora: Lora | None = None
    """Train adapters in place of the whole model; takes the extra ``rasterloom[lora]``."""

    @model_validator(mode="after")
    def _compiled_layers_keep_all_or_nothing(self) -> "Model":
        if self.compile and self.remat == "selective":
            raise ValueError(
                "compile: true takes remat: none or full; within a compiled layer nothing can be selected"
            )
        return self
