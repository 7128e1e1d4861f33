"""PackedLM: a decoder of transformers on concatenated sequences."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from torch.nn.functional import dropout

from rasterloom.recipe.model import Lora
from rasterloom.recipe.train import Train
from rasterloom.schema import Profile
from rasterloom.train.data.collate import IGNORE
from rasterloom.train.job import Vocabulary
from rasterloom.train.model import attention, kernels
from rasterloom.train.model.activation_checkpointing import prepare_layers
from rasterloom.train.model.attention import Segments
from rasterloom.train.model.initialization import (
    ZeroHead,
    build_model,
    check_checkpoint,
    quiet,
    starts_with_zeros,
    tiny_config,
)
from rasterloom.train.model.lora import add_lora, check_lora_installed, merged
from rasterloom.train.model.loss import Losses, LossHead
from rasterloom.train.model.model_card import write_companions
from rasterloom.train.model.shapes import HEAD, SIZES, first_new_id
from rasterloom.train.model.zero3_init import build_partitioned
from rasterloom.train.transformers_compat import attention_name

__all__ = ["PackedLM", "build_model", "save_model", "tiny_config", "training_model"]


def training_model(init: str, profile: Profile, train: Train) -> "PackedLM":
    """Build the model that a stage trains, as the recipe's ``train`` says: on the CPU, or with ZeRO 3, for
    which DeepSpeed must be set up, dealt out to the ranks.

    Args:
        init: what the stage starts from; the image rows of the head are zeroed by order
            (``zero_image_head: true``) only where it is the recipe's own, not an earlier stage's model.

    Raises:
        ValueError: as `build_model`; or LoRA would freeze a head whose image rows are zero.
    """
    options = train.model
    check_lora(init, profile, train)
    zero = zero_image_head(init, train)
    if train.deepspeed.zero == 3:
        lm = build_partitioned(init, profile, train, zero_image_head=zero)
    else:
        lm = build_model(init, profile, seed=train.seed, zero_image_head=zero)
    if options.lora is not None:
        add_lora(lm, options.lora, seed=train.seed, stage=train.stage_number)
    if options.kernels == "auto" and not options.compile and kernels.are_there():
        kernels.fuse(lm)
    prepare_layers(lm.model.layers, remat=options.recomputed, compiled=options.compile)
    return PackedLM(lm, train.dropout, z_loss=train.z_loss)


def check_start(init: str, profile: Profile, train: Train) -> None:
    """Check that `training_model` can do its task, without reading weights.

    Raises:
        ValueError: as `training_model`.
    """
    if init not in SIZES:
        check_checkpoint(init, profile)
    check_lora(init, profile, train)


def zero_image_head(init: str, train: Train) -> ZeroHead:
    """Setting of the head's image rows. An earlier stage's model keeps its own."""
    return train.model.zero_image_head if init == train.init else "false"


def check_lora(init: str, profile: Profile, train: Train) -> None:
    """Check that LoRA leaves no new row untrained. Raises: ValueError."""
    lora = train.model.lora
    if lora is None:
        return
    check_lora_installed()
    if lora.vocabulary:
        return
    if starts_with_zeros(init, zero_image_head(init, train)):
        raise ValueError(
            "train.model.lora: image rows of the head start as zeros and would stay so; "
            "set train.model.lora.vocabulary: true, or train.model.zero_image_head: 'false'"
        )
    if first_new_id(init, profile) is not None:
        raise ValueError(
            "train.model.lora: tokens of images are new to the model, and their rows would stay as they "
            "start; set train.model.lora.vocabulary: true"
        )


def save_model(
    model: Any,
    profile: Profile,
    folder: Path,
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    lora: Lora | None = None,
    vocabulary: Vocabulary | None = None,
) -> None:
    """Write a checkpoint that plain transformers loads, and its companions.

    Args:
        state_dict: the weights, where they are not the model's own.
        lora: the adapters that the model has; they are merged into its matrices.
        vocabulary: of the model's text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = merged(model.state_dict() if state_dict is None else state_dict, lora)
    if model.config.tie_word_embeddings:
        weights.pop(HEAD, None)
    model.config.architectures = [type(model).__name__]
    dtype = next(iter(weights.values())).dtype
    model.config.dtype = dtype  # not that of the checkpoint that it started from
    model.config.save_pretrained(folder)
    save_torch_state_dict(weights, folder)
    write_companions(folder, profile, vocabulary, str(dtype).removeprefix("torch."), type(model).__name__)


@contextmanager
def own_attention(lm: Any) -> Iterator[None]:
    """Use transformers' attention, with masks and a cache, during the block."""
    before = attention_name(lm.config)
    with quiet():
        lm.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        with quiet():
            lm.set_attn_implementation(before)


class PackedLM(nn.Module):
    """A language model on concatenated sequences that returns token losses."""

    def __init__(self, lm: Any, residual_dropout: float = 0.0, *, z_loss: float = 0.0) -> None:
        super().__init__()
        self.lm = lm
        self.z_loss = z_loss
        lm.lm_head = LossHead.of(lm.lm_head)
        with quiet():
            lm.set_attn_implementation(attention.NAME)
        if residual_dropout:  # after attention and after the MLP, as in the reference
            for layer in lm.model.layers:
                for part in (layer.self_attn, layer.mlp):
                    part.register_forward_hook(_Dropout(residual_dropout))

    def forward(self, input_ids: Tensor, targets: Tensor, lengths: Sequence[int]) -> Losses:
        """Compute the losses (see `loss.Losses`) of the tokens that have a target.

        Args:
            input_ids: [tokens] int64, the sequences one after the other, longest first.
            targets: [tokens] int64, the next token, or `IGNORE`.
            lengths: tokens of each sequence.
        """
        # First, because it waits for the device, which by the end of the forward pass would be behind.
        counted = (targets != IGNORE).nonzero().squeeze(1)
        segments = Segments(lengths, input_ids.device)
        hidden = self.lm.model(
            input_ids=input_ids[None],
            position_ids=segments.positions()[None],
            use_cache=False,
            segments=segments,
        ).last_hidden_state[0]
        losses: Losses = self.lm.lm_head(hidden[counted], targets[counted], self.z_loss)
        return losses


class _Dropout:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # attention returns (output, weights)
            return (dropout(output[0], self.p, module.training), *output[1:])
        return dropout(output, self.p, module.training)
