"""The vocabulary of a language model with the tokens of images behind it."""

import json

import numpy as np
import pytest
import tokenizers
from language_models import BOS, END, PAD, tokenizer_json, write_tokenizer
from transformers import AutoTokenizer

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.tokenize.conversation import encode, structure
from rasterloom.tokenize.grown_vocabulary import ALIGN, IMAGE_START, grow, read_tokenizer, token_name
from rasterloom.tokenize.profiles import MINI, max_grid
from rasterloom.tokenize.text_tokenizer import JsonText, text_of
from rasterloom.tokenize.unirep import frame, unframe

WITH_BOS = {"eos_token": END, "bos_token": BOS, "pad_token": {"content": PAD}}


def opened(folder):
    """The text and the ids of a recipe with this folder as its text."""
    config = Tokenize(text=str(folder))
    return text_of(config, read_tokenizer(config.text, config.codec))


@pytest.fixture(params=["its own", "no bos, pad is eos", "settings in the config", "no settings"])
def folder(request, tmp_path):
    """A language model's folder, and which of its tokens are used."""
    ids = {name: 300 + n for n, name in enumerate((END, BOS, PAD))}
    settings, used = None, {}
    if request.param == "its own":
        settings, used = WITH_BOS, {"sep": ids[END], "bos": ids[BOS], "pad": ids[PAD]}
    elif request.param == "no bos, pad is eos":
        settings, used = {"eos_token": END, "bos_token": None, "pad_token": END}, {"sep": ids[END]}
    size = write_tokenizer(tmp_path / "lm", settings=settings)
    if request.param == "settings in the config":
        config = {"eos_token_id": [ids[END], ids[PAD]], "bos_token_id": ids[END], "pad_token_id": 900}
        (tmp_path / "lm/config.json").write_text(json.dumps(config))
        used = {"sep": ids[END]}
    return tmp_path / "lm", used, size


def test_images_follow_the_models_own_ids(folder):
    place, used, size = folder
    text, profile = opened(place)
    assert profile.boi == size and min(profile.eoi, profile.eol, profile.grid0, profile.image0) > size
    assert profile.image0 + MINI.codebook_size <= profile.vocab_size < profile.image0 + 1024 + ALIGN
    assert profile.vocab_size % ALIGN == 0 and profile.downsample == MINI.downsample
    special = {name: getattr(profile, name) for name in ("bos", "sep", "pad", "boi", "eoi", "eol")}
    assert len({*special.values()}) == 6
    assert used == {name: special[name] for name in used}
    assert all(special[name] > size for name in {"bos", "sep", "pad"} - used.keys())
    assert max_grid(profile) == max_grid(MINI)
    plain = JsonText((place / "tokenizer.json").read_text())
    for caption in ("a large red circle", f"what {END} and {IMAGE_START} say", "猫"):
        assert text.encode(caption) == plain.encode(caption)
        assert not structure(profile)[text.encode(caption)].any()
        assert text.decode(text.encode(caption)) == caption
    assert not {*text.ids} & {*np.flatnonzero(structure(profile)).tolist()}
    assert text.vocabulary == plain.vocabulary


def test_a_sample_is_written_in_them_and_read_again(folder):
    text, profile = opened(folder[0])
    codes = np.arange(64).reshape(8, 8) * 16
    assert (unframe(frame(codes, profile), profile) == codes).all()
    sample = encode([("human", "a star"), ("gpt", "<|image|>")], [codes], text.encode, profile)
    assert sample.input_ids[0] == profile.bos and sample.input_ids[-1] == profile.sep
    assert sample.input_ids.max() < profile.vocab_size


def test_transformers_opens_it_and_writes_a_prompt(folder, tmp_path):
    text, profile = opened(folder[0])
    (tmp_path / "grown").mkdir()
    (tmp_path / "grown/tokenizer.json").write_text(text.tokenizer_json)
    (tmp_path / "grown/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path / "grown")
    assert theirs("a red circle").input_ids == [profile.bos, *text.encode("a red circle"), profile.sep]
    assert theirs.convert_tokens_to_ids(token_name(7)) == profile.image0 + 7
    assert theirs.convert_tokens_to_ids(token_name("grid5")) == profile.grid0 + 5


def test_a_sentencepiece_vocabulary_with_its_special_tokens_in_front_grows(tmp_path):
    """As those of Llama 2 and Mistral: bytes to fall back on, no pad."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"aredci"]
    vocab = {name: number for number, name in enumerate([*names, "re", "red"])}
    model = tokenizers.models.BPE(vocab, [("r", "e"), ("re", "d")], unk_token="<unk>", byte_fallback=True)
    plain = tokenizers.Tokenizer(model)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    decoders = tokenizers.decoders
    plain.decoder = decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
        ]
    )
    plain.add_special_tokens(names[:3])
    plain.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    text, profile = opened(tmp_path)
    assert (profile.bos, profile.sep, profile.boi) == (1, 2, len(vocab)) and profile.pad > profile.boi
    for caption in ("a red ace", "猫 </s>"):
        assert text.encode(caption) == JsonText(plain.to_str()).encode(caption)
        assert text.decode(text.encode(caption)).lstrip() == caption
        assert not structure(profile)[text.encode(caption)].any()


def test_a_grown_one_is_taken_as_it_is(tmp_path):
    write_tokenizer(tmp_path / "lm", settings=WITH_BOS)
    text, profile = opened(tmp_path / "lm")
    (tmp_path / "lm/tokenizer.json").write_text(text.tokenizer_json)
    assert opened(tmp_path / "lm")[1] == profile
    again, same = opened(tmp_path / "lm/tokenizer.json")
    assert (again.tokenizer_json, same) == (text.tokenizer_json, profile)


def test_one_of_another_codec_is_refused():
    grown = grow(tokenizer_json(), {}, "movq")
    with pytest.raises(ValueError, match="tokens of 16384 codes, but mini has 1024"):
        text_of(Tokenize(text="its folder"), grown)


def test_ids_with_gaps_are_refused():
    data = json.loads(tokenizer_json())
    data["model"]["vocab"]["far"] = 5000
    with pytest.raises(ValueError, match=r"its ids have gaps: .*1023\|> would be \d+, not \d+"):
        grow(json.dumps(data), {}, "mini")


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "lm").mkdir()
    with pytest.raises(FileNotFoundError, match=r"lm/tokenizer\.json"):
        read_tokenizer(str(tmp_path / "lm"), "mini")
    (tmp_path / "lm/tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        read_tokenizer(str(tmp_path / "lm"), "mini")
