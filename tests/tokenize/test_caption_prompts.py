"""Prompts of further captions, and sequences with them."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rasterloom.pipelines.corpus.token_work import staged
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import IMAGES
from rasterloom.tokenize.caption_prompts import prompt_rows, with_prompts
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.text_tokenizer import text_of, train_text
from rasterloom.tokenize.tokenize_shard import tokenize_shard

CONFIG = Tokenize(targets=(64,), text_vocab=300, size_in_prompt=0.5)
CAPTIONS = {"0": [("long", "a long and winding caption"), ("short", "brief")], "1": [("short", "words")]}


@pytest.fixture(scope="module")
def text():
    return text_of(CONFIG, train_text(["a long and winding caption", "brief"], 300))[0]


def sequences(text, captions=("as found", "the second", "third")):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    rows = [
        {"key": str(number), "caption": caption, "image": buffer.getvalue(), "task": "t2i"}
        for number, caption in enumerate(captions)
    ]
    images = pa.Table.from_pylist(rows, schema=IMAGES)
    made = tokenize_shard(images, None, target=64, codec=load_codec("mini", None), text=text, config=CONFIG)
    return staged(made.tokens, made.failures, 64, 0)


def with_captions(rows, text, captions=CAPTIONS, config=CONFIG):
    profile = profile_of(config.codec, config.text_vocab)
    prompts, counts = prompt_rows(rows, captions, text, profile, config)
    return with_prompts(rows, prompts), counts


def test_a_sequence_with_another_caption_is_that_of_a_row_with_it(text):
    rows = sequences(text)
    found, counts = with_captions(rows, text)
    assert counts == {"long": 1, "short": 2}
    of_row = {row["key"]: row for row in found.to_pylist()}
    assert [one["name"] for one in of_row["0"]["captions"]] == ["alt", "long", "short"]
    assert of_row["2"]["captions"] is None and of_row["2"]["longest"] == of_row["2"]["n_tokens"]
    for key, captions in CAPTIONS.items():
        for name, caption in captions:
            texts = ["as found", "the second", "third"]
            texts[int(key)] = caption
            (oracle,) = (row for row in sequences(text, texts).to_pylist() if row["key"] == key)
            row = of_row[key]
            (ids,) = (one["ids"] for one in row["captions"] if one["name"] == name)
            assert [*ids, *row["input_ids"][row["loss_spans"][0] :]] == oracle["input_ids"]
            assert row["longest"] >= oracle["n_tokens"]
    assert of_row["0"]["longest"] == max(
        row["n_tokens"] for row in sequences(text, ["a long and winding caption"]).to_pylist()
    )


def test_rows_without_a_caption_of_their_own_take_the_first_other(text):
    rows = sequences(text, (" ", " ", "third"))
    found, _ = with_captions(rows, text, {"0": CAPTIONS["0"]})
    of_row = {row["key"]: row for row in found.to_pylist()}
    assert set(of_row) == {"0", "2"}, "the second has no caption of any kind"
    (oracle,) = sequences(text, ["a long and winding caption"]).to_pylist()
    assert of_row["0"]["input_ids"] == oracle["input_ids"]
    assert of_row["0"]["loss_spans"] == oracle["loss_spans"]
    assert of_row["0"]["n_tokens"] == len(oracle["input_ids"])
    assert of_row["0"]["captions"][0] == {"name": "long", "ids": []}
    assert found.schema == with_captions(sequences(text), text)[0].schema


def test_captions_that_are_too_long_are_left_out(text):
    rows = sequences(text)
    most = int(np.max(rows["n_tokens"].to_numpy()))
    config = CONFIG.model_copy(update={"max_tokens": most})
    found, counts = with_captions(rows, text, {"0": [("long", "very " * 400), ("short", "b")]}, config)
    assert counts == {"long: too long": 1, "short": 1}
    (row,) = (row for row in found.to_pylist() if row["key"] == "0")
    assert [one["name"] for one in row["captions"]] == ["alt", "short"]
