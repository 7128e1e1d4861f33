"""decode_image: what is kept of a file, and that nothing in a file gets past its classes of error."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, JpegImagePlugin

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images.decode import DecodedImage, decode_image
from rasterloom.sources.images.formats import readable

CONFIG = Fetch()

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of broken metadata


def photo(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def noise(width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def see_through(width: int = 64, height: int = 64) -> Image.Image:
    image = photo(width, height).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that declares a size, with whatever pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def stored(picture: DecodedImage) -> Image.Image:
    image = Image.open(BytesIO(picture.data))
    assert (image.format or "").lower() == picture.format
    assert image.size == (picture.width, picture.height)
    image.load()
    return image


def failure(data: bytes, config: Fetch = CONFIG) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        decode_image(data, config)
    assert caught.value.detail
    return caught.value


VALID = {
    "jpeg": encode(photo(), "JPEG"),
    "progressive": encode(photo(), "JPEG", progressive=True),
    "grey jpeg": encode(photo().convert("L"), "JPEG"),
    "cmyk jpeg": encode(photo().convert("CMYK"), "JPEG"),
    "png": encode(photo(), "PNG"),
    "palette png": encode(photo().quantize(256), "PNG"),
    "alpha png": encode(see_through(), "PNG"),
    "deep png": encode(Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257), "PNG"),
    "webp": encode(photo(), "WEBP"),
    "lossless webp": encode(see_through(), "WEBP", lossless=True),
    "gif": encode(photo(), "GIF"),
    "bmp": encode(photo(), "BMP"),
    "tiff": encode(photo(), "TIFF"),
    "lzw tiff": encode(photo(), "TIFF", compression="tiff_lzw"),
    "animated gif": encode(photo(), "GIF", save_all=True, append_images=[photo(seed=1)]),
    "animated webp": encode(photo(), "WEBP", save_all=True, append_images=[photo(seed=1)]),
}
if "AVIF" in readable():
    VALID["avif"] = encode(photo(), "AVIF")


@pytest.mark.parametrize("name", VALID)
def test_every_kind_is_read(name: str) -> None:
    picture = decode_image(VALID[name], CONFIG)
    assert picture.original_format == name.split()[-1].replace("progressive", "jpeg")
    assert (picture.original_width, picture.original_height) == (64, 64)
    shown = stored(picture).convert("RGB")
    truth = photo().convert("L" if name in ("grey jpeg", "deep png") else "RGB").convert("RGB")
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(truth)).mean() < 12
    assert len(picture.phash) == 16 and len(picture.thumbnail) == 192


@pytest.mark.parametrize("name", ["jpeg", "progressive", "grey jpeg", "webp", "alpha png", "lossless webp"])
def test_what_needs_nothing_stays_as_received(name: str) -> None:
    assert decode_image(VALID[name], CONFIG).data == VALID[name]


def test_lossless_stays_lossless_where_that_is_smaller() -> None:
    flat = Image.new("RGB", (200, 200), (9, 99, 199))
    assert decode_image(encode(flat, "PNG"), CONFIG).data == encode(flat, "PNG")
    for kind in ("BMP", "GIF", "TIFF"):
        picture = decode_image(encode(flat, kind), CONFIG)
        assert picture.format == "png"
        assert ImageChops.difference(stored(picture).convert("RGB"), flat).getbbox() is None
    for kind in ("PNG", "BMP"):
        assert decode_image(encode(noise(), kind), CONFIG).format == "jpeg"


def test_alpha_is_stored_losslessly() -> None:
    picture = decode_image(encode(see_through(), "WEBP", lossless=True, exact=True), CONFIG)
    assert ImageChops.difference(stored(picture), see_through()).getbbox(alpha_only=False) is None
    scaled = decode_image(encode(see_through(100, 50), "PNG"), Fetch(max_side=40))
    assert (scaled.format, stored(scaled).mode, scaled.width, scaled.height) == ("png", "RGBA", 40, 20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [((400, 200), (100, 50)), ((200, 400), (50, 100)), ((1000, 3), (100, 1)), ((100, 100), (100, 100))],
)
def test_scaled_to_max_side(kind: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = decode_image(encode(photo(*size), kind), Fetch(max_side=100))
    assert (picture.width, picture.height) == expected == stored(picture).size
    assert (picture.original_width, picture.original_height) == size


def test_scaling_does_not_alias() -> None:
    lines = np.zeros((512, 512, 3), dtype=np.uint8)
    lines[:, ::2] = 255
    picture = decode_image(encode(Image.fromarray(lines), "PNG"), Fetch(max_side=128))
    inside = np.asarray(stored(picture).convert("L")).astype(int)[4:-4, 4:-4]
    assert np.abs(inside - 128).max() <= 2


# EXIF: where the 0th row and column of the file lie in the picture, e.g. 6: on its right side and its top.
LAID = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("max_side", [1536, 40])
def test_every_orientation_comes_out_upright(kind: str, orientation: int, max_side: int) -> None:
    upright = photo(80, 48)
    lying = upright if orientation == 1 else upright.transpose(LAID[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {} if kind in ("PNG", "TIFF") else {"quality": 95}
    picture = decode_image(encode(lying, kind, exif=exif, **options), Fetch(max_side=max_side))
    shown = stored(picture)
    assert shown.getexif().get(0x0112, 1) == 1
    assert (picture.original_width, picture.original_height) == (80, 48)
    assert shown.size == ((80, 48) if max_side > 80 else (40, 24))
    truth = np.asarray(upright.resize(shown.size, Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(np.asarray(shown.convert("RGB")) - truth).mean() < 4


def test_broken_exif_is_no_broken_image() -> None:
    jpeg = encode(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_image(jpeg, CONFIG).width == 64


def test_first_frame_of_an_animation() -> None:
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = encode(photo(), kind, save_all=True, append_images=[photo(seed=1)])
        shown = stored(decode_image(frames, CONFIG))
        assert getattr(shown, "n_frames", 1) == 1
        assert np.abs(np.asarray(shown.convert("RGB")).astype(int) - np.asarray(photo())).mean() < 12


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_broken(name: str, share: float) -> None:
    data = VALID[name]
    if name.startswith("animated"):  # cut within the first frame
        data = data[: len(data) // 2]
    assert failure(data[: int(len(data) * share)]).error is ErrorClass.BROKEN_IMAGE


@pytest.mark.parametrize("name", VALID)
def test_nothing_but_a_beginning_is_broken(name: str) -> None:
    if name != "avif":
        assert failure(VALID[name][:14]).error is ErrorClass.BROKEN_IMAGE


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n\n  <HTML><body>", "HTML"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (b'{"error": "not found"}', "error"),
        (bytes(100), "no image"),
        (encode(photo(), "PPM"), "no image"),
        (encode(photo(), "ICO"), "no image"),
    ],
)
def test_what_is_no_image_says_what_it_is(data: bytes, words: str) -> None:
    assert failure(data).error is ErrorClass.NOT_AN_IMAGE
    assert words in failure(data).detail


def test_bombs_are_not_decoded() -> None:
    bomb = png(50_000, 50_000)
    assert failure(bomb).error is ErrorClass.TOO_MANY_PIXELS
    assert "50000 x 50000" in failure(bomb).detail
    assert failure(encode(photo(), "PNG"), Fetch(max_pixels=64 * 64 - 1)).error is ErrorClass.TOO_MANY_PIXELS
    assert decode_image(encode(photo(), "PNG"), Fetch(max_pixels=64 * 64)).width == 64
    assert failure(png(20_000, 20_000), Fetch(max_pixels=10**9)).error is ErrorClass.BROKEN_IMAGE


def test_jpeg_of_endless_scans_is_not_decoded() -> None:
    data = VALID["progressive"]
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert failure(data[:-2] + scan * 1000 + data[-2:]).error is ErrorClass.BROKEN_IMAGE


def test_stored_files_carry_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "at home"
    data = encode(photo(80, 40), "JPEG", exif=exif)
    assert b"at home" in data
    assert b"at home" not in decode_image(data, CONFIG).data


def attempt(data: bytes) -> None:
    try:
        stored(decode_image(data, Fetch(max_pixels=1_000_000, max_side=96)))
    except FetchFailure as caught:
        assert caught.error in (
            ErrorClass.BROKEN_IMAGE,
            ErrorClass.NOT_AN_IMAGE,
            ErrorClass.TOO_MANY_PIXELS,
        )


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(
        st.tuples(
            st.sampled_from(["set", "cut", "insert", "repeat", "zero"]),
            st.floats(0, 1, exclude_max=True),
            st.binary(min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_mutations_of_valid_files_give_an_image_or_a_class(
    name: str, changes: list[tuple[str, float, bytes]], near_the_header: bool
) -> None:
    data = bytearray(VALID[name])
    for kind, where, piece in changes:
        at = int(where * (min(len(data), 64) if near_the_header else len(data)))
        if kind == "set":
            data[at : at + len(piece)] = piece
        elif kind == "cut":
            del data[at : at + len(piece)]
        elif kind == "insert":
            data[at:at] = piece
        elif kind == "repeat":
            data[at:at] = data[at : at + 40 * len(piece)]
        else:
            data[at : at + 4 * len(piece)] = bytes(4 * len(piece))
    attempt(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([b"", *(data[:12] for data in VALID.values())]), st.binary(max_size=200))
@example(b"", b"")
def test_any_bytes_give_an_image_or_a_class(start: bytes, rest: bytes) -> None:
    attempt(start + rest)


@pytest.mark.parametrize(("chroma", "sampling"), [("4:4:4", 0), ("4:2:0", 2)])
def test_resolution_of_the_colours_is_the_recipes(chroma: str, sampling: int) -> None:
    picture = decode_image(encode(photo(200, 100), "JPEG"), Fetch(max_side=64, jpeg_chroma=chroma))
    assert JpegImagePlugin.get_sampling(stored(picture)) == sampling
