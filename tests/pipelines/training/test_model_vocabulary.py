"""A model is asked in the words that it was trained on, or not at all."""

import json
from dataclasses import asdict

import pytest

from rasterloom.errors import RecipeError
from rasterloom.pipelines.training.model_vocabulary import check_vocabulary, model_vocabulary, vocabulary_of
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.tokenize.text_tokenizer import JsonText, text_of, train_text
from rasterloom.train.model.model_card import write_companions

ONE = train_text(["a red circle", "a blue star on a table", "red red circle"] * 3, 300)
OTHER = train_text(["zwei gelbe Vierecke", "der Himmel der gelbe"] * 3, 300)


@pytest.fixture
def text():
    return text_of(Tokenize(text_vocab=300), ONE)


@pytest.fixture
def folder(tmp_path, text):
    """A model's folder as a stage leaves it, without its weights."""
    write_companions(tmp_path, text[1], vocabulary_of(text[0]), "float32")
    return tmp_path


def test_a_folder_has_its_vocabulary(folder, text):
    encoder, profile = text
    assert (folder / "tokenizer.json").read_text() == ONE
    about = json.loads((folder / "profile.json").read_text())
    assert about["vocabulary"] == encoder.vocabulary and about["first_text_id"] == profile.text0
    assert {name: about[name] for name in asdict(profile)} == json.loads(json.dumps(asdict(profile)))
    check_vocabulary(folder, encoder, field="model")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and f"id {profile.text0} + n" in card
    # What the card says: an id of tokenizer.json, moved up, is the model's.
    plain = JsonText((folder / "tokenizer.json").read_text())
    assert [profile.text0 + i for i in plain.encode("a red circle")] == encoder.encode("a red circle")


def test_another_vocabulary_of_the_same_size_is_refused(folder):
    other, _ = text_of(Tokenize(text_vocab=300), OTHER)
    assert other.size == JsonText(ONE).size
    with pytest.raises(RecipeError, match=r"^train.init .*: has another text vocabulary than the tokens"):
        check_vocabulary(folder, other, field="train.init")
    (folder / "tokenizer.json").unlink()  # the digest in profile.json tells it, too
    with pytest.raises(RecipeError, match="ids mean different words"):
        check_vocabulary(folder, other, field="model")


def test_how_the_file_is_written_does_not_count(folder, text):
    """transformers writes merges as pairs, and adds sections."""
    written = json.loads(ONE)
    written["model"]["merges"] = [
        m.split(" ") if isinstance(m, str) else m for m in written["model"]["merges"]
    ]
    written["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(written, indent=2))
    check_vocabulary(folder, text[0], field="model")


def test_special_tokens_do_not_count_and_ids_do(text):
    special = {"id": 290, "special": True, "content": "<image>"} | dict.fromkeys(
        ("single_word", "lstrip", "rstrip", "normalized"), False
    )
    with_special = json.loads(ONE)
    with_special["added_tokens"] = [special]
    assert JsonText(json.dumps(with_special)).vocabulary == JsonText(ONE).vocabulary
    moved = json.loads(ONE)
    vocab = moved["model"]["vocab"]
    one, two = sorted(vocab, key=vocab.get)[-2:]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    assert JsonText(json.dumps(moved)).vocabulary != JsonText(ONE).vocabulary
    assert JsonText(ONE, 5).vocabulary != JsonText(ONE).vocabulary


@pytest.mark.parametrize("content", [None, "{", "[]", '{"name": "mini"}'])
def test_a_folder_that_does_not_tell_is_accepted(tmp_path, text, content):
    """Plain checkpoints, and models of earlier versions."""
    if content is not None:
        (tmp_path / "profile.json").write_text(content)
    assert model_vocabulary(tmp_path) is None
    check_vocabulary(tmp_path, text[0], field="model")
