"""Completeness of a JPEG: its scans by their markers, and what libjpeg's warnings say of its pixels.

libjpeg decodes whatever it is given, fills what is missing with grey, and warns. simplejpeg tells the first
warning; this module decides which of them mean that pixels are missing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import simplejpeg

from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure

MAX_SCANS = 500  # a progressive JPEG has about 10; thousands are made to keep a decoder busy for hours
MAX_SEGMENTS = 2000  # of a file; those of photographs have some dozens
MAX_EXIF_SEGMENTS = 100  # Pillow copies all of EXIF with each; most files have one
MAX_STRAY_IN_HEADER = 2**16  # bytes between segments: each costs Pillow a turn of a loop
MAX_STRAY_AT_END = 16  # bytes between the last block and the end-of-image marker

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_AFTER_PIXELS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither stuffing nor a restart
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without contents
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_NEVER = 99  # bits that a coefficient lacks before its first scan

# Warnings of what stands in a header and changes no pixel: `_tidied` makes them go.
_OF_HEADERS = (
    "Unknown Adobe color transform",
    "Warning: unknown JFIF revision",
    "Invalid SOS parameters for sequential",
    "Corrupt JPEG data: bad ICC",
)
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x(..)")
_CUT_OFF = "Premature end of JPEG file"
_LACKING = ("Corrupt JPEG data", "Inconsistent progression sequence")


@dataclass(frozen=True)
class Segment:
    """A marker of a JPEG, its place and its contents."""

    marker: int
    start: int
    body: bytes


@dataclass(frozen=True)
class Layout:
    """Frame and scans of a JPEG, by its markers."""

    progressive: bool = False
    scans: int = 0
    every_component: bool = True  # has a scan
    every_bit: bool = True  # of each coefficient has one: the last scans are there


def layout(data: bytes) -> Layout:
    """Read a JPEG's markers: those before the pixels, and all where they come in several scans.

    Raises:
        FetchFailure: BROKEN_IMAGE, of more scans, segments or bytes between them than an image has.
    """
    found = Layout()
    lacking: dict[int, list[int]] = {}  # low bits of each coefficient that no scan had, by component
    exif = 0
    for segment in _segments(data):
        body = segment.body
        exif += segment.marker == _APP1 and body.startswith(b"Exif\0")
        if exif > MAX_EXIF_SEGMENTS:
            raise FetchFailure(
                ErrorClass.BROKEN_IMAGE, f"a JPEG of more than {MAX_EXIF_SEGMENTS} segments of EXIF"
            )
        if segment.marker in _FRAMES and len(body) > 5 and not lacking:
            lacking = {name: [_NEVER] * 64 for name in body[6 : 6 + 3 * body[5] : 3]}
            found = replace(found, progressive=segment.marker in _PROGRESSIVE)
        elif segment.marker == _SOS and body:
            names = body[1 : 1 + 2 * body[0] : 2]
            found = replace(found, scans=found.scans + 1)
            if not found.progressive and len(names) == len(lacking):
                return found  # that is all: libjpeg reads no further
            if found.scans > MAX_SCANS:
                raise FetchFailure(ErrorClass.BROKEN_IMAGE, f"a JPEG of more than {MAX_SCANS} scans")
            _note_scan(lacking, names, body[1 + 2 * body[0] :], progressive=found.progressive)
    return replace(
        found,
        every_component=all(bits[0] != _NEVER for bits in lacking.values()),
        every_bit=not any(map(any, lacking.values())),
    )


def whole_file(data: bytes, colours: str) -> bytes:
    """Return a JPEG that lacks no pixels. If only its end-of-image marker is missing, that is added.

    It may also lack the last bits of its last code, as many as a byte has: they become 0. If what follows
    its last scan cannot be read, that goes. A JPEG that libjpeg cannot read is returned as it is.

    Args:
        colours: simplejpeg's name of the colour space that the JPEG can be decoded to.

    Raises:
        FetchFailure: BROKEN_IMAGE, in libjpeg's words.
    """
    whole = readable = data
    warning = _warning(readable, colours)
    if warning.startswith(_OF_HEADERS) or _EXTRANEOUS.match(warning):
        readable = _tidied(data)
        warning = _warning(readable, colours)
    if warning.startswith(_CUT_OFF):
        for ending in (_END, b"\0" + _END):
            warning = _warning(readable + ending, colours)
            if not warning.startswith(_LACKING):
                break
        whole = data + ending
    elif warning and not warning.startswith((*_OF_HEADERS, *_LACKING)):
        # An error. It hides the warnings before it, which are seen without what led to it.
        found = _warning(readable[: _end_of_pixels(readable)] + _END, colours)
        if not found or found.startswith((*_LACKING, _CUT_OFF)):
            whole, warning = data[: _end_of_pixels(data)] + _END, found
    if whole is not data and not layout(whole).every_bit and (not warning or _EXTRANEOUS.match(warning)):
        warning = f"{_CUT_OFF}: its last scans"
    stray = _EXTRANEOUS.match(warning)
    if stray and int(stray[2], 16) == _EOI and int(stray[1]) <= MAX_STRAY_AT_END:
        return whole
    if warning.startswith((*_LACKING, _CUT_OFF)):
        raise FetchFailure(ErrorClass.BROKEN_IMAGE, f"pixels of a JPEG are missing: {warning}")
    return whole


def _warning(data: bytes, colours: str) -> str:
    """Decode a JPEG and return libjpeg's first warning, or its error. Empty without."""
    try:
        simplejpeg.decode_jpeg(data, colours, min_width=1, min_height=1)  # scaled down as far as it goes
    except ValueError as error:
        return str(error)
    return ""


def _note_scan(lacking: dict[int, list[int]], names: bytes, rest: bytes, *, progressive: bool) -> None:
    first, last, bits = (rest[0], min(rest[1], 63), rest[2] & 15) if progressive and rest[2:] else (0, 63, 0)
    for name in names:
        if name in lacking:
            lacking[name][first : last + 1] = [bits] * (last + 1 - first)


def _segments(data: bytes) -> Iterator[Segment]:
    """Walk through a JPEG's segments, as long as they make sense."""
    position, stray, count, after_pixels = 2, 0, 0, False
    while match := (_MARKER_AFTER_PIXELS if after_pixels else _MARKER).search(data, position):
        start, marker = match.start(), data[match.start() + 1]
        count += 1
        stray += 0 if after_pixels else start - position
        if count > MAX_SEGMENTS or stray > MAX_STRAY_IN_HEADER:
            most = (
                f"{MAX_SEGMENTS} segments" if count > MAX_SEGMENTS else f"{MAX_STRAY_IN_HEADER} stray bytes"
            )
            raise FetchFailure(ErrorClass.BROKEN_IMAGE, f"a JPEG of more than {most}")
        if marker in _ALONE:
            position = start + 2
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == _EOI or end < start + 4:
            return
        yield Segment(marker, start, data[start + 4 : end])
        position, after_pixels = end, marker == _SOS


def _end_of_pixels(data: bytes) -> int:
    """The place of the first marker behind the last scan."""
    last = None
    for segment in _segments(data):
        last = segment if segment.marker == _SOS else last
    after = _MARKER_AFTER_PIXELS.search(data, last.start + 4 + len(last.body)) if last else None
    return after.start() if after else len(data)


def _tidied(data: bytes) -> bytes:
    """Return a JPEG with a header that libjpeg does not warn of."""
    segments = []
    for segment in _segments(data):
        segments.append(segment)
        if segment.marker == _SOS:
            break
    frame = next((segment for segment in segments if segment.marker in _FRAMES), None)
    parts = [data[:2]]
    for segment in segments:
        body = bytearray(segment.body)
        if segment.marker == 0xE0 and body.startswith(b"JFIF\0"):
            body[5:7] = b"\1\1"
        elif segment.marker == 0xEE and body.startswith(b"Adobe") and body[11:12] > b"\0":
            body[11] = 2 if frame and frame.body[5:6] == b"\4" else 1  # as libjpeg takes other numbers
        elif segment.marker == _SOS and frame and frame.marker not in _PROGRESSIVE:
            body[-3:] = b"\0\x3f\0"
        if not 0xE1 <= segment.marker <= 0xED:  # metadata
            parts.append(bytes((0xFF, segment.marker)) + (len(body) + 2).to_bytes(2, "big") + bytes(body))
    after = segments[-1].start + 4 + len(segments[-1].body) if segments else 2
    return b"".join([*parts, data[after:]])
