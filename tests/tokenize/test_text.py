import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.recipe import Tokenize
from rasterloom.tokenize.profiles import CHAMELEON, MINI
from rasterloom.tokenize.prompts import t2i_prompt
from rasterloom.tokenize.text import JsonText, text_of, train_text

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


def test_a_sample_of_very_many_captions_does_not_depend_on_their_order(monkeypatch):
    monkeypatch.setattr("rasterloom.tokenize.text.MOST_CAPTIONS", 40)
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


def test_the_recipe_trains_its_own():
    text, profile = text_of(Tokenize(text_vocab=300), CAPTIONS)
    assert profile.vocab_size == MINI.text0 + 300
    assert max(text.encode(CAPTIONS[0])) < profile.vocab_size


def test_trained_text_of_chameleon_lies_where_its_profile_says():
    text, profile = text_of(Tokenize.model_construct(codec="chameleon", text_vocab=300), CAPTIONS)
    assert profile == CHAMELEON
    assert min(text.encode(CAPTIONS[0])) >= CHAMELEON.text0


def test_the_recipe_takes_a_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(train_text(CAPTIONS, 500))
    text, profile = text_of(Tokenize(text=str(path)), [])
    assert profile.vocab_size == MINI.text0 + 500
    assert text.decode(text.encode("ein Stern ☆")) == "ein Stern ☆"
    with pytest.raises(ValueError, match=r"tokenizer.json: it lacks \d+ tokens that chameleon needs: <racm3"):
        text_of(Tokenize.model_construct(text=str(path), codec="chameleon"), [])
    for content in ("{", "{}"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"cannot use the tokenizer .*tokenizer\.json: not a tokenizer"):
            text_of(Tokenize(text=str(path)), [])
    with pytest.raises(ValueError, match=r"cannot use the tokenizer .*none\.json"):
        text_of(Tokenize(text=str(tmp_path / "none.json")), [])
