"""A VQGAN as taming-transformers and SBER's MoVQGAN publish it, written anew for the tests.

Only names, order of layers and arithmetic are theirs; it stands in for their code, so that the maps of names
are tested against a network that diffusers had no part in. Its state dict has taming's names.
"""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn


class SpatialNorm(nn.Module):
    def __init__(self, width, code_dim):
        super().__init__()
        self.norm_layer = nn.GroupNorm(32, width, eps=1e-6)
        self.conv_y, self.conv_b = nn.Conv2d(code_dim, width, 1), nn.Conv2d(code_dim, width, 1)

    def forward(self, x, codes):
        codes = F.interpolate(codes, size=x.shape[-2:], mode="nearest")
        return self.norm_layer(x) * self.conv_y(codes) + self.conv_b(codes)


class Norm(nn.GroupNorm):
    def __init__(self, width):
        super().__init__(32, width, eps=1e-6)

    def forward(self, x, codes):
        return super().forward(x)


def swish(x):
    return x * torch.sigmoid(x)


def norm(width, code_dim):
    return SpatialNorm(width, code_dim) if code_dim else Norm(width)


class Resnet(nn.Module):
    def __init__(self, before, after, code_dim):
        super().__init__()
        self.norm1, self.conv1 = norm(before, code_dim), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = norm(after, code_dim), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x, codes):
        change = self.conv1(swish(self.norm1(x, codes)))
        change = self.conv2(swish(self.norm2(change, codes)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + change


class Attention(nn.Module):
    def __init__(self, width, code_dim):
        super().__init__()
        self.norm = norm(width, code_dim)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x, codes):
        y = self.norm(x, codes)
        q, k, v = (layer(y).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q.transpose(1, 2) @ k * q.shape[1] ** -0.5, dim=2)
        return x + self.proj_out((v @ weights.transpose(1, 2)).reshape(x.shape))


class Level(nn.Module):
    """One resolution: blocks, attention after each where asked for, then a change of size."""

    def __init__(self, before, after, blocks, attends, code_dim, resize):
        super().__init__()
        self.block = nn.ModuleList(
            Resnet(before if n == 0 else after, after, code_dim) for n in range(blocks)
        )
        self.attn = nn.ModuleList(Attention(after, code_dim) for _ in range(blocks if attends else 0))
        if resize:
            layer = nn.Module()
            layer.conv = nn.Conv2d(after, after, 3, stride=2) if resize == "downsample" else None
            layer.conv = layer.conv or nn.Conv2d(after, after, 3, padding=1)
            setattr(self, resize, layer)

    def forward(self, x, codes=None):
        for n, block in enumerate(self.block):
            x = block(x, codes)
            x = self.attn[n](x, codes) if self.attn else x
        if hasattr(self, "downsample"):
            x = self.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        if hasattr(self, "upsample"):
            x = self.upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


def middle(width, code_dim):
    mid = nn.Module()
    mid.block_1, mid.block_2 = Resnet(width, width, code_dim), Resnet(width, width, code_dim)
    mid.attn_1 = Attention(width, code_dim)
    return mid


class Half(nn.Module):
    """The encoder, or the decoder with ``decoding``."""

    def __init__(self, widths, blocks, latent, attends, decoding, code_dim):
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(latent if decoding else 3, widths[-1 if decoding else 0], 3, padding=1)
        self.mid = middle(widths[-1], code_dim)
        if decoding:
            before = [*widths[1:], widths[-1]]
            self.up = nn.ModuleList(
                Level(b, w, blocks + 1, n == last and attends, code_dim, "upsample" if n else None)
                for n, (b, w) in enumerate(zip(before, widths, strict=True))
            )
        else:
            before = [widths[0], *widths[:-1]]
            self.down = nn.ModuleList(
                Level(b, w, blocks, n == last and attends, 0, "downsample" if n < last else None)
                for n, (b, w) in enumerate(zip(before, widths, strict=True))
            )
        self.norm_out = norm(widths[0 if decoding else -1], code_dim)
        self.conv_out = nn.Conv2d(widths[0 if decoding else -1], 3 if decoding else latent, 3, padding=1)

    def forward(self, x, codes=None):
        x = self.conv_in(x)
        for level in getattr(self, "down", ()):
            x = level(x)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x, codes), codes), codes)
        for level in reversed(getattr(self, "up", ())):
            x = level(x, codes)
        return self.conv_out(swish(self.norm_out(x, codes)))


class Taming(nn.Module):
    """Arguments: channels of the levels, blocks a level, channels of the latent and of a code, number
    of codes; MoVQ's two traits: attention at the coarsest level, and norms that see the codes; and
    LlamaGen's: codes that are directions."""

    def __init__(
        self, widths, blocks, latent, code_dim, codes, attends=False, spatial=False, directions=False
    ):
        super().__init__()
        self.directions = directions
        self.encoder = Half(widths, blocks, latent, attends, False, 0)
        self.decoder = Half(widths, blocks, latent, attends, True, code_dim if spatial else 0)
        self.quant_conv = nn.Conv2d(latent, code_dim, 1)
        self.post_quant_conv = nn.Conv2d(code_dim, latent, 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, code_dim)

    @torch.inference_mode()
    def encode(self, pixels):
        z = self.quant_conv(self.encoder(pixels))
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        table = self.quantize.embedding.weight
        if self.directions:
            flat, table = F.normalize(flat, dim=1), F.normalize(table, dim=1)
        distances = (flat**2).sum(1, keepdim=True) + (table**2).sum(1) - 2 * flat @ table.T
        return distances.argmin(1).reshape(z.shape[0], *z.shape[2:])

    @torch.inference_mode()
    def decode(self, codes):
        """Codes [n, h, w] to floats [n, 3, h', w'] in about -1 .. 1."""
        vectors = self.quantize.embedding(codes)
        vectors = F.normalize(vectors, dim=-1) if self.directions else vectors
        quantised = vectors.permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(quantised), quantised)


SMALL = {
    "chameleon": {"widths": (32, 32, 64, 64, 96), "blocks": 1, "latent": 16, "code_dim": 16, "codes": 8192},
    "movq": {
        "widths": (32, 64, 64, 96),
        "blocks": 1,
        "latent": 4,
        "code_dim": 4,
        "codes": 16384,
        "attends": True,
        "spatial": True,
    },
    "llamagen": {
        "widths": (32, 32, 64, 64, 96),
        "blocks": 1,
        "latent": 16,
        "code_dim": 8,
        "codes": 16384,
        "attends": True,
        "directions": True,
    },
}
FULL = {
    "chameleon": {
        "widths": (128, 128, 256, 256, 512),
        "blocks": 2,
        "latent": 256,
        "code_dim": 256,
        "codes": 8192,
    },
    "movq": SMALL["movq"] | {"widths": (256, 512, 512, 1024), "blocks": 2},
    "llamagen": SMALL["llamagen"] | {"widths": (128, 128, 256, 256, 512), "blocks": 2, "latent": 256},
}


def taming(codec):
    """A network of the codec's layout with random weights, its codes spread as the vectors are."""
    torch.manual_seed(0)
    network = Taming(**SMALL[codec]).eval().requires_grad_(False)
    with torch.inference_mode():
        pixels = F.interpolate(torch.rand(2, 3, 8, 8), size=64, mode="bicubic") * 2 - 1
        vectors = network.quant_conv(network.encoder(pixels))
    spread, middle_ = torch.std_mean(vectors.transpose(0, 1).flatten(1), dim=1)
    network.quantize.embedding.weight.data.mul_(spread).add_(middle_)
    return network


@pytest.fixture(scope="session")
def full_taming():
    """A function that makes the network of a codec in full size."""
    return lambda codec: Taming(**FULL[codec])


@pytest.fixture(scope="session", params=["chameleon", "movq", "llamagen"])
def codec_name(request):
    return request.param


@pytest.fixture(scope="session")
def network(codec_name):
    """A small network of taming's, one of each codec."""
    return taming(codec_name)


def in_llamagens_words(state, levels=5):
    """The tensors under the names of LlamaGen's `vq_model.py`, which numbers from the coarsest."""

    def named(name):
        name = re.sub(r"encoder\.down\.(\d)", r"encoder.conv_blocks.\1", name)
        name = re.sub(r"decoder\.up\.(\d)", lambda m: f"decoder.conv_blocks.{levels - 1 - int(m[1])}", name)
        for ours, theirs in ((".block.", ".res."), ("block_1", "0"), ("attn_1", "1"), ("block_2", "2")):
            name = name.replace(ours, theirs)
        return name

    return {named(name): tensor for name, tensor in state.items()}


@pytest.fixture(scope="session")
def checkpoint(codec_name, network, tmp_path_factory):
    """Its checkpoint, as Lightning leaves it: nested, and with what it was trained with."""
    if codec_name == "llamagen":
        path = tmp_path_factory.mktemp(codec_name) / "vq_ds16_c2i.pt"
        state = in_llamagens_words(network.state_dict()) | {"quantize.codebook_used": torch.zeros(65536)}
        torch.save({"model": state}, path)
        return path
    path = tmp_path_factory.mktemp(codec_name) / "vqgan.ckpt"
    extra = {"loss.discriminator.main.0.weight": torch.zeros(2), "quantize.cluster_size": torch.zeros(3)}
    torch.save({"state_dict": network.state_dict() | extra, "epoch": 3}, path)
    return path
