"""TIFFs that Pillow takes for others: deep samples in which 0 is white, planes, bombs in tiles."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images.decode import decode_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of broken metadata

RAMP = np.add.outer(np.arange(24) * 5, np.arange(32) * 4).astype(np.uint16)  # 0 to 239


def tiff(planes: list[np.ndarray], order: str, photometric: int, *, planar: int = 2, tile: int = 0) -> bytes:
    """A TIFF of uncompressed 16-bit planes."""
    height, width = planes[0].shape
    count = len(planes)
    data = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    if planar == 1:
        data = [np.stack(planes, axis=-1).astype(f"{order}u2").tobytes()]
    tags: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [16] * count), (259, 3, [1]), (262, 3, [photometric]),
        (273, 4, []), (277, 3, [count]), (278, 4, [height]), (279, 4, [len(part) for part in data]),
        (284, 3, [planar]),
    ]  # fmt: skip
    if tile:
        tags += [(322, 4, [tile]), (323, 4, [tile])]
    start = 8 + 2 + 12 * len(tags) + 4
    outside = start
    for number, (_, kind, values) in enumerate(tags):
        size = len(values or data) * (2 if kind == 3 else 4)
        tags[number] = (*tags[number][:2], values)
        outside += size if size > 4 else 0
    offsets = [outside + sum(map(len, data[:number])) for number in range(len(data))]
    entries, extra = b"", b""
    for tag, kind, values in tags:
        values = offsets if tag == 273 else values
        packed = struct.pack(order + ("H" if kind == 3 else "I") * len(values), *values)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place, extra = struct.pack(order + "I", start + len(extra)), extra + packed
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + place
    begin = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    head = begin + struct.pack(order + "H", len(tags)) + entries + bytes(4) + extra
    return head + b"".join(data)


def shown(data: bytes, mode: str) -> np.ndarray:
    image = Image.open(BytesIO(decode_image(data, Fetch(jpeg_quality=100)).data))
    return np.asarray(image.convert(mode)).astype(int)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [0, 1])
def test_deep_greys_are_as_they_are_meant(order: str, photometric: int) -> None:
    values = RAMP * 257 if photometric else 65535 - RAMP * 257
    assert np.abs(shown(tiff([values], order, photometric, planar=1), "L") - RAMP).max() <= 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", [1, 2])
def test_deep_planes_are_those_of_colours(order: str, planar: int) -> None:
    planes = [RAMP * 257, RAMP[::-1] * 257, RAMP[:, ::-1] * 257]
    found = shown(tiff(planes, order, 2, planar=planar), "RGB")
    assert np.abs(found - np.stack(planes, axis=-1) // 257).mean() < 2


def test_tiles_are_bounded() -> None:
    with pytest.raises(FetchFailure) as caught:
        decode_image(tiff([RAMP], "<", 1, planar=1, tile=16_000), Fetch())
    assert caught.value.error is ErrorClass.TOO_MANY_PIXELS and "16000 x 16000" in caught.value.detail


@pytest.mark.parametrize("length", range(4, 150, 3))
def test_headers_that_are_cut_off_are_broken(length: int) -> None:
    with pytest.raises(FetchFailure) as caught:
        decode_image(tiff([65535 - RAMP], "<", 0, planar=1)[:length], Fetch())
    assert caught.value.error is ErrorClass.BROKEN_IMAGE


def test_nothing_is_printed_of_a_broken_file(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = BytesIO()
    Image.fromarray(RAMP.astype(np.uint8)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    place = buffer.getvalue().index(b"\x78\x9c") + 2
    data = buffer.getvalue()[:place] + b"\xff" * 30 + buffer.getvalue()[place + 30 :]
    with pytest.raises(FetchFailure) as failed:
        decode_image(data, Fetch())
    assert failed.value.error is ErrorClass.BROKEN_IMAGE
    assert capfd.readouterr() == ("", "")
