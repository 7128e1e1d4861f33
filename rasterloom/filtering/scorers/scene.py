"""Share of a drawn scene's facts that hold in an image."""

import numpy as np

from rasterloom.filtering.scenes.judge import judge
from rasterloom.filtering.scorers.base import Batch, Scores, floats


class SceneScorer:
    """The share of a caption's facts that hold, 0 to 1. Null where it is no caption of a drawn scene."""

    name = "scene"
    version = "1"
    digest = ""
    columns = floats("scene")
    sees = True

    def __call__(self, batch: Batch) -> Scores:
        verdicts = [
            judge(image, caption or "").facts.values()
            for image, caption in zip(batch.images, batch.captions, strict=True)
        ]
        return {"scene": np.array([sum(held) / len(held) if held else np.nan for held in verdicts])}
