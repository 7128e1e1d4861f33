"""Judges of sets: how far the images of a suite lie from images of a reference."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rasterloom.filtering.judges.base import Features, Judgement, Pixels, SuitePrompt
from rasterloom.filtering.judges.distances import cmmd, frechet
from rasterloom.filtering.scorers.base import add_checkpoint
from rasterloom.filtering.scorers.clip import DEFAULT_CLIP, open_clip

IMAGES = {".jpg", ".jpeg", ".png", ".webp"}


class ClipDistanceJudge:
    """Fréchet distance of CLIP's embeddings to those of a folder of images.

    Args:
        reference: folder of images to compare with
        clip: folder of a checkpoint of transformers' CLIP, or its id on the Hugging Face hub
        revision: branch, tag or commit on the hub

    Raises:
        ValueError: a folder is missing, or the reference has fewer than two images
    """

    name = "clip-fd"
    version = "1"

    def __init__(self, reference: str, clip: str = DEFAULT_CLIP, revision: str | None = None) -> None:
        self._files = sorted(path for path in Path(reference).rglob("*") if path.suffix.lower() in IMAGES)
        if len(self._files) < 2:
            raise ValueError(
                f"the judge {self.name} takes a folder of images as reference; {reference} is none"
            )
        digest = hashlib.sha256()  # not of the reference: images are compared with it anew each time
        add_checkpoint(digest, clip, revision)
        self.digest = digest.hexdigest()
        self._clip = open_clip(clip, revision)

    def __call__(self, images: Sequence[Pixels], prompts: Sequence[SuitePrompt]) -> list[Judgement]:
        return [Judgement(embedding=tuple(map(float, row))) for row in self._clip.embed_images(images)]

    def reference(self) -> Features:
        """Embeddings [n, d] of the reference."""
        parts = []
        for start in range(0, len(self._files), 64):
            parts.append(self._clip.embed_images(list(map(_pixels, self._files[start : start + 64]))))
        return np.concatenate(parts)

    def distance(self, drawn: Features, reference: Features) -> float:
        return frechet(drawn, reference)


class CmmdJudge(ClipDistanceJudge):
    """CMMD to a folder of images.

    The authors' CLIP is openai/clip-vit-large-patch14-336.
    """

    name = "cmmd"

    def distance(self, drawn: Features, reference: Features) -> float:
        return cmmd(drawn, reference)


def _pixels(path: Path) -> Pixels:
    """Read an image as it is shown, turned as its EXIF says."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
