"""Convolutions by Winograd's filtering against plain ones in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from rasterloom.tokenize.codecs import winograd_encoder
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.codecs.winograd_encoder import Buffers, Map, Plain, Winograd


@pytest.fixture
def layers():
    torch.manual_seed(0)
    norm, conv = nn.GroupNorm(32, 64, eps=1e-6), nn.Conv2d(64, 96, 3, padding=1)
    nn.init.normal_(norm.weight, 1, 0.2)
    nn.init.normal_(norm.bias)
    return norm.requires_grad_(False), conv.requires_grad_(False)


def in_float64(layers, values, plus):
    norm, conv = (layer.double() for layer in layers)
    found = conv(nn.functional.silu(norm(values.double().permute(2, 0, 1)[None])))[0].permute(1, 2, 0)
    for layer in layers:
        layer.float()
    return found + plus


@pytest.mark.parametrize("size", [(4, 4), (8, 64), (64, 8), (5, 7), (18, 14), (1, 1), (33, 2), (16, 600)])
def test_it_is_the_plain_convolution(layers, size):
    buffers = Buffers()
    for seed in range(2):  # the second time on buffers that are full of the first
        torch.manual_seed(seed)
        values, plus = torch.randn(*size, 64) * 2 + 1, torch.randn(*size, 96)
        wanted = in_float64(layers, values, plus)
        found = Winograd(*layers, buffers)(Map.of(values), "x", plus)
        torch.testing.assert_close(found.values.double(), wanted, rtol=0, atol=3e-5)
        torch.testing.assert_close(found.sums, Map.of(found.values).sums, rtol=1e-5, atol=1e-3)
        without = Winograd(*layers, buffers)(Map.of(values), "x").values.double()
        torch.testing.assert_close(without, wanted - plus, rtol=0, atol=3e-5)
        plain = Plain(*layers)(Map.of(values), "x", plus).values.double()
        torch.testing.assert_close(plain, wanted, rtol=0, atol=3e-5)


def test_the_sums_may_lie_where_the_input_lay(layers):
    """As in a chain of residual blocks: what is added is in the buffer that the result goes to."""
    norm, _ = layers
    conv = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    buffers = Buffers()
    values = torch.randn(12, 20, 64)
    place = buffers.get("x", 12, 20, 64).copy_(values)
    wanted = in_float64((norm, conv), values, values)
    first = Map.of(place)
    found = Winograd(norm, conv, buffers)(Map(values, first.sums), "x", place)
    assert found.values.data_ptr() == place.data_ptr()
    torch.testing.assert_close(found.values.double(), wanted, rtol=0, atol=3e-5)


@pytest.mark.parametrize("largest", [512 * 512, 0])
def test_an_encoder_gives_the_vectors_of_diffusers(codec_name, checkpoint, monkeypatch, largest):
    """At sizes that are and are not whole tiles, one after the other."""
    monkeypatch.setattr(winograd_encoder, "LARGEST", largest)
    codec = load_codec(codec_name, checkpoint)
    rng = np.random.default_rng(0)
    for height, width in ((64, 64), (96, 160), (32, 32), (64, 224)):
        image = torch.from_numpy(rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8))
        with torch.inference_mode():
            pixels = codec.floats(image)
            wanted = codec.network.quant_conv(codec.network.encoder(pixels))
            torch.testing.assert_close(codec.vectors(pixels), wanted, rtol=1e-4, atol=1e-4)
