"""Files of other projects' public reports: what failed there. docs/compatibility.md lists them."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.images.decode import DecodedImage, decode_image

RAMP = np.add.outer(np.arange(48), np.arange(64) * 3).astype(np.uint8)


def photo() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes) -> DecodedImage:
    return decode_image(data, Fetch(jpeg_quality=98))


def shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(decode(data).data)).convert("RGB")).astype(int)


def test_xmp_that_is_not_utf_8() -> None:
    """huggingface/datasets 7668."""
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>\xa8\xff</x:xmpmeta>"
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    for options in ({}, {"exif": exif}):
        plain = encode(photo(), "JPEG", **options)
        assert decode(plain[:2] + segment + plain[2:]).width == (48 if options else 64)


def test_png_whose_last_chunk_is_wrong() -> None:
    """opencv/opencv 23584."""
    data = encode(photo(), "PNG")
    assert np.array_equal(shown(data[:-4] + b"none"), shown(data))


def test_jpeg_without_its_end() -> None:
    """opencv/opencv 22729."""
    data = encode(photo(), "JPEG")
    assert np.array_equal(shown(data[:-2]), shown(data))


def test_cmyk_jpeg() -> None:
    """opencv/opencv 25274."""
    assert np.abs(shown(encode(photo().convert("CMYK"), "JPEG", quality=95)) - np.asarray(photo())).mean() < 4


def test_image_by_another_suffix_is_known_by_its_bytes() -> None:
    """opencv/opencv-python 209."""
    assert decode(encode(photo(), "GIF")).original_format == "gif"


def palette_tiff(scale: int) -> bytes:
    image = Image.fromarray(RAMP % 16).convert("P")
    image.putpalette(
        [value for index in range(256) for value in (index * 16 % 256, 99, 255 - index * 16 % 256)]
    )
    data = bytearray(encode(image, "TIFF"))
    with Image.open(BytesIO(bytes(data))) as opened:
        values = opened.tag_v2[320]
    old = struct.pack(f"<{len(values)}H", *values)
    assert bytes(data).count(old) == 1
    new = struct.pack(f"<{len(values)}H", *(value // 256 * scale for value in values))
    return bytes(data).replace(old, new)


def test_tiff_whose_palette_has_eight_bits() -> None:
    """python-pillow/Pillow 2157."""
    assert np.array_equal(shown(palette_tiff(1)), shown(palette_tiff(257)))
    assert shown(palette_tiff(1)).max() == 255


@pytest.mark.parametrize("predictor", [1, 2])
def test_tiff_of_a_palette_with_a_predictor(predictor: int) -> None:
    """SixLabors/ImageSharp 3182."""
    image = Image.fromarray(RAMP).convert("P")
    image.putpalette([value for index in range(256) for value in (index, 255 - index, index // 2)])
    data = encode(image, "TIFF", compression="tiff_lzw", tiffinfo={317: predictor})
    assert np.abs(shown(data) - np.asarray(image.convert("RGB"))).max() <= 12
