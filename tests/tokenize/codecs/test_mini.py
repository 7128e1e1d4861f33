"""The mini codec: its contract, and how well the shipped weights reconstruct what they have not seen."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.codecs.mini import WEIGHTS

ROOT = Path(__file__).parents[3]


def load_script(name: str) -> ModuleType:
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


pictures = load_script("codec_pictures")
training = load_script("train_mini_codec")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec("mini")


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    return np.stack(pictures.held_out_photographs(256))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_shapes_and_dtypes(codec):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 64, 3), dtype=np.uint8)
    codes = codec.encode(images)
    assert codes.dtype == np.int32 and codes.shape == (3, 5, 8)
    assert codes.min() >= 0 and codes.max() < codec.codebook_size == 1024
    for dtype in (np.int32, np.int64, np.uint16):
        decoded = codec.decode(codes.astype(dtype))
        assert decoded.dtype == np.uint8 and decoded.shape == images.shape
    assert codec.name == "mini" and codec.downsample == 8


def test_no_images_give_no_codes(codec):
    assert codec.encode(np.empty((0, 64, 64, 3), np.uint8)).shape == (0, 8, 8)
    assert codec.decode(np.empty((0, 8, 8), np.int32)).shape == (0, 64, 64, 3)


def test_photographs_reconstruct_at_24_db(codec, photographs):
    assert len(photographs) == 9
    assert np.mean(training.psnr(codec, list(photographs))) >= 24.0


def test_a_code_depends_on_its_square_and_eight_pixels_around(codec):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    codes = codec.encode(image)[0]
    other = rng.integers(0, 256, image.shape, dtype=np.uint8)
    other[:, 16:40, 8:32] = image[:, 16:40, 8:32]  # the square of row 3, column 2 is 24:32, 16:24
    assert codec.encode(other)[0, 3, 2] == codes[3, 2]
    assert (codec.encode(other)[0] != codes).mean() > 0.9
    # So flat areas have one code each, wherever they lie: what a small model can learn.
    flat = np.full((1, 96, 96, 3), 48, np.uint8)
    flat[:, 32:64, 32:64] = (40, 160, 70)
    grid = codec.encode(flat)[0]
    assert len(np.unique(grid[5:7, 5:7])) == 1
    assert len(np.unique(np.delete(grid, slice(3, 9), axis=0))) == 1


def test_unseen_scenes_reconstruct_at_30_db(codec):
    assert np.mean(training.psnr(codec, pictures.unseen_scenes(60, 128))) >= 30.0


def test_an_image_gives_the_same_codes_alone_and_in_a_batch(codec, photographs):
    together = codec.encode(photographs)
    alone = np.concatenate([codec.encode(image[None]) for image in photographs])
    np.testing.assert_array_equal(together, alone)


def test_one_thread_gives_the_codes_of_two(codec, photographs, threads):
    threads(2)
    two = codec.encode(photographs)
    threads(1)
    np.testing.assert_array_equal(two, codec.encode(photographs))


def test_the_digest_is_that_of_the_file(codec):
    assert codec.digest == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert WEIGHTS.stat().st_size <= 8_000_000


def test_weights_from_another_file(codec, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(WEIGHTS.read_bytes())
    assert load_codec("mini", copy).digest == codec.digest
    assert load_codec("mini", str(copy)).digest == codec.digest


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_without_weights_is_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.safetensors: not the weights of the mini codec"):
        load_codec("mini", path)


def test_an_unknown_codec_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown codec 'maxi'; known: mini, chameleon, movq"):
        load_codec("maxi")


@pytest.mark.parametrize("shape", [(1, 60, 64, 3), (1, 64, 60, 3), (1, 0, 64, 3)])
def test_sides_must_be_multiples_of_8(codec, shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        codec.encode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((64, 64, 3), "u1"), ((1, 64, 64, 4), "u1"), ((1, 64, 64, 3), "f4")]
)
def test_images_must_be_uint8_rgb(codec, shape, dtype):
    with pytest.raises(ValueError, match="takes uint8"):
        codec.encode(np.zeros(shape, dtype))


@pytest.mark.parametrize("bad", [-1, 1024])
def test_codes_out_of_range_are_refused(codec, bad):
    codes = np.zeros((1, 4, 4), np.int64)
    codes[0, 1, 2] = bad
    with pytest.raises(ValueError, match=r"takes 0 \.\. 1023"):
        codec.decode(codes)


@pytest.mark.parametrize("codes", [np.zeros((4, 4), np.int32), np.zeros((1, 4, 4), np.float32)])
def test_codes_must_be_a_batch_of_integers(codec, codes):
    with pytest.raises(ValueError, match="integers"):
        codec.decode(codes)
