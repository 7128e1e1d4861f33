import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.tokenize.buckets import bucket_sizes, choose_bucket
from rasterloom.tokenize.profiles import CHAMELEON, MOVQ
from rasterloom.tokenize.unirep import image_length

GOLDEN = json.loads((Path(__file__).parent / "golden/buckets.json").read_text())["rows"]

targets = st.integers(1, 40).map(lambda units: 32 * units)
sides = st.integers(1, 4000)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: str(row["target"]))
def test_buckets_and_their_order_are_the_references(row):
    sizes = bucket_sizes(row["target"])
    assert sizes == [tuple(size) for size in row["sizes"]]
    for profile, name in ((CHAMELEON, "tokens_f16"), (MOVQ, "tokens_f8")):
        lengths = [image_length(*size, profile) for size in sizes]
        assert [min(lengths), max(lengths)] == row[name]


@given(targets)
def test_every_bucket_keeps_to_area_and_aspect(target):
    sizes = bucket_sizes(target)
    assert (target, target) in sizes
    assert len(set(sizes)) == len(sizes)
    assert {(height, width) for width, height in sizes} == set(sizes)
    for width, height in sizes:
        assert width % 32 == height % 32 == 0 < min(width, height)
        assert width * height <= target * target
        assert max(width, height) <= 4 * min(width, height)


@pytest.mark.parametrize("target", [500, 31, 16, 0, -32])
def test_a_target_that_is_no_multiple_of_32_is_refused(target):
    with pytest.raises(ValueError, match=str(target)):
        bucket_sizes(target)


@given(sides, sides, targets)
def test_the_chosen_bucket_loses_least_of_the_image(width, height, target):
    sizes = bucket_sizes(target)

    def visible(size):  # share of the picture inside the bucket, once scaled to cover it
        scale = max(size[0] / width, size[1] / height)
        return (size[0] * size[1]) / (width * scale * height * scale)

    best = max(map(visible, sizes))
    assert visible(choose_bucket((width, height), sizes)) == pytest.approx(best, rel=1e-12)


def test_equal_shares_go_to_the_largest_bucket():
    assert choose_bucket((10, 10), [(32, 32), (64, 64), (64, 32)]) == (64, 64)
    assert choose_bucket((10, 10), [(32, 64), (64, 32)]) == (64, 32)  # the widest first, then the tallest
    assert choose_bucket((10, 10), [(64, 32), (32, 64)]) == (64, 32)


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (-1, 5)])
def test_an_image_without_pixels_has_no_bucket(size):
    with pytest.raises(ValueError, match="cannot be cropped"):
        choose_bucket(size, [(32, 32)])
    with pytest.raises(ValueError, match="no buckets"):
        choose_bucket((10, 10), [])
