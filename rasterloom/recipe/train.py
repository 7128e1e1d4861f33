"""`train`: the stages of FP-SFT."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from rasterloom.recipe.base import Section
from rasterloom.recipe.model import Model
from rasterloom.recipe.monitoring import Watch


def _names_a_version(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*@[A-Za-z0-9_.-]+", value):
        raise ValueError(f"takes a version of a corpus, name@tag or name@snapshot, not {value!r}")
    return value


CorpusRef = Annotated[str, AfterValidator(_names_a_version)]
"""``name@tag`` or ``name@snapshot``: a version of a corpus of this workspace."""

SPEED_ONLY: dict[str, Any] = {
    **dict.fromkeys(("checkpoint_every", "keep_checkpoints", "micro_batch_tokens"), True),
    "model": {"remat": True, "compile": True},
}
"""Fields of `Train` that change how a stage is computed, but not what: a stage may go on with others."""

OF_A_STAGE = ("dropout", "weight_decay", "z_loss", "cfg_drop")
"""Fields of `Train` that a stage may set for itself."""


class Part(Section):
    """A part of a mixture: rows of one target, and their share of the stage's tokens."""

    target: int = Field(ge=32)
    """Resolution of the tokens."""
    weight: float | None = Field(None, gt=0)
    """Share of the tokens, beside the other parts' weights; null in all parts: every row once an epoch."""
    tasks: tuple[str, ...] = ()
    """Take only rows of these tasks (docs/tasks.md), such as [t2i, edit]; of all tasks when empty."""
    corpus: CorpusRef | None = None
    """Take the tokens of this version, ``name@tag`` or ``name@snapshot``; the recipe's own when null."""


class Stage(Section):
    """One stage of FP-SFT: on which tokens, how long and how fast to train."""

    target: int | None = Field(None, ge=32)
    """Resolution of the tokens; give this or ``mixture``."""
    mixture: tuple[Part, ...] = ()
    """Tokens of several targets, tasks or corpora, mixed by weight; give this or ``target``."""
    corpus: CorpusRef | None = None
    """Train on this version of the tokens of ``target``, ``name@tag`` or ``name@snapshot``; on those that
    the recipe makes when null."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the stage's rows; give one of ``epochs``, ``steps`` and ``tokens``."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps."""
    tokens: int | None = Field(None, ge=1)
    """Tokens to train on: the stage ends with the batch that reaches them."""
    lr: float = Field(2e-5, gt=0)
    """Learning rate after the warm-up."""
    schedule: Literal["constant", "cosine", "linear"] | None = None
    """Learning rate after the warm-up; null: constant, or cosine where ``min_lr`` is given."""
    min_lr: float | None = Field(None, ge=0)
    """Learning rate at the end of ``cosine`` and ``linear``; 0 when null."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps in which the learning rate rises from 0; null: ``warmup_share`` says how many."""
    warmup_share: float = Field(0.005, ge=0, le=1)
    """Share of the stage's steps in which the learning rate rises, rounded up."""
    batch_tokens: int = Field(262_144, ge=1)
    """Tokens in a global batch, over all workers. The paper's 256 sequences are about so many at a target
    of 512, twice as many at 768 and four times at 1024."""
    rows_multiple: int = Field(1, ge=1)
    """Rows of a global batch are a multiple of so many, and at least so many: the number of workers, where
    they have few rows each, so that none waits for one that has a row more."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """For this stage, in place of ``train.dropout``."""
    weight_decay: float | None = Field(None, ge=0)
    """For this stage, in place of ``train.weight_decay``."""
    z_loss: float | None = Field(None, ge=0)
    """For this stage, in place of ``train.z_loss``."""
    cfg_drop: float | None = Field(None, ge=0, le=1)
    """For this stage, in place of ``train.cfg_drop``."""
    freeze: tuple[str, ...] = ()
    """What is not trained: ``embeddings``, ``head``, ``norms``, ``layers.0-7`` (or ``layers.3``), or patterns
    of parameter names, such as ``model.layers.*.mlp.*``."""
    optimizer_state: Literal["keep", "reset"] = "reset"
    """The optimizer's moments at the start: those that the stage before ended with, or none."""

    @field_validator("tokens", "batch_tokens", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """YAML takes 2.0e9 for text, as its exponent has no sign."""
        return float(value) if isinstance(value, str) and re.fullmatch(r"[\d.]+[eE]\d+", value) else value

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the stage is trained on: the parts of its mixture, or its target alone."""
        if self.target is None:
            return self.mixture
        return (Part(target=self.target, corpus=self.corpus),)

    @property
    def label(self) -> str:
        """The stage's targets, as in ``512`` or ``512-768``."""
        return "-".join(map(str, dict.fromkeys(part.target for part in self.parts)))

    @model_validator(mode="after")
    def _one_length(self) -> "Stage":
        if sum(length is not None for length in (self.epochs, self.steps, self.tokens)) != 1:
            raise ValueError("give one of epochs, steps and tokens")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "Stage":
        if (self.target is None) != bool(self.mixture):
            raise ValueError("give either target or mixture")
        if self.mixture and self.corpus:
            raise ValueError("corpus: with a mixture, each of its parts names its own")
        weighted = [part.weight is not None for part in self.mixture]
        if any(weighted) and not all(weighted):
            raise ValueError("mixture: give a weight to every part, or to none")
        return self

    @model_validator(mode="after")
    def _schedule_has_its_end(self) -> "Stage":
        if self.schedule == "constant" and self.min_lr is not None:
            raise ValueError("min_lr: a constant schedule has none; take cosine or linear")
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ValueError(f"min_lr: {self.min_lr:g} is above lr, {self.lr:g}")
        return self


class DeepSpeed(Section):
    """How DeepSpeed shares a model out to the workers; docs/checkpoints.md tells more."""

    zero: Literal[0, 1, 2, 3] = 2
    """ZeRO stage."""
    bf16: bool = False
    """Compute in bf16, beside a float32 copy of the weights; takes ZeRO 1, 2 or 3."""
    offload: Literal["cpu"] | None = None
    """``cpu``: the optimizer's state and step are there, not on the GPU; takes ZeRO 1, 2 or 3."""
    config: str | None = None
    """A file in DeepSpeed's own JSON, read into ``extra``."""
    extra: dict[str, Any] = Field(default_factory=dict)
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
    """Steps whose median ``factor`` is measured by."""
    limit: int = Field(10, ge=1)
    """After so many times in a stage it fails."""

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_name(cls, data: Any) -> Any:
        """YAML takes a bare ``on`` for true."""
        return {"on" if k is True else k: v for k, v in data.items()} if isinstance(data, dict) else data


class Train(Watch):
    """FP-SFT: each stage starts from the weights of the one before it.

    The defaults are those of Lumina-mGPT's training of its 7B model.
    """

    init: str = "tiny"
    """``tiny``, ``small``, ``1b``, ``7b`` or ``34b`` for a model from scratch, or a checkpoint's folder."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """One after the other, usually of rising resolution."""
    model: Model = Model()
    """How the model is held in memory and what of it is trained."""
    deepspeed: DeepSpeed = DeepSpeed()
    """ZeRO, precision, and DeepSpeed's own settings."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` learns faster from scratch; it takes ``deepspeed: {zero: 0}``."""
    seed: int = 0
    """Of the weights of a new model, the order of rows, dropout, and which prompts are dropped."""
    heldout: float = Field(0.02, ge=0, lt=1)
    """Share of rows, chosen by key, that is never trained on."""
    z_loss: float = Field(1e-5, ge=0)
    """Weight of logsumexp(logits)^2 in the loss; without it training diverges, says the paper."""
    cfg_drop: float = Field(0.1, ge=0, le=1)
    """Share of samples trained without their prompt, for classifier-free guidance."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """After attention and after the MLP of each layer; the paper has none for its 34B model."""
    weight_decay: float = Field(0.1, ge=0)
    """Of matrices and embeddings; norms and biases do not decay."""
    grad_clip: float = Field(4.0, gt=0)
    """The most that the norm of all gradients may be; larger ones are scaled down to it."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """The most tokens that a worker computes at once; of a larger share of a batch it adds gradients up. Set
    it where memory runs out: it changes no batch. All at once when null."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints; the end of a stage always makes one."""
    keep_checkpoints: int = Field(2, ge=1)
    """Older ones than the last so many are deleted."""
    guard: Guard = Guard()
    """What to do about losses that go wrong."""

    def of_stage(self, number: int) -> "Train":
        """The section as stage ``number`` (from 0) sees it: that stage alone, with what it sets itself."""
        stage = self.stages[number]
        own = {name: value for name in OF_A_STAGE if (value := getattr(stage, name)) is not None}
        return self.model_copy(update={"stages": (stage,), **own})

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
