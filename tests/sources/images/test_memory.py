"""Memory that decoding takes: bounded by the pixels that a file declares, whatever its format."""

import os
import resource
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, features

from rasterloom.recipe.fetch import PIXEL_BYTES, Fetch
from rasterloom.sources.images.formats import readable

SIDE = 3600
SCRATCH = 10_000_000  # strips, and what grows with the number of rows
PROGRAM = """
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.images.decode import decode_image

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

small = BytesIO()
Image.new("RGBA", (64, 64)).save(small, "PNG")
decode_image(small.getvalue(), Fetch())  # loads what any image takes
data, before = Path(sys.argv[1]).read_bytes(), peak()
decoded = decode_image(data, Fetch(resize=sys.argv[2]))
print(decoded.original_format, decoded.original_width * decoded.original_height, peak() - before)
"""


def solid_webp(width, height):
    """A lossless WebP of one transparent colour: its header says how large it is, and nothing else does."""
    file = BytesIO()
    Image.new("RGBA", (16, 16), (9, 9, 9, 9)).save(file, "WEBP", lossless=True, exact=True)
    data = bytearray(file.getvalue())
    start = data.index(b"VP8L") + 8
    assert data[start] == 0x2F
    bits = int.from_bytes(data[start + 1 : start + 5], "little") >> 28 << 28
    data[start + 1 : start + 5] = (bits | (height - 1) << 14 | (width - 1)).to_bytes(4, "little")
    return bytes(data)


def drawn(mode, kind, **options):
    """A plain image in one of Pillow's modes, half transparent where it has alpha."""

    def make(width, height):
        colour = (99, 99, 99, 99)[: len(Image.new(mode, (1, 1)).getbands())]
        readable()  # Pillow knows the others' formats then
        file = BytesIO()
        image = Image.new(mode, (width, height), colour if len(colour) > 1 else 99)
        image.save(file, kind, **options)
        return file.getvalue()

    return make


def tall_png(bits, colours):
    """A PNG of zeros, with samples of so many bits."""

    def make(width, height):
        def chunk(name, data):
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        packer, row = zlib.compressobj(1), bytes(1 + width * bits // 8 * len(colours))
        pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
        kind = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[colours]
        header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

    return make


FILES = {
    "webp, lossless": solid_webp,
    "webp, lossy": drawn("RGB", "WEBP", quality=1, method=0),
    "avif with alpha": drawn("RGBA", "AVIF", speed=10, quality=1),
    "jpeg xl with alpha": drawn("RGBA", "JXL", effort=1, lossless=True),
    "png, grey of 16 bits": tall_png(16, "L"),
    "png of 16 bits with alpha": tall_png(16, "RGBA"),
    "png, grey with alpha": tall_png(8, "LA"),
    "tiff of floats": drawn("F", "TIFF", compression="tiff_deflate"),
    "tiff of 32 bits": drawn("I", "TIFF", compression="tiff_deflate"),
    "tiff, cmyk": drawn("CMYK", "TIFF", compression="tiff_deflate"),
    "gif": drawn("P", "GIF", transparency=99),
    "jpeg, cmyk": drawn("CMYK", "JPEG", progressive=True),
}
LARGE = ["webp, lossless", "png, grey of 16 bits", "tiff of floats", "avif with alpha"]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says how much it was")


def measured(folder, make, width, height, resize="keep_ratio_largest", limit=None):
    """Pixels of a file, and the memory that decoding it takes in a process of its own."""
    (folder / "image").write_bytes(make(width, height))

    def hold():
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, "-c", PROGRAM, folder / "image", resize]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, preexec_fn=hold)
    assert done.returncode == 0, done.stderr
    _, pixels, taken = done.stdout.split()
    return int(pixels), int(taken)


@pytest.mark.parametrize("resize", ["keep_ratio_largest", "none"])
@pytest.mark.parametrize("kind", FILES)
def test_a_pixel_takes_no_more_than_it_may(tmp_path, kind, resize):
    if "avif" in kind and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    if "jpeg xl" in kind:
        pytest.importorskip("pillow_jxl")
    pixels, taken = measured(tmp_path, FILES[kind], SIDE, SIDE, resize)
    assert pixels == SIDE**2
    assert taken <= PIXEL_BYTES * pixels + SCRATCH, f"{taken / pixels:.1f} bytes a pixel"


@pytest.mark.parametrize("kind", LARGE)
def test_the_largest_image_fits_a_worker_of_two_gigabytes(tmp_path, kind):
    fetch = Fetch()
    assert fetch.worker_bytes == 2_000_000_000
    pixels, _ = measured(tmp_path, FILES[kind], 16_000, 6250, limit=fetch.worker_bytes)
    assert pixels == fetch.max_pixels
