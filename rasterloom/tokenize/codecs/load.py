"""Registry of codecs: built-in ones and those of plug-ins."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from rasterloom.errors import PluginError, one_line
from rasterloom.recipe.tokenize import CODECS, Tokenize
from rasterloom.schema import Profile
from rasterloom.tokenize.codec_plugins import find_codec
from rasterloom.tokenize.codecs.base import Codec, CodecClass
from rasterloom.tokenize.profiles import CHAMELEON, EMU3, LLAMAGEN, MOVQ, PROFILES
from rasterloom.utils import plugins
from rasterloom.utils.plugins import Plugin

Found = TypeVar("Found")


class _Mini:
    """The codec in the package, imported when it is made."""

    downsample, codebook_size, uses_gpu = PROFILES["mini"].downsample, PROFILES["mini"].codebook_size, False

    def __call__(
        self, weights: str | Path | None, *, threads: int | None, precision: str, device: str | None
    ) -> Codec:
        from rasterloom.tokenize.codecs.mini import MiniCodec  # heavy

        if precision != "fp32":
            raise ValueError(f"precision: got {precision!r}, codec mini takes fp32")
        return MiniCodec(weights, threads)

    def digest_of(self, weights: str | Path | None) -> str:
        path = Path(weights) if weights else Path(__file__).with_name("mini.safetensors")
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"the weights of codec mini cannot be read: {path}: {error.strerror}") from None


class _Vqgan:
    """A codec of a published model, whose weights the recipe names."""

    uses_gpu = True

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.downsample, self.codebook_size = profile.downsample, profile.codebook_size

    def __call__(
        self, weights: str | Path | None, *, threads: int | None, precision: str, device: str | None
    ) -> Codec:
        from rasterloom.tokenize.codecs.emu3 import Emu3Codec  # heavy
        from rasterloom.tokenize.codecs.vqgan import LlamaGenCodec, VqCodec  # heavy

        codecs = {LLAMAGEN.name: LlamaGenCodec, EMU3.name: Emu3Codec}
        made = codecs.get(self.profile.name, VqCodec)
        return made(self.profile, self._needed(weights), threads, precision=precision, device=device)

    def digest_of(self, weights: str | Path | None) -> str:
        from rasterloom.tokenize.codecs.codec_weights import digest_of  # heavy

        return digest_of(self.profile.name, self._needed(weights))

    def _needed(self, weights: str | Path | None) -> str:
        if not weights:
            raise ValueError(
                f"codec {self.profile.name} has no weights of its own: give tokenize.weights (docs/codecs.md)"
            )
        return str(weights)


BUILT_IN: dict[str, CodecClass] = {
    "mini": _Mini(),
    **{profile.name: _Vqgan(profile) for profile in (CHAMELEON, MOVQ, LLAMAGEN, EMU3)},
}


def load_plugin(plugin: Plugin) -> CodecClass:
    """Load the class of a plug-in's codec. PluginError if it is none."""
    return cast(CodecClass, find_codec(plugin, CODECS))


def _class_of(name: str) -> tuple[CodecClass, Plugin | None]:
    if name in BUILT_IN:
        return BUILT_IN[name], None
    plugin = plugins.find(plugins.CODECS, name)
    if plugin is None:
        raise PluginError(plugins.missing(plugins.CODECS, name, CODECS))
    return load_plugin(plugin), plugin


def plugin_identity(name: str) -> dict[str, Any]:
    """Return what a codec of a plug-in adds to a step's identity."""
    return plugins.identity(plugins.CODECS, [name], CODECS)


def wants_gpu(name: str) -> bool:
    """Tell whether a GPU is worth taking for a codec. A plug-in says so by ``uses_gpu``."""
    return bool(getattr(_class_of(name)[0], "uses_gpu", False))


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
        name: mini, chameleon, movq, llamagen, emu3, or that of a plug-in.
        weights: what `weights.codec_weights` takes; None for mini's own, which are in the package.
        threads: how many torch may use in this process; None leaves it alone.
        precision: fp32, tf32 or bf16; mini has fp32 only.
        device: cpu or cuda; None takes a GPU where torch sees one. mini runs on the CPU.

    Raises:
        ValueError: unknown name, no weights of this codec, or a precision that it does not have.
    """
    made, plugin = _class_of(name)

    def make() -> Codec:
        return made(weights, threads=threads, precision=precision, device=device)

    return make() if plugin is None else _named_errors(plugin, make)


def codec_digest(name: str, weights: str | Path | None = None) -> str:
    """Return the `digest` of a codec without loading it: sha256 of its weights, in hex.

    Raises:
        ValueError: unknown name, or the weights are missing or of another kind.
    """
    made, plugin = _class_of(name)
    if plugin is None:
        return made.digest_of(weights)
    return str(_named_errors(plugin, lambda: made.digest_of(weights)))


def _named_errors(plugin: Plugin, call: Callable[[], Found]) -> Found:
    try:
        return call()
    except Exception as error:
        raise PluginError(f"{plugin} failed: {type(error).__name__}: {one_line(error)}") from error
