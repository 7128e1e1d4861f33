"""CLIP embeddings of images and captions, and their cosine similarity."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rasterloom.errors import one_line
from rasterloom.filtering.scorers.base import Batch, Scores, add_checkpoint, floats
from rasterloom.utils.oom_batches import FittingBatches

Embeddings = NDArray[np.float32]

DEFAULT_CLIP = "openai/clip-vit-large-patch14"  # what LAION's heads were trained on
BATCH = 32
BATCH_ON_GPU = 256  # fewer where its memory does not hold them
EMBEDDING = pa.list_(pa.field("element", pa.float32()))


class ClipScorer:
    """The cosine between the embeddings of image and caption. About 0.15 to 0.4 for OpenAI's CLIPs.

    Args:
        clip: folder of a checkpoint of transformers' CLIP, or its id on the Hugging Face hub
        revision: branch, tag or commit on the hub
        keep_embeddings: keep both embeddings, L2-normalised, as columns

    Raises:
        ValueError: a folder given as `clip` is missing
    """

    name = "clip"
    version = "1"
    sees = True

    def __init__(
        self, clip: str = DEFAULT_CLIP, revision: str | None = None, keep_embeddings: bool = False
    ) -> None:
        digest = hashlib.sha256()
        add_checkpoint(digest, clip, revision)
        self.digest = digest.hexdigest()
        self.clip = open_clip(clip, revision)
        self.columns = floats("clip")
        if keep_embeddings:
            self.columns |= {"clip_embedding": EMBEDDING, "clip_text_embedding": EMBEDDING}

    @property
    def feeders(self) -> int:
        return self.clip.feeders

    def __call__(self, batch: Batch) -> Scores:
        images, captions = self.clip.of_images(batch), self.clip.of_captions(batch)
        return {
            "clip": (images.astype(np.float64) * captions).sum(axis=1),
            "clip_embedding": images,
            "clip_text_embedding": captions,
        }


class Clip:
    """A CLIP of transformers, loaded when it is first used. Scorers of the same checkpoint share it.

    On a GPU matrix products are in bf16 where there are units for it, images are prepared there (see
    `clip_pixels`), and batches are larger.
    """

    def __init__(self, checkpoint: str, revision: str | None) -> None:
        self.checkpoint, self.revision = checkpoint, revision or "main"
        self._batches = FittingBatches("images or captions")

    def of_images(self, batch: Batch) -> Embeddings:
        """Return the embeddings [n, d] of a batch's images, of length 1. The tower runs once a batch."""
        return batch.once((id(self), "images"), lambda: self.embed_images(batch.images))

    def of_captions(self, batch: Batch) -> Embeddings:
        """Return the embeddings [n, d] of a batch's captions, of length 1. NaN where there is none."""
        return batch.once((id(self), "captions"), lambda: self.embed_captions(batch.captions))

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Embeddings:
        from rasterloom.filtering.scorers.clip_pixels import is_usual, pixels_on  # heavy

        model, processor = self._model
        on_device = self.on_gpu and is_usual(processor)

        def embed(some: Sequence[NDArray[np.uint8]]) -> Embeddings:
            if on_device:
                pixels = pixels_on(model.device, processor, some)
            else:
                pixels = _pixels(processor, some, self.feeders).to(model.device)
            with self._products():
                pooled = model.vision_model(pixels).pooler_output
            return _of_length_1(model.visual_projection(pooled.to(model.dtype)))

        return self._in_batches(embed, images)

    def embed_captions(self, captions: Sequence[str | None]) -> Embeddings:
        """Captions longer than the text tower's context are cut."""
        model, _ = self._model
        limit = model.config.text_config.max_position_embeddings

        def embed(some: Sequence[str]) -> Embeddings:
            tokens = self._tokenizer(
                list(some), return_tensors="pt", padding=True, truncation=True, max_length=limit
            ).to(model.device)
            with self._products():
                found = model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask)
            pooled = found.pooler_output
            return _of_length_1(model.text_projection(pooled.to(model.dtype)))

        there = np.array([bool(caption) for caption in captions], bool)
        result = np.full((len(captions), model.config.projection_dim), np.nan, np.float32)
        result[there] = self._in_batches(embed, [caption for caption in captions if caption])
        return result

    def _in_batches(self, embed: Any, items: Sequence[Any]) -> Embeddings:
        import torch  # heavy

        model, _ = self._model
        with torch.inference_mode():
            most = BATCH_ON_GPU if self.on_gpu else BATCH
            parts = self._batches.over(embed, items, most, like=getattr(embed, "__qualname__", ""))
        return np.concatenate([np.empty((0, model.config.projection_dim), np.float32), *parts])

    @cached_property
    def on_gpu(self) -> bool:
        import torch  # heavy

        return torch.cuda.is_available()

    @cached_property
    def halves(self) -> bool:
        """True if matrix products are computed in bf16."""
        import torch  # heavy

        return self.on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)

    @property
    def feeders(self) -> int:
        """Number of threads that decode and prepare images: on a GPU the CPUs of its actor."""
        import torch  # heavy

        return torch.get_num_threads() if self.on_gpu else 1  # torch has as many as Ray gives CPUs

    @contextmanager
    def _products(self) -> Iterator[None]:
        """Compute matrix products in bf16, if `halves`, and the rest in float32."""
        import torch  # heavy

        model, _ = self._model
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.halves):
            yield

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        import torch  # heavy
        from transformers import CLIPImageProcessorPil, CLIPModel  # heavy

        try:
            model, info = CLIPModel.from_pretrained(
                self.checkpoint, revision=self.revision, output_loading_info=True
            )
            processor = CLIPImageProcessorPil.from_pretrained(self.checkpoint, revision=self.revision)
        except OSError as error:
            raise self._cannot_load(error) from error
        if absent := [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]:
            raise ValueError(f"{self.checkpoint!r} is no checkpoint of a CLIP: it lacks {sorted(absent)[0]}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device).eval(), processor

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer  # heavy

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.checkpoint, revision=self.revision)
        except (OSError, ValueError) as error:
            raise self._cannot_load(error) from error
        # Where its files are missing, transformers makes one that knows no words.
        words = self._model[0].config.text_config.vocab_size
        if not words / 2 <= len(tokenizer) <= words:
            raise self._cannot_load(
                ValueError(f"its tokenizer has {len(tokenizer)} words, its text tower {words}")
            )
        return tokenizer

    def _cannot_load(self, error: Exception) -> ValueError:
        return ValueError(
            f"cannot load the CLIP {self.checkpoint!r}; where the Hugging Face hub cannot be reached, give "
            f"`clip:` a folder with the checkpoint ({one_line(error, limit=200)})"
        )


def _pixels(processor: Any, images: Sequence[NDArray[np.uint8]], threads: int) -> Any:
    """Input of the image tower, prepared in threads: alone it would keep a GPU waiting."""

    def prepared(some: Sequence[NDArray[np.uint8]]) -> Any:
        return processor(list(some), return_tensors="pt", input_data_format="channels_last")["pixel_values"]

    if threads == 1:
        return prepared(images)
    import torch  # heavy

    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(prepared, ([image] for image in images))))


@lru_cache(maxsize=8)
def open_clip(checkpoint: str, revision: str | None) -> Clip:
    return Clip(checkpoint, revision)


def _of_length_1(embeddings: Any) -> Embeddings:
    normal: Embeddings = (embeddings / embeddings.norm(dim=1, keepdim=True)).float().cpu().numpy()
    return normal
