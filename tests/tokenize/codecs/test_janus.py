"""`llamagen` from a Janus of transformers, whose codes and images are the same."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from rasterloom.tokenize.codecs.load import load_codec

SMALL = {
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2, 2, 3],
    "num_res_blocks": 1,
    "latent_channels": 16,
    "embed_dim": 8,
    "num_embeddings": 16384,
}


@pytest.fixture(scope="module")
def image():
    rough = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(rough).resize((64, 64), Image.Resampling.BICUBIC))


def as_floats(image):
    return torch.from_numpy(image[None] / 255.0 * 2 - 1).float().permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def network(image):
    """transformers' network. Its quantiser leaves lengths as they are, LlamaGen's and so Janus's brings them
    to 1: with a codebook of length 1 both are the same."""
    from transformers import JanusVQVAE, JanusVQVAEConfig

    torch.manual_seed(1)
    found = JanusVQVAE(JanusVQVAEConfig(**SMALL, num_patches=4)).eval().requires_grad_(False)
    vectors = found.quant_conv(found.encoder(as_floats(image)))
    mean, deviation = (f(vectors.transpose(0, 1).flatten(1), dim=1) for f in (torch.mean, torch.std))
    table = found.quantize.embedding.weight
    table.data = F.normalize(torch.randn(table.shape) * deviation + mean, dim=1)
    return found


@pytest.mark.parametrize("prefix", ["model.vqmodel.", "gen_vision_model.", ""])
def test_codes_and_images_are_those_of_transformers(network, image, tmp_path, prefix):
    from safetensors.torch import save_file

    others = {"model.language_model.norm.weight": torch.zeros(3)} if prefix else {}
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    save_file(state | others, tmp_path / "model.safetensors")
    codec = load_codec("llamagen", tmp_path)
    codes = codec.encode(image[None])
    with torch.inference_mode():
        wanted = network.encode(as_floats(image)).image_tokens
        decoded = network.decode(torch.from_numpy(codes).long().reshape(1, -1))
    np.testing.assert_array_equal(codes.ravel(), wanted.numpy().ravel())
    assert len(np.unique(codes)) > codes.size / 4
    pixels = np.clip((decoded.permute(0, 2, 3, 1).numpy() + 1) * 127.5, 0, 255)
    assert pixels.std() > 1
    assert np.abs(codec.decode(codes) - pixels).max() <= 0.51


def test_a_network_of_as_many_codes_that_are_no_directions_is_refused(network, tmp_path):
    from safetensors.torch import save_file

    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in ("quantize.embedding.weight", "quant_conv.weight", "quant_conv.bias"):
        state[name] = torch.cat([state[name]] * 2, dim=1 if name.startswith("quantize") else 0)
    state["post_quant_conv.weight"] = torch.cat([state["post_quant_conv.weight"]] * 2, dim=1)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="codes are vectors of 16 numbers, LlamaGen's of 8"):
        load_codec("llamagen", tmp_path)
