"""Section `train`: stages of FP-SFT."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, PrivateAttr, field_serializer, field_validator, model_validator

from rasterloom.errors import one_line
from rasterloom.recipe.base import Section, is_default
from rasterloom.recipe.model import Model
from rasterloom.recipe.monitoring import Watch


def _names_a_version(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*@[A-Za-z0-9_.-]+", value):
        raise ValueError(f"takes a version of a corpus, name@tag or name@snapshot, not {value!r}")
    return value


AnySection = TypeVar("AnySection", bound=Section)


def _weights_add_up(value: dict[str, float] | None) -> dict[str, float] | None:
    if value is not None and not (all(weight >= 0 for weight in value.values()) and sum(value.values()) > 0):
        raise ValueError("takes weights of 0 or more, not all of them 0")
    return value


CaptionWeights = Annotated[dict[str, float] | None, AfterValidator(_weights_add_up)]
"""Weights of captions by name."""

CorpusRef = Annotated[str, AfterValidator(_names_a_version)]
"""Version of a corpus of this workspace: ``name@tag`` or ``name@snapshot``."""

SPEED_ONLY: dict[str, Any] = {
    **dict.fromkeys(("checkpoint_every", "deterministic", "keep_checkpoints", "micro_batch_tokens"), True),
    "model": {"remat": True, "compile": True, "kernels": True},
    "deepspeed": {"zero": True, "offload": True, "config": True},
    "guard": True,
    "stages": {"__all__": {"deepspeed", "guard"}},  # what a stage sets for itself stands in those of `Train`
}
"""Fields of `Train` that change speed or memory, rounding, or what happens to a stage that goes wrong.

A finished stage stays finished with other values, and one under way continues with them.
"""

_OF_WSD = {"decay_steps", "decay_share", "decay"}

OF_A_STAGE = ("dropout", "weight_decay", "z_loss", "cfg_drop", "captions")
"""Fields of `Train` that a stage may set for itself."""

SECTIONS_OF_A_STAGE = ("deepspeed", "guard")
"""Sections of `Train` of which a stage may set fields for itself."""


class DeepSpeed(Section):
    """DeepSpeed settings: sharding, precision and offloading; see docs/checkpoints.md."""

    zero: Literal[0, 1, 2, 3] = 2
    """ZeRO stage."""
    bf16: bool | Literal["auto"] | None = None
    """Compute in bf16 with float32 master weights; needs ZeRO 1, 2 or 3. Null: on GPUs from A100 on, with
    these stages of ZeRO. ``auto``: there, and on CPUs with units for it (AVX512-BF16 or AMX)."""
    offload: Literal["cpu"] | None = None
    """``cpu``: optimizer state and step on the CPU; needs ZeRO 1, 2 or 3."""
    config: str | None = None
    """Path of a DeepSpeed JSON file, read into ``extra``."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed settings inline; they may add to those of Rasterloom, but not contradict them."""

    @field_serializer("bf16")
    def _null_as_false(self, value: bool | str | None) -> bool | str:
        """Null in the words of stages trained when false was the default."""
        return value or False

    @model_validator(mode="before")
    @classmethod
    def _read_config(cls, data: Any) -> Any:
        """Replace the file's path by its content, for the identity."""
        if not isinstance(data, dict) or not isinstance(data.get("config"), str):
            return data
        if data.get("extra"):
            raise ValueError("give either config or extra")
        try:
            extra = json.loads(Path(data["config"]).expanduser().read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"config: cannot read {data['config']} as JSON: {one_line(error)}") from None
        return {**data, "config": None, "extra": extra}

    @model_validator(mode="after")
    def _sharded(self) -> "DeepSpeed":
        if not self.zero and self.offload:
            raise ValueError("offload takes zero 1, 2 or 3")
        if not self.zero and self.bf16:  # DeepSpeed would add gradients up in bf16
            raise ValueError("bf16 takes zero 1, 2 or 3")
        return self


class Guard(Section):
    """Reaction to loss spikes and to non-finite losses or gradients."""

    on: Literal["skip", "rollback", "stop"] = "stop"
    """``skip`` skips the batch; ``rollback`` returns to the last checkpoint and skips the batches since;
    ``stop`` fails the stage."""
    factor: float | None = Field(None, gt=1)
    """Loss spike: a loss of more than this many times the median of the last ``window`` steps; null: only
    losses that are not finite."""
    window: int = Field(50, ge=1)
    """Steps of the median that ``factor`` is relative to."""
    limit: int = Field(10, ge=1)
    """Loss spikes in a stage until it fails."""

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_name(cls, data: Any) -> Any:
        """Accept a bare ``on``, which YAML reads as true."""
        return {"on" if k is True else k: v for k, v in data.items()} if isinstance(data, dict) else data


class Part(Section):
    """Part of a mixture: rows of one target, and their share of the stage's tokens."""

    target: int = Field(ge=32)
    """Resolution of the tokens."""
    weight: float | None = Field(None, gt=0)
    """Weight relative to the other parts, in tokens; null in all parts: every row once an epoch."""
    tasks: tuple[str, ...] = ()
    """Tasks of the rows (docs/tasks.md), such as [t2i, edit]; empty: all."""
    corpus: CorpusRef | None = None
    """Version of the tokens, ``name@tag`` or ``name@snapshot``; null: the recipe's own."""


class Stage(Section):
    """Stage of FP-SFT: tokens, length and learning rate."""

    target: int | None = Field(None, ge=32)
    """Resolution of the tokens; alternative to ``mixture``."""
    mixture: tuple[Part, ...] = ()
    """Tokens of several targets, tasks or corpora, mixed by weight; alternative to ``target``."""
    corpus: CorpusRef | None = None
    """Version of the tokens of ``target``, ``name@tag`` or ``name@snapshot``; null: the recipe's own."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the stage's rows; give one of ``epochs``, ``steps`` and ``tokens``."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps."""
    tokens: int | None = Field(None, ge=1)
    """Tokens to train on; the stage ends with the batch that reaches this number."""
    lr: float = Field(2e-5, gt=0)
    """Peak learning rate, after the warm-up."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] | None = None
    """Learning rate schedule after the warm-up; ``wsd``: constant, then a decay over ``decay_share`` of the
    steps; null: constant, or cosine with ``min_lr``."""
    min_lr: float | None = Field(None, ge=0)
    """Final learning rate of ``cosine``, ``linear`` and ``wsd``; null: 0."""
    decay_steps: int | None = Field(None, ge=1, exclude_if=is_default(None))
    """Steps of the decay of ``wsd``; null: by ``decay_share``."""
    decay_share: float = Field(0.2, gt=0, le=1, exclude_if=is_default(0.2))
    """Decay of ``wsd`` as a share of the stage's steps, rounded up."""
    decay: Literal["1-sqrt", "linear"] = Field("1-sqrt", exclude_if=is_default("1-sqrt"))
    """Shape of the decay of ``wsd``, by the share of it that is done: 1 minus its square root, or a line."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of the warm-up from 0; null: by ``warmup_share``."""
    warmup_share: float = Field(0.005, ge=0, le=1)
    """Warm-up as a share of the stage's steps, rounded up."""
    batch_tokens: int = Field(262_144, ge=1)
    """Tokens in a global batch, over all workers. The paper's 256 sequences are about so many at a target
    of 512, twice as many at 768 and four times at 1024."""
    rows_multiple: int = Field(1, ge=1)
    """Make the rows of a global batch a multiple of this number, such as the number of workers, where each
    has few rows, so that none waits for one with a row more."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Overrides ``train.dropout`` for this stage."""
    weight_decay: float | None = Field(None, ge=0)
    """Overrides ``train.weight_decay`` for this stage."""
    z_loss: float | None = Field(None, ge=0)
    """Overrides ``train.z_loss`` for this stage."""
    cfg_drop: float | None = Field(None, ge=0, le=1)
    """Overrides ``train.cfg_drop`` for this stage."""
    captions: CaptionWeights = Field(None, exclude_if=is_default(None))
    """Overrides ``train.captions`` for this stage."""
    deepspeed: DeepSpeed | None = None
    """Overrides fields of ``train.deepspeed`` for this stage; the others keep their values."""
    guard: Guard | None = None
    """Overrides fields of ``train.guard`` for this stage; the others keep their values."""
    freeze: tuple[str, ...] = ()
    """Frozen parameters: ``embeddings``, ``head``, ``norms``, ``layers.0-7`` (or ``layers.3``), or patterns
    of parameter names, such as ``model.layers.*.mlp.*``."""
    optimizer_state: Literal["keep", "reset"] = "reset"
    """Optimizer state at the start: that of the previous stage's end, or none."""

    @field_validator("tokens", "batch_tokens", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Accept 2.0e9, which YAML reads as text."""
        return float(value) if isinstance(value, str) and re.fullmatch(r"[\d.]+[eE]\d+", value) else value

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the mixture, or the target as the only part."""
        if self.target is None:
            return self.mixture
        return (Part(target=self.target, corpus=self.corpus),)

    @property
    def label(self) -> str:
        """Targets of the stage, such as ``512`` or ``512-768``."""
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
            raise ValueError("min_lr: a constant schedule has none; take cosine, linear or wsd")
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ValueError(f"min_lr: {self.min_lr:g} is above lr, {self.lr:g}")
        if self.schedule != "wsd" and (given := self.model_fields_set & _OF_WSD):
            raise ValueError(f"{min(given)}: it is of schedule: wsd alone")
        return self


class Ema(Section):
    """Exponential moving average of the weights: decay * average + (1 - decay) * weights."""

    decay: float = Field(0.999, gt=0, lt=1)
    """Weight of the average at each update."""
    every: int = Field(1, ge=1)
    """Steps between updates; each copies a worker's share of the weights to CPU memory."""


class Train(Watch):
    """FP-SFT stages, each starting from the weights of the previous one.

    The defaults are those of Lumina-mGPT's training of its 7B model.
    """

    init: str = "tiny"
    """A size for a new model (``tiny``, ``mini``, ``small``, ``1b``, ``7b`` or ``34b``, or a size of another
    family such as ``qwen3-0.6b``), or the folder of a checkpoint; see docs/own-model.md."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """Stages in order, usually of rising resolution."""
    model: Model = Model()
    """Memory, trained parameters and initialization of the model."""
    deepspeed: DeepSpeed = DeepSpeed()
    """ZeRO, precision, and DeepSpeed's own settings."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` converges faster from scratch; it takes ``deepspeed: {zero: 0}``, 1 or 2."""
    seed: int = Field(0, ge=0)
    """Random seed of new weights, the order of rows, dropout, and dropped prompts."""
    heldout: float = Field(0.02, ge=0, lt=1)
    """Share of images, chosen by their content, that are held out with all their rows as validation set."""
    z_loss: float = Field(1e-5, ge=0)
    """Weight of logsumexp(logits)^2 in the loss; without it training diverges, according to the paper."""
    cfg_drop: float = Field(0.1, ge=0, le=1)
    """Share of samples trained without their prompt, for classifier-free guidance."""
    captions: CaptionWeights = Field(None, exclude_if=is_default(None))
    """Weights of the captions that a row is trained on, one drawn each time it comes, such as
    ``{alt: 0.2, long: 0.5, short: 0.3}``: alt is the caption as found, the others are those of ``caption``;
    null: alt alone."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout after attention and after the MLP of each layer; the paper has none for its 34B model."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of matrices and embeddings, not of norms and biases."""
    grad_clip: float = Field(4.0, gt=0)
    """Maximum norm of all gradients; larger ones are scaled down."""
    micro_batch_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Maximum tokens of a micro-batch; a worker accumulates gradients over its share of a batch. It changes
    no batch. ``auto``: as many as fit the GPU's memory. Null: no accumulation, as is ``auto`` on a CPU."""
    deterministic: bool = Field(False, exclude_if=is_default(False))
    """Kernels that give the same bits in every run on a GPU, where there are any; slower. A CPU's do so
    anyway."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints; the end of a stage always makes one."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of checkpoints to keep; older ones are deleted."""
    guard: Guard = Guard()
    """Reaction to loss spikes."""
    ema: Ema | None = Field(None, exclude_if=is_default(None))
    """Average of each stage's weights beside them, in ``model_ema/``; null: none."""

    _stage_number: int = PrivateAttr(0)

    @property
    def tokens_at_once(self) -> int | None:
        """``micro_batch_tokens``; None: no limit, also where ``auto`` is not settled."""
        return None if self.micro_batch_tokens == "auto" else self.micro_batch_tokens

    @property
    def stage_number(self) -> int:
        """Number of the stage, from 0, that the section is of (`of_stage`): its draws depend on it."""
        return self._stage_number

    @property
    def all_captions(self) -> list[dict[str, float]]:
        """The weights of captions that it names, its stages' too."""
        sections: tuple[Train | Stage, ...] = (self, *self.stages)
        return [weights for one in sections if (weights := one.captions)]

    def of_stage(self, number: int) -> "Train":
        """Section for stage ``number`` (from 0) alone, with its own overrides applied."""
        stage = self.stages[number]
        own = {name: value for name in OF_A_STAGE if (value := getattr(stage, name)) is not None}
        for name in SECTIONS_OF_A_STAGE:
            own[name] = _overridden(getattr(self, name), getattr(stage, name))
        section = self.model_copy(update={"stages": (stage,), **own})
        section._stage_number = number
        return section

    @model_validator(mode="after")
    def _deepspeed_suits_each_stage(self) -> "Train":
        for number in range(len(self.stages)):
            given = self.of_stage(number).deepspeed
            if self.optimizer == "muon" and given.zero == 3:
                raise ValueError(
                    "optimizer muon takes deepspeed: {zero: 0}, 1 or 2, as it needs whole matrices"
                )
            if self.optimizer == "muon" and given.offload:
                raise ValueError("optimizer muon takes no deepspeed: {offload: cpu}, as it is slow on a CPU")
            if self.model.compile and given.zero == 3:
                raise ValueError("model: {compile: true} takes deepspeed: {zero: 0}, 1 or 2, not 3")
            if not given.zero and (given.offload or given.bf16):
                name = "offload" if given.offload else "bf16"
                raise ValueError(f"stages[{number}].deepspeed: {name} takes zero 1, 2 or 3")
        return self


def _overridden(section: AnySection, own: AnySection | None) -> AnySection:
    """Section with the fields that a stage sets for itself."""
    if own is None:
        return section
    return section.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
