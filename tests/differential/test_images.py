"""Images as libvips, Pillow, LittleCMS and exiftool read them: the same pixels, or the same verdict.

Files of every kind are drawn, and their bytes are changed: flipped, cut, moved, chunks and scans added and
left out. What is kept shows what the others show, 40 dB or better; what libvips reads without a warning is
kept.
"""

import json
import os
import struct
import subprocess
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_images import CHANGES as KINDS_OF_CHANGES
from drawn_images import CONFIG, LIKE, changed, decibels, encode, grainy, on_white, ours, png_head
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images import jpeg, png
from rasterloom.sources.images.colour import to_eight_bits, to_srgb
from rasterloom.sources.images.decode import decode_image
from rasterloom.sources.images.profiles import made_profile

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of broken metadata

IS_NIGHT = settings.get_current_profile_name() == "night"
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
SOME = settings(max_examples=2000 if IS_NIGHT else 40, suppress_health_check=SUPPRESSED)


def vips(folder: Path, data: bytes, fail_on: str = "warning") -> np.ndarray | None:
    """Decode a file by libvips. None if it says anything against it."""
    (folder / "in").write_bytes(data)
    out = folder / "out.png"
    out.unlink(missing_ok=True)
    command = ["vips", "copy", f"in[fail-on={fail_on}]", "out.png[compression=1]"]
    env = {**os.environ, "VIPS_CONCURRENCY": "1"}  # with more, luck decides whether an error is seen
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    if done.returncode or not out.exists():
        return None
    with Image.open(out) as image:
        deep = image.mode.startswith("I")
        return on_white(Image.fromarray((np.asarray(image) // 256).astype(np.uint8)) if deep else image)


SIDES = st.integers(1, 70)
SEEDS = st.integers(0, 9)
BASE = st.builds(grainy, SIDES, SIDES, SEEDS)


@st.composite
def jpegs(draw: Any) -> bytes:
    image = draw(BASE).convert(draw(st.sampled_from(["RGB", "RGB", "L"])))
    options: dict[str, Any] = {
        "quality": draw(st.sampled_from([60, 85, 95])),
        "progressive": draw(st.booleans()),
        "optimize": draw(st.booleans()),
        "restart_marker_blocks": draw(st.sampled_from([0, 0, 1, 3])),
    }
    if image.mode == "RGB":
        options["subsampling"] = draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]))
        options["keep_rgb"] = draw(st.sampled_from([False, False, True]))
        if options["keep_rgb"]:
            options["subsampling"] = "4:4:4"
    return encode(image, "JPEG", **options)


@st.composite
def pngs(draw: Any) -> bytes:
    """PNGs of every colour type and depth, with filters and interlacing as they come."""
    kind, bits = draw(
        st.sampled_from(
            [(0, b) for b in (1, 2, 4, 8, 16)]
            + [(3, b) for b in (1, 2, 4, 8)]
            + [(k, b) for k in (2, 4, 6) for b in (8, 16)]
        )
    )
    width, height, interlace = draw(SIDES), draw(SIDES), draw(st.sampled_from([0, 0, 1]))
    head = png_head(width, height, bits, kind, interlace)
    random = np.random.default_rng(draw(SEEDS))
    rows = bytearray(random.integers(0, 256, png._raw_bytes(head), dtype=np.uint8).tobytes())
    for start in row_starts(head):
        rows[start] = draw(st.sampled_from([0, 1, 2, 3, 4])) if start == 0 else int(random.integers(0, 5))
    if kind == 3:
        head += png._chunk(b"PLTE", random.integers(0, 256, 3 * 2**bits, dtype=np.uint8).tobytes())
        if draw(st.booleans()):
            head += png._chunk(b"tRNS", random.integers(0, 256, 2**bits, dtype=np.uint8).tobytes())
    elif kind in (0, 2) and draw(st.booleans()):
        transparent = random.integers(0, 2**bits, 1 + kind)
        head += png._chunk(b"tRNS", transparent.astype(">u2").tobytes())
    body = zlib.compress(bytes(rows))
    cut = draw(st.integers(1, len(body)))
    return head + png._chunk(b"IDAT", body[:cut]) + png._chunk(b"IDAT", body[cut:]) + png._chunk(b"IEND", b"")


def row_starts(head: bytes) -> list[int]:
    """Offsets of the rows of a PNG, with their filters."""
    width, height, bits, kind = struct.unpack(">IIBB", head[16:26])
    depth = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    passes = [(0, 0, 1, 1)]
    if head[28]:
        passes = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
    starts, at = [], 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        for _ in range(max(rows, 0) if columns > 0 else 0):
            starts.append(at)
            at += 1 + (columns * depth + 7) // 8
    return starts


@st.composite
def others(draw: Any) -> bytes:
    image = draw(BASE)
    kind, mode, options = draw(
        st.sampled_from(
            [
                ("GIF", "RGB", {}),
                ("GIF", "L", {}),
                ("GIF", "RGBA", {}),
                ("WEBP", "RGB", {}),
                ("WEBP", "RGBA", {}),
                ("WEBP", "RGBA", {"lossless": True}),
                ("TIFF", "RGB", {}),
                ("TIFF", "L", {"compression": "tiff_lzw"}),
                ("TIFF", "RGBA", {}),
                ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
                ("TIFF", "1", {"compression": "group4"}),
                ("TIFF", "RGB", {"compression": "packbits"}),
                ("TIFF", "P", {}),
                ("TIFF", "RGB", {"compression": "jpeg", "quality": 95}),
            ]
        )
    )
    if mode == "P":
        return encode(image.convert("RGB").quantize(16), kind, **options)
    return encode(image.convert(mode), kind, **options)


@SOME
@given(jpegs() | pngs() | others())
def test_whole_images_look_as_libvips_shows_them(tmp_path: Path, data: bytes) -> None:
    shown, theirs = ours(data), vips(tmp_path, data)
    assert isinstance(shown, np.ndarray), shown
    assert theirs is not None
    assert decibels(shown, theirs) >= LIKE


@SOME
@given(BASE, st.sampled_from(["1", "L", "P", "RGB"]))
def test_bitmaps_look_as_imagemagick_shows_them(tmp_path: Path, image: Image.Image, mode: str) -> None:
    image = image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)
    (tmp_path / "in.bmp").write_bytes(encode(image, "BMP"))
    subprocess.run(["convert", "in.bmp", "-depth", "8", "out.ppm"], cwd=tmp_path, check=True)
    shown = ours((tmp_path / "in.bmp").read_bytes())
    assert isinstance(shown, np.ndarray)
    assert decibels(shown, on_white(Image.open(tmp_path / "out.ppm"))) >= LIKE


CHANGES = st.lists(
    st.tuples(st.sampled_from(KINDS_OF_CHANGES), st.floats(0, 1), st.integers(1, 64)),
    min_size=1,
    max_size=3,
)


def djpeg(folder: Path, data: bytes, *options: str) -> np.ndarray | None:
    """Decode a JPEG by libjpeg's own program. None if that ends with an error."""
    (folder / "in.jpg").write_bytes(data)
    done = subprocess.run(
        ["djpeg", *options, "-outfile", "out.ppm", "in.jpg"], cwd=folder, capture_output=True
    )
    if done.returncode not in (0, WARNED):
        return None
    with Image.open(folder / "out.ppm") as image:
        return on_white(image)


WARNED = 2  # djpeg's exit code
TOLERATED = ("Premature end", "extraneous")  # at the end, and few


@SOME
@given(jpegs(), CHANGES, st.booleans())
def test_changed_jpegs_are_whole_or_broken(
    tmp_path: Path, whole: bytes, changes: list[tuple[str, float, int]], closed: bool
) -> None:
    start = next(segment.start for segment in jpeg._segments(whole) if segment.marker == 0xDA) + 14
    data = changed(whole, changes, start)
    data += b"\xff\xd9" if closed and not data.endswith(b"\xff\xd9") else b""
    shown = ours(data)
    if djpeg(tmp_path, data, "-strict") is not None:
        lacks = isinstance(shown, FetchFailure) and (
            "last scans" in shown.detail or "no scan" in shown.detail
        )
        assert lacks or isinstance(shown, np.ndarray), shown
    if isinstance(shown, np.ndarray):
        theirs = djpeg(tmp_path, decode_image(data, CONFIG).data)  # its end may have been mended
        said = subprocess.run(["djpeg", "in.jpg"], cwd=tmp_path, capture_output=True)
        assert not said.stderr or any(word in said.stderr.decode() for word in TOLERATED), said.stderr
        assert theirs is not None
        # Where scans are missing, each version of libjpeg smooths otherwise.
        assert decibels(shown, theirs) >= LIKE or not jpeg.layout(data).every_bit


@SOME
@given(pngs(), CHANGES, st.booleans())
def test_changed_pngs_are_whole_or_broken(
    tmp_path: Path, whole: bytes, changes: list[tuple[str, float, int]], in_pixels: bool
) -> None:
    at = whole.index(b"IDAT") + 4
    data = changed(whole, changes, at if in_pixels else len(png.SIGNATURE))
    shown = ours(data)
    strictly = vips(tmp_path, data)
    if strictly is not None:
        assert isinstance(shown, np.ndarray), shown
        assert decibels(shown, strictly) >= LIKE
    elif isinstance(shown, np.ndarray) and in_pixels:  # what was changed is no part of the pixels
        assert decibels(shown, on_white_of(whole)) >= LIKE


def on_white_of(data: bytes) -> np.ndarray:
    shown = ours(data)
    assert isinstance(shown, np.ndarray)
    return shown


CHUNKS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"pHYs", b"tIME", b"bKGD", b"xxXx"]
        ),
        st.binary(max_size=40) | st.just(b"a\0" + bytes(3_000_000)),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@SOME
@given(pngs(), CHUNKS)
def test_chunks_of_metadata_cost_no_image(whole: bytes, chunks: list[tuple[bytes, bytes, bool]]) -> None:
    more = b""
    for kind, body, wrong in chunks:
        if kind in (b"gAMA", b"cHRM") and len(body) in (4, 32):
            body = b""  # it would mean something
        chunk = png._chunk(kind, body)
        more += chunk[:-4] + bytes(4) if wrong else chunk
    shown = ours(whole[:33] + more + whole[33:])
    assert isinstance(shown, np.ndarray), shown
    assert decibels(shown, on_white_of(whole)) >= LIKE


@SOME
@given(others(), CHANGES)
def test_changed_files_of_other_kinds_are_images_or_broken(
    tmp_path: Path, whole: bytes, changes: list[tuple[str, float, int]]
) -> None:
    ours(changed(whole, changes))


@SOME
@given(jpegs(), st.data())
def test_scans_that_are_left_out_are_missing(whole: bytes, data: st.DataObject) -> None:
    assume(jpeg.layout(whole).progressive)
    segments = list(jpeg._segments(whole))
    scans = [number for number, segment in enumerate(segments) if segment.marker == 0xDA]
    number = data.draw(st.sampled_from(scans))
    start = segments[number].start
    end = segments[number + 1].start if number + 1 < len(segments) else len(whole) - 2
    shown = ours(whole[:start] + whole[end:])
    if number == scans[0]:
        assert isinstance(shown, FetchFailure)
    elif isinstance(shown, np.ndarray):  # an encoder may do without its last scans
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        assert decibels(shown, on_white(Image.open(BytesIO(whole[:start] + whole[end:])))) >= LIKE


NEAR = st.floats(-0.03, 0.03)


@SOME
@given(st.sampled_from([1.0, 1.4, 1.8, 2.2, 2.6]), st.lists(NEAR, min_size=6, max_size=6), SEEDS)
@example(2.2, [0.0] * 6, 0)
def test_profiles_are_applied_as_littlecms_applies_them(gamma: float, shift: list[float], seed: int) -> None:
    primaries = (0.3127, 0.329, *np.add([0.64, 0.33, 0.3, 0.6, 0.15, 0.06], shift).tolist())
    profile = made_profile(primaries, gamma, grey=False)
    assume(profile is not None)
    assert profile is not None
    image = grainy(40, 30, seed).convert("RGB")
    exact = ImageCms.profileToProfile(
        image, BytesIO(profile), ImageCms.createProfile("sRGB"), flags=ImageCms.Flags.NOOPTIMIZE
    )
    assert exact is not None
    shown = ours(encode(image, "PNG", icc_profile=profile))
    assert isinstance(shown, np.ndarray)
    assert decibels(shown, on_white(exact)) >= LIKE


def test_profiles_are_those_that_transicc_reads(tmp_path: Path) -> None:
    for gamma in (0.0, 1.0, 1.8, 2.4):
        profile = made_profile((0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06), gamma, grey=False)
        assert profile is not None
        (tmp_path / "in.icc").write_bytes(profile)
        for colour in ((200, 100, 50), (12, 240, 99), (128, 128, 128)):
            asked = " ".join(map(str, colour))
            command = ["transicc", "-i", "in.icc", "-o", "*sRGB", "-t", "0", "-n"]
            done = subprocess.run(command, cwd=tmp_path, input=f"{asked}\n", capture_output=True, text=True)
            expected = [float(value) for value in done.stdout.split()[-3:]]
            image = Image.new("RGB", (2, 2), colour)
            image.info["icc_profile"] = profile
            found = to_srgb(to_eight_bits(image)).getpixel((0, 0))
            assert np.abs(np.clip(expected, 0, 255) - found).max() <= 2, (gamma, colour)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_upright_by_what_exiftool_reads(tmp_path: Path, kind: str) -> None:
    upright = grainy(48, 32, 0).convert("RGB")
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in turned.items():
        lying = upright if turn is None else upright.transpose(turn)
        options = (
            {"quality": 100, "subsampling": 0}
            if kind == "JPEG"
            else {"lossless": True}
            if kind == "WEBP"
            else {}
        )
        (tmp_path / str(orientation)).write_bytes(encode(lying, kind, **options))
    command = ["exiftool"]
    for name in map(str, turned):
        command += ["-q", "-n", "-overwrite_original", f"-Orientation={name}", name, "-execute"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    files = [str(orientation) for orientation in turned]
    done = subprocess.run(["exiftool", "-n", "-j", "-Orientation", *files], cwd=tmp_path, capture_output=True)
    assert [row["Orientation"] for row in json.loads(done.stdout)] == list(turned)
    for name in files:
        shown = ours((tmp_path / name).read_bytes())
        assert isinstance(shown, np.ndarray)
        assert decibels(shown, on_white(upright)) >= LIKE, (kind, name)
