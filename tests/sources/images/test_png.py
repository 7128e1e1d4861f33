"""PNGs by their chunks: metadata costs no picture, missing rows do, and colours are those that are meant."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images import png
from rasterloom.sources.images.decode import decode_image
from rasterloom.sources.images.profiles import PRIMARIES, SRGB_GAMMA, made_profile

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def flat(colour: tuple[int, ...] = (200, 100, 50), side: int = 64) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def encode(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]


def shown(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(decode_image(data, Fetch()).data))
    image.load()
    assert not image.info.get("icc_profile")
    return image


def text(words: str, *, compressed: bool) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", words, zip=compressed)
    info.add_text("workflow", words, zip=compressed)
    return info


PLAIN = encode(flat())


@pytest.mark.parametrize(
    "data",
    [
        encode(flat(), pnginfo=text("an item of a history " * 100_000, compressed=True)),
        encode(flat(), pnginfo=text("an item of a history " * 100_000, compressed=False)),
        encode(flat(), icc_profile=SRGB + bytes(1_200_000)),
        with_chunks(PLAIN, chunk(b"tEXt", b"Comment\0hello", wrong=1)),
        with_chunks(PLAIN, chunk(b"pHYs", b"\0\0\x0b\x12\0\0\x0b\x12\x01", wrong=1)),
        with_chunks(PLAIN, chunk(b"iCCP", b"icc\0\0" + zlib.compress(SRGB), wrong=1)),
        with_chunks(PLAIN, chunk(b"iCCP", b"icc\0\0" + zlib.compress(SRGB)[:100])),
        with_chunks(PLAIN, chunk(b"iCCP", b"icc\0\7no such method")),
        with_chunks(PLAIN, chunk(b"gAMA", b"\0"), chunk(b"cHRM", b"\0"), chunk(b"sRGB", b"")),
        with_chunks(PLAIN, chunk(b"tIME", b"yesterday")),
        with_chunks(PLAIN, chunk(b"eXIf", b"no exif")),
        with_chunks(PLAIN, chunk(b"acTL", struct.pack(">II", 2, 0), wrong=1), chunk(b"fcTL", bytes(26))),
        PLAIN[:-12] + chunk(b"zTXt", b"late\0\0" + zlib.compress(b"x" * 3_000_000)) + PLAIN[-12:],
        PLAIN[:-12],
        PLAIN[:-5],
        PLAIN + b"what follows",
    ],
)
def test_metadata_costs_no_image(data: bytes) -> None:
    picture = decode_image(data, Fetch())
    again = Image.open(BytesIO(picture.data))  # what is stored can be read by anybody
    again.load()
    assert np.abs(np.asarray(again.convert("RGB")).astype(int) - (200, 100, 50)).max() <= 1


def test_a_long_profile_is_applied() -> None:
    wide = made_profile(PRIMARIES[12], SRGB_GAMMA, grey=False)
    assert wide is not None
    expected = shown(encode(flat(), icc_profile=wide)).convert("RGB").getpixel((0, 0))
    assert expected != (200, 100, 50)
    padded = encode(flat(), icc_profile=wide + bytes(1_200_000))
    assert shown(padded).convert("RGB").getpixel((0, 0)) == expected


def raw_png(rows: bytes, size: tuple[int, int] = (16, 16), interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, interlace)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return png.SIGNATURE + body


def test_rows_that_are_missing_are_seen() -> None:
    rows = b"".join(b"\0" + bytes(range(1, 49)) for _ in range(16))
    assert decode_image(raw_png(rows), Fetch()).width == 16
    assert decode_image(raw_png(rows * 2), Fetch()).width == 16
    for short in (rows[:-49], rows[:-1], rows[:49], b""):
        with pytest.raises(FetchFailure) as caught:
            decode_image(raw_png(short), Fetch())
        assert caught.value.error is ErrorClass.BROKEN_IMAGE


def test_pixels_that_were_changed_are_seen() -> None:
    """In stored blocks only checksums tell."""
    rows = np.random.default_rng(0).integers(1, 256, 49 * 16, dtype=np.uint8)
    rows[::49] = 0
    good = raw_png(rows.tobytes())
    assert decode_image(good, Fetch()).width == 16
    at = good.index(b"IDAT") + 4
    for place in (at + 40, at + 400, at + 770):
        bad = good[:place] + bytes((good[place] ^ 16,)) + good[place + 1 :]
        with pytest.raises(FetchFailure) as caught:
            decode_image(bad, Fetch())
        assert caught.value.error is ErrorClass.BROKEN_IMAGE
    end = good.index(b"IEND") - 8
    wrong_sum = good[:end] + b"none" + good[end + 4 :]
    assert decode_image(wrong_sum, Fetch()).width == 16
    for cut in range(1, 16):  # the last chunk, the checksum
        assert decode_image(good[: len(good) - cut], Fetch()).width == 16


@pytest.mark.parametrize("place", [-12, -9, -8, -5])
def test_what_stands_in_place_of_the_end_costs_no_image(place: int) -> None:
    kept = shown(PLAIN[:place] + b"\x7f\x01\x02" + PLAIN[place:])
    assert kept.convert("RGB").getpixel((9, 9)) == (200, 100, 50)


def test_the_end_of_the_file_is_no_pixel() -> None:
    """Bytes are missing within the pixels, and the end of the file stands in for them."""
    noise = np.random.default_rng(0).integers(0, 256, (1, 40), dtype=np.uint8)
    data = encode(Image.fromarray(noise), compress_level=0)
    decode_image(data, Fetch())
    place = data.index(b"IDAT") + 4 + 20
    for count in range(1, 21):
        with pytest.raises(FetchFailure) as failed:
            decode_image(data[:place] + data[place + count :], Fetch())
        assert failed.value.error is ErrorClass.BROKEN_IMAGE


def test_black_rows_are_not_missing() -> None:
    black = encode(Image.new("RGB", (300, 200)))
    assert decode_image(black, Fetch()).width == 300
    assert decode_image(black[:-13], Fetch()).width == 300
    assert decode_image(raw_png(bytes(49 * 16)), Fetch()).width == 16
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        assert decode_image(encode(Image.new(mode, (33, 7))), Fetch()).width == 33


def test_rows_of_interlaced_files_are_counted() -> None:
    sizes = [(w, h) for w in (1, 2, 3, 5, 8, 9, 17) for h in (1, 2, 3, 5, 8, 9, 17)]
    for size in sizes:
        whole = png._raw_bytes(raw_png(b"", size, interlace=1))
        rows = bytes(whole)
        assert decode_image(raw_png(rows, size, interlace=1), Fetch()).width == size[0]
        with pytest.raises(FetchFailure):
            decode_image(raw_png(rows[:-1], size, interlace=1), Fetch())


def test_chunks_are_bounded() -> None:
    with pytest.raises(FetchFailure) as caught:
        decode_image(with_chunks(PLAIN, chunk(b"tEXt", b"") * (png.MAX_CHUNKS + 1)), Fetch())
    assert "chunks" in caught.value.detail


def gama(value: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", value))


def chrm(primaries: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in primaries)))


SRGB_CHUNK = chunk(b"sRGB", b"\0")
P3 = PRIMARIES[12]
# Chunks, and the colour that (200, 100, 50) is shown as.
MEANT = {
    "nothing": ([], (200, 100, 50)),
    "as sRGB in numbers": ([gama(45455), chrm(PRIMARIES[1])], (200, 100, 50)),
    "almost": ([gama(47000)], (200, 100, 50)),
    "linear": ([gama(100_000)], (229, 168, 122)),
    "Macintosh": ([gama(55556)], (210, 119, 66)),
    "sRGB goes first": ([gama(100_000), SRGB_CHUNK], (200, 100, 50)),
    "a gamma that is none": ([gama(0)], (200, 100, 50)),
    "another": ([gama(2**31)], (200, 100, 50)),
    "primaries without a gamma": ([chrm(P3)], (200, 100, 50)),
    "primaries": ([gama(45455), chrm(P3)], (216, 92, 24)),
    "primaries that are none": ([gama(45455), chrm((0.0,) * 8)], (200, 100, 50)),
    "cICP of sRGB": ([chunk(b"cICP", b"\1\x0d\0\1"), gama(100_000)], (200, 100, 50)),
    "cICP of Display P3": ([chunk(b"cICP", b"\x0c\x0d\0\1"), SRGB_CHUNK], None),
    "cICP of BT.709": ([chunk(b"cICP", b"\1\1\0\1")], (199, 93, 40)),
    "cICP of PQ": ([chunk(b"cICP", b"\x09\x10\0\1")], (200, 100, 50)),
    "cICP of a narrow range": ([chunk(b"cICP", b"\x0c\x0d\0\0")], (200, 100, 50)),
}


@pytest.mark.parametrize("name", MEANT)
def test_colours_are_those_that_chunks_mean(name: str) -> None:
    chunks, expected = MEANT[name]
    found = shown(with_chunks(PLAIN, *chunks)).convert("RGB").getpixel((0, 0))
    if expected is None:  # Display P3, as LittleCMS converts it
        profile = made_profile(P3, SRGB_GAMMA, grey=False)
        expected = shown(encode(flat(), icc_profile=profile)).convert("RGB").getpixel((0, 0))
        assert expected[0] > 205 and expected[2] < 45
    assert np.abs(np.array(found) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1"])
def test_greys_have_a_gamma_too(mode: str) -> None:
    image = Image.fromarray(RAMP).convert("L")
    if mode == "I;16":
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    elif mode == "1":
        image = image.point(lambda value: 255 * (value > 99)).convert("1")
    elif mode == "LA":
        image = Image.merge("LA", (image, Image.new("L", image.size, 77)))
    found = np.asarray(shown(with_chunks(encode(image), gama(100_000))).convert("RGB"))[..., 0].astype(int)
    light = RAMP.ravel() / 255
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    if mode == "1":
        assert set(found.ravel()) == {0, 255}
    else:
        assert np.abs(found.ravel() - curve).max() <= 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_transparent_grey_is_that_of_the_file(bits: int, place: int) -> None:
    levels = np.unique([0, 1, 2 ** (bits - 1), 2**bits - 1])
    clear = levels[place]
    samples = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 16 - bits :]
    head = struct.pack(">IIBBBBB", len(levels), 1, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" + np.packbits(samples).tobytes())
    chunks = (b"IHDR", head), (b"tRNS", struct.pack(">H", clear)), (b"IDAT", pixels), (b"IEND", b"")
    found = shown(png.SIGNATURE + b"".join(chunk(*one) for one in chunks)).convert("RGBA")
    assert np.array_equal(np.asarray(found)[0, :, 3], np.where(levels == clear, 0, 255))


def test_a_transparent_colour_of_sixteen_bits_is_compared_whole() -> None:
    colours = np.array([(258, 772, 1286), (259, 772, 1286), (258, 772, 1030), (514, 772, 1286)])
    head = struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + colours.astype(">u2").tobytes())
    clear = struct.pack(">HHH", *colours[0].tolist())
    chunks = (b"IHDR", head), (b"tRNS", clear), (b"IDAT", pixels), (b"IEND", b"")
    found = shown(png.SIGNATURE + b"".join(chunk(*one) for one in chunks))
    assert np.array_equal(np.asarray(found)[0, :, 3], [0, 255, 255, 255])
