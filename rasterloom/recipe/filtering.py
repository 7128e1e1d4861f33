"""Sections `score` and `keep`: filtering of images."""

from typing import Any

from pydantic import Field

from rasterloom.recipe.base import Section


class Score(Section):
    """Scorer by name, with its options: ``quality`` or ``{aesthetic: {head: head.pth}}``."""

    name: str
    """quality, flatness, aesthetic, clip, classify, nsfw, text_area, language, caption, scene
    (docs/filter.md), or a plug-in's (docs/extending.md)."""
    options: dict[str, Any] = Field({})
    """Options of the scorer."""


class Dedup(Section):
    """Deduplication: one image of each group of duplicates is kept, an earlier choice or the best."""

    exact: bool = True
    """Drop images with equal bytes."""
    phash_radius: int | None = Field(4, ge=0, le=16)
    """Drop images whose 64-bit perceptual hashes differ in at most so many bits; null: keep them."""
    semantic: float | None = Field(None, gt=0, le=1)
    """Drop images whose CLIP embeddings have at least this cosine (0.95 is cautious); null: keep them. It
    takes a score with ``keep_embeddings: true``."""
    prefer: str = ""
    """Score to keep the best of a group by; the largest image when empty."""
    memory: bool = True
    """Keep the image of a group that the corpus's last version kept, as long as the other fields here are
    the same; false: every version chooses anew."""


class Keep(Section):
    """Selection of images."""

    rule: str = "true"
    """SQL over the columns of images and scores, and ``min_side``, ``max_side``, ``area``, ``aspect``,
    ``caption_length``."""
    dedup: Dedup = Dedup()
    """Deduplication; may also stand at the top level of the recipe."""


def by_name(item: Any) -> Any:
    """Complete the short forms of a scorer or judge: its name, or ``{name: {options}}``."""
    if isinstance(item, str):
        return {"name": item}
    if isinstance(item, dict) and "name" not in item and len(item) == 1:
        (name, options), *_ = item.items()
        return {"name": name, "options": options or {}}
    return item
