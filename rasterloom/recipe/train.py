"""`train`: the stages of FP-SFT."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

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
    offload: Literal["cpu"] | None = None
    """``cpu``: the optimizer's state and step are there, not on the GPU; takes ZeRO 1, 2 or 3."""
    config: str | None = None
    """A file in DeepSpeed's own JSON, read into ``extra``."""
    extra: dict[str, Any] = {}
    """The same inline. It may add to what Rasterloom sets, but not contradict it."""

    @model_validator(mode="before")
    @classmethod
    def _read_config(cls, data: Any) -> Any:
        """Put the file's content in its place, so that the content is what counts, on any machine."""
        if not isinstance(data, dict) or not isinstance(data.get("config"), str):
            return data
        if data.get("extra"):
            raise ValueError("give either config or extra")
        try:
            extra = json.loads(Path(data["config"]).expanduser().read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"config: cannot read {data['config']} as JSON: {error}") from None
        return {**data, "config": None, "extra": extra}

    @model_validator(mode="after")
    def _sharded(self) -> "DeepSpeed":
        if not self.zero and self.offload:
            raise ValueError("offload takes zero 1, 2 or 3")
        if not self.zero and self.bf16:  # DeepSpeed would add gradients up in bf16
            raise ValueError("bf16 takes zero 1, 2 or 3")
        return self


class Guard(Section):
    """What to do about a step whose loss or gradients are not finite, or whose loss is far off."""

    on: Literal["skip", "rollback", "stop"] = "stop"
    """``skip`` passes over the batch; ``rollback`` goes back to the last checkpoint and passes over the
    batches since; ``stop`` fails the stage."""
    factor: float | None = Field(None, gt=1)
    """Step in when a loss is more than so many times the median of the last ``window`` steps; null: only
    when it is not finite."""
    window: int = Field(50, ge=1)
    limit: int = Field(10, ge=1)
    """After so many times in a stage it fails."""


class Train(Section):
    """FP-SFT: each stage starts from the weights of the one before it."""

    init: str = "tiny"
    """``tiny`` for a small model from scratch, or the folder of a Chameleon checkpoint."""
    stages: tuple[Stage, ...] = Field(min_length=1)
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
    keep_checkpoints: int = Field(2, ge=1)
    """Older ones than the last so many are deleted."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """The most tokens that a worker works on at once; a larger batch is added up in parts."""
    guard: Guard = Guard()

    @model_validator(mode="after")
    def _muon_sees_whole_matrices(self) -> "Train":
        if self.optimizer == "muon" and (self.deepspeed.zero or self.deepspeed.bf16):
            raise ValueError(
                "optimizer muon takes deepspeed: {zero: 0, bf16: false}, it needs whole matrices"
            )
        return self
