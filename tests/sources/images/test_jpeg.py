"""JPEGs with missing pixels are broken, those that lack none are kept."""

from io import BytesIO

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images import jpeg, opened
from rasterloom.sources.images.decode import DecodedImage, decode_image


def grainy(side: int = 192) -> Image.Image:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8))


def encode(mode: str = "RGB", **options: object) -> bytes:
    buffer = BytesIO()
    grainy().convert(mode).save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


KINDS = {
    "baseline": encode(),
    "progressive": encode(progressive=True),
    "grey": encode("L"),
    "grey progressive": encode("L", progressive=True),
    "cmyk": encode("CMYK"),
    "cmyk progressive": encode("CMYK", progressive=True),
    "restart markers": encode(restart_marker_blocks=4),
    "full chroma": encode(subsampling="4:4:4"),
}


def decode(data: bytes) -> DecodedImage:
    return decode_image(data, Fetch())


def why_broken(data: bytes) -> str:
    with pytest.raises(FetchFailure) as caught:
        decode(data)
    assert caught.value.error is ErrorClass.BROKEN_IMAGE
    return caught.value.detail


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_was_cut_off_is_broken(name: str, share: float) -> None:
    data = KINDS[name]
    at = int(len(data) * share)
    for broken in (data[:at], data[:at] + b"\xff\xd9"):  # somebody may have closed the file
        assert "missing" in why_broken(broken)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_what_libjpeg_warns_of_is_broken(name: str, share: float) -> None:
    """A hole on a disk, and parts that were stitched together wrongly. Luck may hide either from libjpeg."""
    data = KINDS[name]
    at = int(len(data) * share)
    for torn in (data[:at] + bytes(600) + data[at + 600 :], data[:at] + data[at + 1000 :]):
        try:
            simplejpeg.decode_jpeg(torn, "CMYK" if "cmyk" in name else "RGB")
        except ValueError:
            assert "missing" in why_broken(torn)
        else:
            assert decode(torn).original_format == "jpeg"


def test_holes_in_a_baseline_jpeg_are_seen() -> None:
    data = KINDS["full chroma"]
    half = len(data) // 2
    assert "missing" in why_broken(data[:half] + bytes(600) + data[half + 600 :])
    assert "missing" in why_broken(data[:half] + data[half + 1000 :])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("lacking", [1, 2])
def test_an_end_that_is_missing_is_mended(name: str, lacking: int) -> None:
    data = KINDS[name]
    kept = decode(data[:-lacking])
    assert kept.original_format == "jpeg"
    if "cmyk" not in name:
        assert kept.data.startswith(data[:-lacking]) and kept.data.endswith(b"\xff\xd9")
    assert np.abs(pixels(kept.data) - pixels(decode(data).data)).max() == 0


@pytest.mark.parametrize("name", ["full chroma", "restart markers"])
def test_the_last_bits_of_the_last_code_may_be_missing(name: str) -> None:
    data = KINDS[name]
    wrong = np.abs(pixels(decode(data[:-3]).data) - pixels(data)).max(axis=2) > 8
    assert wrong.sum() <= 256  # within the last block
    assert "missing" in why_broken(data[:-40])


@pytest.mark.parametrize("name", [name for name in KINDS if "cmyk" not in name])
@pytest.mark.parametrize("marker", [0xDB, 0xC4, 0xC8, 0xDA])
def test_an_end_that_is_another_marker_is_mended(name: str, marker: int) -> None:
    data = KINDS[name][:-1] + bytes([marker])
    kept = decode(data).data
    assert kept == KINDS[name]


@pytest.mark.parametrize("name", ["baseline", "full chroma", "grey"])
def test_an_error_behind_the_pixels_hides_no_warning(name: str) -> None:
    data, half = KINDS[name], len(KINDS[name]) // 2
    torn = data[:half] + bytes(600) + data[half + 600 :]
    assert "missing" in why_broken(torn[:-1] + b"\xdb")
    assert "missing" in why_broken(data[:half] + b"\xff\xdb\xff" + data[half + 3 :])


def test_an_error_between_scans_leaves_no_image_of_the_first_ones() -> None:
    data = KINDS["progressive"]
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    assert "missing" in why_broken(data[:second] + b"\xff\xdb\0\0" + data[second:])
    assert "missing" in why_broken(data[:second] + bytes(9) + b"\xff\xc8\0\0" + data[second:])


def test_scans_that_are_missing_at_the_end_of_a_file_are_seen() -> None:
    data = KINDS["progressive"]
    last = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last)
    assert "last scans" in why_broken(data[:tables])
    assert (
        decode(data[:tables] + b"\xff\xd9").data == data[:tables] + b"\xff\xd9"
    )  # an encoder may do without


def of_three_scans() -> list[bytes]:
    """A baseline JPEG each of whose components has a scan of its own: the header, the scans, the end."""
    greys = [encode("L"), *(KINDS["grey"] for _ in range(2))]
    header, scans = b"", []
    for number, grey in enumerate(greys, 1):
        segments = list(jpeg._segments(grey))
        scan = segments[-1]
        if not header:
            frame = next(segment for segment in segments if segment.marker == 0xC0)
            components = b"".join(bytes((name, 0x11, 0)) for name in (1, 2, 3))
            body = frame.body[:5] + b"\3" + components
            three = b"\xff\xc0" + (len(body) + 2).to_bytes(2, "big") + body
            header = grey[: frame.start] + three + grey[frame.start + 4 + len(frame.body) : scan.start]
        pixels = grey[scan.start + 4 + len(scan.body) : -2]
        scans.append(b"\xff\xda\0\x08\x01" + bytes((number, 0)) + b"\0\x3f\0" + pixels)
    return [header, *scans, b"\xff\xd9"]


def test_a_component_without_a_scan_is_seen() -> None:
    header, *scans, end = of_three_scans()
    assert decode(b"".join([header, *scans, end])).width == 192
    for number in range(3):
        left = scans[:number] + scans[number + 1 :]
        assert "has no scan" in why_broken(b"".join([header, *left, end]))
    assert "has no scan" in why_broken(b"".join([header, *scans[:2]]))


@pytest.mark.parametrize("name", KINDS)
def test_what_lacks_no_pixel_is_kept_as_received(name: str) -> None:
    data = KINDS[name]
    if "cmyk" in name:
        return
    for odd in (
        data[:-2] + b"\x7f" + data[-2:],
        data[:-2] + b"\x7f" * jpeg.MAX_STRAY_AT_END + data[-2:],
        data[:11] + b"\x07" + data[12:],  # a JFIF of a version to come
        data + b"\0" * 999,
        data + b"a trailer of the camera's maker" * 99,
    ):
        assert decode(odd).data == odd


def test_a_warning_of_the_header_hides_no_other() -> None:
    data = KINDS["baseline"]
    odd = data[:11] + b"\x07" + data[12:]
    assert "premature end of data segment" in why_broken(odd[:4000] + b"\xff\xd9")
    assert "missing" in why_broken(data[:20] + b"stray" + data[20:4000] + data[5000:])


def test_bytes_between_the_last_block_and_the_end_are_few() -> None:
    data = KINDS["baseline"]
    assert "extraneous" in why_broken(data[:-2] + b"\x55" * 200 + data[-2:])


def test_scans_are_counted_by_markers() -> None:
    look_alike = b"\xff\xda" * 3000
    comment = b"\xff\xfe" + (len(look_alike) + 2).to_bytes(2, "big") + look_alike
    for data in (KINDS["progressive"], KINDS["baseline"]):
        assert decode(data[:2] + comment + data[2:]).original_format == "jpeg"
    assert jpeg.layout(KINDS["progressive"]).scans == 10
    assert jpeg.layout(KINDS["baseline"]).scans == 1


def test_scans_segments_and_padding_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = KINDS["progressive"]
    last = data.rindex(b"\xff\xda")
    assert "scans" in why_broken(data[:-2] + data[last:-2] * 600 + data[-2:])
    assert "segments" in why_broken(data[:2] + b"\xff\xfe\0\2" * 20_000 + data[2:])
    assert "stray" in why_broken(data[:2] + b"\xff" * 100_000 + data[2:])
    monkeypatch.setattr(opened, "USUAL_SCANS", 4)
    with pytest.raises(FetchFailure) as caught:
        decode_image(data, Fetch(max_pixels=192 * 192))
    assert caught.value.error is ErrorClass.TOO_MANY_PIXELS and "10 scans" in caught.value.detail


def test_an_image_of_several_images_keeps_its_trailer() -> None:
    buffer = BytesIO()
    grainy().save(buffer, "MPO", save_all=True, append_images=[grainy(100)])
    assert decode(buffer.getvalue()).data == buffer.getvalue()
