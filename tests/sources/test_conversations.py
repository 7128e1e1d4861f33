"""The reference's form of data: what gives a pair, and what says why it does not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasterloom.recipe import Fetch, Source
from rasterloom.sources.fetch import fetch_shard
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers import SourceError, conversations, kind_of, read_rows


def record(question: str, answer: str, *images: str, **rest: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, "image": list(images), **rest}


DRAW = "Generate an image of 768x768 according to the following prompt:\nA fox in the snow"
RECORDS = [
    record(DRAW, "<|image|>", "img/a.jpg", id=7),
    record("A fox", "<|image|>", "img/a.jpg"),
    record("Describe the image in detail. <|image|>", "A red fox.", "img/a.jpg"),
    record("<|image|>\nWhat colour is it?", "Red.", "img/a.jpg"),
    record("Depth estimation. <|image|>", "<|image|>", "img/a.jpg", "img/b.jpg"),
    record("Hello", "Hi"),
    record("A fox", "<|image|>", "/etc/hostname"),
    record("A fox", "<|image|>", "../secret.jpg"),
    record("A wolf", "<|image|>", "http://127.0.0.1:1/wolf.jpg"),
    {"conversations": "no list", "image": ["img/a.jpg"]},
    {"image": [7]},
    "no record",
]
FOUND = [
    "A fox in the snow",
    "A fox",
    "A red fox.",
    "neither an image for a prompt nor a description of an image",
    "a conversation with 2 images; only one image makes a pair",
    "a conversation with 0 images; only one image makes a pair",
    "the image '/etc/hostname' does not lie in",
    "the image '../secret.jpg' does not lie in",
    "127.0.0.1 is not a public address",
    "not one question and one answer",
    "its images are no list of paths or URLs",
    "no URL, or none that is text",
]


@pytest.fixture
def data(tmp_path: Path, jpeg: bytes) -> Path:
    (tmp_path / "data" / "img").mkdir(parents=True)
    (tmp_path / "data" / "img" / "a.jpg").write_bytes(jpeg)
    (tmp_path / "secret.jpg").write_bytes(jpeg)
    (tmp_path / "data" / "train.json").write_text(json.dumps(RECORDS, indent=1))
    return tmp_path / "data"


def through(source: Source) -> list[dict[str, Any]]:
    check_sources([source])
    pairs, _ = read_sources([source])
    config = Fetch(robots=False, retries=0)
    return fetch_shard(pairs, config, shard=0, sources=[source]).to_pylist()


def test_what_gives_a_pair_and_what_does_not(data: Path) -> None:
    source = Source(path=str(data / "train.json"))
    assert kind_of(source) == "conversations"
    rows = through(source)
    for row, words in zip(rows, FOUND, strict=True):
        assert words in (row["detail"] or row["caption"])
    assert [row["error"] for row in rows] == [
        *[None] * 3, *["bad_row"] * 5, "blocked_address", *["bad_row"] * 2, "bad_url"
    ]  # fmt: skip


def test_lines_are_read_as_well(data: Path) -> None:
    (data / "train.jsonl").write_text("".join(json.dumps(item) + "\n" for item in RECORDS))
    rows = through(Source(path=str(data / "train.jsonl"), kind="conversations"))
    assert [row["error"] for row in rows[:4]] == [None, None, None, "bad_row"] and len(rows) == len(FOUND)


def test_images_in_a_folder_of_their_own(data: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    rows = [record("one", "<|image|>", "a.jpg"), record("two", "<|image|>", f"{data}/img/a.jpg")]
    (tmp_path / "lists" / "x.json").write_text(json.dumps(rows))
    elsewhere = Source(path=str(tmp_path / "lists" / "x.json"))
    assert [row["error"] for row in through(elsewhere)] == ["missing_file", "bad_row"]
    named = elsewhere.model_copy(update={"root": f"{data}/img"})
    assert [row["error"] for row in through(named)] == [None, None]


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.floats(allow_nan=False)), max_size=6)
)
def test_a_list_is_read_piece_by_piece(tmp_path: Path, size: int, records: list[dict[str, Any]]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records, ensure_ascii=False, indent=2), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversations, "CHUNK_BYTES", size)
        files = conversations_files(path)
        assert list(conversations.records(files, "a.json")) == records


def conversations_files(path: Path) -> Any:
    from rasterloom.sources.files import find_files

    return find_files(Source(path=str(path)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"conversations": []}, {"conv', "is no JSON list from character 24 on"),
        ("[{'a': 1}]", "is no JSON list from character 1 on"),
        ("[" * 5000, "nested too deep|is no JSON list"),
        ('[{"messages": [], "pictures": []}]', "a record has no 'conversations'; it has messages, pictures"),
        ("[1, 2", "is no JSON list from character"),
    ],
)
def test_a_file_that_is_no_list(tmp_path: Path, text: str, words: str) -> None:
    source = Source(path=str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError, match=words) as caught:
        check_sources([source])
        list(read_rows(source))
    assert str(caught.value).startswith(f"{tmp_path}/a.json: ") and "\n" not in str(caught.value)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("<|image|>"),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["conversations", "image", "from", "value"]), inner),
    max_leaves=20,
).map(lambda value: json.dumps([value, value]).encode()))  # fmt: skip
def test_any_file_gives_rows_or_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "fuzz.json").write_bytes(data)
    try:
        read_sources([Source(path=str(tmp_path / "fuzz.json"))])
    except SourceError as error:
        assert "\n" not in str(error)
