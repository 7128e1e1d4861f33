"""`emu3`: codes and images equal those of transformers' network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rasterloom.tokenize.codecs.load import codec_digest, load_codec

SMALL = {
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2, 3],
    "num_res_blocks": 1,
    "hidden_size": 96,
}


@pytest.fixture(scope="module")
def images():
    rough = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    found = [Image.fromarray(one).resize((64, 48), Image.Resampling.BICUBIC) for one in rough]
    return np.stack([np.asarray(one) for one in found])


@pytest.fixture(scope="module")
def processor():
    from transformers import Emu3ImageProcessor

    return Emu3ImageProcessor(do_resize=False, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.6, 0.7])


@pytest.fixture(scope="module")
def network(images, processor):
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    torch.manual_seed(1)
    found = Emu3VQVAE(Emu3VQVAEConfig(**SMALL)).eval().requires_grad_(False)
    for (
        parameter
    ) in found.encoder.parameters():  # of random weights the last layers would see next to nothing
        parameter.mul_(1.2)
    pixels = as_floats(processor, images)[:, None].repeat(1, 4, 1, 1, 1)
    vectors = found.quant_conv(found.encoder(pixels).permute(0, 2, 1, 3, 4))
    mean, deviation = (f(vectors.transpose(0, 1).flatten(1), dim=1) for f in (torch.mean, torch.std))
    table = found.quantize.embedding.weight
    table.data = torch.randn(table.shape) * deviation + mean
    return found


def as_floats(processor, images):
    return processor(images=[Image.fromarray(one) for one in images], return_tensors="pt")["pixel_values"]


@pytest.fixture(scope="module")
def folder(network, processor, tmp_path_factory):
    path = tmp_path_factory.mktemp("emu3")
    network.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_codes_and_images_are_those_of_transformers(network, processor, folder, images):
    codec = load_codec("emu3", folder)
    assert (codec.downsample, codec.codebook_size, codec.can_decode) == (8, 32768, True)
    codes = codec.encode(images)
    pixels = as_floats(processor, images)
    assert tuple(pixels.shape[2:]) == images.shape[1:3]
    with torch.inference_mode():
        wanted = network.encode(pixels, image_sizes=torch.tensor([[48, 64]] * 2)).image_tokens
        decoded = network.decode(torch.from_numpy(codes).long())
    np.testing.assert_array_equal(codes, torch.stack(wanted).numpy())
    assert len(np.unique(codes)) > codes.size / 4
    scaled = decoded.permute(0, 2, 3, 1) * torch.tensor(processor.image_std) + torch.tensor(
        processor.image_mean
    )
    expected = np.clip(scaled.numpy() * 255, 0, 255)
    assert expected.std() > 1
    assert np.abs(codec.decode(codes) - expected).max() <= 0.51


def test_a_whole_emu3_is_the_same_codec(network, processor, folder, images, tmp_path):
    from safetensors.torch import save_file

    state = {f"model.vqmodel.{name}": tensor for name, tensor in network.state_dict().items()}
    save_file(state | {"model.text_model.norm.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    config = {"model_type": "emu3", "vq_config": network.config.to_dict(), "text_config": {"hidden_size": 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor.save_pretrained(tmp_path)
    np.testing.assert_array_equal(
        load_codec("emu3", tmp_path).encode(images), load_codec("emu3", folder).encode(images)
    )
    assert codec_digest("emu3", tmp_path) == codec_digest("emu3", folder)


def test_other_pixels_are_another_codec(network, folder, tmp_path):
    network.save_pretrained(tmp_path)
    assert codec_digest("emu3", tmp_path) != codec_digest("emu3", folder)
    assert codec_digest("emu3", tmp_path) == load_codec("emu3", tmp_path).digest


def test_bf16_is_near_fp32(folder, images):
    exact, fast = load_codec("emu3", folder), load_codec("emu3", folder, precision="bf16")
    codes = exact.encode(images)
    assert 0.1 < (fast.encode(images) == codes).mean() <= 1
    assert np.abs(fast.decode(codes).astype(float) - exact.decode(codes)).mean() < 4


def test_weights_of_another_network_are_refused(network, folder, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json of transformers' Emu3"):
        load_codec("emu3", next(folder.glob("*.safetensors")))
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"base_channels": 64, "hidden_size": 192}))
    with pytest.raises(ValueError, match=r"cannot be codec emu3: .*size mismatch"):
        load_codec("emu3", tmp_path)
