"""`score` and `keep`: what is kept."""

from typing import Any

from pydantic import Field

from rasterloom.recipe.base import Section


class Score(Section):
    """A scorer by name, with its options: ``quality`` or ``{aesthetic: {head: head.pth}}``."""

    name: str
    """quality, flatness, aesthetic, clip, nsfw, text_area, language or caption (docs/filter.md), or a
    plug-in's."""
    options: dict[str, Any] = Field({})
    """Options of that scorer."""


class Dedup(Section):
    """Of images that double each other, one is kept: what was kept before, else the best."""

    exact: bool = True
    """Drop images whose bytes are the same."""
    phash_radius: int | None = Field(4, ge=0, le=16)
    """Drop images whose 64-bit perceptual hashes differ in at most so many bits; null: keep them."""
    semantic: float | None = Field(None, gt=0, le=1)
    """Drop images whose CLIP embeddings have at least this cosine (0.95 is cautious); null: keep them. It
    takes a score with ``keep_embeddings: true``."""
    prefer: str = ""
    """Score to keep the best of a group by; the largest image when empty."""
    memory: bool = True
    """What the corpus's last version kept of a group stays what is kept of it, whatever comes after, as long
    as the other fields here are the same; false: every version chooses anew."""


class Keep(Section):
    """Which images are kept."""

    rule: str = "true"
    """SQL over the columns of images and scores, and ``min_side``, ``max_side``, ``area``, ``aspect``,
    ``caption_length``."""
    dedup: Dedup = Dedup()
    """What counts as a double; may stand at the top of the recipe, too."""
