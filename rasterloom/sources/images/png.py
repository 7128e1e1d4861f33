"""Chunks of a PNG: bounds, metadata that Pillow stumbles over, and what says how its colours are meant."""

import struct
import zlib
from collections.abc import Iterator
from functools import reduce
from io import BytesIO
from typing import Any

from PIL import Image, ImageChops

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images.profiles import PRIMARIES, SRGB_GAMMA, SRGB_PRIMARIES, made_profile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000  # in files of 50 MB, most have fewer than 10,000; each costs Pillow some microseconds
MAX_PROFILE_BYTES = 2**20  # what Pillow reads of an iCCP chunk

# Ancillary chunks that bear on the pixels, and how long they are: None, any length.
_OF_PIXELS: dict[bytes, int | None] = {
    b"tRNS": None, b"eXIf": None, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cICP": 4,
}  # fmt: skip
# Of an interlaced image: the first column and row, and the steps to the next ones.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_END = b"\0\0\0\0IEND\xaeB`\x82"
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_INFLATED = 2**16  # bytes at a time
_FULL_RANGE = 1
_GAMMA_TOLERANCE = 0.05  # as libpng: what differs by less is not corrected
_PRIMARIES_TOLERANCE = 0.01
_GAMMAS = (0.1, 10.0)  # of decoding; what lies outside is no gamma
# Transfer characteristics of ITU-T H.273 by the exponent of decoding; that of BT.709 and its like is the
# display's (BT.1886). PQ and HLG (16, 18) have no place in 8 bits of sRGB without a choice of tone mapping.
_TRANSFERS = {**dict.fromkeys((1, 6, 11, 14, 15), 2.4), 4: 2.2, 5: 2.8, 8: 1.0, 13: SRGB_GAMMA}


def check_chunks(data: bytes) -> None:
    """Return if a PNG has no more chunks than an image has. BROKEN_IMAGE (FetchFailure) otherwise."""
    for number, _ in enumerate(_chunks(data)):
        if number == MAX_CHUNKS:
            raise FetchFailure(ErrorClass.BROKEN_IMAGE, f"a PNG of more than {MAX_CHUNKS} chunks")


def without_metadata(data: bytes) -> bytes:
    """Return a PNG without broken chunks and without metadata.

    As libpng does, a chunk whose checksum is wrong is passed over if a decoder may do without it. Of an
    animation with such a chunk the first frame stays. What stands behind the pixels and is no chunk goes.
    """
    parts: list[tuple[bytes, bytes]] = []
    end = len(SIGNATURE)
    for kind, start, end in _chunks(data):
        chunk = data[start:end]
        if kind[0] & 32:  # ancillary
            body, whole = chunk[8:-4], zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
            if kind == b"iCCP" and whole:
                chunk = _short_profile(body)
            elif kind in _ANIMATION:
                chunk = chunk if whole else b""
            elif not whole or kind not in _OF_PIXELS or _OF_PIXELS[kind] not in (None, len(body)):
                continue
        parts.append((kind, chunk))
    still = any(kind in _ANIMATION and not chunk for kind, chunk in parts)
    kept = [chunk for kind, chunk in parts if not (still and kind in _ANIMATION)]
    is_whole = any(kind == b"IDAT" for kind, _ in parts) and data[end + 4 : end + 8] != b"IDAT"
    return b"".join([data[: len(SIGNATURE)], *kept, _END if is_whole and end < len(data) else data[end:]])


def is_damaged(image: Image.Image, data: bytes) -> bool:
    """Tell whether pixels of a PNG are missing or changed.

    Pillow leaves rows 0 that are missing, and does not look at checksums.

    Args:
        image: the file as Pillow loaded it.
    """
    sums = [is_right for _, is_right in _pixels(data)]
    last = image.height - 1
    if image.info.get("interlace"):
        last -= 1 - last % 2 if last else 0  # the last row of the last pass
    if all(sums) and image.crop((0, last, image.width, last + 1)).tobytes().strip(b"\0"):
        return False
    inflate = zlib.decompressobj()
    left = _raw_bytes(data)
    try:
        for body, _ in _pixels(data):
            piece = bytes(body)
            while piece and left > -_INFLATED and not inflate.eof:
                left -= len(inflate.decompress(piece, _INFLATED))
                piece = inflate.unconsumed_tail
    except zlib.error:
        return True
    return left > 0 or (False in sums and not inflate.eof)


def colour_profile(image: Image.Image, data: bytes) -> bytes | None:
    """Return the ICC profile that a PNG's chunks stand for. None is sRGB.

    As in browsers cICP goes before iCCP, that before sRGB, and that before gAMA and cHRM.
    """
    grey = data[25] in (0, 4)
    cicp = next(
        (data[start + 8 : end - 4] for kind, start, end in _before_pixels(data) if kind == b"cICP"), b""
    )
    if (
        len(cicp) == 4
        and cicp[0] in PRIMARIES
        and cicp[1] in _TRANSFERS
        and cicp[2:] == bytes((0, _FULL_RANGE))
    ):
        gamma = _TRANSFERS[cicp[1]]
        if (PRIMARIES[cicp[0]], gamma) == (SRGB_PRIMARIES, SRGB_GAMMA):
            return None
        return made_profile(PRIMARIES[cicp[0]], gamma, grey=grey)
    if image.info.get("icc_profile") or "srgb" in image.info:
        profile: bytes | None = image.info.get("icc_profile")
        return profile
    return _gama_and_chrm(image.info, grey=grey)


def _gama_and_chrm(info: dict[str | tuple[int, int], Any], *, grey: bool) -> bytes | None:
    """Return the profile of a gamma and its primaries. As in browsers, primaries alone say nothing."""
    file_gamma = info.get("gamma", 0.0)
    if not file_gamma or not _GAMMAS[0] <= 1 / file_gamma <= _GAMMAS[1]:
        return None
    primaries = info.get("chromaticity", ())
    if all(abs(a - b) <= _PRIMARIES_TOLERANCE for a, b in zip(primaries, SRGB_PRIMARIES, strict=False)):
        if abs(file_gamma * 2.2 - 1) <= _GAMMA_TOLERANCE:
            return None
        primaries = SRGB_PRIMARIES
    return made_profile(primaries, 1 / file_gamma, grey=grey)


def settle_transparency(source: Image.Image, data: bytes) -> None:
    """Make the transparent colour of a PNG one of 8 bits.

    Pillow compares it with samples of 8 bits, whatever the depth of those in the file.
    """
    bits, kind, colour = data[24], data[25], source.info.get("transparency")
    if kind == 0 and bits < 8 and isinstance(colour, int):
        top = 2**bits - 1
        source.info["transparency"] = (colour & top) * (255 // top) if source.mode == "L" else colour
    elif kind == 2 and bits == 16 and isinstance(colour, tuple):
        low = Image.open(BytesIO(data), formats=("PNG",))
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # the other byte of each sample
        bytes_of_colour = [(value >> 8) & 255 for value in colour] + [value & 255 for value in colour]
        bands = zip([*source.split(), *low.split()], bytes_of_colour, strict=True)
        source.putalpha(reduce(ImageChops.lighter, (_other_than(value, band) for band, value in bands)))
        del source.info["transparency"]


def _other_than(value: int, band: Image.Image) -> Image.Image:
    """Return 0 where a band has the value, else 255."""
    return band.point([0 if level == value else 255 for level in range(256)])


def _short_profile(body: bytes) -> bytes:
    """Return an iCCP chunk without what follows its profile. Empty if that is too long or broken."""
    name, _, packed = body.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    size = int.from_bytes(profile[:4], "big")
    if not 128 < size <= len(profile):
        return b""
    return _chunk(b"iCCP", name + b"\0\0" + zlib.compress(profile[:size]))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each whole chunk."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            return
        yield data[start + 4 : start + 8], start, end
        start = end


def _pixels(data: bytes) -> Iterator[tuple[memoryview, bool | None]]:
    """Compressed pixels by chunk, and whether their checksum is right. None where the file is cut off."""
    view, end = memoryview(data), len(SIGNATURE)
    for kind, start, end in _chunks(data):
        if kind == b"IDAT":
            yield (
                view[start + 8 : end - 4],
                zlib.crc32(view[start + 4 : end - 4]) == _number(view[end - 4 : end]),
            )
    if data[end + 4 : end + 8] == b"IDAT":
        body = view[end + 8 : end + 8 + _number(view[end : end + 4])]
        yield body, False if body[-len(_END) :] == _END else None  # the file is whole, and bytes are missing


def _number(data: memoryview) -> int:
    return int.from_bytes(data, "big")


def _before_pixels(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    for chunk in _chunks(data):
        if chunk[0] == b"IDAT":
            return
        yield chunk


def _raw_bytes(data: bytes) -> int:
    """Bytes of the rows of a PNG before compression, by its header."""
    width, height, bits, kind = struct.unpack(">IIBB", data[16:26])
    depth = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 1)
    if not data[28]:
        return int(height * (1 + (width * depth + 7) // 8))
    total = 0
    for x, y, step_x, step_y in _PASSES:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * depth + 7) // 8)
    return total
