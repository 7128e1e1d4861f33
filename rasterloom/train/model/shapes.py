"""The shapes of Chameleon by name, and their numbers of parameters. Nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from rasterloom.recipe.model import Lora
from rasterloom.train.model.checkpoint_files import check_files, read_object

CONFIG_FILE = "config.json"
LOGITS_AT_ONCE = 2**27
"""Logits that the loss holds at once: 512 MiB in fp32. A chunk's product with the hidden states is added to
the gradient of the whole head, so chunks must not be too small."""
LORA_A, LORA_B, LORA_BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer.weight"
"""Ends of peft's names of a matrix's adapters, and of the matrix beside them."""

TINY, MINI = "tiny", "mini"
CHAMELEON_VOCAB = 65_536


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Chameleon, in transformers' terms."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int = CHAMELEON_VOCAB
    swin_norm: bool = False
    """Norms after attention and MLP, not before: Chameleon 34B."""

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads

    @property
    def matrix_params(self) -> int:
        """Weights that every token is multiplied with in the layers: no embedding, no head, no norms."""
        attention = 2 * self.hidden * (self.hidden + self.kv_heads * self.head_width)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_params(self) -> int:
        return self.vocab * self.hidden

    @property
    def params(self) -> int:
        """All parameters, as transformers counts them without the image encoder."""
        return sum(prod(dims) for dims in parameter_shapes(self).values())


def parameter_shapes(shape: Shape, lora: Lora | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Chameleon's parameters, the image encoder excluded.

    Args:
        lora: adapters, by peft's names.
    """
    hidden, inner, keys = shape.hidden, shape.intermediate, shape.kv_heads * shape.head_width
    of_layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        **{f"self_attn.q_norm.{what}": (shape.heads, shape.head_width) for what in ("weight", "bias")},
        **{f"self_attn.k_norm.{what}": (shape.kv_heads, shape.head_width) for what in ("weight", "bias")},
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if lora is not None:
        for target in lora.targets:
            (name,) = (name for name in of_layer if name.endswith(f"{target}.weight"))
            outputs, inputs = of_layer.pop(name)
            stem = name.removesuffix(".weight")
            of_layer[stem + LORA_BASE] = (outputs, inputs)
            of_layer[stem + LORA_A] = (lora.rank, inputs)
            of_layer[stem + LORA_B] = (outputs, lora.rank)
    return {
        "model.embed_tokens.weight": (shape.vocab, hidden),
        **{
            f"model.layers.{number}.{name}": dims
            for number in range(shape.layers)
            for name, dims in of_layer.items()
        },
        "model.norm.weight": (hidden,),
        "lm_head.weight": (shape.vocab, hidden),
    }


SIZES = {
    TINY: Shape(hidden=128, intermediate=352, layers=3, heads=4, kv_heads=4),
    MINI: Shape(hidden=160, intermediate=432, layers=5, heads=5, kv_heads=5),
    "small": Shape(hidden=1024, intermediate=2816, layers=16, heads=16, kv_heads=16),
    "1b": Shape(hidden=2048, intermediate=5632, layers=22, heads=16, kv_heads=16),
    "7b": Shape(hidden=4096, intermediate=11_008, layers=32, heads=32, kv_heads=32),
    "34b": Shape(hidden=8192, intermediate=22_016, layers=48, heads=64, kv_heads=8, swin_norm=True),
}
"""7b and 34b are Meta's Chameleon; mini is the quickstart's. The vocabulary is always the tokens'."""


def shape_of(init: str, vocab: int) -> Shape:
    """The shape that `train.init` stands for: a size by name, or what a checkpoint's config.json says.

    Args:
        vocab: of the tokens' profile; a checkpoint has its own.

    Raises:
        ValueError: ``init`` is neither a size nor the folder of a checkpoint, or its config lacks a field.
    """
    if init in SIZES:
        return replace(SIZES[init], vocab=vocab)
    try:
        return shape_of_config(config_fields(init))
    except KeyError as missing:
        raise ValueError(f"train.init: {init}/config.json has no field {missing}") from None


def check_init(init: str) -> None:
    """Check that an initial checkpoint's files are whole. A size by name has none.

    Raises:
        ValueError: one is not; the message names it.
    """
    if init not in SIZES:
        config_fields(init)
        check_files(Path(init))


def shape_of_config(fields: Mapping[str, Any]) -> Shape:
    """The shape that a Chameleon's config gives. Raises: KeyError, of a field that is missing."""
    return Shape(
        hidden=fields["hidden_size"],
        intermediate=fields["intermediate_size"],
        layers=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        kv_heads=fields.get("num_key_value_heads") or fields["num_attention_heads"],
        vocab=fields["vocab_size"],
        swin_norm=bool(fields.get("swin_norm", False)),
    )


def config_fields(init: str) -> dict[str, Any]:
    """Fields of a checkpoint's config.json.

    Raises:
        ValueError: there is none, or it is no JSON object.
    """
    file = Path(init) / CONFIG_FILE
    if not file.is_file():
        sizes = ", ".join(SIZES)
        raise ValueError(
            f"train.init: no checkpoint at {init} (expected a config.json there, or one of {sizes})"
        )
    return read_object(file)
