"""LAION's aesthetic predictors: a small head on the CLIP embedding of a picture."""

import hashlib
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Embeddings = NDArray[np.float32]
Head = Callable[[Embeddings], NDArray[np.float32]]

V1_LAYERS = ("",)  # aesthetic-predictor: one linear layer
V2_LAYERS = tuple(f"layers.{n}." for n in (0, 2, 4, 6, 7))  # improved-aesthetic-predictor: dropout between
DEFAULT_CLIP = "openai/clip-vit-large-patch14"  # what LAION's heads were trained on
BATCH = 32


def load_head(path: str | Path) -> Head:
    """Read one of LAION's .pth heads, v1 (a linear layer) or v2 (linear layers without activations).

    Both are linear, so the layers are multiplied out into one.

    Returns:
        A function of embeddings [n, d] float32 that gives scores [n] float32, about 1 to 10. The embeddings
        must be of length 1 (L2): scores above 20 are the sign that they are not.

    Raises:
        ValueError: the file is missing or holds no such head, or the embeddings have another width.
    """
    path = Path(path)
    weights, bias = _multiply_out(path, _read_layers(path))

    def head(embeddings: Embeddings) -> NDArray[np.float32]:
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] != len(weights):
            raise ValueError(
                f"the head {path.name} takes embeddings [n, {len(weights)}], not {list(embeddings.shape)}: "
                "it belongs to another CLIP"
            )
        return (embeddings.astype(np.float64) @ weights + bias).astype(np.float32)

    return head


def _read_layers(path: Path) -> list[tuple[Floats, ...]]:
    """Return the (weight [out, in], bias [out]) of each layer, from the embedding to the score."""
    import torch

    if not path.is_file():
        raise ValueError(f"no aesthetic head at {path}: give `head:` the .pth file of a LAION predictor")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is no .pth file of weights: {_one_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no named weights")
    for layers in (V1_LAYERS, V2_LAYERS):
        if set(state) == {name + part for name in layers for part in ("weight", "bias")}:
            return [
                tuple(state[name + part].double().numpy() for part in ("weight", "bias")) for name in layers
            ]
    raise ValueError(
        f"{path} is no LAION head: it has {', '.join(sorted(map(str, state))[:12])}; expected weight and "
        "bias (v1), or those of layers.0, 2, 4, 6 and 7 (v2, without activations)"
    )


def _multiply_out(path: Path, layers: list[tuple[Floats, ...]]) -> tuple[Floats, float]:
    width = layers[0][0].shape[-1]
    for weight, bias in layers:
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{path}: a layer of weight {list(weight.shape)} and bias {list(bias.shape)} cannot follow "
                f"{width} numbers"
            )
        width = len(weight)
    if width != 1:
        raise ValueError(f"{path}: the last layer gives {width} numbers, not one score")
    weights, offset = np.ones(1), 0.0
    for weight, bias in reversed(layers):
        weights, offset = weights @ weight, offset + float(weights @ bias)
    return weights, offset


class AestheticScorer:
    """Scores pictures by a head on the L2-normalised image embeddings of a CLIP of transformers.

    Args:
        head: path of a .pth file, see `load_head`
        clip: folder of a checkpoint, or its id on the Hugging Face hub
        revision: branch, tag or commit on the hub

    Raises:
        ValueError: `head`, or a folder given as `clip`, is missing
    """

    name = "aesthetic"
    version = "1"
    columns = ("aesthetic",)

    def __init__(self, head: str, clip: str = DEFAULT_CLIP, revision: str | None = None) -> None:
        self.head_path, self.clip, self.revision = Path(head).expanduser(), clip, revision
        self.digest = digest(self.head_path, clip, revision)

    def __call__(
        self, images: list[NDArray[np.uint8]], captions: list[str | None]
    ) -> dict[str, NDArray[np.float64]]:
        if not images:
            return {"aesthetic": np.empty(0)}
        return {"aesthetic": self._head(self._embed(images)).astype(np.float64)}

    def _embed(self, images: list[NDArray[np.uint8]]) -> Embeddings:
        import torch

        model, processor = self._model
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = images[start : start + BATCH]
                inputs = processor(batch, return_tensors="pt", input_data_format="channels_last")
                pooled = model.vision_model(inputs["pixel_values"].to(model.device)).pooler_output
                embeddings = model.visual_projection(pooled)
                parts.append((embeddings / embeddings.norm(dim=1, keepdim=True)).cpu().numpy())
        return np.concatenate(parts)

    @cached_property
    def _head(self) -> Head:
        return load_head(self.head_path)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        import torch
        from transformers import CLIPImageProcessorPil, CLIPModel

        revision = self.revision or "main"
        try:
            model, info = CLIPModel.from_pretrained(self.clip, revision=revision, output_loading_info=True)
            processor = CLIPImageProcessorPil.from_pretrained(self.clip, revision=revision)
        except OSError as error:
            raise ValueError(
                f"the score aesthetic cannot load the CLIP {self.clip!r}; where the Hugging Face hub cannot "
                f"be reached, give `clip:` a folder with the checkpoint ({_one_line(error)})"
            ) from error
        if absent := [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]:
            raise ValueError(f"{self.clip!r} is no checkpoint of a CLIP: it lacks {sorted(absent)[0]}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device).eval(), processor


def digest(head: Path, clip: str, revision: str | None) -> str:
    """Return a digest of the head's bytes and of the checkpoint, without loading either.

    Of a folder's files, which may be many gigabytes, it takes the names, the sizes and 64 KiB at 16 places
    each; of a checkpoint on the hub its name and revision.
    """
    if not head.is_file():
        raise ValueError(f"no aesthetic head at {head}: give `head:` the .pth file of a LAION predictor")
    result = hashlib.sha256(head.read_bytes())
    folder = Path(clip).expanduser()
    if folder.is_dir():
        for file in sorted(p for p in folder.iterdir() if p.is_file()):
            size = file.stat().st_size
            result.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as data:
                for place in range(16):
                    data.seek(max(0, (size - 65536) * place // 15))
                    result.update(data.read(65536))
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", clip) and not clip.startswith("."):
        result.update(f"{clip}@{revision or 'main'}".encode())
    else:
        raise ValueError(f"no CLIP checkpoint at {clip}: give `clip:` its folder, or its id on the hub")
    return result.hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
