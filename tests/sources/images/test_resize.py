"""Decoding and scaling by other means than Pillow, compared with Pillow."""

from io import BytesIO

import numpy as np
import pytest
import skimage.data
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.images.decode import decode_image
from rasterloom.sources.images.resize import decode_jpeg, fit, scale, square
from rasterloom.utils.malloc import keep_freed_memory

PHOTO = Image.fromarray(skimage.data.astronaut())


def jpeg(image: Image.Image, **options: object) -> tuple[bytes, Image.Image]:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue(), Image.open(BytesIO(buffer.getvalue()))


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean())


def decibels(a: Image.Image, b: Image.Image) -> float:
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((400, 200), 100, (100, 50)), ((1000, 3), 100, (100, 1)), ((3, 1000), 100, (1, 100)),
        ((100, 100), 100, (100, 100)), ((50, 20), 100, (50, 20)), ((1, 1), 32, (1, 1)),
        ((4000, 3000), 512, (512, 384)), ((1001, 1000), 1000, (1000, 999)),
    ],
)  # fmt: skip
def test_sizes(size: tuple[int, int], most: int, expected: tuple[int, int]) -> None:
    assert fit(size, most) == expected


MODES = {  # the size that an image of 400 x 200 is stored in, for sides of 100 and of 300
    "keep_ratio_largest": ((100, 50), (300, 150)),
    "keep_ratio": ((200, 100), (400, 200)),
    "center_crop": ((100, 100), (400, 200)),
    "border": ((100, 100), (300, 300)),
    "none": ((400, 200), (400, 200)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_each_mode_has_its_size(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data, _ = jpeg(PHOTO.resize((400, 200)), exif=exif)
    for side, expected in zip((100, 300), MODES[mode], strict=True):
        decoded = decode_image(data, Fetch(max_side=side, resize=mode))
        assert (decoded.width, decoded.height) == (expected if orientation == 1 else expected[::-1])
        stays = expected == (400, 200) and orientation == 1
        assert (decoded.data == data) == stays, "what need not change is kept byte for byte"
        again = decode_image(decoded.data, Fetch(max_side=side, resize=mode))
        assert again.data == decoded.data


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA"])
def test_the_middle_is_cut_out_and_borders_are_white(kind: str) -> None:
    image = PHOTO.convert(kind)
    wide = image.resize((301, 100))
    assert square(wide, 100, "center_crop").tobytes() == wide.crop((100, 0, 200, 100)).tobytes()
    framed = square(wide.crop((0, 0, 100, 51)), 100, "border")
    assert framed.crop((0, 24, 100, 75)).tobytes() == wide.crop((0, 0, 100, 51)).tobytes()
    assert {framed.convert("RGB").getpixel((0, y)) for y in (0, 23, 75, 99)} == {(255, 255, 255)}
    assert square(wide, 400, "border") is wide and square(wide, 101, "center_crop") is wide


def test_what_no_jpeg_can_hold_is_a_png() -> None:
    buffer = BytesIO()
    Image.linear_gradient("L").resize((70_000, 40)).save(buffer, "TIFF")
    decoded = decode_image(buffer.getvalue(), Fetch(resize="none"))
    assert (decoded.format, decoded.width) == ("png", 70_000)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_are_those_of_pillow(mode: str, subsampling: str, progressive: bool) -> None:
    data, source = jpeg(PHOTO.convert(mode), subsampling=subsampling, progressive=progressive)
    decoded = decode_jpeg(data, source, source.size)
    assert decoded is not None and decoded.mode == mode
    assert difference(decoded, Image.open(BytesIO(data))) < 0.5


@pytest.mark.parametrize("side", [511, 400, 256, 200, 160, 128, 100, 64, 33])
def test_a_scaled_image_is_near_the_best_there_is(side: int) -> None:
    data, source = jpeg(PHOTO)
    decoded = decode_jpeg(data, source, (side, side))
    assert decoded is not None and min(decoded.size) >= side
    scaled = scale(decoded, (side, side))
    assert scaled.size == (side, side)
    best, averages = (
        PHOTO.resize((side, side), kind) for kind in (Image.Resampling.LANCZOS, Image.Resampling.BOX)
    )
    assert decibels(scaled, best) > min(36, decibels(averages, best) - 3)


def test_what_is_not_flawless_is_left_to_pillow() -> None:
    data, source = jpeg(PHOTO)
    for broken in (data[:-100], data[: len(data) // 2], data[:3000] + b"\xff\xd9" + data[3000:]):
        assert decode_jpeg(broken, source, source.size) is None
    cmyk, source = jpeg(PHOTO.convert("CMYK"))
    assert decode_jpeg(cmyk, source, source.size) is None


def test_info_goes_along() -> None:
    data, source = jpeg(PHOTO, icc_profile=b"profile")
    decoded = decode_jpeg(data, source, (100, 100))
    assert decoded is not None
    assert scale(decoded, (100, 100)).info["icc_profile"] == b"profile"


def test_memory_can_be_kept_anywhere() -> None:
    keep_freed_memory()
