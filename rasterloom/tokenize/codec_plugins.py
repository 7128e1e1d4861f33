"""Codecs of plug-ins: what an entry point must name."""

from collections.abc import Collection
from typing import Protocol

from rasterloom.errors import PluginError
from rasterloom.utils.plugins import Plugin

MEMBERS = ("downsample", "codebook_size", "digest_of", "encode", "decode", "can_decode")
SIDES = (4, 8, 16, 32)  # that a code may stand for: the sides of buckets are multiples of 32


class CodecSizes(Protocol):
    """Sizes of a codec, which are known without loading it."""

    @property
    def downsample(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...


def find_codec(plugin: Plugin, built_in: Collection[str]) -> CodecSizes:
    """Load the class of a plug-in's codec. PluginError if it is none."""
    found: CodecSizes = plugin.load(MEMBERS, built_in)
    if found.downsample not in SIDES:
        raise PluginError(f"{plugin} has a downsample of {found.downsample!r}; possible are 4, 8, 16 and 32")
    if not isinstance(found.codebook_size, int) or found.codebook_size < 2:
        raise PluginError(f"{plugin} has a codebook_size of {found.codebook_size!r}; it takes 2 or more")
    return found
