"""`chameleon`, `movq` and `llamagen`: codes and pictures equal those of networks that others wrote."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from rasterloom.tokenize.codecs.load import codec_digest, load_codec
from rasterloom.tokenize.codecs.vqgan import PIXELS


@pytest.fixture(scope="module")
def codec(codec_name, checkpoint):
    return load_codec(codec_name, checkpoint)


@pytest.fixture(scope="module")
def images():
    """Soft random pictures, two of one bucket."""
    rough = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(picture(one)) for one in rough])


def picture(pixels):
    return Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC)


def as_reference(images):
    """The reference's pixels: float64, then the type of the weights; NCHW."""
    return torch.from_numpy(images / 255.0 * 2 - 1).float().permute(0, 3, 1, 2)


def test_pixels_become_the_references_floats():
    # golden.json of the reference, pixel_to_float_lut: ImageTokenizer.img_tokens_from_pil
    digest = "b4925e7ab450610f0996fb5700e2b9cda8e3a8d98983df9659a9d9d6b952397b"
    assert hashlib.sha256(PIXELS.numpy().astype("<f4").tobytes()).hexdigest() == digest
    assert PIXELS[[0, 1, 127, 128, 254, 255]].tolist() == [
        -1.0,
        -0.9921568632125854,
        -0.003921568859368563,
        0.003921568859368563,
        0.9921568632125854,
        1.0,
    ]


def test_codes_are_tamings(codec, network, images):
    codes = codec.encode(images)
    wanted = np.concatenate([network.encode(as_reference(image[None])).numpy() for image in images])
    assert codes.dtype == np.int32
    assert codes.shape == (2, 64 // codec.downsample, 96 // codec.downsample)
    np.testing.assert_array_equal(codes, wanted)
    assert len(np.unique(codes)) > codes.size / 4  # the network tells squares apart


def test_images_are_tamings(codec, network, images):
    codes = codec.encode(images)
    wanted = network.decode(torch.from_numpy(codes).long()).permute(0, 2, 3, 1).numpy()
    wanted = np.clip((wanted + 1) * 127.5, 0, 255)
    decoded = codec.decode(codes)
    assert decoded.dtype == np.uint8 and decoded.shape == images.shape
    assert wanted.std() > 1
    assert np.abs(decoded - wanted).max() <= 0.51


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_are_those_of_transformers(tmp_path, images, dtype):
    """A Chameleon of transformers, in shards: codes equal to the last one; it has no decoder."""
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    layout = {
        "base_channels": 32,
        "channel_multiplier": [1, 1, 2, 2, 3],
        "num_res_blocks": 1,
        "embed_dim": 16,
        "latent_channels": 16,
    }
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    torch.manual_seed(1)
    vocabulary = {"<image>": 8, "IMGIMGAZ": 9}
    config = ChameleonConfig(
        **text, vq_config=layout, num_attention_heads=2, num_key_value_heads=2, vocabulary_map=vocabulary
    )
    model = ChameleonForConditionalGeneration(config).eval()
    network = model.model.vqmodel
    spread(network, images)
    model.to(dtype).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    network.float()
    with torch.inference_mode():
        wanted = [network.encode(as_reference(image[None])).image_tokens.numpy() for image in images]
    codec = load_codec("chameleon", tmp_path)
    codes = codec.encode(images)
    np.testing.assert_array_equal(codes.ravel(), np.concatenate(wanted))
    assert len(np.unique(codes)) > codes.size / 4
    assert not codec.can_decode
    with pytest.raises(ValueError, match="holds the encoder of chameleon alone"):
        codec.decode(codes)


def spread(network, images):
    """Give the codebook of transformers' network vectors like those that it is asked about."""
    table = network.quantize.embedding.weight
    with torch.inference_mode():
        vectors = network.quant_conv(network.encoder(as_reference(images)))
        mean, std = (f(vectors.transpose(0, 1).flatten(1), dim=1) for f in (torch.mean, torch.std))
    table.data = torch.randn(table.shape) * std + mean


def test_a_folder_of_diffusers_is_the_same_codec(codec, codec_name, images, tmp_path):
    codec.network.save_pretrained(tmp_path / "movq")  # Kandinsky keeps it in a folder of this name
    for folder in (tmp_path / "movq", tmp_path):
        again = load_codec(codec_name, folder)
        np.testing.assert_array_equal(again.encode(images), codec.encode(images))
        decoded = again.decode(codec.encode(images)).astype(int)
        # A direction that is normalised once more may differ in its last bit.
        assert np.abs(decoded - codec.decode(codec.encode(images))).max() <= codec.directions
    config = json.loads((tmp_path / "movq" / "config.json").read_text())
    assert config["norm_type"] == ("spatial" if codec_name == "movq" else "group")
    torch.save(torch_state(tmp_path / "movq"), tmp_path / "movq" / "diffusion_pytorch_model.bin")
    (tmp_path / "movq" / "diffusion_pytorch_model.safetensors").unlink()
    np.testing.assert_array_equal(load_codec(codec_name, tmp_path).encode(images), codec.encode(images))


def torch_state(folder):
    from safetensors.torch import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")


def test_the_whole_network_of_full_size_has_its_place(full_taming, codec_name):
    """Names and shapes of Meta's and SBER's networks, on the meta device."""
    from diffusers import VQModel

    from rasterloom.tokenize.codecs.tensor_names import architecture, diffusers_names

    with torch.device("meta"):
        state = full_taming(codec_name).state_dict()
        names = diffusers_names(state)
        config = architecture({names[name]: tuple(tensor.shape) for name, tensor in state.items()})
        wanted = VQModel(**config).state_dict()
    assert sorted(names.values()) == sorted(wanted)
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        short = shape[:2] if shape[2:] == (1, 1) else shape
        assert tuple(wanted[names[name]].shape) in (shape, short)
    facts = {
        # docs of the reference: Chameleon's vqgan.yaml; SBER-MoVQGAN 270M
        "chameleon": ([128, 128, 256, 256, 512], 256, 8192, 256, "group", "DownEncoderBlock2D"),
        "movq": ([256, 512, 512, 1024], 4, 16384, 4, "spatial", "AttnDownEncoderBlock2D"),
        # LlamaGen's vq_model.py, VQ-16: ModelArgs with encoder_ch_mult 1, 1, 2, 2, 4
        "llamagen": ([128, 128, 256, 256, 512], 256, 16384, 8, "group", "AttnDownEncoderBlock2D"),
    }
    keys = ("block_out_channels", "latent_channels", "num_vq_embeddings", "vq_embed_dim", "norm_type")
    assert (*(config[key] for key in keys), config["down_block_types"][-1]) == facts[codec_name]


def test_an_image_gives_the_same_codes_alone_and_in_a_batch(codec, images):
    together = codec.encode(images)
    np.testing.assert_array_equal(together, np.concatenate([codec.encode(i[None]) for i in images]))


def test_one_thread_gives_the_codes_of_two(codec, images):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = codec.encode(images)
        torch.set_num_threads(1)
        np.testing.assert_array_equal(two, codec.encode(images))
    finally:
        torch.set_num_threads(before)


def test_bf16_is_near_fp32(codec, codec_name, checkpoint, images):
    fast = load_codec(codec_name, checkpoint, precision="bf16")
    inner = {p.dtype for p in fast.network.encoder.down_blocks.parameters()}
    assert inner == {torch.bfloat16}
    codes = codec.encode(images)
    assert 0.3 < (fast.encode(images) == codes).mean() <= 1
    assert np.abs(fast.decode(codes).astype(float) - codec.decode(codes)).mean() < 4
    with pytest.raises(ValueError, match=r"precision: got 'fp16', takes fp32, tf32, bf16"):
        load_codec(codec_name, checkpoint, precision="fp16")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_convolutions_of_a_gpu_are_in_tf32_where_the_recipe_says_so(
    precision, allowed, codec_name, checkpoint, images, monkeypatch
):
    made, seen = load_codec(codec_name, checkpoint, precision=precision), []
    encode = made._encode

    def noting(batch):
        seen.append(torch.backends.cudnn.allow_tf32)
        return encode(batch)

    monkeypatch.setattr(made, "_encode", noting)
    before = torch.backends.cudnn.allow_tf32
    made.encode(images[:1])
    assert seen == [allowed] and torch.backends.cudnn.allow_tf32 == before


def test_batches_are_halved_where_a_gpu_is_full(codec, images, monkeypatch):
    sizes = []

    def limited(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encode(batch)

    encode = codec._encode
    many = np.concatenate([images] * 4)
    wanted = codec.encode(many)
    monkeypatch.setattr(codec, "at_once", 32)  # as on a GPU
    monkeypatch.setattr(codec, "_encode", limited)
    assert (codec.encode(many) == wanted).mean() > 0.99  # a batch may turn a code
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_what_is_begun_is_had_later_and_in_any_order(codec, images):
    one, other = (codec.begin(batch) for batch in (images, images[:1]))
    np.testing.assert_array_equal(other(), codec.encode(images[:1]))
    np.testing.assert_array_equal(one(), codec.encode(images))


def test_no_images_give_no_codes(codec):
    step = codec.downsample
    assert codec.encode(np.empty((0, 64, 32, 3), np.uint8)).shape == (0, 64 // step, 32 // step)
    assert codec.decode(np.empty((0, 2, 4), np.int32)).shape == (0, 2 * step, 4 * step, 3)


@pytest.mark.parametrize("shape", [(1, 60, 64, 3), (1, 64, 60, 3), (1, 0, 64, 3)])
def test_sides_must_be_multiples(codec, shape):
    with pytest.raises(ValueError, match=f"multiples of {codec.downsample}"):
        codec.encode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((64, 64, 3), "u1"), ((1, 64, 64, 4), "u1"), ((1, 64, 64, 3), "f4")]
)
def test_images_must_be_uint8_rgb(codec, shape, dtype):
    with pytest.raises(ValueError, match="takes uint8"):
        codec.encode(np.zeros(shape, dtype))


def test_codes_out_of_range_are_refused(codec):
    for bad in (-1, codec.codebook_size):
        codes = np.zeros((1, 4, 4), np.int64)
        codes[0, 1, 2] = bad
        with pytest.raises(ValueError, match=rf"takes 0 \.\. {codec.codebook_size - 1}"):
            codec.decode(codes)
    for codes in (np.zeros((4, 4), np.int32), np.zeros((1, 4, 4), np.float32)):
        with pytest.raises(ValueError, match="integers"):
            codec.decode(codes)


def test_the_digest_is_had_without_loading(codec, codec_name, checkpoint):
    assert codec.digest == codec_digest(codec_name, checkpoint)
