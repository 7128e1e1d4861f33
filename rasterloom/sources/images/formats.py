"""Formats that are read where the extra ``formats`` is installed: HEIC and JPEG XL."""

from functools import cache
from importlib.util import find_spec

from PIL import features

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure

EXTRA = "pip install 'rasterloom[formats]'"

_BUILT_IN = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_JXL_CODESTREAM = b"\xff\x0a"
_JXL_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_JXL_BOXES = (b"jxlc", b"jxlp")
_MAX_BOXES = 1000
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SIZE_BITS = (9, 13, 18, 30)
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # of width to height


@cache
def readable() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are decoded. Pillow knows them then."""
    found = _BUILT_IN + (("AVIF",) if features.check("avif") else ())
    if find_spec("pillow_heif"):
        import pillow_heif  # heavy

        pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
        found += ("HEIF",)
    if find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401  # heavy

        found += ("JXL",)
    return found


def extra_format(data: bytes) -> str | None:
    """Return Pillow's name of a format of the extra. None for another file."""
    if data.startswith((_JXL_CODESTREAM, _JXL_CONTAINER)):
        return "JXL"
    return "HEIF" if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS else None


def check_jpeg_xl(data: bytes, max_pixels: int) -> None:
    """Return if a JPEG XL declares no more pixels than are allowed. Its decoder begins by decoding.

    Raises:
        FetchFailure: TOO_MANY_PIXELS or BROKEN_IMAGE.
    """
    codestream = _codestream(data)
    if not codestream.startswith(_JXL_CODESTREAM):
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, "begins like JPEG XL, but its header is broken")
    width, height = _size(int.from_bytes(codestream[2:18], "little"))
    if width * height > max_pixels:
        detail = f"declares {width} x {height} pixels, more than max_pixels = {max_pixels}"
        raise FetchFailure(ErrorClass.TOO_MANY_PIXELS, detail)


def _codestream(data: bytes) -> bytes:
    """The beginning of a file's codestream: the file itself, or that of a box."""
    start = 0
    for _ in range(_MAX_BOXES if data.startswith(_JXL_CONTAINER) else 0):
        size, kind, header = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        if kind in _JXL_BOXES:
            start += header + (4 if kind == b"jxlp" else 0)
            break
        if size < header:
            return b""
        start += size
    return data[start : start + 32]


def _size(bits: int) -> tuple[int, int]:
    """Width and height by the bits after the signature, the lowest first."""

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take(_SIZE_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if not ratio:
        return side(), height
    wide, high = _RATIOS[ratio - 1]
    return height * wide // high, height
