"""`train`: the stages of FP-SFT."""

from typing import Literal

from pydantic import Field, model_validator

from rasterloom.recipe.model import Model
from rasterloom.recipe.section import Section


class Stage(Section):
    """One stage of FP-SFT: a resolution and how long and how fast to train on it."""

    target: int = Field(ge=32)
    epochs: float | None = Field(None, gt=0)
    """Passes over the stage's rows; give this or ``steps``."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; give this or ``epochs``."""
    lr: float = Field(2e-5, gt=0)
    min_lr: float | None = Field(None, ge=0)
    """Learning rate at the end, by a half cosine; constant after the warm-up when null."""
    warmup_steps: int = Field(10, ge=0)
    batch_tokens: int = Field(65_536, ge=1)
    """Tokens in a global batch, over all workers."""

    @model_validator(mode="after")
    def _one_length(self) -> "Stage":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self


class DeepSpeed(Section):
    zero: Literal[0, 1, 2, 3] = 2
    """ZeRO stage."""
    bf16: bool = False


class Train(Section):
    """FP-SFT: each stage starts from the weights of the one before it."""

    init: str = "tiny"
    """``tiny``, ``small``, ``1b``, ``7b`` or ``34b`` for a model from scratch, or a checkpoint's folder."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    model: Model = Model()
    deepspeed: DeepSpeed = DeepSpeed()
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` learns faster from scratch; it takes ``deepspeed: {zero: 0}``."""
    seed: int = 0
    heldout: float = Field(0.02, ge=0, lt=1)
    """Share of rows, chosen by key, that is never trained on."""
    z_loss: float = Field(1e-5, ge=0)
    cfg_drop: float = Field(0.1, ge=0, le=1)
    """Share of samples trained without their prompt, for classifier-free guidance."""
    dropout: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints; the end of a stage always makes one."""

    @model_validator(mode="after")
    def _muon_sees_whole_matrices(self) -> "Train":
        if self.optimizer == "muon" and (self.deepspeed.zero or self.deepspeed.bf16):
            raise ValueError(
                "optimizer muon takes deepspeed: {zero: 0, bf16: false}, it needs whole matrices"
            )
        return self

    @model_validator(mode="after")
    def _compiled_layers_hold_their_weights(self) -> "Train":
        if self.model.compile and self.deepspeed.zero == 3:
            raise ValueError("model: {compile: true} takes deepspeed: {zero: 0}, 1 or 2, not 3")
        return self
