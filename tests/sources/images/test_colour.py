"""Every kind of pixels comes out as the 8-bit sRGB that a viewer would show."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from rasterloom.sources.images.colour import needs_conversion, to_eight_bits, to_srgb
from rasterloom.sources.images.profiles import SRGB_GAMMA, SRGB_PRIMARIES, made_profile

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def converted(image: Image.Image) -> Image.Image:
    return to_srgb(to_eight_bits(image))


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


def swapped_profile() -> bytes:
    """A valid profile whose red is sRGB's blue, and the other way round, under a name of its own."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace(b"rXYZ", b"tmp_").replace(b"bXYZ", b"rXYZ").replace(b"tmp_", b"bXYZ")
    return data.replace("sRGB".encode("utf-16-be"), "abcd".encode("utf-16-be"))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_ordinary_pixels_stay(mode: str) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    assert not needs_conversion(image)
    assert converted(image).mode == mode
    assert np.array_equal(np.asarray(converted(image)), np.asarray(image))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    image = reopened(Image.fromarray(RAMP.astype(np.uint16) * 257), kind)
    assert np.array_equal(np.asarray(converted(image)), RAMP)


def test_dim_sixteen_bit_grey_stays_dim() -> None:
    image = Image.fromarray(np.full((4, 4), 2570, dtype=np.uint16))
    assert converted(image).getextrema() == (10, 10)


def test_wide_integers_and_floats() -> None:
    wide = Image.fromarray(RAMP.astype(np.int32) * 257)
    assert np.array_equal(np.asarray(converted(wide)), RAMP)
    assert np.array_equal(np.asarray(converted(Image.fromarray(RAMP.astype(np.float32) / 255))), RAMP)
    broken = RAMP.astype(np.float32) / 255
    broken[0, 0] = np.nan
    broken[0, 1] = np.inf
    assert np.array_equal(np.asarray(converted(Image.fromarray(broken)))[1:], RAMP[1:])


def test_one_bit_and_palette() -> None:
    bits = Image.fromarray(RAMP > 100)
    assert bits.mode == "1"
    assert np.array_equal(np.asarray(converted(bits)), np.where(RAMP > 100, 255, 0))
    colours = Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4)
    assert converted(colours).getpixel((3, 3)) == (10, 200, 30)
    assert converted(colours).mode == "RGB"


def test_alpha_is_kept_where_something_shows_through() -> None:
    grey = Image.merge("LA", (Image.fromarray(RAMP), Image.fromarray(RAMP)))
    assert converted(grey).mode == "RGBA"
    assert np.array_equal(np.asarray(converted(grey)), np.stack([RAMP] * 4, axis=-1))
    see_through = Image.new("RGBA", (4, 4), (1, 2, 3, 128))
    assert converted(see_through).getpixel((0, 0)) == (1, 2, 3, 128)


def test_opaque_alpha_is_dropped() -> None:
    opaque = Image.new("RGBA", (4, 4), (1, 2, 3, 255))
    assert (converted(opaque).mode, converted(opaque).getpixel((0, 0))) == ("RGB", (1, 2, 3))
    assert converted(Image.new("LA", (4, 4), (9, 255))).mode == "L"


def test_transparency_beside_the_pixels_becomes_alpha() -> None:
    palette = Image.fromarray(RAMP // 128).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    image = converted(reopened(palette, "PNG", transparency=0))
    assert image.getpixel((0, 0))[3] == 0
    assert image.getpixel((0, 15)) == (0, 255, 0, 255)
    keyed = reopened(Image.fromarray(RAMP).convert("RGB"), "PNG", transparency=(7, 7, 7))
    assert [converted(keyed).getpixel((x, 0))[3] for x in (6, 7, 8)] == [255, 0, 255]
    deep = reopened(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG", transparency=7 * 257)
    assert [converted(deep).getpixel((x, 0))[3] for x in (6, 7, 8)] == [255, 0, 255]


def test_cmyk_is_not_inverted() -> None:
    rgb = Image.new("RGB", (16, 16), (220, 40, 90))
    image = converted(reopened(rgb.convert("CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - (220, 40, 90)).max() <= 3


def test_other_colour_spaces() -> None:
    rgb = Image.new("RGB", (4, 4), (220, 40, 90))
    for mode in ("YCbCr", "HSV"):
        assert np.abs(np.array(converted(rgb.convert(mode)).getpixel((0, 0))) - (220, 40, 90)).max() <= 3
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(rgb, to_lab)
    assert lab is not None and lab.mode == "LAB"
    assert np.abs(np.array(converted(lab).getpixel((0, 0))) - (220, 40, 90)).max() <= 3


def test_profiles_are_applied() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.info["icc_profile"] = swapped_profile()
    assert needs_conversion(image)
    red, green, blue = converted(image).getpixel((0, 0))
    assert red < 30 and green < 30 and blue > 225


def test_profile_leaves_alpha_alone() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 100))
    image.info["icc_profile"] = swapped_profile()
    red, _, blue, alpha = converted(image).getpixel((0, 0))
    assert blue > 225 and red < 30 and alpha == 100


@pytest.mark.parametrize("profile", [b"", b"nonsense", swapped_profile()[:200]])
def test_broken_profiles_are_as_none(profile: bytes) -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.info["icc_profile"] = profile
    assert converted(image).getpixel((0, 0)) == (255, 0, 0)


def test_profile_for_other_pixels_is_as_none() -> None:
    image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    image.info["icc_profile"] = swapped_profile()
    assert converted(image).getpixel((0, 0)) == (255, 0, 0)


def test_srgb_is_not_converted() -> None:
    image = Image.new("RGB", (4, 4), (12, 34, 56))
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert not needs_conversion(image)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_srgb_by_another_name_is_not_converted(mode: str) -> None:
    image = Image.new(mode, (4, 4), 99)
    image.info["icc_profile"] = made_profile(SRGB_PRIMARIES, SRGB_GAMMA, grey=mode == "L")
    assert not needs_conversion(image)


def test_a_name_says_nothing() -> None:
    named = swapped_profile().replace("abcd".encode("utf-16-be"), "sRGB".encode("utf-16-be"))
    assert "sRGB" in (ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(named))) or "")
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.info["icc_profile"] = named
    assert needs_conversion(image)
    assert converted(image).getpixel((0, 0))[2] > 225


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_primaries_and_curve_count(gamma: float) -> None:
    values = np.stack([RAMP] * 3, axis=-1)
    image = Image.fromarray(values)
    image.info["icc_profile"] = made_profile(SRGB_PRIMARIES, gamma, grey=False)
    grey = Image.fromarray(RAMP)
    grey.info["icc_profile"] = made_profile(SRGB_PRIMARIES, gamma, grey=True)
    light = (RAMP / 255) ** gamma
    expected = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(np.asarray(converted(image))[..., 0] - expected).max() <= 2
    assert np.abs(np.asarray(converted(grey)).astype(int) - expected).max() <= 2


def test_profile_of_sixteen_bit_grey_is_applied() -> None:
    deep = Image.fromarray(np.full((4, 4), 55 * 257, np.uint16))
    deep.info["icc_profile"] = made_profile(SRGB_PRIMARIES, 1.0, grey=True)
    assert 126 <= converted(deep).getpixel((0, 0)) <= 130
