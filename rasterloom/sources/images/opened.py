"""Opening of an untrusted file: kind, bounds, and what Pillow needs to read it as it is meant."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images import gif, jpeg, png, tiff
from rasterloom.sources.images.formats import EXTRA, check_jpeg_xl, extra_format, readable

USUAL_SCANS = 20  # more of them must not cost more than twice so many of the largest image allowed

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", *gif.SIGNATURES, b"BM", b"II*\0", b"MM\0*")
_COLOURS_OF_JPEG = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}


@dataclass(frozen=True)
class Opened:
    """A file as Pillow opened it."""

    source: Image.Image
    data: bytes  # as received, or what could be mended of it
    kind: str  # "jpeg", "png", ...
    inverted: bool = False  # white was 0, and Pillow does not know


def open_image(data: bytes, max_pixels: int) -> Opened:
    """Open a file that can be decoded within bounds.

    Raises:
        FetchFailure: NOT_AN_IMAGE, BROKEN_IMAGE or TOO_MANY_PIXELS.
    """
    if data.startswith(png.SIGNATURE):
        return _open_png(data, max_pixels)
    if data.startswith(gif.SIGNATURES):
        gif.check_blocks(data)
    scans = _scans(data) if data.startswith(b"\xff\xd8\xff") else 0
    black = tiff.deep_white_is_zero(data)
    source = _open(data if black is None else black, max_pixels)
    kind = "jpeg" if source.format == "MPO" else (source.format or "").lower()
    pixels = source.width * source.height
    if scans > USUAL_SCANS and scans * pixels > 2 * USUAL_SCANS * max_pixels:
        raise FetchFailure(ErrorClass.TOO_MANY_PIXELS, f"a JPEG of {scans} scans of {pixels} pixels each")
    if isinstance(source, TiffImageFile):
        tiff.check_tiles(source, max_pixels)
        tiff.settle_planes(source)
        tiff.settle_palette(source)
    return Opened(source, data, kind, inverted=black is not None)


def whole_jpeg(opened: Opened) -> Opened:
    """Return a JPEG that lacks no pixels, with its end mended.

    Raises:
        FetchFailure: BROKEN_IMAGE.
    """
    colours = _COLOURS_OF_JPEG.get(opened.source.mode)
    whole = jpeg.whole_file(opened.data, colours) if colours else opened.data
    if whole is opened.data:
        return opened
    return Opened(Image.open(BytesIO(whole), formats=("JPEG", "MPO")), whole, opened.kind)


def release_decoder(source: Image.Image) -> None:
    """Drop the frames that a decoder keeps of an animation.

    Those of WebP and AVIF do so of every image.
    """
    if hasattr(source, "_decoder"):
        source._decoder = None


def _open_png(data: bytes, max_pixels: int) -> Opened:
    """Open and load a PNG. If Pillow cannot, do so without its metadata."""
    png.check_chunks(data)
    try:
        source = _loaded(data, max_pixels)
    except FetchFailure as failure:
        mended = png.without_metadata(data) if failure.error is ErrorClass.BROKEN_IMAGE else data
        if mended == data:
            raise
        source, data = _loaded(mended, max_pixels), mended
    if png.is_damaged(source, data):
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, "pixels of a PNG are missing or changed")
    source.info["icc_profile"] = png.colour_profile(source, data)
    png.settle_transparency(source, data)
    return Opened(source, data, "png")


def _scans(data: bytes) -> int:
    found = jpeg.layout(data)
    if not found.every_component:
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, "pixels of a JPEG are missing: a component has no scan")
    return found.scans


def _loaded(data: bytes, max_pixels: int) -> Image.Image:
    source = _open(data, max_pixels)
    size = f"{source.width} x {source.height}"
    try:
        source.load()
    except MemoryError as error:
        raise FetchFailure(ErrorClass.INTERNAL, f"no memory for {size} pixels") from error
    except Exception as error:  # whatever a decoder says of bytes that it cannot read
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, f"png of {size}: {error}") from error
    return source


def _open(data: bytes, max_pixels: int) -> Image.Image:
    extra = extra_format(data)
    if extra == "JXL" and extra in readable():
        check_jpeg_xl(data, max_pixels)
    try:
        source = Image.open(BytesIO(data), formats=readable())
    except UnidentifiedImageError:
        if extra and extra not in readable():
            raise FetchFailure(ErrorClass.NOT_AN_IMAGE, f"{extra}, which is read with {EXTRA}") from None
        if extra or data.startswith(_MAGIC) or data[8:12] in (b"WEBP", b"avif", b"avis"):
            raise FetchFailure(
                ErrorClass.BROKEN_IMAGE, "begins like an image, but its header is broken"
            ) from None
        raise FetchFailure(ErrorClass.NOT_AN_IMAGE, _what_it_is(data)) from None
    except Exception as error:
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, f"its header is broken: {error}") from error
    width, height = source.size
    if 0 in source.size:
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, "declares no pixels")
    if width * height > max_pixels:
        detail = f"declares {width} x {height} pixels, more than max_pixels = {max_pixels}"
        raise FetchFailure(ErrorClass.TOO_MANY_PIXELS, detail)
    return source


def _what_it_is(data: bytes) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return "an empty file"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if start.startswith(b"\x1f\x8b"):
        return "gzip data that no header speaks of"
    if b"<svg" in start:
        return "an SVG drawing, which is not supported"
    return f"no image of a supported kind ({', '.join(readable())}): begins with {data[:16]!r}"
