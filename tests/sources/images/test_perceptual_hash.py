"""The perceptual hash: imagehash's definition, near for copies and far for other pictures."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import scipy.fft
import skimage.data
from PIL import Image

from rasterloom.sources.images.perceptual_hash import distance, on_white, summary

PHOTOS = ("astronaut", "camera", "cat", "coffee", "rocket", "retina", "coins", "hubble_deep_field")


def load(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


def imagehash_definition(image: Image.Image) -> str:
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
    low = scipy.fft.dct(scipy.fft.dct(grey, axis=0), axis=1)[:8, :8]
    bits = "".join("01"[int(bit)] for bit in (low > np.median(low)).ravel())
    return f"{int(bits, 2):016x}"


def phash(image: Image.Image) -> str:
    return summary(image)[0]


def thumbnail(image: Image.Image) -> bytes:
    return summary(image)[1]


def test_is_nearly_the_hash_that_imagehash_defines() -> None:
    off = [distance(phash(load(name)), imagehash_definition(load(name))) for name in PHOTOS]
    assert max(off) <= 4 and np.mean(off) < 1


@pytest.mark.parametrize("name", PHOTOS)
def test_is_exactly_that_hash_for_small_images(name: str) -> None:
    image = load(name).resize((180, 140))
    assert phash(image) == imagehash_definition(image)


def test_is_that_hash_for_noise_too() -> None:
    """In noise many frequencies lie near the median, so that a factor too many or too few shows."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        image = Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8))
        assert phash(image) == imagehash_definition(image)


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
        lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
        lambda image: as_jpeg(image, 90),
        lambda image: as_jpeg(image, 30),
    ],
    ids=["half", "double", "q90", "q30"],
)
def test_copies_are_near(name: str, change: Callable[[Image.Image], Image.Image]) -> None:
    assert distance(phash(load(name)), phash(change(load(name)))) <= 4


def test_other_images_are_far() -> None:
    hashes = [phash(load(name)) for name in PHOTOS]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) >= 14


@pytest.mark.parametrize("grey", [0, 77, 200])
def test_plain_images_of_any_size_hash_alike(grey: int) -> None:
    assert {phash(Image.new("RGB", size, (grey,) * 3)) for size in ((1, 1), (50, 9), (640, 480))} == {
        "8000000000000000" if grey else "0000000000000000"
    }


def test_distance_counts_bits() -> None:
    assert distance("0000000000000000", "ffffffffffffffff") == 64
    assert distance("8000000000000001", "0000000000000003") == 2


def test_thumbnail_is_the_mean_of_8_by_8_fields() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    small = np.frombuffer(thumbnail(Image.fromarray(pixels)), np.uint8).reshape(8, 8, 3)
    means = pixels.reshape(8, 4, 8, 8, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1.01


def test_thumbnail_of_sides_that_do_not_divide() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (333, 500, 3), dtype=np.uint8)
    pixels[:, 490:] = 255  # the last columns count as what they are
    exact = Image.fromarray(pixels).resize((8, 8), Image.Resampling.BOX)
    small = np.frombuffer(thumbnail(Image.fromarray(pixels)), np.uint8).reshape(8, 8, 3)
    assert np.abs(small.astype(int) - np.asarray(exact)).max() <= 2


def test_transparent_pixels_are_white() -> None:
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    assert set(thumbnail(on_white(image))) == {255}
    assert thumbnail(on_white(Image.new("RGBA", (16, 16), (200, 0, 0, 255)))) == bytes((200, 0, 0)) * 64
