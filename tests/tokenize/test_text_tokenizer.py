import json
import pickle
import random

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.tokenize import text_tokenizer
from rasterloom.tokenize.profiles import CHAMELEON, MINI
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.tokenize.text_tokenizer import JsonText, text_of, train_text
from rasterloom.tokenize.token_names import code_name, grid_name

COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("circle", "square", "triangle", "star")
CAPTIONS = [
    f"a {size} {colour} {shape} left of a {other} {shape}"
    for size in ("small", "large")
    for colour in COLOURS
    for other in COLOURS
    for shape in SHAPES
]
SYLLABLES = random.Random(0).choices(["ba", "lo", "ti", "ne", "ru", "sko", "mi"], k=600)
CAPTIONS += ["".join(SYLLABLES[n : n + 4]) for n in range(0, 600, 3)]  # more words than ids
TRAINED = train_text(CAPTIONS, 439)
TEXT = JsonText(TRAINED, MINI.text0)


@given(st.text())
def test_any_text_comes_back(text):
    ids = TEXT.encode(text)
    assert TEXT.decode(ids) == text
    assert all(MINI.text0 <= i < MINI.vocab_size for i in ids)


@given(st.text(), st.integers(0, 1_000_000))
def test_a_bpe_without_merges_spells_bytes(text, first_id):
    plain = JsonText(train_text([], 256), first_id)
    assert len(plain.encode(text)) == len(text.encode())
    assert plain.decode(plain.encode(text)) == text


def test_training_depends_on_the_captions_alone():
    captions = list(CAPTIONS)
    for seed in range(3):
        random.Random(seed).shuffle(captions)
        assert train_text(iter(captions), 439) == TRAINED
    assert train_text(CAPTIONS[:20], 439) != TRAINED


def plainly_trained(captions, size):
    """Train as `train_text` does, but on pieces of any length."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text_tokenizer._prompts(captions), trainer)
    return tokenizer.to_str()


ODD = ["猫" * 333, "x" * 999, " " * 900, "!?" * 400, "é\u2028\n\t a\r\n", "it's 1,000,000 😀😀", ""]


def test_captions_without_very_long_runs_are_trained_on_as_they_are():
    assert plainly_trained(CAPTIONS, 439) == TRAINED
    assert plainly_trained(CAPTIONS + ODD, 500) == train_text(CAPTIONS + ODD, 500)


@pytest.mark.parametrize("run", ["x", "é", "猫", "7", "!", " ", "\n"])
def test_a_very_long_run_is_trained_on_in_pieces(run):
    pieces = text_tokenizer._training_pieces().pre_tokenize_str(run * 100_000)
    assert max(len(piece) for piece, _ in pieces) <= text_tokenizer.LONGEST_PIECE
    assert len(pieces) <= len(run.encode()) * 100 + 1
    trained = JsonText(train_text([*CAPTIONS, run * 3000], 439))
    assert trained.decode(trained.encode(run * 3000)) == run * 3000


def test_a_sample_of_very_many_captions_does_not_depend_on_their_order(monkeypatch):
    monkeypatch.setattr("rasterloom.tokenize.text_tokenizer.MOST_CAPTIONS", 40)
    sample = train_text(CAPTIONS, 439)
    assert sample == train_text(CAPTIONS[::-1], 439) != TRAINED


def test_prompts_are_short():
    prompt = t2i_prompt(128, 128, CAPTIONS[0])
    ids = TEXT.encode(prompt)
    caption_words = len(CAPTIONS[0].split())
    # Generate an image of | _ 1 2 8 x 1 2 8 | according to the following prompt : \n
    assert len(ids) == 4 + 8 + 7 + caption_words


def test_the_size_is_kept_to():
    assert TEXT.size == 439
    assert JsonText(train_text(["aa"], 300)).size <= 300
    with pytest.raises(ValueError, match="at least 256 ids, not 255"):
        train_text(CAPTIONS, 255)


def test_special_names_in_a_caption_are_text():
    for name in ("<racm3:break>", "<|image|>", "<s>"):
        assert TEXT.decode(TEXT.encode(name)) == name
        assert len(TEXT.encode(name)) > 1


def test_surrogates_are_no_text():
    with pytest.raises(ValueError, match="UTF-8"):
        TEXT.encode("a\ud800")


def test_digest_tells_tokenizers_and_places_apart():
    again = JsonText(TRAINED, MINI.text0)
    assert again.digest == TEXT.digest
    others = {
        JsonText(TRAINED, 0).digest,
        JsonText(train_text(CAPTIONS, 400), MINI.text0).digest,
        TEXT.digest,
    }
    assert len(others) == 3


def test_it_travels_to_workers():
    copy = pickle.loads(pickle.dumps(TEXT))
    assert copy.encode("a red star") == TEXT.encode("a red star")
    assert copy.digest == TEXT.digest


def test_trained_text_lies_where_the_profile_says():
    text, profile = text_of(Tokenize(), TRAINED)
    assert profile == MINI
    assert MINI.text0 <= min(text.encode(CAPTIONS[0])) <= max(text.encode(CAPTIONS[0])) < MINI.vocab_size
    text, profile = text_of(Tokenize.model_construct(codec="chameleon"), TRAINED)
    assert profile == CHAMELEON
    assert min(text.encode(CAPTIONS[0])) >= CHAMELEON.text0


def test_a_tokenizer_of_the_users_goes_behind_the_images_of_mini():
    text, profile = text_of(Tokenize(text="t.json"), train_text(CAPTIONS, 500))
    assert profile.vocab_size == MINI.text0 + 500
    assert min(text.encode("ein Stern ☆")) >= MINI.text0
    assert text.decode(text.encode("ein Stern ☆")) == "ein Stern ☆"


def test_a_tokenizer_of_the_users_brings_chameleons_ids():
    specials = ["<s>", "<pad>", "<racm3:break>", "<eoss>", "<reserved08706>", "<reserved08799>"]
    names = [*specials, *map(grid_name, range(65)), *map(code_name, range(8192))]
    tokenizer = json.loads(TRAINED)
    tokenizer["added_tokens"] = [
        dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        | {"id": 439 + n, "content": name, "special": True}
        for n, name in enumerate(names)
    ]
    config = Tokenize.model_construct(codec="chameleon", text="t.json")
    text, profile = text_of(config, json.dumps(tokenizer))
    assert (profile.bos, profile.boi, profile.sep) == (439, 441, 443)
    assert (profile.grid0, profile.image0, profile.image_ids) == (445, 445 + 65, None)
    assert list(text.ids) == list(range(439))  # special tokens are no text
    caption = "say <racm3:break>"
    assert text.decode(text.encode(caption)) == caption
    assert max(text.encode(caption)) < 439  # spelt, not taken for the token of that name
    with pytest.raises(
        ValueError, match=r"tokenizer t\.json: it lacks \d+ tokens that chameleon needs: <racm3"
    ):
        text_of(config, TRAINED)


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_other_files_are_no_tokenizers(content):
    with pytest.raises(ValueError, match=r"cannot use the tokenizer t\.json: not a tokenizer"):
        text_of(Tokenize(text="t.json"), content)
