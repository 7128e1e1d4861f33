import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.tokenize.conversation import encode
from rasterloom.tokenize.profiles import CHAMELEON, MINI, MOVQ
from rasterloom.tokenize.sequence_parser import draw, pieces, shortened
from rasterloom.tokenize.unirep import frame

T = MINI.text0


def text_encode(text):
    return [T + byte for byte in text.encode()]


def text_decode(ids):
    return bytes(i - T for i in ids).decode()


def codes(rows, columns, seed=0):
    return np.random.default_rng(seed).integers(0, 1024, (rows, columns))


def sample():
    turns = [("human", "turn it: <|image|>"), ("gpt", "so<|image|>")]
    return encode(turns, [codes(4, 8), codes(8, 4, 1)], text_encode, MINI)


def test_a_conversation_is_taken_apart():
    encoded = sample()
    found = pieces(encoded.input_ids, MINI)
    assert [piece.kind for piece in found] == ["bos", "text", "image", "sep", "text", "image", "sep"]
    assert [piece.start for piece in found[1:]] == [piece.end for piece in found[:-1]]
    assert found[-1].end == len(encoded.input_ids)
    np.testing.assert_array_equal(found[2].codes, codes(4, 8))
    np.testing.assert_array_equal(found[5].codes, codes(8, 4, 1))
    assert [found[n].size(MINI) for n in (2, 5)] == [(64, 32), (32, 64)]


@given(st.sampled_from([CHAMELEON, MOVQ, MINI]), st.integers(1, 3), st.integers(1, 3), st.data())
def test_a_sequence_with_a_broken_frame_is_refused(profile, rows, columns, data):
    step = profile.grid_unit // profile.downsample
    framed = frame(np.zeros((rows * step, columns * step), int), profile).tolist()
    ids = [profile.bos, *framed, profile.sep]
    assert len(pieces(ids, profile)) == 3
    at = data.draw(st.integers(1, len(ids) - 2))
    for broken in (
        ids[:at] + ids[at + 1 :],
        [*ids[:at], profile.eol, *ids[at:]],
        ids[:at] + ids[at : at + 1] * 2 + ids[at + 1 :],
    ):
        with pytest.raises(ValueError, match="position"):
            pieces(broken, profile)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, MINI.eol], "position 1 holds 1031, which stands in no frame"),
        ([0, 5], "position 1 holds 5, which stands in no frame"),
        ([0, MINI.eoi], "position 1 holds 1028"),
        ([0, -1], "position 1 holds -1, outside of mini's 0 .. 1535"),
        ([1536], "position 0 holds 1536, outside"),
        ([MINI.boi], "the frame at position 0: a framed image has more than 1 ids"),
        ([0, MINI.boi, 1033, 1097, 4], "the frame at position 1: position 2 holds 1097"),
        ([[0]], "a row of integer ids"),
        ([0.5], "a row of integer ids"),
    ],
)
def test_what_is_no_sequence_is_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        pieces(ids, MINI)


def test_nothing_has_no_pieces():
    assert pieces([], MINI) == []


def test_the_drawing_shows_every_row_and_what_is_learnt():
    encoded = sample()
    lines = draw(encoded.input_ids.tolist(), encoded.loss_spans.ravel().tolist(), MINI, text_decode, 60)
    assert max(map(len, lines)) <= 60
    first, second = codes(4, 8), codes(8, 4, 1)
    start = len("turn it: ") + 1
    assert lines[0].split() == ["0", "bos"]
    assert "'turn it: '" in lines[1]
    assert lines[2].split() == [str(start), "boi"]
    assert lines[3].split()[1:] == ["H", "1:", "32", "pixels,", "4", "rows"]
    assert lines[4].split()[1:] == ["W", "2:", "64", "pixels,", "8", "codes", "a", "row"]
    assert lines[5].split() == [str(start + 3), *map(str, first[0]), "eol"]
    assert lines[8].split() == [str(start + 3 + 3 * 9), *map(str, first[3]), "eol"]
    assert lines[9].split()[1:] == ["eoi"]
    learnt = [line for line in lines if line.startswith("┃")]
    assert learnt == lines[11:] and "'so'" in learnt[0]
    assert [line.split()[2:] for line in learnt if line.endswith("eol")] == [
        [*map(str, row), "eol"] for row in second.tolist()
    ]


def test_narrow_terminals_leave_out_the_middle_of_rows():
    encoded = encode([("human", "a\nb " * 30), ("gpt", "<|image|>")], [codes(4, 64)], text_encode, MINI)
    lines = draw(encoded.input_ids.tolist(), encoded.loss_spans.ravel().tolist(), MINI, text_decode, 50)
    assert max(map(len, lines)) <= 50
    row = next(line for line in lines if line.endswith("eol"))
    words = row.split()[2:-1]
    ends = codes(4, 64)[0]
    assert words[0] == str(ends[0]) and words[-1] == str(ends[-1]) and "…" in words
    assert sum("a⏎b" in line for line in lines) > 1  # the text runs on over several lines
    ids = draw(encoded.input_ids.tolist(), [], MINI, None, 50)
    assert f"ids {T + ord('a')}" in ids[1]
    assert not any(line.startswith("┃") for line in ids)


@given(st.lists(st.integers(0, 1023), min_size=1, max_size=80), st.integers(20, 200))
def test_rows_fit_their_room(row, room):
    text = shortened(row, 4, room)
    assert len(text) <= room
    assert text.split()[0] == str(row[0]) and text.split()[-1] == str(row[-1])
