"""Families of decoders that can be trained, by transformers' ``model_type``. Nothing here needs torch.

A family is listed when its packed loss, its export and its sampler are tested
(tests/train/model/test_families.py). What of a config they do not tell, as a sliding window, is found out by
`packing_check`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CHAMELEON = "chameleon"
QKV = ("q_proj", "k_proj", "v_proj")
ATTENTION = (*QKV, "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

HeadNorms = Literal["none", "shared", "each", "all"]


@dataclass(frozen=True)
class Family:
    """Parameters of a layer, beside its seven matrices."""

    head_norms: HeadNorms = "none"
    """Norms of queries and keys: none; one that all heads share; one of each head, with a bias; or one over
    all heads at once."""
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")
    """Norms of the layer."""
    biases: tuple[str, ...] = ()
    """Matrices that always have a bias."""
    tied: bool = False
    """The head is the embedding where the config does not say."""


FAMILIES = {
    CHAMELEON: Family(head_norms="each"),
    "llama": Family(),
    "mistral": Family(),
    "olmo2": Family(head_norms="all", norms=("post_attention_layernorm", "post_feedforward_layernorm")),
    "qwen2": Family(biases=QKV),
    "qwen3": Family(head_norms="shared"),
    "smollm3": Family(tied=True),
}


def family_of(fields: Mapping[str, Any], init: str) -> str:
    """Name of the family that a config.json is of. Raises: ValueError, it is none of `FAMILIES`."""
    kind = str(fields.get("model_type"))
    if kind.startswith(CHAMELEON):  # Lumina-mGPT's are named a little differently
        return CHAMELEON
    if kind not in FAMILIES:
        raise ValueError(
            f"train.init: {init} holds a model of type {kind!r}, but takes {', '.join(FAMILIES)}"
        )
    return kind


def biases_of(family: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Matrices of a layer that have a bias, by a config.json."""
    attention = ATTENTION if fields.get("attention_bias") and family != CHAMELEON else ()
    mlp = MLP if fields.get("mlp_bias") and family != CHAMELEON else ()
    return (*(attention or FAMILIES[family].biases), *mlp)
