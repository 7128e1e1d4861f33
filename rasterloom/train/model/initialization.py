"""Initial model: of a named size, or of a checkpoint, whose vocabulary may grow."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    PreTrainedConfig,
)
from transformers.utils import logging as transformers_logging

from rasterloom.schema import Profile
from rasterloom.train.model.families import CHAMELEON, FAMILIES, family_of
from rasterloom.train.model.shapes import (
    EMBEDDING,
    HEAD,
    IMAGE_START,
    MINI,
    SIZES,
    TINY,
    Shape,
    config_fields,
    first_new_id,
    is_language_model,
)
from rasterloom.train.model.tensor_reader import StoredTensors, open_weights
from rasterloom.utils.random_streams import stream_number

MAX_POSITIONS = 10_240  # of models from scratch: longer than any sample's sequence, 16 views of 384 pixels
SPREAD = 0.02  # of the weights of models from scratch
ROPE_THETA = {CHAMELEON: 10_000.0, "llama": 500_000.0, "qwen3": 1_000_000.0}  # of models from scratch
NORM_EPS = {"llama": 1e-5, "qwen3": 1e-6}

ZeroHead = Literal["auto", "true", "false"]


def tiny_config(profile: Profile, size: str = TINY) -> ChameleonConfig:
    """Chameleon in one or two million parameters, for minutes on two cores."""
    return _config(size, profile, max_position_embeddings=4096, initializer_range=0.05)


def model_config(init: str, profile: Profile) -> PreTrainedConfig:
    """The config of a size by name, or of a checkpoint.

    Raises:
        ValueError: there is no checkpoint at ``init``, it is of no known family, or its vocabulary is smaller
            than the profile's and cannot grow, or has other ids of text.
    """
    if init in (TINY, MINI):
        return tiny_config(profile, init)
    if init in SIZES:
        return _config(init, profile) if SIZES[init].family == CHAMELEON else _language_config(init, profile)
    fields = config_fields(init)
    size = fields.get("vocab_size", 0)
    if is_language_model(init):
        first_new_id(init, profile)
        with quiet():
            grown = AutoConfig.from_pretrained(init)
        grown.vocab_size = max(size, profile.vocab_size)
        return _with_ids(grown, profile)
    if size < profile.vocab_size:
        raise ValueError(
            f"the checkpoint {init} has a vocabulary of {size}, but the tokens are of profile "
            f"{profile.name!r} with {profile.vocab_size}: take another train.init, or the codec and text "
            "vocabulary that the checkpoint was trained on (tokenize)"
        )
    with quiet():
        config = ChameleonConfig.from_pretrained(init)
    config.tie_word_embeddings = False  # a head that is the embedding becomes its own, equal at first
    config.vocabulary_map = {}  # an empty map keeps transformers' forward from masking the image tokens
    return config


def empty_model(config: PreTrainedConfig) -> Any:
    """Model of a config, float32, without Chameleon's image encoder. Its weights are to be set."""
    if not isinstance(config, ChameleonConfig):
        other: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if config.tie_word_embeddings:  # ZeRO 3 has put other parameters in their place
            other.lm_head.weight = other.model.embed_tokens.weight
        return other
    model = ChameleonForConditionalGeneration(config)
    model.model.vqmodel = None
    return model


def build_model(
    init: str,
    profile: Profile,
    *,
    seed: int = 0,
    device: str = "cpu",
    zero_image_head: ZeroHead = "auto",
) -> Any:
    """Build the model of transformers in float32, without Chameleon's image encoder.

    Args:
        init: a size (`sizes.SIZES`) for random weights from ``seed``, or the folder of a checkpoint in
            transformers' form, or of Lumina-mGPT.
        device: ``cpu``, or ``meta`` for a model without weights.
        zero_image_head: see `starting_weights`.

    Raises:
        ValueError: there is no checkpoint at ``init``, or it does not fit its config or the profile.
    """
    config = model_config(init, profile)
    with torch.device("meta"):
        model = empty_model(config)
    if device == "meta":
        return model
    shapes = _shapes(model)
    weights = dict(starting_weights(init, profile, shapes, seed=seed, zero_image_head=zero_image_head))
    tied = HEAD not in shapes
    model.load_state_dict(weights | ({HEAD: weights[EMBEDDING]} if tied else {}), assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its constants are in no checkpoint
    return model.requires_grad_()


def check_checkpoint(folder: str, profile: Profile) -> None:
    """Check that a model can start from a checkpoint, without reading weights.

    Raises:
        ValueError: as `build_model`.
    """
    model = build_model(folder, profile, device="meta")
    _stored(folder).check(_shapes_before(folder, profile, _shapes(model)))


def starting_weights(
    init: str,
    profile: Profile,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int = 0,
    zero_image_head: ZeroHead = "auto",
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and float32 tensor of each starting parameter, in turn.

    Args:
        shapes: of the model's parameters, by name.
        zero_image_head: put zeros into the head's rows of image tokens, so that at first all of them are
            equally likely, as Lumina-mGPT starts from Chameleon. ``auto``: where the checkpoint's config
            masks image tokens, as Meta's does and neither a trained Lumina-mGPT's nor our own do.

    Raises:
        ValueError: the checkpoint lacks tensors, or has others than its config says; or the head is the
            embedding, whose rows cannot be zeros.
    """
    if init in (TINY, MINI):
        weights = _tiny_weights(init, profile, shapes, seed)
    elif init in SIZES:
        weights = _random_weights(shapes, seed)
    else:
        weights = _stored_weights(init, profile, shapes)
    zero = starts_with_zeros(init, zero_image_head)
    if zero and HEAD not in shapes:
        raise ValueError(
            "train.model.zero_image_head: the head of this model is its embedding, which cannot start as "
            "zeros; leave it 'auto'"
        )
    for name, tensor in weights:
        if zero and name == HEAD:
            tensor = tensor.index_fill(0, image_ids(profile), 0.0)
        yield name, tensor


def starts_with_zeros(init: str, zero_image_head: ZeroHead) -> bool:
    """True if the head's rows of image tokens are zeros at first."""
    if zero_image_head == "auto":
        return init not in SIZES and masks_images(config_fields(init))
    return zero_image_head == "true"


def masks_images(fields: Mapping[str, Any]) -> bool:
    """True if a config.json masks image tokens. Their head rows are meaningless then.

    transformers masks the tokens that ``vocabulary_map`` names IMGIMG..., and Lumina-mGPT's code too, unless
    ``mask_image_logits`` is false.
    """
    names = fields.get("vocabulary_map") or {}
    return fields.get("mask_image_logits", True) and any(name.startswith("IMGIMG") for name in names)


def image_ids(profile: Profile) -> Tensor:
    """Token ids of the image codes, [codes] int64."""
    ids = profile.image_ids or range(profile.image0, profile.image0 + profile.codebook_size)
    return torch.tensor(ids)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warning of the image encoder, missing on purpose."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _stored_weights(
    init: str, profile: Profile, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """Weights of a checkpoint. Rows of tokens that are new to it are the mean of the others."""
    stored, first = _stored(init), first_new_id(init, profile)
    before = _shapes_before(init, profile, shapes)
    stored.check(before)
    for name, tensor in stored.read(before, torch.float32):
        if first is not None and name in (EMBEDDING, HEAD):
            known = tensor[:first]
            new = known.mean(dim=0).expand(shapes[name][0] - len(known), -1)
            tensor = torch.cat([known, new])
        yield name, tensor


def _shapes_before(
    init: str, profile: Profile, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters before its vocabulary grows."""
    found = dict(shapes)
    if first_new_id(init, profile) is not None:
        rows = int(config_fields(init)["vocab_size"])
        found |= {name: (rows, *shapes[name][1:]) for name in (EMBEDDING, HEAD) if name in shapes}
    return found


def _stored(init: str) -> StoredTensors:
    fields = config_fields(init)
    tied = fields.get("tie_word_embeddings", FAMILIES[family_of(fields, init)].tied)
    return open_weights(Path(init), tied=bool(tied))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _dimensions(shape: Shape, profile: Profile) -> dict[str, Any]:
    """Fields that the configs of all families have."""
    return {
        "vocab_size": profile.vocab_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA[shape.family]},
    }


def _config(size: str, profile: Profile, **options: Any) -> ChameleonConfig:
    shape = SIZES[size]
    return ChameleonConfig(
        **_dimensions(shape, profile),
        swin_norm=shape.swin_norm,
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
        **{"max_position_embeddings": MAX_POSITIONS, "initializer_range": SPREAD, **options},
    )  # fmt: skip


def _language_config(size: str, profile: Profile) -> PreTrainedConfig:
    shape = SIZES[size]
    config = AutoConfig.for_model(
        shape.family,
        **_dimensions(shape, profile),
        head_dim=shape.head_width,
        tie_word_embeddings=shape.tied,
        rms_norm_eps=NORM_EPS[shape.family],
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=SPREAD,
    )
    return _with_ids(config, profile)


def _with_ids(config: PreTrainedConfig, profile: Profile) -> PreTrainedConfig:
    """Config of a language model with the ids of tokens. The row of its pad token is never trained."""
    config.pad_token_id, config.bos_token_id, config.eos_token_id = profile.pad, profile.bos, profile.sep
    setattr(config, IMAGE_START, profile.boi)
    return config


def _tiny_weights(
    size: str, profile: Profile, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> Iterator[tuple[str, Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_number("init", seed=seed))
        model = ChameleonForConditionalGeneration(tiny_config(profile, size))
        for layer in model.model.layers:
            # With biases before the rotation a head starts with distances that it prefers, in place of none.
            for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
                nn.init.normal_(norm.bias, std=0.5)
            if size == MINI:  # each layer begins as the identity
                nn.init.zeros_(layer.self_attn.o_proj.weight)
                nn.init.zeros_(layer.mlp.down_proj.weight)
        if size == MINI:
            nn.init.zeros_(model.lm_head.weight)
    return ((name, tensor) for name, tensor in model.state_dict().items() if name in shapes)


def _random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Random matrices, gains of 1 and biases of 0, as in transformers."""
    generator = torch.Generator().manual_seed(stream_number("init", seed=seed))
    for name, shape in shapes.items():
        if "norm" in name:
            yield name, torch.full(shape, 0.0 if name.endswith("bias") else 1.0)
        else:
            yield name, torch.empty(shape).normal_(std=SPREAD, generator=generator)
