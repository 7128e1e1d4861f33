"""Codecs by name: load one, or tell its digest."""

import hashlib
from pathlib import Path

from rasterloom.recipe.tokenize import CODECS, Tokenize
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.profiles import PROFILES

ON_GPU = {"chameleon", "movq"}  # codecs that a GPU is worth taking for


def codec_of(config: Tokenize, device: str | None = None) -> Codec:
    """Load the codec that a recipe asks for; see `load_codec`."""
    return load_codec(config.codec, config.weights, precision=config.precision, device=device)


def load_codec(
    name: str,
    weights: str | Path | None = None,
    threads: int | None = None,
    *,
    precision: str = "fp32",
    device: str | None = None,
) -> Codec:
    """Load a codec by name.

    Args:
        name: mini, chameleon or movq.
        weights: what `weights.codec_weights` takes; None for mini's own, which are in the package.
        threads: how many torch may use in this process; None leaves it alone.
        precision: fp32 or bf16; mini has fp32 only.
        device: cpu or cuda; None takes a GPU where torch sees one. mini runs on the CPU.

    Raises:
        ValueError: unknown name, no weights of this codec, or a precision that it does not have.
    """
    _check_name(name)
    if name == "mini":
        from rasterloom.tokenize.codecs.mini import MiniCodec

        if precision != "fp32":
            raise ValueError(f"precision: got {precision!r}, codec mini takes fp32")
        return MiniCodec(weights, threads)
    from rasterloom.tokenize.codecs.vqgan import VqCodec

    return VqCodec(PROFILES[name], _needed(name, weights), threads, precision=precision, device=device)


def codec_digest(name: str, weights: str | Path | None = None) -> str:
    """Return the `digest` of a codec without loading it: sha256 of its weights, in hex.

    Raises:
        ValueError: unknown name, or the weights are missing or of another kind.
    """
    _check_name(name)
    if name != "mini":
        from rasterloom.tokenize.codecs.codec_weights import digest_of

        return digest_of(name, _needed(name, weights))
    path = Path(weights) if weights else Path(__file__).with_name(f"{name}.safetensors")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"the weights of codec {name} cannot be read: {path}: {error.strerror}") from None


def _check_name(name: str) -> None:
    if name not in CODECS:
        raise ValueError(f"codec: got {name!r}, takes {', '.join(CODECS)}")


def _needed(name: str, weights: str | Path | None) -> str:
    if not weights:
        raise ValueError(f"codec {name} has no weights of its own: give tokenize.weights (docs/codecs.md)")
    return str(weights)
