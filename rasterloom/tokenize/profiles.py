"""The token vocabularies that Rasterloom can write: one ``Profile`` a model family.

The ids are drawn in docs/tokens.md. Of a checkpoint whose tokenizer.json is at hand, take the ids from
there (``vocab.profile_from_tokenizer``): names are certain, ids are a layout.
"""

from dataclasses import replace

from rasterloom.errors import PluginError
from rasterloom.schema import Profile
from rasterloom.tokenize.codec_plugins import find_codec
from rasterloom.utils import plugins

# Chameleon's ids, as Lumina-mGPT uses them: <reservedNNNNN> has id NNNNN + 4. That BPE text starts at
# 16384, where the reserved tokens end, is inferred; it matters only if text is trained on the corpus.
CHAMELEON = Profile(
    name="chameleon",
    downsample=16,
    codebook_size=8192,
    bos=0,
    pad=1,
    sep=8710,
    boi=8197,
    eoi=8196,
    eol=8803,
    grid0=8804,
    image0=4,
    text0=16384,
    vocab_size=65536,
)

# Lumina-mGPT 2.0: Qwen2.5's BPE (ids below 151643), then added tokens, then the codes of SBER-MoVQGAN.
# boi, eoi, eol and image0 are literals of its code; grid0 is inferred from the order of the names; bos,
# pad and sep are Qwen's <|im_start|>, <|endoftext|> and <|im_end|>, for want of a published id.
MOVQ = Profile(
    name="movq",
    downsample=8,
    codebook_size=16384,
    bos=151644,
    pad=151643,
    sep=151645,
    boi=151665,
    eoi=151666,
    eol=151670,
    grid0=151671,
    image0=155000,
    text0=0,
    vocab_size=171385,
)

MOST_GRID_UNITS = 64  # a side of 2048 pixels, the longest of target 1024


def own_profile(name: str, downsample: int, codebook_size: int, text_vocab: int = 439) -> Profile:
    """Return the vocabulary of a codec that belongs to no published model.

    Ids 2 and 3 are eos and unk, as in Chameleon, and are never written. Text comes last, so that its share
    of the vocabulary can be chosen.
    """
    after = 4 + codebook_size
    text0 = after + 4 + MOST_GRID_UNITS + 1
    return Profile(
        name=name,
        downsample=downsample,
        codebook_size=codebook_size,
        bos=0,
        pad=1,
        sep=after + 2,
        boi=after + 1,
        eoi=after,
        eol=after + 3,
        grid0=after + 4,
        image0=4,
        text0=text0,
        vocab_size=text0 + text_vocab,
    )


MINI = own_profile("mini", 8, 1024)
LLAMAGEN = own_profile("llamagen", 16, 16384)
EMU3 = own_profile("emu3", 8, 32768)

PROFILES = {profile.name: profile for profile in (CHAMELEON, MOVQ, MINI, LLAMAGEN, EMU3)}


def profile_of(codec: str, text_vocab: int | None = None) -> Profile:
    """Return a codec's profile, with room for a trained text vocabulary.

    Args:
        codec: name of the codec, as in the recipe's ``tokenize.codec``.
        text_vocab: ids that trained text needs, from ``text0`` on; None asks for none. ``mini`` and
            plug-ins make their vocabulary as large as that; the others belong to a checkpoint and have the
            room they have.

    Raises:
        ValueError: no codec of that name, or the text does not fit.
    """
    profile = PROFILES[codec] if codec in PROFILES else _profile_of_plugin(codec)
    if text_vocab is None:
        return profile
    if has_own_layout(codec):
        return replace(profile, vocab_size=profile.text0 + text_vocab)
    room = min(start for start in _block_starts(profile) if start > profile.text0) - profile.text0
    if text_vocab > room:
        raise ValueError(f"text_vocab {text_vocab} does not fit {codec}, which has {room} ids for text")
    return profile


def has_own_layout(codec: str) -> bool:
    """Tell whether a codec's ids are laid out by Rasterloom. Others belong to a published checkpoint."""
    return codec not in (CHAMELEON.name, MOVQ.name)


def _profile_of_plugin(codec: str) -> Profile:
    plugin = plugins.find(plugins.CODECS, codec)
    if plugin is None:
        raise PluginError(plugins.missing(plugins.CODECS, codec, PROFILES))
    made = find_codec(plugin, PROFILES)
    return own_profile(codec, made.downsample, made.codebook_size)


def max_grid(profile: Profile) -> int:
    """Return the largest count of grid units with an id."""
    return min(start for start in _block_starts(profile) if start > profile.grid0) - profile.grid0 - 1


def _block_starts(profile: Profile) -> list[int]:
    singles = [profile.bos, profile.pad, profile.sep, profile.boi, profile.eoi, profile.eol]
    image0 = min(profile.image_ids) if profile.image_ids else profile.image0
    return [*singles, image0, profile.grid0, profile.text0, profile.vocab_size]
