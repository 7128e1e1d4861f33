import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from rasterloom.tokenize.profiles import CHAMELEON, MINI, MOVQ
from rasterloom.tokenize.token_names import (
    code_name,
    code_of_name,
    grid_name,
    names_of,
    profile_from_tokenizer,
)
from rasterloom.tokenize.unirep import code_ids, frame, unframe

GOLDEN = json.loads((Path(__file__).parent / "golden/code_names.json").read_text())


def chameleon_names(order=range(8192)):
    """Return names and ids as Chameleon's tokenizer has them; code c has id 4 + order[c]."""
    names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<eoss>": 8196, "<racm3:break>": 8197}
    names |= {code_name(code): 4 + int(place) for code, place in enumerate(order)}
    return names | {f"<reserved{number:05d}>": number + 4 for number in range(8194, 9000)}


def write(path, names, added=()):
    added_tokens = [{"id": i, "content": name, "special": True} for name, i in added]
    path.write_text(json.dumps({"added_tokens": added_tokens, "model": {"type": "BPE", "vocab": names}}))
    return path


def test_names_are_the_references():
    for row in GOLDEN["rows"]:
        assert code_name(row["code"]) == row["name"]
        assert code_of_name(row["name"]) == row["code"]
    for code in range(16384):
        assert code_of_name(code_name(code)) == code


@pytest.mark.parametrize("name", ["", "IMGIMGZ", "IMGIMGABZ", "IMGIMGKZ", "IMGIMGA", "imgimgaz", "<s>", "B"])
def test_other_names_are_no_codes(name):
    with pytest.raises(ValueError, match="not the name of an image code"):
        code_of_name(name)


def test_ids_in_order_are_found_to_be_chameleons(tmp_path):
    profile = profile_from_tokenizer(write(tmp_path / "tokenizer.json", chameleon_names()), CHAMELEON)
    assert profile == CHAMELEON
    ids = code_ids(profile).astype("<i8")
    assert hashlib.sha256(ids.tobytes()).hexdigest() == GOLDEN["full_map_sha256_int64le"]
    assert [ids[row["code"]] for row in GOLDEN["rows"]] == [row["id"] for row in GOLDEN["rows"]]


def test_permuted_ids_are_followed_by_name(tmp_path):
    order = np.random.default_rng(7).permutation(8192)
    profile = profile_from_tokenizer(write(tmp_path / "t.json", chameleon_names(order)), CHAMELEON)
    ids = code_ids(profile)
    assert [ids[row["code"]] for row in GOLDEN["rows"]] == [row["id_permuted"] for row in GOLDEN["rows"]]
    codes = np.arange(16).reshape(2, 8)
    assert frame(codes, profile)[3] == 4 + order[0]
    np.testing.assert_array_equal(unframe(frame(codes, profile), profile), codes)


@pytest.mark.parametrize(
    "name", ["IMGIMGFFFFZ", "<racm3:break>", "<reserved08799>", "<reserved08864>", "<s>"]
)
def test_a_missing_token_is_named(tmp_path, name):
    names = chameleon_names()
    del names[name]
    with pytest.raises(ValueError, match=f"t.json lacks 1 tokens that chameleon needs: {name}"):
        profile_from_tokenizer(write(tmp_path / "t.json", names), CHAMELEON)


def test_clashing_and_scattered_ids_are_refused(tmp_path):
    clash = chameleon_names() | {"IMGIMGAZ": 8196}
    with pytest.raises(ValueError, match="uses id 8196 for 2 tokens"):
        profile_from_tokenizer(write(tmp_path / "t.json", clash), CHAMELEON)
    scattered = chameleon_names() | {"<reserved08805>": 60_000}
    with pytest.raises(ValueError, match="<reserved08805> at 60000, not at 8809"):
        profile_from_tokenizer(write(tmp_path / "t.json", scattered), CHAMELEON)


@pytest.mark.parametrize("name", ["IMGIMGIBJCZ", "IMGIMGABZ", "IMGIMGx"])
def test_an_unknown_image_token_is_named(tmp_path, name):
    names = chameleon_names() | {name: 60_000}
    with pytest.raises(ValueError, match=f"t.json has a token {name}, which names no code of chameleon"):
        profile_from_tokenizer(write(tmp_path / "t.json", names), CHAMELEON)


def test_movq_reads_the_tokens_that_were_added_to_qwens(tmp_path):
    added = [("<racm3:break>", 151665), ("<eoss>", 151666), ("<reserved08799>", 151670)]
    grids = [(grid_name(units), 152000 + units) for units in range(1, 65)]
    path = write(tmp_path / "t.json", {"a": 0}, [*added, *grids, ("<reserved08706>", 153000)])
    profile = profile_from_tokenizer(path, MOVQ)
    assert (profile.grid0, profile.sep, profile.boi) == (152000, 153000, 151665)
    assert (profile.image0, profile.bos, profile.vocab_size) == (155000, MOVQ.bos, MOVQ.vocab_size)


def test_a_tokenizer_that_reaches_into_movqs_codes_is_refused(tmp_path):
    added = [("<racm3:break>", 151665), ("<eoss>", 151666), ("<reserved08799>", 151670)]
    grids = [(grid_name(units), 152000 + units) for units in range(1, 65)]
    path = write(tmp_path / "t.json", {"a": 0, "<extra>": 155001}, [*added, *grids])
    with pytest.raises(
        ValueError, match="has <extra> at 155001, where the codes of movq are, 155000 to 171383"
    ):
        profile_from_tokenizer(path, MOVQ)


def test_mini_takes_no_ids_from_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="its ids are fixed"):
        profile_from_tokenizer(write(tmp_path / "t.json", chameleon_names()), MINI)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"vocab": [["a", -1.0]]}}', "\udcff"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "t.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"cannot read the tokenizer .*t\.json"):
        profile_from_tokenizer(path, CHAMELEON)
    with pytest.raises(ValueError, match="cannot read the tokenizer"):
        profile_from_tokenizer(tmp_path / "none.json", CHAMELEON)


def test_added_tokens_count_as_names():
    assert names_of('{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 5, "content": "<b>"}]}') == {
        "a": 0,
        "<b>": 5,
    }
