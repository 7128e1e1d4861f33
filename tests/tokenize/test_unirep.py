import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.tokenize.profiles import CHAMELEON, MINI, MOVQ, PROFILES
from rasterloom.tokenize.unirep import frame, frame_batch, image_length, unframe

GOLDEN = json.loads((Path(__file__).parent / "golden/frames.json").read_text())["rows"]

PERMUTED = replace(CHAMELEON, image_ids=tuple((4 + np.random.default_rng(7).permutation(8192)).tolist()))

profiles = st.sampled_from([CHAMELEON, MOVQ, MINI, PERMUTED])
grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


def random_codes(profile, grid, seed):
    step = profile.grid_unit // profile.downsample
    shape = (grid[0] * step, grid[1] * step)
    return np.random.default_rng(seed).integers(0, profile.codebook_size, shape)


def sha256_int64(ids):
    return hashlib.sha256(np.asarray(ids).astype("<i8").tobytes()).hexdigest()


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['profile']} {row['size_wh']}")
def test_frames_are_the_references(row):
    profile = PROFILES[row["profile"]]
    width, height = row["size_wh"]
    shape = (height // profile.downsample, width // profile.downsample)
    codes = np.random.default_rng(row["seed"]).integers(0, profile.codebook_size, shape)
    ids = frame(codes, profile)
    assert ids.dtype == np.int32
    assert len(ids) == row["len"] == image_length(width, height, profile)
    assert ids[: len(row["head"])].tolist() == row["head"]
    assert ids[-len(row["tail"]) :].tolist() == row["tail"]
    assert sha256_int64(ids) == row["sha256_int64le"]
    np.testing.assert_array_equal(unframe(ids, profile), codes)


def test_a_frame_drawn_by_hand():
    codes = np.arange(4 * 8).reshape(4, 8)
    expected = [1029, 1033, 1034]  # boi, 1 unit high, 2 units wide
    for row in range(4):
        expected += [*range(4 + 8 * row, 12 + 8 * row), 1031]
    assert frame(codes, MINI).tolist() == [*expected, 1028]


@given(profiles, grids, st.integers(0, 2**32))
def test_unframe_inverts_frame(profile, grid, seed):
    codes = random_codes(profile, grid, seed)
    np.testing.assert_array_equal(unframe(frame(codes, profile), profile), codes)


@pytest.mark.parametrize("grid", [(1, 64), (64, 1), (64, 64)])
def test_the_longest_sides_have_grid_tokens(grid):
    for profile in (CHAMELEON, MOVQ, MINI):
        codes = random_codes(profile, grid, 0)
        np.testing.assert_array_equal(unframe(frame(codes, profile), profile), codes)


@given(profiles, grids, st.data())
def test_any_single_corruption_is_rejected_unless_it_is_another_code(profile, grid, data):
    codes = random_codes(profile, grid, 1)
    ids = frame(codes, profile)
    step = profile.grid_unit // profile.downsample
    columns = grid[1] * step
    position = data.draw(st.integers(0, len(ids) - 1))
    special = [profile.boi, profile.eoi, profile.eol, profile.sep, profile.bos, profile.pad]
    near = st.integers(-2, profile.vocab_size + 2)
    grid_id = st.integers(profile.grid0 - 1, profile.grid0 + 10)
    value = data.draw(st.one_of(near, st.sampled_from(special), grid_id).filter(lambda v: v != ids[position]))
    ids = ids.copy()
    ids[position] = value

    row, column = divmod(position - 3, columns + 1)
    in_a_row = 3 <= position < len(ids) - 1 and column < columns
    image_ids = profile.image_ids or range(profile.image0, profile.image0 + profile.codebook_size)
    if in_a_row and value in image_ids:
        expected = codes.copy()
        expected[row, column] = list(image_ids).index(value)
        np.testing.assert_array_equal(unframe(ids, profile), expected)
    else:
        with pytest.raises(ValueError):
            unframe(ids, profile)


@given(profiles, grids, st.data())
def test_lost_and_doubled_ids_are_rejected(profile, grid, data):
    ids = frame(random_codes(profile, grid, 2), profile)
    start = data.draw(st.integers(0, len(ids) - 1))
    stop = data.draw(st.integers(start + 1, len(ids)))
    for broken in (np.delete(ids, slice(start, stop)), np.insert(ids, start, ids[start:stop])):
        with pytest.raises(ValueError):
            unframe(broken, profile)


@given(profiles, grids, st.data())
def test_ids_put_in_or_cut_off_are_rejected_also_where_a_grid_token_is_changed_to_hide_it(
    profile, grid, data
):
    """No frame of so many ids says another shape than its own, whatever stands in its grid tokens."""
    ids = frame(random_codes(profile, grid, 4), profile)
    foreign = data.draw(st.lists(st.integers(-1, profile.vocab_size), min_size=1, max_size=9))
    at = data.draw(st.integers(0, len(ids)))
    cut = data.draw(st.integers(1, len(ids)))
    for broken in (np.insert(ids, at, foreign), ids[:-cut], ids[cut:], ids[cut:-cut]):
        with pytest.raises(ValueError):
            unframe(broken, profile)
    swapped = ids.copy()
    swapped[[1, 2]] = ids[[2, 1]]
    if grid[0] != grid[1]:
        with pytest.raises(ValueError):
            unframe(swapped, profile)


def test_the_message_says_what_stands_where():
    good = frame(np.zeros((4, 4), int), MINI)
    for position, value, message in [
        (0, 5, "position 0 holds 5, not boi"),
        (1, 1032, "position 1 holds 1032, not a grid token for the height"),
        (2, 1097, "position 2 holds 1097, not a grid token for the width"),
        (2, 1034, "a frame of 4 x 8 codes, as positions 1 and 2 say, has 40 ids; this one has 24"),
        (7, 4, "row 0 does not end: position 7 holds 4, not eol"),
        (9, 1031, r"row 1, column 1 \(position 9\) holds 1031, which is no image token of mini"),
        (9, 10**6, "holds 1000000, which is no image token"),
        (23, 4, r"position 23 holds 4, not eoi \(1028\)"),
    ]:
        broken = good.copy()
        broken[position] = value
        with pytest.raises(ValueError, match=message):
            unframe(broken, MINI)
    with pytest.raises(ValueError, match="has 24 ids; this one has 25"):
        unframe([*good, 1028], MINI)
    negative = frame(np.zeros((4, 4), int), MOVQ)
    negative[3] = -2  # the last code, if read from the end of the vocabulary
    with pytest.raises(ValueError, match="holds -2, which is no image token"):
        unframe(negative, MOVQ)
    with pytest.raises(ValueError, match="row of integer ids"):
        unframe(good.astype(float), MINI)
    with pytest.raises(ValueError, match="row of integer ids"):
        unframe(good[None], MINI)
    with pytest.raises(ValueError, match="more than 0 ids"):
        unframe(np.array([], np.int32), MINI)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.full((4, 4), 1024), "code 1024 at row 0, column 0 is outside 0 .. 1023"),
        (np.full((4, 4), -1), "code -1"),
        (np.zeros((4, 6), int), "width of 48 pixels"),
        (np.zeros((3, 4), int), "height of 24 pixels"),
        (np.zeros((0, 4), int), "height of 0 pixels"),
        (np.zeros((4, 65 * 4), int), "up to 2048"),
        (np.zeros((4, 4)), "float64"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros(16, int), r"\[h, w\], not \[16\]"),
    ],
)
def test_what_are_no_codes_is_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        frame(codes, MINI)


def test_a_batch_is_framed_as_its_images_are():
    codes = np.random.default_rng(3).integers(0, 1024, (5, 8, 4))
    batch = frame_batch(codes, MINI)
    assert batch.dtype == np.int32
    for framed, one in zip(batch, codes, strict=True):
        np.testing.assert_array_equal(framed, frame(one, MINI))


def test_sides_off_the_grid_have_no_length():
    for size in ((500, 512), (512, 16), (0, 32), (32, -32)):
        with pytest.raises(ValueError, match="multiples of 32"):
            image_length(*size, CHAMELEON)
