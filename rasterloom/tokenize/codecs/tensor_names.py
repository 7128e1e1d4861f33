"""Names and shapes of a VQGAN's tensors, in all their forms.

Taming-transformers numbers the decoder's levels from the finest, diffusers from the coarsest; taming has
the projections of attention as convolutions of one pixel, diffusers as linear layers. Else only the words
differ. LlamaGen's words are others again, and it numbers the decoder's levels as diffusers does; Janus in
transformers has taming's words with LlamaGen's numbers. The network that the tensors belong to is read off
their shapes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

CODEBOOK = "quantize.embedding.weight"
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
DECODING = ("decoder.", "post_quant_conv.")  # the parts that only decoding needs

_WORDS = (  # LlamaGen -> diffusers, then taming -> diffusers, in this order
    (r"^encoder\.conv_blocks\.", "encoder.down_blocks."),
    (r"^decoder\.conv_blocks\.", "decoder.up_blocks."),
    (r"_blocks\.(\d+)\.res\.", r"_blocks.\1.resnets."),
    (r"\.mid\.0\.", ".mid_block.resnets.0."),
    (r"\.mid\.1\.", ".mid_block.attentions.0."),
    (r"\.mid\.2\.", ".mid_block.resnets.1."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.down\.(\d+)\.", r".down_blocks.\1."),
    (r"_blocks\.(\d+)\.block\.", r"_blocks.\1.resnets."),
    (r"_blocks\.(\d+)\.attn\.", r"_blocks.\1.attentions."),
    (r"\.downsample\.conv\.", ".downsamplers.0.conv."),
    (r"\.upsample\.conv\.", ".upsamplers.0.conv."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# Names that diffusers wrote before 2023, and still reads.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_IN_ATTENTION = re.compile(r"(.*\.attentions\.\d+\.)(\w+)\.(.*)")


def prefix_of(names: Iterable[str]) -> str | None:
    """Return the prefix of a VQGAN's tensor names, as ``model.vqmodel.``; None: no VQGAN."""
    found = [name.removesuffix(CODEBOOK) for name in names if name.endswith(CODEBOOK)]
    return min(found, key=len) if found else None


def is_part(name: str) -> bool:
    """Tell whether a name without prefix is the network's own."""
    return name == CODEBOOK or name.startswith(PARTS)


def diffusers_names(names: Iterable[str]) -> dict[str, str]:
    """Return diffusers' name for each name of any form. Prefixes have been taken off."""
    names = list(names)
    ups = [int(found[1]) for name in names if (found := re.match(r"decoder\.up\.(\d+)\.", name))]
    last = max(ups, default=0)
    # The finest level has nothing to enlarge: taming numbers it 0, Janus last.
    coarsest_first = last > 0 and any(name.startswith("decoder.up.0.upsample.") for name in names)
    return {name: _diffusers_name(name, None if coarsest_first else last) for name in names}


def _diffusers_name(name: str, last_up: int | None) -> str:
    def level(found: re.Match[str]) -> str:
        number = int(found[1])
        return f"decoder.up_blocks.{number if last_up is None else last_up - number}."

    name = re.sub(r"^decoder\.up\.(\d+)\.", level, name)
    for pattern, words in _WORDS:
        name = re.sub(pattern, words, name)
    if not (found := _IN_ATTENTION.fullmatch(name)):
        return name
    before, word, rest = found.groups()
    if word == "norm":  # conditioned on the codes in MoVQ's decoder, plain elsewhere
        word = "group_norm" if rest in ("weight", "bias") else "spatial_norm"
    return f"{before}{(_ATTENTION | _OLD_ATTENTION).get(word, word)}.{rest}"


def architecture(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the arguments of diffusers' ``VQModel`` for such tensors.

    Where there is no decoder, that of the arguments mirrors the encoder.

    Raises:
        ValueError: a tensor that tells it is missing.
    """

    def count(pattern: str) -> int:
        found = [int(m[1]) for name in shapes if (m := re.match(pattern, name))]
        return 1 + max(found, default=-1)

    levels = count(r"encoder\.down_blocks\.(\d+)\.")
    try:
        widths = [shapes[f"encoder.down_blocks.{n}.resnets.0.conv1.weight"][0] for n in range(levels)]
        n_codes, code_dim = shapes[CODEBOOK]
        pixels, latent = shapes["encoder.conv_in.weight"][1], shapes["encoder.conv_out.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"the tensor {error} is missing or has another shape") from None

    def attends(side: str, level: int) -> bool:
        return any(name.startswith(f"{side}_blocks.{level}.attentions.") for name in shapes)

    down = [attends("encoder.down", n) for n in range(levels)]
    has_decoder = any(name.startswith("decoder.") for name in shapes)
    up = [attends("decoder.up", n) for n in range(levels)] if has_decoder else down[::-1]
    return {
        "in_channels": pixels,
        "out_channels": pixels,
        "down_block_types": [f"{'Attn' * with_attention}DownEncoderBlock2D" for with_attention in down],
        "up_block_types": [f"{'Attn' * with_attention}UpDecoderBlock2D" for with_attention in up],
        "block_out_channels": widths,
        "layers_per_block": count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": latent,
        "num_vq_embeddings": n_codes,
        "vq_embed_dim": code_dim,
        "norm_type": "spatial" if "decoder.conv_norm_out.conv_y.weight" in shapes else "group",
        "mid_block_add_attention": any(".mid_block.attentions." in name for name in shapes),
    }
