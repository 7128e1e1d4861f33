"""The codec `emu3`: the video VQGAN of Emu3, of one image, in transformers' `Emu3VQVAE`."""

from typing import Any

import torch
from torch import Tensor

from rasterloom.errors import one_line
from rasterloom.tokenize.codecs.codec_weights import (
    OF_PIXELS,
    Weights,
    codec_weights,
    read_tensors,
    settings_of,
)
from rasterloom.tokenize.codecs.vqgan import VqCodec


class Emu3Codec(VqCodec):
    """Emu3's tokenizer.

    An image is encoded as four equal frames, as Emu3 does it, and is the first of the four that are decoded.
    See `rasterloom.tokenize.codecs.base.Codec` for the methods.
    """

    @staticmethod
    def load_network(found: Weights) -> tuple[Any, bool]:
        """Return transformers' `Emu3VQVAE` in fp32, which has a decoder.

        Raises:
            ValueError: its config is missing or of another model, or tensors are missing, left over or of
                another shape.
        """
        from transformers import Emu3VQVAE, Emu3VQVAEConfig  # heavy

        settings = settings_of(found.config) if found.config else {}
        if settings.pop("model_type", "") != Emu3VQVAEConfig.model_type:
            raise ValueError("beside it is no config.json of transformers' Emu3 or Emu3VQVAE")
        tensors = read_tensors(found)
        try:
            with torch.device("meta"):
                network = Emu3VQVAE(
                    Emu3VQVAEConfig(**{k: v for k, v in settings.items() if k not in OF_PIXELS})
                )
            network.load_state_dict(tensors, assign=True)
        except (RuntimeError, TypeError) as error:
            raise ValueError(one_line(error, limit=300)) from None
        return network.eval().requires_grad_(False), True

    def sizes(self) -> tuple[int, int]:
        return self.network.spatial_scale_factor, self.network.quantize.embedding.num_embeddings

    def place(self) -> None:
        self.network.to(self.device)
        self.network.encoder.to(self.dtype)
        self.network.decoder.to(self.dtype)
        scale = scale_of(codec_weights(self.name, self.weights))
        self._mean, self._deviation = (torch.tensor(one, device=self.device)[:, None, None] for one in scale)

    def floats(self, images: Tensor) -> Tensor:
        """Pixels uint8 [n, h, w, 3] to float32 [n, 3, h, w], less their mean, by their deviation."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._deviation

    def vectors(self, pixels: Tensor) -> Tensor:
        frames = self.network.config.temporal_downsample_factor
        video = pixels.to(self.dtype)[:, None].repeat(1, frames, 1, 1, 1)
        latent = self.network.encoder(video).float().transpose(1, 2)
        found: Tensor = self.network.quant_conv(latent)
        return found[:, :, 0]

    def pixels(self, codes: Tensor) -> Tensor:
        n, h, w = codes.shape
        quantised = self._codebook[codes].permute(0, 3, 1, 2)[:, :, None]
        latent = self.network.post_quant_conv(quantised).transpose(1, 2).to(self.dtype)
        frames = self.network.decoder(latent, quantised.transpose(1, 2).to(self.dtype)).float()
        video = frames.reshape(n, -1, 3, h * self.downsample, w * self.downsample)
        pixels: Tensor = (video[:, 0] * self._deviation + self._mean) * 255
        return pixels.clamp(0, 255)


def scale_of(found: Weights) -> tuple[list[float], list[float]]:
    """Return mean and deviation of the pixels: those of the folder's image processor, else its class's."""
    from transformers import Emu3ImageProcessor  # heavy

    usual = Emu3ImageProcessor()
    given = settings_of(found.config) if found.config else {}
    mean, deviation = (list(given.get(name) or getattr(usual, name)) for name in OF_PIXELS)
    return mean, deviation
