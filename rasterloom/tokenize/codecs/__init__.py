"""Codecs: networks that turn an image into a grid of codes and back."""

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CODECS = ("mini",)


class Codec(Protocol):
    """What tokenising and sampling need of a codec; numpy in and out."""

    name: str
    downsample: int  # pixels of a side that one code stands for
    codebook_size: int  # codes are 0 .. codebook_size - 1
    digest: str  # sha256 of the weights file, in hex

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """RGB images uint8 [n, h, w, 3] to codes int32 [n, h / downsample, w / downsample].

        ValueError: wrong shape or dtype, or sides that are no multiple of `downsample`.
        """
        ...

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Codes [n, h, w] to RGB images uint8 [n, h * downsample, w * downsample, 3].

        ValueError: wrong shape, or a code outside 0 .. codebook_size - 1.
        """
        ...


def load_codec(name: str, weights: str | Path | None = None, threads: int | None = None) -> Codec:
    """Loads a codec by name, from the weights in the package or from the file `weights`.

    `threads` sets how many threads torch may use in this process; None leaves it alone.
    ValueError: unknown name, or a file that holds no weights of this codec.
    """
    if name == "mini":
        from rasterloom.tokenize.codecs.mini import MiniCodec

        return MiniCodec(weights, threads)
    raise ValueError(f"codec: got {name!r}, takes {', '.join(CODECS)}")


def codec_digest(name: str, weights: str | Path | None = None) -> str:
    """Return the `digest` of a codec without loading it: sha256 of its weights file, in hex.

    ValueError: unknown name, or the file cannot be read.
    """
    if name not in CODECS:
        raise ValueError(f"codec: got {name!r}, takes {', '.join(CODECS)}")
    path = Path(weights) if weights else Path(__file__).with_name(f"{name}.safetensors")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"the weights of codec {name} cannot be read: {path}: {error.strerror}") from None
