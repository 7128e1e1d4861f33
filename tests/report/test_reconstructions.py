import numpy as np
import pytest
from PIL import Image, ImageOps

from rasterloom.report.reconstructions import SHOWN, psnr, reconstructions


def test_pairs_come_from_all_buckets_of_the_highest_target(tables, workspace) -> None:
    pairs = reconstructions(tables, workspace.inputs().decode)
    assert len(pairs) == SHOWN
    assert {p.bucket for p in pairs} == {"128x128", "160x96", "96x160", "192x64"}
    assert all(p.psnr is None for p in pairs)
    for pair in pairs:
        width, height = map(int, pair.bucket.split("x"))
        assert (pair.original.width, pair.original.height) == (width, height)
        assert (pair.decoded.width, pair.decoded.height) == (width, height)


def test_with_the_very_crop_the_psnr_is_given(tables, workspace) -> None:
    sizes = {}

    def crop(image: Image.Image, key: str, target: int) -> Image.Image:
        sizes[key] = target
        return ImageOps.fit(image.convert("RGB"), (128, 128))

    pairs = reconstructions(tables, workspace.inputs().decode, crop)
    assert set(sizes.values()) == {128}
    for pair in pairs:
        assert (pair.psnr is not None) == (pair.bucket == "128x128")
    assert all(12 < p.psnr < 60 for p in pairs if p.psnr is not None)


def test_a_row_that_cannot_be_decoded_is_left_out(tables, workspace) -> None:
    decode = workspace.inputs().decode

    def picky(ids: list[int]) -> Image.Image:
        if ids[0] > ids[1]:
            raise ValueError("no wide ones")
        return decode(ids)

    assert {p.bucket for p in reconstructions(tables, picky)} == {"128x128", "96x160"}


def test_psnr() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(grey, grey) == 99
    assert psnr(grey, grey + np.uint8(1)) == pytest.approx(48.13, abs=0.01)
    assert psnr(np.zeros_like(grey), np.full_like(grey, 255)) == 0
