"""Captions by a vision-language model of transformers in this process, in batches."""

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from rasterloom.captions.answers import Answer, Request
from rasterloom.captions.endpoint import opened_image
from rasterloom.errors import one_line
from rasterloom.filtering.scorers.base import add_checkpoint
from rasterloom.recipe.captions import LocalModel
from rasterloom.utils.oom_batches import FittingBatches


class VisionLanguageModel:
    """Model and processor of a folder, on a GPU if possible.

    Raises:
        ValueError: the folder holds none that transformers can load.
    """

    def __init__(self, config: LocalModel) -> None:
        self.config = config
        self._batches = FittingBatches("images to caption")

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer requests, in their order."""
        found = self._batches.over(self._answer, requests, self.config.batch)
        return [answer for batch in found for answer in batch]

    def _answer(self, requests: Sequence[Request]) -> list[Answer]:
        import torch  # heavy

        images = [opened_image(request.image, self.config.max_side) for request in requests]
        inputs = self._inputs(images, [request.prompt for request in requests]).to(self._model.device)
        for name, value in inputs.items():
            if torch.is_floating_point(value):
                inputs[name] = value.to(self._model.dtype)
        with torch.inference_mode():
            written = self._model.generate(**inputs, max_new_tokens=self.config.max_tokens, do_sample=False)
        start = inputs["input_ids"].shape[1]
        tokens = inputs["attention_mask"].sum(dim=1).tolist()
        texts = self._processor.batch_decode(written[:, start:], skip_special_tokens=True)
        ends = torch.isin(written[:, start:], torch.tensor(self._ends, device=written.device))
        return [
            Answer(
                text.strip(),
                count,
                int(row.shape[0] if not end.any() else end.nonzero()[0, 0]),
                not bool(end.any()),
            )
            for text, count, row, end in zip(texts, tokens, written[:, start:], ends, strict=True)
        ]

    def _inputs(self, images: list[Image.Image], prompts: list[str]) -> Any:
        """Tensors of a batch, padded on the left: answers begin at one place."""
        talks = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
            for prompt in prompts
        ]
        texts = [self._processor.apply_chat_template(talk, add_generation_prompt=True) for talk in talks]
        nested = [[image] for image in images]
        return self._processor(text=texts, images=nested, padding=True, return_tensors="pt")

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor  # heavy

        processor = _loaded(AutoProcessor, self.config.path)
        if not getattr(processor, "chat_template", None):
            raise ValueError(f"the processor of {self.config.path} has no chat template")
        processor.tokenizer.padding_side = "left"
        return processor

    @cached_property
    def _model(self) -> Any:
        import torch  # heavy
        from transformers import AutoModelForImageTextToText  # heavy

        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
        model = _loaded(AutoModelForImageTextToText, self.config.path, dtype=dtype)
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _ends(self) -> list[int]:
        """Ids that end an answer."""
        found = self._model.generation_config.eos_token_id
        found = self._processor.tokenizer.eos_token_id if found is None else found
        return list(found) if isinstance(found, list | tuple) else [] if found is None else [found]


def _loaded(kind: Any, path: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(path, local_files_only=True, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} holds no vision-language model: {one_line(error)}") from None


@lru_cache(maxsize=1)  # Ray uses a worker process again: weights are loaded once in each
def load_local(config: LocalModel) -> VisionLanguageModel:
    """The model of a folder, loaded once in a process."""
    return VisionLanguageModel(config)


def local_digest(config: LocalModel) -> str:
    """Digest of what a model's folder holds.

    Raises:
        ValueError: there is no such folder.
    """
    if not (Path(config.path) / "config.json").is_file():
        raise ValueError(f"no model at {config.path}: there is no config.json")
    digest = hashlib.sha256()
    add_checkpoint(digest, config.path, None, "vision-language model", "path")
    return digest.hexdigest()[:20]
