"""Judges that are a CLIP: the plain cosine, and scores of CLIPs trained on preferences."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rasterloom.filtering.judges.base import Judgement, Pixels, SuitePrompt
from rasterloom.filtering.scorers.base import add_checkpoint
from rasterloom.filtering.scorers.clip import DEFAULT_CLIP, open_clip


class ClipJudge:
    """The cosine between the embeddings of image and prompt.

    Args:
        clip: folder of a checkpoint of transformers' CLIP, or its id on the Hugging Face hub
        revision: branch, tag or commit on the hub

    Raises:
        ValueError: a folder given as `clip` is missing
    """

    name = "clip"
    version = "1"

    def __init__(self, clip: str = DEFAULT_CLIP, revision: str | None = None) -> None:
        digest = hashlib.sha256()
        add_checkpoint(digest, clip, revision)
        self.digest = digest.hexdigest()
        self._clip = open_clip(clip, revision)

    def __call__(self, images: Sequence[Pixels], prompts: Sequence[SuitePrompt]) -> list[Judgement]:
        seen = self._clip.embed_images(images).astype(np.float64)
        read = self._clip.embed_captions([prompt.text for prompt in prompts])
        return [Judgement(totals={self.name: float(cosine)}) for cosine in (seen * read).sum(axis=1)]


class HpsJudge(ClipJudge):
    """HPSv2: the cosine of a CLIP trained on preferences.

    Args:
        weights: folder of HPSv2 in transformers' format; the authors' .pt takes open_clip, which is not used
    """

    name = "hpsv2"

    def __init__(self, weights: str) -> None:
        super().__init__(_folder(self.name, weights))


class PickScoreJudge(ClipJudge):
    """PickScore: the cosine of a CLIP trained on preferences.

    Args:
        weights: folder of PickScore_v1, which is in transformers' format
    """

    name = "pickscore"

    def __init__(self, weights: str) -> None:
        super().__init__(_folder(self.name, weights))


def _folder(judge: str, weights: str) -> str:
    """Check that weights are a folder of transformers."""
    if not (Path(weights) / "config.json").is_file():
        raise ValueError(
            f"the judge {judge} takes a folder in transformers' format, with a config.json; {weights} is none"
        )
    return weights
