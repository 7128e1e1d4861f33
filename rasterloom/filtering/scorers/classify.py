"""Probability of a label, by any image classifier of transformers."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasterloom.errors import one_line
from rasterloom.filtering.scorers.base import Batch, Scores, add_checkpoint, floats
from rasterloom.utils.oom_batches import FittingBatches
from rasterloom.utils.suggest import did_you_mean

BATCH = 16
BATCH_ON_GPU = 128  # fewer where its memory does not hold them


class ClassifyScorer:
    """The probability, 0 to 1, that a classifier gives a label.

    It may stand several times in a recipe, with other labels or models. Labels of one model run it once.

    Args:
        model: folder of an image classifier of transformers, or its id on the Hugging Face hub
        label: one of its labels
        column: name of the score; the label in small letters if empty
        revision: branch, tag or commit on the hub

    Raises:
        ValueError: a folder given as `model` is missing, or its config.json has no such label
    """

    name = "classify"
    version = "1"
    sees = True

    def __init__(self, model: str, label: str, column: str = "", revision: str | None = None) -> None:
        digest = hashlib.sha256(f"{label}\n".encode())
        add_checkpoint(digest, model, revision, what="classifier", option="model")
        self.digest = digest.hexdigest()
        self._label, self._classifier = label, open_classifier(model, revision)
        self.column = column or re.sub(r"\W+", "_", label.lower()).strip("_")
        if not re.fullmatch(r"[a-z_]\w*", self.column):
            raise ValueError(f"the score classify needs a `column:` that a rule can name, for {label!r}")
        self.name = f"classify:{self.column}"
        self.columns = floats(self.column)
        config = Path(model).expanduser() / "config.json"
        if config.is_file():
            _index(label, model, json.loads(config.read_text(encoding="utf-8")).get("id2label") or {})

    def __call__(self, batch: Batch) -> Scores:
        classifier = self._classifier
        found = batch.once((id(classifier), "labels"), lambda: classifier.probabilities(batch.images))
        return {self.column: found[:, classifier.index(self._label)].astype(np.float64)}


class Classifier:
    """Image classifier of transformers, loaded when it is first used."""

    def __init__(self, checkpoint: str, revision: str | None) -> None:
        self.checkpoint, self.revision = checkpoint, revision or "main"
        self._batches = FittingBatches("images")

    def index(self, label: str) -> int:
        """Return the place of a label among the model's."""
        return _index(label, self.checkpoint, self._model[0].config.id2label)

    def probabilities(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the probability [n, labels] of each label for each image."""
        import torch  # heavy

        model, processor = self._model

        def classify(some: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
            pixels = processor(list(some), return_tensors="pt", input_data_format="channels_last")
            logits = model(pixels["pixel_values"].to(model.device)).logits.float()
            each_alone = (
                model.config.problem_type == "multi_label_classification" or model.config.num_labels == 1
            )
            found: NDArray[np.float32] = (
                (logits.sigmoid() if each_alone else logits.softmax(-1)).cpu().numpy()
            )
            return found

        with torch.inference_mode():
            most = BATCH if model.device.type == "cpu" else BATCH_ON_GPU
            parts = self._batches.over(classify, images, most)
        return np.concatenate([np.empty((0, model.config.num_labels), np.float32), *parts])

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        import torch  # heavy
        from transformers import AutoImageProcessor, AutoModelForImageClassification  # heavy

        given = {"revision": self.revision}
        try:
            model, info = AutoModelForImageClassification.from_pretrained(
                self.checkpoint, output_loading_info=True, **given
            )
            processor = AutoImageProcessor.from_pretrained(self.checkpoint, backend="pil", **given)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load the classifier {self.checkpoint!r}; where the Hugging Face hub cannot be "
                f"reached, give `model:` a folder with the checkpoint ({one_line(error, limit=200)})"
            ) from error
        if absent := [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]:
            raise ValueError(f"{self.checkpoint!r} is no image classifier: it lacks {sorted(absent)[0]}")
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor


@lru_cache(maxsize=8)
def open_classifier(checkpoint: str, revision: str | None) -> Classifier:
    return Classifier(checkpoint, revision)


def _index(label: str, model: str, labels: dict[Any, str]) -> int:
    """Return the number of a label.

    Args:
        labels: by number, as ``id2label`` of a config.
    """
    for number, name in labels.items():
        if name == label:
            return int(number)
    raise ValueError(f"the classifier {model} has no label {label!r}; {did_you_mean(label, labels.values())}")
