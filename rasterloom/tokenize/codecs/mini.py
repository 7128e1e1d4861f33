"""The `mini` codec: a small convolutional VQ network with 1,024 codes.

Its weights come with the package; `scripts/train_mini_codec.py` makes them anew and `docs/mini.md` says
from which images, and how well they reconstruct.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("mini.safetensors")
DOWNSAMPLE = 8
CODEBOOK_SIZE = 1024
CODE_DIM = 8
MARGIN = 8  # pixels around its own 8 x 8 that a code depends on
WIDTH = 128  # channels at 1/8 of the size, where most of the work is done

PIXELS_AT_ONCE = 64 * 64 * 32  # of decoding: bounds the memory of a call, whatever the number of images


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Block(nn.Module):
    """Residual block: ReLU, conv, ReLU, conv. It starts as the identity."""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.first, self.second = conv(width, width, kernel), conv(width, width, kernel)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + change


class Upsample(nn.Module):
    """Twice the size by PixelShuffle. The four pixels of a cell start equal, as in nearest-neighbour
    upsampling (ICNR), so that the network does not begin with a checkerboard to unlearn."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = conv(inputs, 4 * outputs, kernel)
        for parameter in self.conv.parameters():
            parameter.data = parameter.data[::4].repeat_interleave(4, 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


class MiniNetwork(nn.Module):
    """Encoder, codebook and decoder. Pixels are float [n, 3, h, w] in -1 .. 1."""

    codebook: Tensor  # [CODEBOOK_SIZE, CODE_DIM], rows of length 1

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.ReplicationPad2d(MARGIN),
            nn.Conv2d(3, 3 * width, DOWNSAMPLE + 2 * MARGIN, stride=DOWNSAMPLE),
            *(Block(3 * width, 1) for _ in range(3)),
            nn.ReLU(),
            conv(3 * width, CODE_DIM, 1),
        )
        self.register_buffer("codebook", F.normalize(torch.randn(CODEBOOK_SIZE, CODE_DIM), dim=1))
        self.decoder = nn.Sequential(
            conv(CODE_DIM, width),
            *(Block(width) for _ in range(6)),
            Upsample(width, 64, 1),
            *(Block(64) for _ in range(2)),
            Upsample(64, 32, 1),
            Block(32),
            nn.ReLU(),
            Upsample(32, 12, 3),
            nn.ReLU(),
            conv(12, 3),  # at full size: without it PixelShuffle shows as a screen door on flat areas
        )

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels to unit vectors [n, CODE_DIM, h / 8, w / 8]. They are not yet quantised."""
        return F.normalize(self.encoder(pixels), dim=1)

    def nearest(self, features: Tensor) -> Tensor:
        """The code of each vector: int64 [n, h / 8, w / 8]. Of unit vectors, nearest is most alike."""
        return F.conv2d(features, self.codebook[:, :, None, None]).argmax(1)

    def vectors(self, codes: Tensor) -> Tensor:
        """The vector of each code: [n, CODE_DIM, h / 8, w / 8]."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)


class MiniCodec:
    """The `mini` codec on the CPU, in fp32. See `rasterloom.tokenize.codecs.base.Codec` for the methods."""

    name = "mini"
    downsample = DOWNSAMPLE
    codebook_size = CODEBOOK_SIZE
    can_decode = True

    def __init__(self, weights: str | Path | None = None, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        path = Path(weights or WEIGHTS)
        data = path.read_bytes()
        self.digest = hashlib.sha256(data).hexdigest()
        self.network = MiniNetwork()
        try:
            self.network.load_state_dict({name: value.float() for name, value in load(data).items()})
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path}: not the weights of the mini codec ({error})") from error
        self.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Encode RGB images uint8 [n, h, w, 3] as codes int32 [n, h / 8, w / 8].

        An image's codes do not depend on its company: images pass one by one, because sums are rounded
        differently in batches of different size, which now and then turns a code.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images: got {images.dtype} {list(images.shape)}, takes uint8 [n, h, w, 3]")
        n, h, w, _ = images.shape
        if not h or not w or h % DOWNSAMPLE or w % DOWNSAMPLE:
            raise ValueError(f"images: got {w}x{h} pixels, takes sides that are multiples of {DOWNSAMPLE}")
        codes = np.empty((n, h // DOWNSAMPLE, w // DOWNSAMPLE), np.int32)
        for image, grid in zip(images, codes, strict=True):  # one by one: see the docstring
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
            grid[:] = self.network.nearest(self.network.features(pixels.float() / 127.5 - 1))[0].numpy()
        return codes

    @torch.inference_mode()
    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Decode codes [n, h, w] to RGB images uint8 [n, 8 h, 8 w, 3]."""
        if codes.ndim != 3 or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"codes: got {codes.dtype} {list(codes.shape)}, takes integers [n, h, w]")
        if codes.size and (codes.min() < 0 or codes.max() >= CODEBOOK_SIZE):
            raise ValueError(f"codes: got {codes.min()} .. {codes.max()}, takes 0 .. {CODEBOOK_SIZE - 1}")
        n, h, w = (int(side) for side in codes.shape)
        images = np.empty((n, h * DOWNSAMPLE, w * DOWNSAMPLE, 3), np.uint8)
        for part in _parts(n, h * w * DOWNSAMPLE**2):
            vectors = self.network.vectors(torch.from_numpy(codes[part].astype(np.int64)))
            pixels = self.network.decoder(vectors).add_(1).mul_(127.5).round_().clamp_(0, 255)
            images[part] = pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return images


def _parts(n: int, pixels: int) -> list[slice]:
    """Cuts n images of a size into parts for one pass."""
    step = max(1, PIXELS_AT_ONCE // max(pixels, 1))
    return [slice(start, start + step) for start in range(0, n, step)]
