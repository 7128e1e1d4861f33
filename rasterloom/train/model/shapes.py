"""Shapes of models by name or config, and their numbers of parameters. Nothing here needs torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from rasterloom.recipe.model import Lora
from rasterloom.schema import Profile
from rasterloom.train.model.checkpoint_files import check_files, read_object
from rasterloom.train.model.families import CHAMELEON, FAMILIES, biases_of, family_of
from rasterloom.utils.suggest import closest

CONFIG_FILE = "config.json"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""Names of models on the Hugging Face hub; the recipe's paths are absolute where there is something."""
LOGITS_AT_ONCE = 2**27
"""Logits that the loss holds at once: 512 MiB in fp32. A chunk's product with the hidden states is added to
the gradient of the whole head, so chunks must not be too small."""
LORA_A, LORA_B, LORA_BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer.weight"
"""Ends of peft's names of a matrix's adapters, and of the matrix beside them."""

TINY, MINI = "tiny", "mini"
CHAMELEON_VOCAB = 65_536
IMAGE_START = "boi_token_id"
"""Field in the config of a language model that has tokens of images."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Shape:
    """Dimensions of a decoder, in transformers' terms."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int = CHAMELEON_VOCAB
    swin_norm: bool = False
    """Norms after attention and MLP, not before: Chameleon 34B."""
    family: str = CHAMELEON
    """One of `families.FAMILIES`."""
    head_dim: int | None = None
    """Width of a head; None: the hidden width divided among the heads."""
    tied: bool = False
    """The head is the embedding."""
    biases: tuple[str, ...] = ()
    """Matrices of a layer that have a bias."""

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden // self.heads

    @property
    def queries(self) -> int:
        """Width of all heads together: the hidden width, of most models."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Width of all heads of keys together."""
        return self.kv_heads * self.head_width

    @property
    def matrix_params(self) -> int:
        """Weights that every token is multiplied with in the layers: no embedding, no head, no norms."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_params(self) -> int:
        return self.vocab * self.hidden

    @property
    def params(self) -> int:
        """All parameters, as transformers counts them without the image encoder."""
        return sum(prod(dims) for dims in parameter_shapes(self).values())


def parameter_shapes(shape: Shape, lora: Lora | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's parameters, Chameleon's image encoder excluded.

    Args:
        lora: adapters, by peft's names.
    """
    of_layer = _layer(shape)
    if lora is not None:
        for target in lora.targets:
            (name,) = (name for name in of_layer if name.endswith(f"{target}.weight"))
            outputs, inputs = of_layer.pop(name)
            stem = name.removesuffix(".weight")
            of_layer[stem + LORA_BASE] = (outputs, inputs)
            of_layer[stem + LORA_A] = (lora.rank, inputs)
            of_layer[stem + LORA_B] = (outputs, lora.rank)
            if f"{stem}.bias" in of_layer:
                of_layer[f"{stem}.base_layer.bias"] = of_layer.pop(f"{stem}.bias")
    return {
        EMBEDDING: (shape.vocab, shape.hidden),
        **{
            f"model.layers.{number}.{name}": dims
            for number in range(shape.layers)
            for name, dims in of_layer.items()
        },
        "model.norm.weight": (shape.hidden,),
        **({} if shape.tied else {HEAD: (shape.vocab, shape.hidden)}),
    }


def _layer(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a layer's parameters."""
    hidden, inner, queries, keys = shape.hidden, shape.intermediate, shape.queries, shape.keys
    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    family = FAMILIES[shape.family]
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": dims for name, dims in matrices.items()}
    found |= {f"{name}.bias": dims[:1] for name, dims in matrices.items() if name.endswith(shape.biases)}
    found |= {f"{norm}.weight": (hidden,) for norm in family.norms}
    for norm, heads in (("q_norm", shape.heads), ("k_norm", shape.kv_heads)):
        if family.head_norms == "each":
            of_norm: dict[str, tuple[int, ...]] = dict.fromkeys(("weight", "bias"), (heads, shape.head_width))
        elif family.head_norms == "none":
            of_norm = {}
        else:
            of_norm = {"weight": (shape.head_width * (heads if family.head_norms == "all" else 1),)}
        found |= {f"self_attn.{norm}.{what}": dims for what, dims in of_norm.items()}
    return found


_QWEN3 = Shape(2048, 6144, 28, 16, 8, family="qwen3", head_dim=128, tied=True)
_LLAMA = Shape(2048, 8192, 16, 32, 8, family="llama", tied=True)
_META_7B = Shape(hidden=4096, intermediate=11_008, layers=32, heads=32, kv_heads=32)
_META_34B = Shape(hidden=8192, intermediate=22_016, layers=48, heads=64, kv_heads=8, swin_norm=True)
SIZES = {
    TINY: Shape(hidden=128, intermediate=352, layers=3, heads=4, kv_heads=4),
    MINI: Shape(hidden=160, intermediate=432, layers=5, heads=5, kv_heads=5),
    "small": Shape(hidden=1024, intermediate=2816, layers=16, heads=16, kv_heads=16),
    "1b": Shape(hidden=2048, intermediate=5632, layers=22, heads=16, kv_heads=16),
    "7b": _META_7B,
    "34b": _META_34B,
    "chameleon-7b": _META_7B,
    "chameleon-34b": _META_34B,
    "lumina2-2b": Shape(hidden=2048, intermediate=8192, layers=32, heads=32, kv_heads=32),
    "lumina2-7b": _META_7B,
    "llama-tiny": Shape(128, 352, 3, 4, 2, family="llama", tied=True),
    "llama-1b": _LLAMA,
    "llama-3b": replace(_LLAMA, hidden=3072, layers=28, heads=24),
    "llama-8b": replace(_LLAMA, hidden=4096, intermediate=14_336, layers=32, tied=False),
    "qwen3-tiny": Shape(128, 352, 3, 4, 2, family="qwen3", head_dim=32, tied=True),
    "qwen3-0.6b": replace(_QWEN3, hidden=1024, intermediate=3072),
    "qwen3-1.7b": _QWEN3,
    "qwen3-4b": replace(_QWEN3, hidden=2560, intermediate=9728, layers=36, heads=32),
    "qwen3-8b": replace(_QWEN3, hidden=4096, intermediate=12_288, layers=36, heads=32, tied=False),
}
"""7b and 34b are Meta's Chameleon; mini is the quickstart's; llama's are those of 3.1 and 3.2. The vocabulary
is always the tokens'."""


def shape_of(init: str, vocab: int) -> Shape:
    """The shape that `train.init` stands for: a size by name, or what a checkpoint's config.json says.

    Args:
        vocab: of the tokens' profile; a Chameleon has its own, and that of other checkpoints grows.

    Raises:
        ValueError: ``init`` is neither a size nor the folder of a checkpoint, or its config lacks a field.
    """
    if init in SIZES:
        return replace(SIZES[init], vocab=vocab)
    fields = config_fields(init)
    family_of(fields, init)
    try:
        shape = shape_of_config(fields)
    except KeyError as missing:
        raise ValueError(f"train.init: {init}/config.json has no field {missing}") from None
    return shape if shape.family == CHAMELEON else replace(shape, vocab=max(vocab, shape.vocab))


def is_language_model(init: str) -> bool:
    """True if ``train.init`` is the folder of another model than a Chameleon."""
    return init not in SIZES and family_of(config_fields(init), init) != CHAMELEON


def first_new_id(init: str, profile: Profile) -> int | None:
    """First of the tokens' ids that a checkpoint has no rows for. None where it has all of them.

    Raises:
        ValueError: the tokens' text does not have the ids of the language model.
    """
    if not is_language_model(init) or IMAGE_START in config_fields(init):
        return None
    others = (profile.eoi, profile.eol, profile.grid0, profile.image0, *(profile.image_ids or ()))
    if profile.text0 or profile.boi > min(others):
        raise ValueError(
            f"train.init: {init} is a language model, whose text has other ids than that of the tokens: set "
            f"tokenize.text to its folder, so that images' ids follow its own"
        )
    return profile.boi


def check_init(init: str) -> None:
    """Check that an initial checkpoint's files are whole. A size by name has none.

    Raises:
        ValueError: one is not; the message names it.
    """
    if init not in SIZES:
        config_fields(init)
        check_files(Path(init))


def shape_of_config(fields: Mapping[str, Any]) -> Shape:
    """The shape that a config gives. Raises: KeyError, of a field that is missing."""
    family = family_of(fields, CONFIG_FILE)
    others = family != CHAMELEON
    return Shape(
        hidden=fields["hidden_size"],
        intermediate=fields["intermediate_size"],
        layers=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        kv_heads=fields.get("num_key_value_heads") or fields["num_attention_heads"],
        vocab=fields["vocab_size"],
        swin_norm=bool(fields.get("swin_norm", False)),
        family=family,
        head_dim=fields.get("head_dim") if others else None,
        tied=others and bool(fields.get("tie_word_embeddings", FAMILIES[family].tied)),
        biases=biases_of(family, fields),
    )


def config_fields(init: str) -> dict[str, Any]:
    """Fields of a checkpoint's config.json.

    Raises:
        ValueError: there is none, or it is no JSON object.
    """
    file = Path(init) / CONFIG_FILE
    if not file.is_file():
        known = f"expected a config.json there, or one of {', '.join(SIZES)}"
        if HUB_ID.fullmatch(init):
            known += "; models of the Hugging Face hub are downloaded first: docs/own-model.md"
        close = "" if "/" in init else closest(init, SIZES)
        meant = f"; did you mean {close}?" if close else ""
        raise ValueError(f"train.init: no checkpoint at {init}{meant} ({known})")
    return read_object(file)
