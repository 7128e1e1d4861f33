"""HEIC and JPEG XL by the extra ``formats``, within bounds; without it, what to install."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images import formats
from rasterloom.sources.images.decode import configure_pillow, decode_image

SIDES = [(1, 1), (8, 16), (100, 50), (255, 300), (640, 480), (1200, 1000), (1500, 1)]


def photo(size: tuple[int, int] = (96, 64)) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(kind: str, size: tuple[int, int] = (96, 64), **options: object) -> bytes:
    configure_pillow()
    buffer = BytesIO()
    photo(size).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "AVIF"])
def test_it_is_read(kind: str) -> None:
    picture = decode_image(encode(kind, quality=95), Fetch())
    assert (picture.original_format, picture.format, picture.width) == (kind.lower(), "jpeg", 96)
    shown = np.asarray(Image.open(BytesIO(picture.data)).convert("RGB")).astype(int)
    assert np.abs(shown - np.asarray(photo())).mean() < 6


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "AVIF"])
def test_pixels_are_bounded_before_any_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(kind, (640, 480))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    if kind == "JXL":  # its plug-in decodes when it opens
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(FetchFailure) as caught:
        decode_image(data, Fetch(max_pixels=640 * 480 - 1))
    assert caught.value.error is ErrorClass.TOO_MANY_PIXELS and "640 x 480" in caught.value.detail


@pytest.mark.parametrize("size", SIDES)
def test_sizes_of_jpeg_xl_are_read_from_its_header(size: tuple[int, int]) -> None:
    start = formats._codestream(encode("JXL", size))
    assert formats._size(int.from_bytes(start[2:18], "little")) == size


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "AVIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_is_cut_off_is_broken(kind: str, share: float) -> None:
    data = encode(kind)
    with pytest.raises(FetchFailure) as caught:
        decode_image(data[: int(len(data) * share)], Fetch())
    assert caught.value.error is ErrorClass.BROKEN_IMAGE


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_comes_out_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("HEIF", "JXL"):
        reference = decode_image(encode("PNG", exif=exif), Fetch())
        picture = decode_image(encode(kind, exif=exif.tobytes(), quality=95), Fetch())
        assert (picture.width, picture.height) == (reference.width, reference.height)
        found, expected = (
            np.asarray(Image.open(BytesIO(one.data)).convert("RGB")).astype(int)
            for one in (picture, reference)
        )
        assert np.abs(found - expected).mean() < 8, kind


@pytest.mark.parametrize(
    "data",
    [b"\0\0\0\x18ftypheic" + bytes(99), b"\xff\x0a" + bytes(99), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9)],
)
def test_without_the_extra_the_failure_names_it(data: bytes) -> None:
    code = f"""
import sys
sys.modules["pillow_heif"] = sys.modules["pillow_jxl"] = None
from importlib import util
find = util.find_spec
util.find_spec = lambda name, *rest: None if name.startswith("pillow_") else find(name, *rest)
from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images.decode import decode_image
try:
    decode_image({data!r}, Fetch())
except FetchFailure as failure:
    print(failure.error, failure.detail)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("not_an_image") and "pip install 'rasterloom[formats]'" in done.stdout, done
