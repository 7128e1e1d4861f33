"""Codecs: networks that turn an image into a grid of codes and back."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Codec(Protocol):
    """What tokenising and sampling need of a codec; numpy in and out."""

    name: str
    downsample: int  # pixels of a side that one code stands for
    codebook_size: int  # codes are 0 .. codebook_size - 1
    digest: str  # sha256 of the weights, in hex
    can_decode: bool  # False: its weights hold the encoder alone

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """RGB images uint8 [n, h, w, 3] to codes int32 [n, h / downsample, w / downsample].

        ValueError: wrong shape or dtype, or sides that are no multiple of `downsample`.
        """
        ...

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Codes [n, h, w] to RGB images uint8 [n, h * downsample, w * downsample, 3].

        ValueError: wrong shape, a code outside 0 .. codebook_size - 1, or no decoder.
        """
        ...
