"""Every place that crops an image as it is coded turns it as its EXIF orientation says."""

import io
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rasterloom.pipelines.corpus.token_work import TokenizeAt
from rasterloom.pipelines.inspection import token_view
from rasterloom.pipelines.models import evaluate, generate
from rasterloom.pipelines.step import Step
from rasterloom.pipelines.training import steps
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import IMAGES
from rasterloom.tokenize.profiles import MINI
from rasterloom.tokenize.text_tokenizer import JsonText, train_text
from rasterloom.tokenize.tokenize_shard import tokenize_shard

TARGET, KEY = 256, "a key"


class RecordingCodec:
    """Gives codes of 0, and keeps the pixels that it is given."""

    def encode(self, images):
        (self.pixels,) = images
        return np.zeros((1, images.shape[1] // 8, images.shape[2] // 8), np.int32)


@pytest.fixture(scope="module")
def turned():
    """A JPEG of 640 x 400 pixels that is to be seen as 400 x 640."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).resize((640, 400)).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def by_tokenizing(data, config, folder):
    codec = RecordingCodec()
    text = JsonText(train_text(["a"], 300), MINI.text0)
    row = dict.fromkeys(IMAGES.names) | {
        "key": KEY,
        "shard": 0,
        "status": "ok",
        "caption": "a",
        "image": data,
    }
    images = pa.Table.from_pylist([row], IMAGES)
    done = tokenize_shard(images, None, target=TARGET, codec=codec, text=text, config=config)
    assert not done.failures.num_rows
    return codec.pixels


def by_report(data, config, folder):
    step = SimpleNamespace(inputs=[Step(f"codes/{TARGET}", TokenizeAt(target=TARGET, tokenize=config), "2")])
    return steps._cropper(step)(Image.open(io.BytesIO(data)), KEY, TARGET)


def by_token_view(data, config, folder):
    found = token_view.TokenRow(None, {"key": KEY, "target": TARGET}, MINI, None, config)
    return token_view._cropped(Image.open(io.BytesIO(data)), (192, 320), 0, found)


def by_evaluating(data, config, folder):
    pixels, bucket = evaluate._as_coded(data, KEY, config, TARGET)
    assert bucket == (192, 320)
    return pixels


def by_generating(data, config, folder):
    path, codec = folder / "asked.jpg", RecordingCodec()
    path.write_bytes(data)
    _, size = generate._coded(path, SimpleNamespace(tokenize=config, fetch=Fetch()), TARGET, codec)
    assert size == (192, 320)
    return codec.pixels


@pytest.mark.parametrize("crop", ["center", "random"])
@pytest.mark.parametrize("place", [by_tokenizing, by_report, by_token_view, by_evaluating, by_generating])
def test_the_crop_is_upright_wherever_it_is_made(turned, tmp_path, place, crop):
    config = Tokenize(text_vocab=300, crop=crop)
    pixels = np.asarray(place(turned, config, tmp_path))
    assert pixels.shape == (320, 192, 3)
    if place is not by_generating or crop == "center":  # that of a question lies in the middle
        assert np.array_equal(pixels, by_tokenizing(turned, config, tmp_path))
