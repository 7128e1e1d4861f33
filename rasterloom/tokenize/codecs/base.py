"""Codec protocol: an image to a grid of codes and back."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Codec(Protocol):
    """A codec, with numpy arrays in and out."""

    name: str
    downsample: int  # pixels of a side that one code stands for
    codebook_size: int  # codes are 0 .. codebook_size - 1
    digest: str  # sha256 of the weights, in hex
    can_decode: bool  # False: its weights hold the encoder alone
    # Threads that decode and crop images for it may be named as `feeders`: with a GPU more than beside a CPU.
    # One that a GPU computes may have a method `begin` as well, which takes what `encode` does and returns a
    # function that waits for the codes: the next batch is begun before they are asked for.

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Encode RGB images uint8 [n, h, w, 3] as codes int32 [n, h / downsample, w / downsample].

        ValueError: wrong shape or dtype, or sides that are no multiple of `downsample`.
        """
        ...

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Decode codes [n, h, w] to RGB images uint8 [n, h * downsample, w * downsample, 3].

        ValueError: wrong shape, a code outside 0 .. codebook_size - 1, or no decoder.
        """
        ...


class CodecClass(Protocol):
    """Makes a codec, and knows what can be known without loading it. A plug-in is a class of this kind.

    ``uses_gpu = True`` says that a GPU is worth taking for it.
    """

    @property
    def downsample(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...

    def __call__(
        self, weights: str | Path | None, *, threads: int | None, precision: str, device: str | None
    ) -> Codec:
        """Load the codec.

        Args:
            weights: the recipe's ``tokenize.weights``.
            threads: how many torch may use in this process; None leaves it alone.
            precision: fp32, tf32 or bf16.
            device: cpu or cuda; None takes a GPU where there is one.

        Raises:
            ValueError: weights of another codec, or a precision that it does not have.
        """
        ...

    def digest_of(self, weights: str | Path | None) -> str:
        """Return the codec's ``digest`` without loading it. A static method of a plug-in's class."""
        ...
