"""Images as Chromium shows them: the same pixels, 40 dB or better, or the same verdict.

A page loads files of every kind that browsers show, whole, torn and changed, and reads them back off a
canvas. What we keep is what the browser shows; what we refuse, it does not show or shows incompletely.
docs/compatibility.md lists the differences that are meant; they are no part of the corpus.
"""

import base64
import random
import re
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
from chromium import launched
from drawn_images import CHANGES, LIKE, changed, decibels, encode, grainy, ours, png_head, raw_png
from PIL import Image

from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images import png
from rasterloom.sources.images.profiles import PRIMARIES, SRGB_GAMMA, SRGB_PRIMARIES, made_profile

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::UserWarning:PIL")]

# What `img.decode` refuses may still be shown in part, as a torn JPEG is.
SHOW = """async (places) => { const found = [];
for (const place of places) {
  const img = new Image(), canvas = document.createElement('canvas'), pen = canvas.getContext('2d');
  document.body.append(img);
  img.src = place;
  await img.decode().catch(() => null);
  [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
  if (!canvas.width || !img.complete) { found.push(null); continue; }
  if (canvas.width * canvas.height > 1e6) { found.push([canvas.height, canvas.width, null]); continue; }
  pen.fillStyle = 'white';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(img, 0, 0);
  const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  let text = '';
  for (let i = 0; i < data.length; i += 4096) text += String.fromCharCode(...data.subarray(i, i + 4096));
  found.push([canvas.height, canvas.width, btoa(text)]);
  img.remove();
} return found; }"""
TYPES = {"jpeg": "image/jpeg", "mpo": "image/jpeg", "apng": "image/png"}

COLOUR = grainy(61, 47, 1)
RGB, GREY, PALETTE = COLOUR.convert("RGB"), COLOUR.convert("L"), COLOUR.convert("RGB").quantize(16)
LARGER = grainy(96, 80, 2)
P3, ADOBE = PRIMARIES[12], (*SRGB_PRIMARIES[:4], 0.21, 0.71, 0.15, 0.06)
PROFILES = {
    "p3": made_profile(P3, SRGB_GAMMA, grey=False),
    "adobe": made_profile(ADOBE, 2.2, grey=False),
    "linear": made_profile(SRGB_PRIMARIES, 1.0, grey=False),
    "srgb": made_profile(SRGB_PRIMARIES, SRGB_GAMMA, grey=False),
}
CUTS = (0.3, 0.6, 0.9, 0.97)  # of a torn file's length
FINE = {"quality": 95, "subsampling": "4:4:4"}


def jpegs() -> Iterator[tuple[str, bytes]]:
    for progressive in (False, True):
        kind = f"jpeg progressive={progressive}"
        options = {"quality": 90, "progressive": progressive}
        for chroma in ("4:4:4", "4:2:2", "4:2:0"):
            yield f"{kind} {chroma}", encode(RGB, "JPEG", subsampling=chroma, **options)
        yield f"{kind} grey", encode(GREY, "JPEG", **options)
        yield f"{kind} cmyk", encode(RGB.convert("CMYK"), "JPEG", **options)
        yield f"{kind} rgb", encode(RGB, "JPEG", keep_rgb=True, subsampling="4:4:4", **options)
        yield f"{kind} restarts", encode(RGB, "JPEG", restart_marker_blocks=2, **options)
    for gamma in (1.0, 2.2):
        profile = made_profile(SRGB_PRIMARIES, gamma, grey=True)
        yield f"jpeg grey gamma={gamma}", encode(GREY, "JPEG", icc_profile=profile)
        yield f"jpeg colour, grey profile {gamma}", encode(RGB, "JPEG", icc_profile=profile, **FINE)
    yield "jpeg grey, colour profile", encode(GREY, "JPEG", icc_profile=PROFILES["p3"])
    yield "jpeg broken profile", encode(RGB, "JPEG", icc_profile=(PROFILES["p3"] or b"")[:200], **FINE)
    yield "jpeg and more", encode(RGB, "JPEG", **FINE) + bytes(100)
    turned = RGB.rotate(180)
    yield "mpo", encode(RGB, "MPO", save_all=True, append_images=[turned], **FINE)


def every_kind() -> Iterator[tuple[str, bytes]]:
    """Profiles, orientations, animations and alpha, in several formats."""
    for kind, options in (("jpeg", FINE), ("png", {}), ("webp", {"quality": 95}), ("avif", FINE)):
        for name, profile in PROFILES.items():
            yield f"{kind} profile {name}", encode(RGB, kind, icc_profile=profile, **options)
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            if kind != "webp":
                yield f"{kind} turned {orientation}", encode(RGB, kind, exif=exif.tobytes(), **options)
    for kind in ("gif", "webp", "png"):
        still = encode(RGB, kind)
        more: dict[str, Any] = {"save_all": True, "append_images": [RGB.rotate(180)], "duration": 60_000}
        yield f"{kind} still", still
        yield f"{kind} alpha", encode(COLOUR, kind)
        yield f"{'a' if kind == 'png' else ''}{kind} animated", encode(RGB, kind, **more)
    yield "webp lossless", encode(COLOUR, "webp", lossless=True)
    yield "gif grey", encode(GREY, "gif")
    for chroma in ("4:4:4", "4:2:0"):
        yield f"avif {chroma}", encode(RGB, "avif", quality=90, subsampling=chroma)
    yield "avif grey", encode(GREY, "avif", quality=90)
    for image in (GREY.convert("1"), GREY, PALETTE, RGB, COLOUR):
        yield f"bmp {image.mode}", encode(image, "bmp")


def pngs() -> Iterator[tuple[str, bytes]]:
    """PNGs of every type and depth, with transparent colours that occur."""
    drawn = np.random.default_rng(5)
    for kind, bits in [
        *((0, bits) for bits in (1, 2, 4, 8, 16)),
        *((3, bits) for bits in (1, 2, 4, 8)),
        *((kind, bits) for kind in (2, 4, 6) for bits in (8, 16)),
    ]:
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
        levels = drawn.integers(0, 2**bits, (4, samples))
        levels[1] = levels[0] ^ 1  # of 16 bits they differ in the lower byte
        pixels = levels[drawn.integers(0, 4, (24, 32))].reshape(24, -1)
        rows = packed(pixels, bits)
        palette = drawn.integers(0, 256, 3 * 2**bits, dtype=np.uint8).tobytes() if kind == 3 else b""
        extra = png._chunk(b"PLTE", palette) if palette else b""
        alphas = drawn.integers(0, 256, 2 ** min(bits, 8), dtype=np.uint8)
        clear = alphas.tobytes() if kind == 3 else levels[0].astype(">u2").tobytes()
        name, head = f"png type {kind}, {bits} bits", png_head(32, 24, bits, kind)
        yield name, raw_png(head, rows, extra)
        if kind in (0, 2, 3):
            yield f"{name}, tRNS", raw_png(head, rows, extra + png._chunk(b"tRNS", clear))
        woven = png_head(31, 23, bits, kind, interlace=1)
        noise = bytearray(drawn.integers(0, 256, png._raw_bytes(woven), dtype=np.uint8).tobytes())
        yield f"{name}, interlaced", raw_png(woven, unfiltered(woven, noise), extra)


def packed(pixels: np.ndarray, bits: int) -> bytes:
    rows = []
    for row in pixels:
        wide = np.unpackbits(row.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
        rows.append(b"\0" + np.packbits(wide[:, 16 - bits :]).tobytes())
    return b"".join(rows)


def unfiltered(head: bytes, rows: bytearray) -> bytes:
    """Rows of an interlaced PNG with 0 for every filter."""
    width, height, bits, kind = struct.unpack(">IIBB", head[16:26])
    depth = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    place = 0
    for x, y, across, down in png._PASSES:
        columns = -(-(width - x) // across)
        for _ in range(-(-(height - y) // down) if columns > 0 else 0):
            rows[place] = 0
            place += 1 + (columns * depth + 7) // 8
    return bytes(rows)


def meant_colours() -> Iterator[tuple[str, bytes]]:
    """PNGs whose chunks say how their colours are meant."""

    def gama(gamma: float) -> bytes:
        return png._chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))

    def chrm(primaries: tuple[float, ...]) -> bytes:
        return png._chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in primaries)))

    chunks = {f"gAMA {gamma}": gama(gamma) for gamma in (0.3, 0.45455, 0.5556, 1.0, 9.0)}
    chunks |= {f"gAMA {gamma}, cHRM": gama(gamma) + chrm(P3) for gamma in (0.45455, 0.5556, 1.0)}
    chunks |= {"cHRM": chrm(P3), "cHRM of sRGB": gama(0.45455) + chrm(SRGB_PRIMARIES)}
    chunks["sRGB"] = png._chunk(b"sRGB", b"\0") + gama(1.0) + chrm(P3)
    for primaries in PRIMARIES:
        chunks[f"cICP {primaries}"] = png._chunk(b"cICP", bytes((primaries, 13, 0, 1)))
    for transfer in (1, 2, 4, 5, 6, 8, 11, 12, 14, 15):
        chunks[f"cICP 9, {transfer}"] = png._chunk(b"cICP", bytes((9, transfer, 0, 1)))
    for image in (RGB, COLOUR, GREY):
        whole = encode(image, "PNG")
        for name, chunk in chunks.items():
            yield f"png {image.mode} {name}", whole[:33] + chunk + whole[33:]


def larger() -> Iterator[tuple[str, bytes]]:
    """Files to tear and change: of 8 bits, and large enough to lack something."""
    image = LARGER.convert("RGB")
    for chroma in ("4:4:4", "4:2:0"):
        yield f"jpeg {chroma}", encode(image, "JPEG", quality=90, subsampling=chroma)
    yield "jpeg grey", encode(LARGER.convert("L"), "JPEG", quality=90)
    yield "jpeg progressive", encode(image, "JPEG", quality=90, progressive=True)
    for kind in ("png", "gif", "bmp"):
        yield kind, encode(image, kind)
    yield "webp", encode(image, "WEBP", quality=90)
    yield "webp lossless", encode(image, "WEBP", lossless=True)


def in_browser(files: dict[str, bytes]) -> dict[str, np.ndarray | None]:
    """Images that Chromium shows of files, on white, by name. None where it shows nothing."""

    def serve(route: Any) -> None:
        name = unquote(route.request.url.partition("/files/")[2])
        kind = name.partition(" ")[0]
        body = files.get(name, b"<!doctype html><title>Images</title><body>")
        route.fulfill(
            body=body, content_type=TYPES.get(kind, f"image/{kind}") if name in files else "text/html"
        )

    with launched("--force-color-profile=srgb") as browser:
        page = browser.new_page()
        page.route("**/*", serve)
        page.goto("http://images.test/")
        found = page.evaluate(SHOW, [f"/files/{quote(name, safe='')}" for name in files])
    return {name: pixels(*shown) if shown else None for name, shown in zip(files, found, strict=True)}


def pixels(height: int, width: int, data: str | None) -> np.ndarray:
    if data is None:  # more than were read back
        return np.empty((height, width, 0))
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3].astype(float)


def test_whole_images_look_as_in_a_browser() -> None:
    files = dict([*jpegs(), *every_kind(), *pngs(), *meant_colours(), *larger()])
    shown = in_browser(files)
    for name, data in files.items():
        kept, theirs = ours(data), shown[name]
        assert isinstance(kept, np.ndarray), (name, kept)
        assert theirs is not None, name
        assert kept.shape == theirs.shape, name
        assert decibels(kept, theirs) >= LIKE, name


@pytest.mark.parametrize("seed", range(2))
def test_what_is_not_shown_whole_is_broken(seed: int) -> None:
    whole, drawn = dict(larger()), random.Random(seed)
    files = {
        f"{name} torn at {part}": data[: int(len(data) * part)]
        for name, data in whole.items()
        for part in CUTS
    }
    for number in range(200):
        name = drawn.choice(list(whole))
        change = drawn.choice(CHANGES), drawn.random(), drawn.randint(1, 64)
        files[f"{name} number {number} {change}"] = changed(whole[name], [change])
    shown = in_browser(whole | files)
    for name, data in files.items():
        theirs, undamaged = shown[name], shown[re.split(" torn| number", name)[0]]
        kept = ours(data)
        if isinstance(kept, FetchFailure):
            lacks = theirs is None or not np.array_equal(theirs, undamaged)
            assert lacks or "extraneous" in kept.detail, (name, kept)
        elif not (name.startswith("jpeg") and not data.rstrip(b"\0").endswith(b"\xff\xd9")):
            assert theirs is not None, name
            assert kept.shape == theirs.shape, name
            assert decibels(kept, theirs) >= LIKE, name
