"""Decoding of an untrusted file to the image that is stored."""

import warnings
from dataclasses import dataclass
from functools import cache
from io import BytesIO

from PIL import Image, ImageOps

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images.colour import needs_conversion, to_eight_bits, to_srgb
from rasterloom.sources.images.formats import readable
from rasterloom.sources.images.opened import open_image, release_decoder, whole_jpeg
from rasterloom.sources.images.perceptual_hash import on_white, summary
from rasterloom.sources.images.resize import decode_jpeg, fit, scale, square, use_one_thread
from rasterloom.sources.images.tiff import silence_libtiff

KEPT_FORMATS = ("JPEG", "PNG", "WEBP")  # those that may be stored as received
JPEG_SIDE = 65_500  # libjpeg writes no longer one

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def configure_pillow() -> None:
    """Prepare this process to decode: formats, warnings, Pillow's limit, OpenCV's threads.

    A worker calls it before its threads start; else the first image does.
    """
    # Of broken metadata Pillow warns with every file; what matters of it ends in a class of error.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    Image.init()  # the formats, before threads race for them
    readable()
    silence_libtiff()
    # Pillow's own limit knows nothing of the recipe's; `decode_image` holds every image to that one.
    Image.MAX_IMAGE_PIXELS = None
    use_one_thread()


@dataclass(frozen=True)
class DecodedImage:
    """An image as it is kept. Sizes are in pixels, of the image held upright."""

    data: bytes
    format: str  # of `data`: "jpeg", "png" or "webp"
    width: int
    height: int
    phash: str
    thumbnail: bytes
    original_format: str
    original_width: int
    original_height: int


def decode_image(data: bytes, config: Fetch) -> DecodedImage:
    """Decode, check and normalise an image file.

    The result is upright, in sRGB, of the size that ``config.max_side`` and ``config.resize`` say, and keeps
    its alpha where a pixel is not opaque; of an animation it is the first frame. A JPEG, PNG or WebP that is
    all of this already stays byte for byte as received; other images are stored as JPEG, or as PNG if the
    source was lossless and PNG is no larger, or if they have alpha.

    Raises:
        FetchFailure: NOT_AN_IMAGE, BROKEN_IMAGE or TOO_MANY_PIXELS.
    """
    configure_pillow()
    opened = open_image(data, config.max_pixels)
    width, height = opened.source.size
    kind = opened.kind
    try:
        size = fit((width, height), config.max_side, config.resize)
        decoded = decode_jpeg(opened.data, opened.source, size)
        if kind == "jpeg" and decoded is None:
            opened = whole_jpeg(opened)
        source, data = opened.source, opened.data
        image = decoded or to_eight_bits(source)
        image.load()
        release_decoder(source)
        if opened.inverted:
            image = ImageOps.invert(image)
        as_received = image is source or image is decoded
        changed = not as_received or size != (width, height) or needs_conversion(image)
        image = scale(image, size)
        orientation = _orientation(source)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
            changed = True
        image = to_srgb(image)
        changed = changed or image.mode != source.mode
        upright = image
        image = square(upright, config.max_side, config.resize)
        changed = changed or image is not upright
    except FetchFailure:
        raise
    except MemoryError as error:
        raise FetchFailure(ErrorClass.INTERNAL, f"no memory for {width} x {height} pixels") from error
    except Exception as error:  # whatever a decoder says of bytes that it cannot read
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, f"{kind} of {width} x {height}: {error}") from error
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    received = data if not changed and _may_stay(source, data) else None
    stored, stored_format = _store(image, received, kind, _is_lossless(source, data), config)
    return DecodedImage(stored, stored_format, *image.size, *summary(on_white(image)), kind, width, height)


def _orientation(source: Image.Image) -> int:
    try:
        return int(source.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF; the pixels are well
        return 1


def _may_stay(source: Image.Image, data: bytes) -> bool:
    """Tell whether the file as received may be stored: one frame, in a format that is kept."""
    deep_png = source.format == "PNG" and data[24] == 16  # bits a sample, in the header
    animated = source.format != "MPO" and getattr(source, "is_animated", False)
    return source.format in (*KEPT_FORMATS, "MPO") and not deep_png and not animated


def _is_lossless(source: Image.Image, data: bytes) -> bool:
    if source.format == "WEBP":
        return b"VP8L" in data[:64]
    if source.format == "TIFF":
        return source.info.get("compression") != "jpeg"
    return source.format in ("PNG", "GIF", "BMP")


def _store(
    image: Image.Image, received: bytes | None, kind: str, lossless: bool, config: Fetch
) -> tuple[bytes, str]:
    """Choose the form that an image is kept in: (file, format)."""
    if received is not None and (not lossless or image.mode == "RGBA"):
        return received, kind
    if image.mode == "RGBA" or max(image.size) > JPEG_SIDE:
        return _encode(image, "PNG"), "png"
    jpeg = _encode(image, "JPEG", quality=config.jpeg_quality, subsampling=config.jpeg_chroma)
    if lossless:
        exact = (received, kind) if received is not None else (_encode(image, "PNG"), "png")
        if len(exact[0]) <= len(jpeg):
            return exact
    return jpeg, "jpeg"


def _encode(image: Image.Image, kind: str, **options: int | str) -> bytes:
    image.info = {}  # no metadata, and no profile: the pixels are sRGB
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
