import json
from pathlib import Path

import numpy as np
import pytest

from rasterloom.tokenize.conversation import Encoded, encode, encode_prompt
from rasterloom.tokenize.profiles import CHAMELEON, MINI
from rasterloom.tokenize.prompt_templates import turns as prompt_turns
from rasterloom.tokenize.unirep import frame
from rasterloom.train.data.collate import drop_context

GOLDEN = json.loads((Path(__file__).parent / "golden/conversations.json").read_text())
ROWS = {row["name"]: row for row in GOLDEN["rows"]}
IMAGES = {
    name: np.random.default_rng(seed).integers(0, 8192, (16, 16)) for name, seed in (("A", 100), ("B", 101))
}


def text_encode(text):
    return [20000 + byte for byte in text.encode()]


def encode_row(row, profile=CHAMELEON):
    images = [IMAGES[name] for name in row["item"]["image"]]
    return encode(row["item"]["conversations"], images, text_encode, profile)


def spans_of(runs):
    spans, start = [], 0
    for kind, length in runs:
        if kind == "loss":
            spans.append([start, start + length])
        start += length
    return spans


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_conversations_are_the_references(row):
    encoded = encode_row(row)
    assert encoded.input_ids.dtype == encoded.loss_spans.dtype == np.int32
    assert encoded.input_ids.tolist() == row["ids"]
    assert encoded.loss_spans.tolist() == spans_of(row["label_runs"])


def test_pairs_and_frames_say_the_same_as_mappings_and_codes():
    row = ROWS["depth"]
    pairs = [(turn["from"], turn["value"]) for turn in row["item"]["conversations"]]
    frames = [frame(IMAGES[name], CHAMELEON) for name in row["item"]["image"]]
    assert encode(pairs, frames, text_encode, CHAMELEON).input_ids.tolist() == row["ids"]
    spoken = [("Human", pairs[0][1]), ("assistant", pairs[1][1])]
    assert encode(spoken, frames, text_encode, CHAMELEON).input_ids.tolist() == row["ids"]


def test_several_answers_are_several_spans():
    turns = [("human", "ab"), ("gpt", "c"), ("human", "d"), ("gpt", "ef")]
    encoded = encode(turns, [], text_encode, CHAMELEON)
    # bos a b sep | c sep | d sep | e f sep
    assert encoded.loss_spans.tolist() == [[4, 6], [8, 11]]
    assert len(encoded.input_ids) == 11


def test_images_take_the_places_of_their_placeholders():
    turns = [("human", "x<|image|>y<|image|>"), ("gpt", "z")]
    a, b = (frame(IMAGES[name], CHAMELEON).tolist() for name in "AB")
    encoded = encode(turns, [IMAGES["A"], IMAGES["B"]], text_encode, CHAMELEON)
    x, y, z = ([20000 + ord(letter)] for letter in "xyz")
    assert encoded.input_ids.tolist() == [0, *x, *a, *y, *b, 8710, *z, 8710]


@pytest.mark.parametrize(
    ("turns", "images", "message"),
    [
        ([], [], "at least one turn"),
        ([("gpt", "a")], [], "turn 0 is of 'gpt'"),
        ([("human", "a"), ("human", "b")], [], "turn 1 is of 'human'"),
        ([("human", "a"), ("system", "b")], [], "turn 1 is of 'system'"),
        ([("human", "a"), ("gpt", None)], [], "turn 1 has no message"),
        ([{"from": "human"}], [], "turn 0 lacks 'value'"),
        ([("human", "a")], [], "no answer to learn from"),
        ([("human", "<|image|>"), ("gpt", "b")], [], r"hold 1 <\|image\|>, but there are 0 images"),
        ([("human", "a"), ("gpt", "<|image|>")], ["A", "B"], "but there are 2 images"),
        ([("human", "a"), ("gpt", "<|image|>")], [np.full((16, 16), 8192)], "image 0: code 8192"),
        ([("human", "a"), ("gpt", "<|image|>")], [np.arange(9)], "image 0: position 0"),
        ([("human", "\0"), ("gpt", "b")], [], "encodes to 8196, which is no id of text"),
        ([("human", "\1"), ("gpt", "b")], [], "encodes to 65536"),
    ],
)
def test_what_makes_no_sample_is_refused(turns, images, message):
    strange = {"\0": [8196], "\1": [65536]}  # as a tokenizer would that knows special tokens by name
    images = [IMAGES[image] if isinstance(image, str) else image for image in images]
    with pytest.raises(ValueError, match=message):
        encode(turns, images, lambda text: strange.get(text) or text_encode(text), CHAMELEON)


def test_a_prompt_is_the_start_of_the_sample():
    row = ROWS["t2i"]
    question = row["item"]["conversations"][:1]
    prompt = encode_prompt(question, [], text_encode, CHAMELEON)
    assert prompt.tolist() == row["ids"][: len(prompt)]
    assert row["ids"][len(prompt)] == CHAMELEON.boi
    with pytest.raises(ValueError, match="ends with the human's turn"):
        encode_prompt(row["item"]["conversations"], [IMAGES["A"]], text_encode, CHAMELEON)


def test_dropping_the_context_leaves_what_version_2_leaves():
    row, golden = ROWS["t2i"], GOLDEN["cfg_drop"]
    dropped = drop_context(encode_row(row), CHAMELEON)
    assert len(dropped.input_ids) == golden["out_len"]
    assert dropped.input_ids[: len(golden["out_head"])].tolist() == golden["out_head"]
    assert dropped.input_ids[-1] == golden["out_last"]
    assert dropped.input_ids.tolist() == frame(IMAGES["A"], CHAMELEON).tolist()
    assert dropped.loss_spans.tolist() == [[0, golden["out_len"]]]


@pytest.mark.parametrize("name", ["caption", "depth", "implicit image symbol", "text only"])
def test_other_samples_keep_their_context(name):
    encoded = encode_row(ROWS[name])
    assert drop_context(encoded, CHAMELEON) is encoded


def test_nothing_is_dropped_twice():
    once = drop_context(encode_row(ROWS["t2i"]), CHAMELEON)
    assert drop_context(once, CHAMELEON).input_ids.tolist() == once.input_ids.tolist()
    empty = Encoded(np.array([0], np.int32), np.empty((0, 2), np.int32))
    assert drop_context(empty, CHAMELEON) is empty


def test_mini_encodes_a_task_end_to_end():
    codes = np.arange(16).reshape(4, 4)
    turns = prompt_turns("t2i", width=32, height=32, caption="a dot")
    encoded = encode(turns, [codes], lambda text: [1097 + byte for byte in text.encode()], MINI)
    ((start, end),) = encoded.loss_spans.tolist()
    assert encoded.input_ids[start:end].tolist() == [*frame(codes, MINI).tolist(), MINI.sep]
    assert end == len(encoded.input_ids)
