"""The model: Chameleon as transformers has it, without its image encoder, on concatenated sequences."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from transformers import ChameleonConfig, ChameleonForConditionalGeneration
from transformers.utils import logging as transformers_logging

from rasterloom.schema import Profile
from rasterloom.train import attention
from rasterloom.train.loss import token_losses
from rasterloom.train.samples import IGNORE

TINY = "tiny"


def tiny_config(profile: Profile) -> ChameleonConfig:
    """The quickstart's model: Chameleon's form in a million parameters, for minutes on two cores."""
    return ChameleonConfig(
        vocab_size=profile.vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        initializer_range=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        pad_token_id=profile.pad,
        bos_token_id=profile.bos,
        eos_token_id=profile.sep,
        # An empty map keeps transformers' forward from masking the image tokens in the logits.
        vocabulary_map={},
        # The image encoder is never used, only built by transformers and dropped: as small as it can be.
        vq_config={
            "embed_dim": 4, "latent_channels": 4, "num_embeddings": 4, "base_channels": 32,
            "channel_multiplier": [1], "num_res_blocks": 1, "attn_type": "none", "resolution": 32,
        },
    )  # fmt: skip


def build_model(init: str, profile: Profile, *, seed: int = 0) -> ChameleonForConditionalGeneration:
    """Build the model in float32, without the image encoder.

    Args:
        init: ``tiny`` for a small model with random weights from ``seed``, or the folder of a Chameleon
            checkpoint in transformers' form.

    Raises:
        ValueError: there is no checkpoint at ``init``, or its vocabulary is smaller than the profile's.
    """
    if init == TINY:
        torch.manual_seed(seed)
        model = ChameleonForConditionalGeneration(tiny_config(profile))
        for layer in model.model.layers:
            # With biases before the rotation a head starts with distances that it prefers, in place of none.
            for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
                nn.init.normal_(norm.bias, std=0.5)
    else:
        model = _load(init)
    size = model.config.vocab_size
    if size < profile.vocab_size:
        raise ValueError(
            f"the checkpoint {init} has a vocabulary of {size}, but the tokens are of profile "
            f"{profile.name!r} with {profile.vocab_size}"
        )
    model.model.vqmodel = None
    return model


def save_model(
    model: ChameleonForConditionalGeneration, profile: Profile, folder: Path, **options: Any
) -> None:
    """Write a checkpoint that plain transformers loads, and the profile beside it."""
    model.save_pretrained(folder, **options)
    (folder / "profile.json").write_text(json.dumps(asdict(profile), indent=1))


def _load(init: str) -> ChameleonForConditionalGeneration:
    if not (Path(init) / "config.json").is_file():
        raise ValueError(f"train.init: no checkpoint at {init} (expected a config.json there)")
    with _quiet():
        return ChameleonForConditionalGeneration.from_pretrained(init, dtype=torch.float32)


class PackedLM(nn.Module):
    """A language model on concatenated sequences that returns the loss of each token."""

    def __init__(self, lm: ChameleonForConditionalGeneration, residual_dropout: float = 0.0) -> None:
        super().__init__()
        self.lm = lm
        with _quiet():
            lm.set_attn_implementation(attention.NAME)
        if residual_dropout:  # after attention and after the MLP, as in the reference
            for layer in lm.model.layers:
                for part in (layer.self_attn, layer.mlp):
                    part.register_forward_hook(_Dropout(residual_dropout))

    def forward(self, input_ids: Tensor, targets: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Compute the two terms of the loss (see `loss.token_losses`) of the tokens that have a target.

        Args:
            input_ids: [tokens] int64, the sequences one after the other, longest first.
            targets: [tokens] int64, the next token, or `IGNORE`.
            lengths: tokens of each sequence.
        """
        positions = torch.cat([torch.arange(n, device=input_ids.device) for n in lengths])
        hidden = self.lm.model(
            input_ids=input_ids[None], position_ids=positions[None], use_cache=False, lengths=lengths
        ).last_hidden_state[0]
        counted = targets != IGNORE
        return token_losses(
            hidden[counted], targets[counted], self.lm.lm_head, vocab_size=self.lm.config.vocab_size
        )


@contextmanager
def own_attention(lm: ChameleonForConditionalGeneration) -> Iterator[None]:
    """Let a model attend as transformers does, which takes masks and a cache, as long as the block lasts."""
    before = lm.config._attn_implementation
    with _quiet():
        lm.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        with _quiet():
            lm.set_attn_implementation(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from warning of the image encoder, which is missing on purpose."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


class _Dropout:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # attention returns (output, weights)
            return (dropout(output[0], self.p, module.training), *output[1:])
        return dropout(output, self.p, module.training)
