"""Typical faults in a list of URLs, with their expected outcomes.

Some faults are files, which `website.py` writes; the others are server faults, which `server.py` simulates.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageDraw

PHOTOS = Path(skimage.__file__).parent / "data"
BOMB_SIDE = 50_000

KEPT, DUPLICATE, RULE = "kept", "duplicate", "rule"  # every other outcome is a class of fetch error


@dataclass(frozen=True)
class Trouble:
    """One row: URL ({site} is the server), caption, outcome, and its file if it has one."""

    url: str | None
    caption: str | None
    outcome: str
    make: Callable[[], bytes] | None = None


def _crop(name: str, box: tuple[int, int, int, int]) -> Image.Image:
    """Crop of a photograph, no duplicate of the whole."""
    return Image.open(PHOTOS / name).crop(box)


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _rotated() -> bytes:
    """Image stored sideways, with the EXIF orientation that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wheel = _crop("motorcycle_right.png", (440, 240, 741, 460))
    return _file(wheel.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=92, exif=exif)


def _sixteen_bits() -> bytes:
    grey = np.asarray(_crop("moon.png", (0, 0, 256, 256)), dtype=np.uint16)
    return _file(Image.fromarray(grey * 257), "PNG")


def _transparent() -> bytes:
    portrait = _crop("astronaut.png", (60, 0, 380, 320)).convert("RGBA")
    mask = Image.new("L", portrait.size)
    ImageDraw.Draw(mask).ellipse((4, 4, 315, 315), fill=255)
    portrait.putalpha(mask)
    return _file(portrait, "PNG")


def _animated() -> bytes:
    first = _crop("ihc.png", (0, 0, 300, 256))
    return _file(first, "GIF", save_all=True, append_images=[first.rotate(180)], duration=500)


def bomb() -> bytes:
    """A PNG of some 300 kB with 2.5 billion pixels. They would take 312 MB at one bit each."""
    rows_at_once = 1000
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = (1 + BOMB_SIDE // 8) * rows_at_once
    block = deflate.compress(bytes(zeros)) + deflate.flush(zlib.Z_FULL_FLUSH)  # may be repeated as it is
    blocks = BOMB_SIDE // rows_at_once
    checksum = (zeros * blocks % 65521) << 16 | 1  # Adler-32 of so many zeros
    data = b"\x78\xda" + block * blocks + deflate.flush() + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _html() -> bytes:
    return b"<!DOCTYPE html><html><body><h1>This picture has moved</h1></body></html>"


def _svg() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'


def _half_size() -> bytes:
    rocket = Image.open(PHOTOS / "rocket.jpg")
    return _file(rocket.resize((320, 213), Image.Resampling.LANCZOS), "PNG")


# By name. The URL of a trouble with a file is {site}/files/troubles/<name>.
TROUBLES: dict[str, Trouble] = {
    # files that are hard to read correctly
    "rotated.jpg": Trouble("", "the front wheel of a red motorcycle", KEPT, _rotated),
    "cmyk.jpg": Trouble(
        "",
        "a spoon beside a cup of coffee",
        KEPT,
        lambda: _file(_crop("coffee.png", (280, 100, 600, 400)).convert("CMYK"), "JPEG", quality=92),
    ),
    "sixteen-bits.png": Trouble("", "a crater on the moon", KEPT, _sixteen_bits),
    "transparent.png": Trouble("", "a round portrait of a smiling woman", KEPT, _transparent),
    "animated.gif": Trouble("", "stained tissue under a microscope, close up", KEPT, _animated),
    # files that cannot be read
    "truncated.jpg": Trouble(
        "",
        "half a photograph of a red eye ground",
        "broken_image",
        lambda: (PHOTOS / "retina.jpg").read_bytes()[:100_000],
    ),
    "page.jpg": Trouble("", "a web page that calls itself a photograph", "not_an_image", _html),
    "drawing.svg": Trouble("", "a vector drawing", "not_an_image", _svg),
    "empty.jpg": Trouble("", "a file without a byte", "not_an_image", bytes),
    "bomb.png": Trouble("", "2.5 billion black pixels", "too_many_pixels", bomb),
    # files that are not wanted
    "one-pixel.png": Trouble("", "a tracking pixel", RULE, lambda: _file(Image.new("RGB", (1, 1)), "PNG")),
    "same.png": Trouble(
        "", "the same cup of coffee", DUPLICATE, lambda: (PHOTOS / "coffee.png").read_bytes()
    ),
    "recompressed.jpg": Trouble(
        "",
        "the same cat, saved again",
        DUPLICATE,
        lambda: _file(Image.open(PHOTOS / "chelsea.png"), "JPEG", quality=60),
    ),
    "half-size.png": Trouble("", "the same rocket, at half the size", DUPLICATE, _half_size),
    "no-caption.jpg": Trouble("", "  ", "bad_caption", lambda: (PHOTOS / "rocket.jpg").read_bytes()),
    # faulty servers
    "missing": Trouble("{site}/trouble/missing", "a picture that is gone", "http_4xx"),
    "broken-server": Trouble("{site}/trouble/broken-server", "a picture behind a broken server", "http_5xx"),
    "flaky-server": Trouble("{site}/trouble/flaky-server", "distant galaxies, upper left", KEPT),
    "busy-server": Trouble("{site}/trouble/busy-server", "distant galaxies, lower right", KEPT),
    "drip": Trouble("{site}/trouble/drip", "a picture that comes byte by byte", "timeout"),
    "reset": Trouble("{site}/trouble/reset", "a picture that breaks off", "incomplete"),
    "gzip-bomb": Trouble("{site}/trouble/gzip-bomb", "a small answer that unpacks to much", "too_many_bytes"),
    "moved": Trouble("{site}/trouble/moved", "pebbles, upper left", KEPT),
    "loop": Trouble("{site}/trouble/loop", "a picture that leads in circles", "too_many_redirects"),
    "opted-out": Trouble("{site}/trouble/opted-out", "a picture not meant for training", "robots"),
    "disallowed": Trouble("{site}/private/diary.jpg", "a picture that robots.txt disallows", "robots"),
    # addresses that are not public
    "redirect-inside": Trouble("{site}/trouble/redirect-inside", "a door to this machine", "blocked_address"),
    "number": Trouble("http://2130706433:9/a.jpg", "this machine as a number", "blocked_address"),
    "user-name": Trouble(
        "http://example.com@127.0.0.1:9/a.jpg", "this machine in disguise", "blocked_address"
    ),
    "metadata": Trouble("http://169.254.169.254/latest/", "a cloud's metadata", "blocked_address"),
    "local-file": Trouble("file:///etc/hostname", "a file of this machine", "blocked_scheme"),
    # rows that are not pairs
    "no-url": Trouble(None, "a caption without a picture", "bad_url"),
    "no-such-url": Trouble("http://[half an address/a.jpg", "a URL that is none", "bad_url"),
}

# The server's final responses after retries.
SERVED: dict[str, Callable[[], bytes]] = {
    "flaky-server": lambda: _file(_crop("hubble_deep_field.jpg", (0, 0, 400, 400)), "JPEG", quality=92),
    "busy-server": lambda: _file(_crop("hubble_deep_field.jpg", (560, 440, 1000, 872)), "JPEG", quality=92),
    "moved": lambda: _file(_crop("gravel.png", (0, 0, 300, 300)), "PNG"),
}
