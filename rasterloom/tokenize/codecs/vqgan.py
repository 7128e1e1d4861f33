"""The codecs `chameleon`, `movq` and `llamagen`: VQGANs in diffusers' `VQModel` (docs/codecs.md)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rasterloom.schema import Profile
from rasterloom.tokenize.codecs.codec_weights import Weights, codec_weights, digest_of, read_tensors
from rasterloom.tokenize.codecs.tensor_names import DECODING, architecture, diffusers_names
from rasterloom.tokenize.codecs.winograd_encoder import WinogradEncoder
from rasterloom.utils.malloc import keep_freed_memory
from rasterloom.utils.oom_batches import FittingBatches

# The reference's way from pixels to floats: in float64, then rounded once.
PIXELS = torch.from_numpy((np.arange(256) / 255.0 * 2 - 1).astype(np.float32))
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}

IMAGES_AT_ONCE = 32  # on a GPU; fewer where its memory does not hold them
FEEDERS = 2  # threads that decode and crop for a GPU, at least
LLAMAGEN_LENGTH = 8  # of a code's vector; other networks of 16 pixels and 16,384 codes have longer ones
VECTORS_AT_ONCE = 4096  # that are compared with the codebook: 4096 x 16384 distances take 256 MiB


class VqCodec:
    """A VQGAN on the CPU or a GPU. See `rasterloom.tokenize.codecs.base.Codec` for the methods.

    Args:
        profile: name, downsampling and number of codes that the weights must have.
        weights: what `weights.codec_weights` takes.
        threads: how many torch may use in this process; None leaves it alone.
        precision: fp32; tf32, which convolutions on a GPU compute in; or bf16 for all but the first and the
            last layers and the search for codes.
        device: cpu or cuda; None takes a GPU where torch sees one.

    Raises:
        ValueError: no weights, weights of another network, or an unknown precision.
    """

    def __init__(
        self,
        profile: Profile,
        weights: str,
        threads: int | None = None,
        *,
        precision: str = "fp32",
        device: str | None = None,
    ) -> None:
        if precision not in DTYPES:
            raise ValueError(f"precision: got {precision!r}, takes {', '.join(DTYPES)}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.name, self.weights = profile.name, weights
        self.downsample, self.codebook_size = profile.downsample, profile.codebook_size
        self.digest = self.digest_of(profile.name, weights)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.at_once = 1 if self.device.type == "cpu" else IMAGES_AT_ONCE
        if self.device.type == "cuda":  # torch has as many threads as Ray gives this actor CPUs
            self.feeders = max(FEEDERS, torch.get_num_threads())
        self._copies: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._batches = FittingBatches("images")
        self.dtype = DTYPES[precision]
        self._tf32 = precision == "tf32"
        found = codec_weights(profile.name, weights)
        try:
            self.network, self.can_decode = self.load_network(found)
            sizes = self.sizes()
            if sizes != (profile.downsample, profile.codebook_size):
                raise ValueError(
                    f"the network has {sizes[0]} pixels a side of a code and {sizes[1]} codes, the codec "
                    f"{profile.downsample} and {profile.codebook_size}"
                )
        except ValueError as error:
            raise ValueError(f"{weights} cannot be codec {profile.name}: {error}") from None
        self._codebook: Tensor = self.network.quantize.embedding.weight
        if self.directions:
            self._codebook.data = F.normalize(self._codebook.data, dim=1)
        self.place()
        self._codebook = self.network.quantize.embedding.weight
        self._norms = (self._codebook**2).sum(1)
        self._pixels = PIXELS.to(self.device)

    # What a codec of another network does in its own way.

    directions = False  # True: a code is the direction of its vector, whose length does not matter
    digest_of = staticmethod(digest_of)

    @staticmethod
    def load_network(found: Weights) -> tuple[Any, bool]:
        """Load the network. ValueError: weights of another."""
        return load_network(found)

    def sizes(self) -> tuple[int, int]:
        """Downsampling, and number of codes."""
        return 2 ** (
            len(self.network.encoder.down_blocks) - 1
        ), self.network.quantize.embedding.num_embeddings

    def place(self) -> None:
        """Move the network to its device and types."""
        self.network.to(self.device, memory_format=torch.channels_last)
        self.network.encoder.down_blocks.to(self.dtype)
        self.network.encoder.mid_block.to(self.dtype)
        if self.can_decode:
            self.network.decoder.to(self.dtype)
        on_cpu = self.device.type == "cpu" and self.dtype == torch.float32
        self._winograd = WinogradEncoder(self.network.encoder) if on_cpu else None
        if on_cpu:
            keep_freed_memory()

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Encode RGB images uint8 [n, h, w, 3] as codes int32 [n, h / downsample, w / downsample].

        On the CPU an image's codes do not depend on its company: images pass one by one, which is no
        slower. On a GPU they pass in batches, whose size can turn a code that lies between two.
        """
        return self.begin(images)()

    @torch.inference_mode()
    def begin(self, images: NDArray[np.uint8]) -> Callable[[], NDArray[np.int32]]:
        """Begin to encode; return what waits for the codes. A GPU goes on by itself, a CPU is done."""
        step = self.downsample
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images: got {images.dtype} {list(images.shape)}, takes uint8 [n, h, w, 3]")
        h, w = images.shape[1:3]
        if not h or not w or h % step or w % step:
            raise ValueError(f"images: got {w}x{h} pixels, takes sides that are multiples of {step}")
        with _same_every_time(tf32=self._tf32):
            parts = self._batches.over(self._encode, images, self.at_once, like=("encode", h, w))  # type: ignore[arg-type]
        none = np.empty((0, h // step, w // step), np.int32)
        return lambda: np.concatenate([none, *(wait() for wait in parts)])

    def _encode(self, images: NDArray[np.uint8]) -> Callable[[], NDArray[np.int32]]:
        codes = self.nearest(self.vectors(self.floats(self._sent(images)))).to(torch.int32)
        if self._copies is None:
            return codes.numpy
        found = codes.to("cpu", non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()

        def wait() -> NDArray[np.int32]:
            copied.synchronize()
            array: NDArray[np.int32] = found.numpy()
            return array

        return wait

    def _sent(self, images: NDArray[np.uint8]) -> Tensor:
        """The images on the device. A GPU copies them while it computes what came before."""
        if self._copies is None:
            return torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        pinned = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
        np.copyto(pinned.numpy(), images)
        with torch.cuda.stream(self._copies):
            data = pinned.to(self.device, non_blocking=True)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self._copies)
        data.record_stream(now)  # whose turn it is to use the memory
        return data

    def vectors(self, pixels: Tensor) -> Tensor:
        """Floats [n, 3, h, w] to the vectors before quantisation,
        [n, d, h / downsample, w / downsample].

        The first layer stays in fp32, as bf16 would round the pixels; so do the last ones, on whose output
        a code hangs. Together they are 2 % of the work.
        In fp32 on the CPU, `winograd` does the whole of it.
        """
        encoder = self.network.encoder
        if self._winograd and len(pixels) == 1:
            x = self._winograd(pixels)
            return self.network.quant_conv(x)  # type: ignore[no-any-return]
        x = encoder.conv_in(pixels).to(self.dtype)
        for block in encoder.down_blocks:
            x = block(x)
        x = encoder.mid_block(x).float()
        found: Tensor = self.network.quant_conv(encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(x))))
        return found

    def floats(self, images: Tensor) -> Tensor:
        """Pixels uint8 [n, h, w, 3] to what the network takes: float32 [n, 3, h, w] in -1 .. 1."""
        return self._pixels[images.int()].permute(0, 3, 1, 2)

    def nearest(self, vectors: Tensor) -> Tensor:
        """The code of each vector: [n, d, h, w] to int64 [n, h, w].

        Distances are in fp32 and summed in the reference's order, so that it and we see the same ties.
        """
        n, d, h, w = vectors.shape
        flat = vectors.float().permute(0, 2, 3, 1).reshape(-1, d)
        flat = F.normalize(flat, dim=1) if self.directions else flat
        found = [
            torch.argmin((part**2).sum(1, keepdim=True) + self._norms - 2 * (part @ self._codebook.T), dim=1)
            for part in torch.split(flat, VECTORS_AT_ONCE)
        ]
        return torch.cat(found).reshape(n, h, w)

    @torch.inference_mode()
    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Decode codes [n, h, w] to RGB images uint8 [n, h * downsample, w * downsample, 3]."""
        if not self.can_decode:
            raise ValueError(
                f"{self.weights} holds the encoder of {self.name} alone, and cannot decode codes to images; "
                "Meta's vqgan.ckpt and diffusers' folders hold both"
            )
        if codes.ndim != 3 or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"codes: got {codes.dtype} {list(codes.shape)}, takes integers [n, h, w]")
        if codes.size and (codes.min() < 0 or codes.max() >= self.codebook_size):
            raise ValueError(
                f"codes: got {codes.min()} .. {codes.max()}, takes 0 .. {self.codebook_size - 1}"
            )
        h, w = (side * self.downsample for side in codes.shape[1:])
        with _same_every_time(tf32=self._tf32):
            parts = self._batches.over(self._decode, codes, self.at_once, like=("decode", h, w))  # type: ignore[arg-type]
        return np.concatenate([np.empty((0, h, w, 3), np.uint8), *parts])

    def _decode(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        pixels = self.pixels(torch.from_numpy(codes.astype(np.int64)).to(self.device))
        images: NDArray[np.uint8] = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return images

    def pixels(self, codes: Tensor) -> Tensor:
        """Codes int64 [n, h, w] to float32 [n, 3, h * downsample, w * downsample] in 0 .. 255."""
        quantised = self._codebook[codes].permute(0, 3, 1, 2)
        spatial = self.network.config["norm_type"] == "spatial"
        latent = self.network.post_quant_conv(quantised).to(self.dtype)
        pixels: Tensor = self.network.decoder(latent, quantised.to(self.dtype) if spatial else None).float()
        return (pixels.clamp(-1, 1) + 1) * 127.5


class LlamaGenCodec(VqCodec):
    """The VQ-16 of LlamaGen and Janus, whose codes are directions of vectors.

    Its quantiser brings vectors and codebook to length 1 (LlamaGen, ``vq_model.py``, ``codebook_l2_norm``).
    """

    directions = True

    @staticmethod
    def load_network(found: Weights) -> tuple[Any, bool]:
        """Load the network. ValueError: weights of another, as of taming's with as many codes."""
        network, can_decode = load_network(found)
        length = network.quantize.embedding.embedding_dim
        if length != LLAMAGEN_LENGTH:
            raise ValueError(f"its codes are vectors of {length} numbers, LlamaGen's of {LLAMAGEN_LENGTH}")
        return network, can_decode


@contextmanager
def _same_every_time(*, tf32: bool) -> Iterator[None]:
    """Deterministic convolutions in float32; without TF32 they are those of any device."""
    with torch.backends.cudnn.flags(
        enabled=True,
        benchmark=False,
        deterministic=True,
        allow_tf32=tf32,
        fp32_precision="tf32" if tf32 else "ieee",
    ):
        yield


def load_network(weights: Weights) -> tuple[Any, bool]:
    """Return diffusers' `VQModel` in fp32, and whether it has a decoder.

    Raises:
        ValueError: tensors are missing, left over or of another shape than the network's
    """
    from diffusers import VQModel  # heavy

    tensors = read_tensors(weights)
    names = diffusers_names(tensors)
    tensors = {names[name]: tensor for name, tensor in tensors.items()}
    can_decode = "decoder.conv_in.weight" in tensors
    if not can_decode:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(DECODING)}
    if weights.config:
        config = VQModel.load_config(weights.config.parent, local_files_only=True)
    else:
        config = architecture({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    with torch.device("meta"):  # tensors of their own would only cost time
        network = VQModel.from_config(config)
    if not can_decode:
        network.decoder = network.post_quant_conv = None
    wanted = network.state_dict()
    for name in sorted(wanted.keys() - tensors.keys())[:1]:
        raise ValueError(f"the tensor {name} is missing")
    for name in sorted(tensors.keys() - wanted.keys())[:1]:
        raise ValueError(f"it has a tensor {name}, for which the network has no place")
    for name, tensor in tensors.items():
        # Attention of taming's is a convolution of one pixel, with two sides of length 1 at the end.
        if tensor.ndim == wanted[name].ndim + 2 and tensor.shape[2:] == (1, 1):
            tensors[name] = tensor = tensor[:, :, 0, 0]
        if tensor.shape != wanted[name].shape:
            got, takes = list(tensor.shape), list(wanted[name].shape)
            raise ValueError(f"the tensor {name} has the shape {got}, its place {takes}")
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False), can_decode
