"""Section `train.model`: memory, trained parameters and initialization of the model."""

from typing import Literal, get_args

from pydantic import Field

from rasterloom.recipe.base import Section, is_default

Matrix = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The matrices of a layer."""


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), by peft."""

    rank: int = Field(16, ge=1)
    """Rank of the adapters."""
    alpha: int = Field(32, ge=1)
    """The output of an adapter is scaled by alpha / rank."""
    targets: tuple[Matrix, ...] = Field(get_args(Matrix), min_length=1)
    """Matrices of each layer that get an adapter."""
    vocabulary: bool = False
    """Train embeddings and head as well, in full: needed where image tokens are new to the model."""


class Model(Section):
    """Memory, trained parameters and initialization of the model; see docs/training.md."""

    remat: Literal["auto", "none", "selective", "full"] = "auto"
    """Activation checkpointing: ``none``; ``selective``, of all but attention and its projections; or
    ``full``, of whole layers. ``auto``: the least that fits the GPU's memory, and none on a CPU."""
    compile: bool = False
    """Compile each layer with torch.compile; needs a C++ compiler, and excludes ``deepspeed: {zero: 3}``."""
    kernels: Literal["auto", "eager"] = Field("auto", exclude_if=is_default("auto"))
    """``auto``: fused kernels for norms, the MLP's activation and, of Chameleon, rotary positions on GPUs,
    where Triton is installed and ``compile`` is false; ``eager``: PyTorch's own operators."""
    zero_image_head: Literal["auto", "true", "false"] = "auto"
    """Initialize the head's rows of image tokens with zeros. ``auto``: where the checkpoint masks these
    tokens, as Meta's Chameleon does, and has never been trained to generate them."""
    lora: Lora | None = None
    """Train adapters instead of the whole model; needs the extra ``rasterloom[lora]``."""

    @property
    def recomputed(self) -> Literal["none", "selective", "full"]:
        """``remat``; none where ``auto`` is not settled."""
        return "none" if self.remat == "auto" else self.remat

    @property
    def operators(self) -> Literal["eager", "kernels", "compiled"]:
        """Kernels and compiler of a layer, once `devices.with_kernels` settled them."""
        if self.compile:
            return "compiled"
        return "kernels" if self.kernels == "auto" else "eager"
