"""Conversion of the pixel formats of image files to 8-bit sRGB."""

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_SAME = 2  # levels of 255 by which a profile's colours may differ from sRGB and count as sRGB: 42 dB
_STRIP_PIXELS = 2**20
_STEPS = np.linspace(0, 255, 12).round().astype(np.uint8)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Return the image in a mode that can be resampled: palettes looked up, wide samples scaled.

    The mode of the result is L, LA, RGB, RGBA, CMYK, YCbCr, HSV or LAB; transparency that is kept beside
    the pixels (a palette's, PNG's tRNS) becomes alpha. An image that needs none of this is not loaded.
    """
    if image.mode == "1" and "transparency" not in image.info:
        return image.convert("L")
    if image.mode.startswith(("I", "F")):
        return _scaled_grey(image)
    if image.mode in ("P", "PA") or "transparency" in image.info:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    unusual = {"La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
    return image.convert(unusual[image.mode]) if image.mode in unusual else image


def _scaled_grey(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit or float samples to 8 bits. Pillow's own conversion would clip them."""
    highest = max(float(values.max()) for _, values in _strips(image))
    tops = [65535.0, highest]
    if image.mode == "F":
        tops = [1.0, 255.0, *tops]  # floats have no agreed range: the least that holds them
    factor = np.float32(255 / next(top for top in tops if highest <= top))
    hidden = image.info.get("transparency")
    greys = np.empty((image.height, image.width), np.uint8)
    alpha = np.empty_like(greys) if isinstance(hidden, int) else None
    for rows, values in _strips(image):
        greys[rows] = np.clip(values * factor + 0.5, 0, 255).astype(np.uint8)
        if alpha is not None:
            alpha[rows] = np.where(values == hidden, 0, 255)
    scaled = Image.fromarray(greys)
    if alpha is not None:
        scaled.putalpha(Image.fromarray(alpha))
    if profile := image.info.get("icc_profile"):
        scaled.info["icc_profile"] = profile
    return scaled


def _strips(image: Image.Image) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Rows of a grey image with their samples, some at a time: floats of all take four times the room."""
    count = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, count):
        end = min(top + count, image.height)
        strip = np.asarray(image.crop((0, top, image.width, end)), dtype=np.float32)
        yield slice(top, end), np.nan_to_num(strip, posinf=0.0, neginf=0.0)


def needs_conversion(image: Image.Image) -> bool:
    """Tell whether `to_srgb` would change the pixels."""
    profile = image.info.get("icc_profile")
    return image.mode not in ("L", "RGB", "RGBA") or (
        bool(profile) and _applies(profile, image.mode.rstrip("A"))
    )


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an image from `to_eight_bits` in sRGB: mode L, RGB, or RGBA where a pixel is not opaque."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    is_opaque = alpha is None or alpha.getextrema() == (255, 255)
    if image.mode == "RGBA" and not is_opaque and not needs_conversion(image):
        return image
    plain = image.convert(image.mode.rstrip("A")) if alpha is not None else image
    plain = _through_profile(plain, image.info.get("icc_profile"))
    if alpha is not None and not is_opaque:
        plain = plain.convert("RGB")
        plain.putalpha(alpha)
    return plain


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode == "LAB" or (profile and _applies(profile, image.mode)):
        if image.mode == "L":
            return image.point(_greys(profile or b""))
        converted = ImageCms.applyTransform(image, _transform(profile or b"", image.mode))
        if converted is not None:
            return converted
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


@lru_cache(maxsize=64)
def _applies(profile: bytes, mode: str) -> bool:
    """Tell whether a profile gives pixels other colours than sRGB does. A profile's name says nothing."""
    try:
        transform = _transform(profile, mode)
        colours = _colours(mode)
        shown = ImageCms.applyTransform(colours, transform)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False  # broken, or made for another kind of pixels: as if there were none
    if shown is None or mode not in ("L", "RGB"):
        return shown is not None
    before = np.asarray(colours.convert("RGB")).astype(int)
    return bool(np.abs(np.asarray(shown).astype(int) - before).max() > _SAME)


def _colours(mode: str) -> Image.Image:
    """Samples of all the colours that there are: greys, and a grid of the others."""
    greys = np.arange(256, dtype=np.uint8)
    if mode != "RGB":
        return Image.fromarray(greys[None]).convert(mode)
    grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(np.concatenate([grid, np.stack([greys] * 3, axis=-1)[None]], axis=1))


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str, *, exact: bool = False) -> ImageCms.ImageCmsTransform:
    if mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    else:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
    flags = ImageCms.Flags.NOOPTIMIZE if exact else ImageCms.Flags.NONE
    return ImageCms.buildTransform(source, _SRGB, mode, "RGB", flags=flags)


@lru_cache(maxsize=64)
def _greys(profile: bytes) -> list[int]:
    """The 256 greys of a profile in sRGB.

    LittleCMS's optimised transform is taken where it is right: of dark greys it can be off by ten levels.
    """
    quick, exact = (
        np.asarray(shown.convert("L")).ravel().astype(int)
        for is_exact in (False, True)
        if (shown := ImageCms.applyTransform(_colours("L"), _transform(profile, "L", exact=is_exact)))
    )
    found: list[int] = (quick if np.abs(quick - exact).max() <= _SAME else exact).tolist()
    return found
