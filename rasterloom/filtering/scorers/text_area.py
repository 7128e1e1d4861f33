"""Text area: the share covered by text boxes of RapidOCR's detector."""

from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rasterloom.filtering.scorers.base import Batch, Scores, digest_of, floats, packaged


class TextAreaScorer:
    """The share, 0 to 1, of an image covered by text boxes. Nothing is read.

    Args:
        max_side: longer side, in pixels, to which larger images are scaled down for it

    Raises:
        ValueError: the extra `ocr` is not installed
    """

    name = "text_area"
    version = "1"
    columns = floats("text_area")
    sees = True

    def __init__(self, max_side: int = 736) -> None:
        self.max_side = max_side
        packaged("text_area", "ocr", "onnxruntime")
        weights = packaged("text_area", "ocr", "rapidocr", "models/PP-OCRv6_det_small.onnx")
        self.digest = digest_of("rapidocr", weights)

    def __call__(self, batch: Batch) -> Scores:
        return {"text_area": np.array([self._share(image) for image in batch.images], np.float64)}

    def _share(self, image: NDArray[np.uint8]) -> float:
        found = self._detector(np.ascontiguousarray(image[..., ::-1]))  # it takes BGR
        boxes = getattr(found, "boxes", None)
        if boxes is None:
            return 0.0
        covered = np.zeros(image.shape[:2], np.uint8)
        for box in boxes:
            cv2.fillConvexPoly(covered, np.round(box).astype(np.int32), [1])
        return float(covered.mean())

    @cached_property
    def _detector(self) -> Any:
        from rapidocr import RapidOCR  # heavy

        return RapidOCR(
            params={
                "Global.use_cls": False,
                "Global.use_rec": False,
                "Global.log_level": "critical",
                # By its own default, small images would be blown up, which is slow and finds no more.
                "Det.limit_type": "max",
                "Det.limit_side_len": self.max_side,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,  # there is a worker for each core
            }
        )
