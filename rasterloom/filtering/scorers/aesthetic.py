"""LAION's aesthetic predictors: small heads on CLIP image embeddings."""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rasterloom.errors import one_line
from rasterloom.filtering.scorers.base import Batch, Scores, add_checkpoint, floats
from rasterloom.filtering.scorers.clip import (
    DEFAULT_CLIP,
    EMBEDDING,
    Embeddings,
    open_clip,
)

Floats = NDArray[np.float64]
Head = Callable[[Embeddings], NDArray[np.float32]]

V1_LAYERS = ("",)  # aesthetic-predictor: one linear layer
V2_LAYERS = tuple(f"layers.{n}." for n in (0, 2, 4, 6, 7))  # improved-aesthetic-predictor: dropout between


def load_head(path: str | Path) -> Head:
    """Read one of LAION's .pth heads: v1 (a linear layer) or v2 (linear layers without activations).

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
    """Return (weight [out, in], bias [out]) of each layer, embedding to score."""
    import torch  # heavy

    if not path.is_file():
        raise ValueError(f"no aesthetic head at {path}: give `head:` the .pth file of a LAION predictor")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is no .pth file of weights: {one_line(error, limit=200)}") from None
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
    """Scores images by a linear head on CLIP's image embeddings.

    Args:
        head: path of a .pth file, see `load_head`
        clip: folder of a checkpoint, or its id on the Hugging Face hub
        revision: branch, tag or commit on the hub
        keep_embeddings: keep the embeddings of the images, L2-normalised, as a column

    Raises:
        ValueError: `head`, or a folder given as `clip`, is missing
    """

    name = "aesthetic"
    version = "1"
    sees = True

    def __init__(
        self,
        head: str,
        clip: str = DEFAULT_CLIP,
        revision: str | None = None,
        keep_embeddings: bool = False,
    ) -> None:
        self.head_path = Path(head).expanduser()
        if not self.head_path.is_file():
            raise ValueError(
                f"no aesthetic head at {self.head_path}: give `head:` the .pth file of a LAION predictor"
            )
        digest = hashlib.sha256(self.head_path.read_bytes())
        add_checkpoint(digest, clip, revision)
        self.digest = digest.hexdigest()
        self.clip = open_clip(clip, revision)
        self.columns = floats("aesthetic") | ({"aesthetic_embedding": EMBEDDING} if keep_embeddings else {})

    @property
    def feeders(self) -> int:
        return self.clip.feeders

    def __call__(self, batch: Batch) -> Scores:
        embeddings = self.clip.of_images(batch)
        return {"aesthetic": self._head(embeddings), "aesthetic_embedding": embeddings}

    @cached_property
    def _head(self) -> Head:
        return load_head(self.head_path)
