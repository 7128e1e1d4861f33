"""The reference's form of data: what gives a pair, and what says why it does not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasterloom.errors import SourceError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.schema import in_order, pair_key
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.lists import json_values
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers import json_records
from rasterloom.sources.readers.registry import kind_of, read_rows


def record(question: str, answer: str, *images: str, **rest: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, "image": list(images), **rest}


DRAW = "Generate an image of 768x768 according to the following prompt:\nA fox in the snow"


def turns(*values: Any, roles: tuple[str, ...] = ("human", "gpt")) -> list[dict[str, Any]]:
    return [{"from": roles[i % len(roles)], "value": value} for i, value in enumerate(values)]


A = "img/a.jpg"
GOOD: list[tuple[dict[str, Any], str, str, int | None, int]] = [  # record, task, caption, main, pictures
    (record(DRAW, "<|image|>", A, id=7), "t2i", "A fox in the snow", None, 1),
    (record("A fox", "<|image|>", A), "t2i", "A fox", None, 1),
    (record("Describe the image in detail. <|image|>", "A red fox.", A), "caption", "A red fox.", None, 1),
    (record("<|image|>\nWhat colour is it?", "Red.", A), "vqa", "What colour is it?", None, 1),
    (record("What colour is it?", "Red.", A), "vqa", "What colour is it?", None, 1),
    (record("Depth estimation. <|image|>", "<|image|>", A, A), "depth", "Depth estimation.", 1, 2),
    (record("Make it blue. <|image|>", "<|image|>", A, A), "edit", "Make it blue.", 1, 2),
    (record("Detect: the fox. <|image|>", "<|image|>", A, A), "detection", "Detect: the fox.", 1, 2),
    (record("Hello", "Hi"), "text", "Hello", None, 0),
    ({"conversations": turns("Hello", "Hi", "Who?", "I")}, "text", "Hello", None, 0),
    ({"conversations": turns("a", "b", roles=("user", "Assistant"))}, "text", "a", None, 0),
    ({"conversations": turns(DRAW, "<|image|>", "Bluer.", "<|image|>"), "image": [A, A]}, "edit",
     "A fox in the snow", 0, 2),
    (record("Generate 16 object views of 384x384 according to the following prompt:\na cup",
            "<|image|>" * 16, *[A] * 16), "multiview",
     "Generate 16 object views of 384x384 according to the following prompt:\na cup", 0, 16),
    (record("Compare <|image|> and <|image|>", "Alike. <|image|>", A, A, A), "edit", "Compare  and", 2, 3),
    (record("Name it", "x", A, task="classify"), "classify", "Name it", None, 1),
]  # fmt: skip
BAD: list[tuple[Any, str]] = [
    (record("A fox", "<|image|>", "/etc/hostname"), "bad_row: the image '/etc/hostname' does not lie in"),
    (record("A fox", "<|image|>", "../secret.jpg"), "bad_row: the image '../secret.jpg' does not lie in"),
    (record("A wolf", "<|image|>", "http://127.0.0.1:1/w.jpg"), "blocked_address: 127.0.0.1 is not a public"),
    (
        record("See <|image|>", "<|image|>", A, "http://127.0.0.1:1/w.jpg"),
        "blocked_address: image 2 of 2 (http",
    ),
    (record("See <|image|>", "<|image|>", A, "img/gone.jpg"), "missing_file: image 2 of 2 (img/gone.jpg): "),
    (
        record("<|image|> <|image|>", "<|image|>", A, "img/gone.jpg", A),
        "missing_file: image 2 of 3 (img/gone",
    ),
    (record("Text <|image|>", "<|image|>", A, "img/text.jpg"), "not_an_image: image 2 of 2 (img/text.jpg): "),
    (
        record("See <|image|>", "<|image|>", A),
        "bad_row: its messages hold 2 <|image|>, but its list `image` has 1",
    ),
    (record("See", "<|image|>"), "bad_row: its messages hold 1 <|image|>, but its list `image` has 0"),
    (
        {"conversations": turns("a <|image|>", "b"), "image": [A, None]},
        "bad_row: image 2 of 2 is no path or URL",
    ),
    ({"conversations": turns("a", "b"), "image": [7]}, "bad_row: image 1 of 1 is no path or URL, but 7"),
    ({"conversations": "no list", "image": [A]}, "bad_row: its `conversations` is no list of turns"),
    ({"image": [A]}, "bad_row: it has no turns"),
    ({"conversations": []}, "bad_row: it has no turns"),
    ({"conversations": ["a", "b"]}, "bad_row: turn 1 is no object with `from` and `value`, but 'a'"),
    (
        {"conversations": turns("a", "b", roles=("human",))},
        "bad_row: turn 2 is from 'human', but human and gpt",
    ),
    (
        {"conversations": turns("a", "b", roles=("gpt", "human"))},
        "bad_row: turn 1 is from 'gpt', but human and",
    ),
    (
        {"conversations": turns("a", "b", roles=("human", "system"))},
        "bad_row: turn 2 is from 'system'; known are",
    ),
    ({"conversations": turns("a", "b", roles=("human", None))}, "bad_row: turn 2 is from None; known are"),
    ({"conversations": turns("a", 7)}, "bad_row: turn 2 has no text, but 7"),
    ({"conversations": turns("a", "\ud800")}, "bad_row: turn 2 is no text in UTF-8"),
    ({"conversations": turns("a")}, "bad_row: it has no answer to learn from"),
    ({"conversations": turns("a", " ")}, "bad_row: it has no answer to learn from"),
    ("no record", "bad_url: no URL, or none that is text"),
]
RECORDS = [*(item[0] for item in GOOD), *(item[0] for item in BAD)]


@pytest.fixture
def data(tmp_path: Path, jpeg: bytes) -> Path:
    (tmp_path / "data" / "img").mkdir(parents=True)
    (tmp_path / "data" / "img" / "a.jpg").write_bytes(jpeg)
    (tmp_path / "secret.jpg").write_bytes(jpeg)
    (tmp_path / "data" / "img" / "text.jpg").write_text("text")
    (tmp_path / "data" / "train.json").write_text(json.dumps(RECORDS, indent=1))
    return tmp_path / "data"


def through(source: Source) -> list[dict[str, Any]]:
    check_sources([source])
    pairs, _ = read_sources([source])
    config = Fetch(robots=False, retries=0)
    return fetch_shard(pairs, config, shard=0, sources=[source]).to_pylist()


def test_what_gives_a_sample(data: Path) -> None:
    source = Source(path=str(data / "train.json"))
    assert kind_of(source) == "conversations"
    pairs, counts = read_sources([source])
    assert counts == {"read": len(RECORDS), "repeated": 0, "pairs": len(RECORDS)}
    rows = through(source)
    for pair, row, (item, task, caption, main, count) in zip(pairs.to_pylist(), rows, GOOD, strict=False):
        assert (row["status"], row["error"]) == ("ok", None)
        assert (row["task"], row["caption"], row["main"]) == (task, caption, main)
        assert [pair[name] for name in ("key", "task", "turns", "main")] == [
            row[name] for name in ("key", "task", "turns", "main")
        ]
        pictures = in_order(row["image"], row["main"], [one["image"] for one in row["more"] or []])
        assert len(pictures) == count and all(pictures)
        assert (row["more"] is None) == (count < 2) == (pair["more"] is None)
        if item is RECORDS[0]:  # the reference's prompt and a picture: a plain pair
            assert row["turns"] is None and json.loads(pair["meta"]) == {"id": 7}
        else:  # word for word
            said = [turn["value"] for turn in item["conversations"]]
            assert [turn["value"] for turn in json.loads(row["turns"])] == said
            assert [turn["from"] for turn in json.loads(row["turns"])] == (["human", "gpt"] * 9)[: len(said)]


def test_the_key_of_a_plain_pair_is_what_it_was(data: Path) -> None:
    pairs, _ = read_sources([Source(path=str(data / "train.json"))])
    assert pairs["key"][0].as_py() == pair_key(None, "A fox in the snow", ("train", A))


def test_what_gives_none_says_why(data: Path) -> None:
    rows = through(Source(path=str(data / "train.json")))[len(GOOD) :]
    assert len(rows) == len(BAD)
    for row, (_, words) in zip(rows, BAD, strict=True):
        assert f"{row['error']}: {row['detail']}".startswith(words)
        assert row["status"] == "failed" and row["image"] is None and row["more"] is None


def test_lines_are_read_as_well(data: Path) -> None:
    (data / "train.jsonl").write_text("".join(json.dumps(item) + "\n" for item in RECORDS))
    rows = through(Source(path=str(data / "train.jsonl"), kind="conversations"))
    assert [row["status"] for row in rows] == ["ok"] * len(GOOD) + ["failed"] * len(BAD)


def test_keys_tell_samples_apart(data: Path) -> None:
    (data / "b.jpg").write_bytes(b"")
    rows = [
        record("Edit <|image|>", "<|image|>", "a", "b"),
        record("Edit <|image|>", "<|image|>", "b", "a"),
        record("Edit! <|image|>", "<|image|>", "a", "b"),
        record("Edit <|image|>", "<|image|>", "a", "http://127.0.0.1/b"),
        record("Edit <|image|>", "It <|image|>", "a", "b"),
        record("Edit", "It"),
        record("Edit <|image|>", "<|image|>", "a", "b"),
    ]
    (data / "keys.json").write_text(json.dumps(rows))
    _, counts = read_sources([Source(path=str(data / "keys.json"))])
    assert counts == {"read": 7, "repeated": 1, "pairs": 6}


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
        patch.setattr(json_values, "CHUNK_BYTES", size)
        files = conversations_files(path)
        assert list(json_records.records(files, "a.json", Source(path=str(path)))) == records


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
    source = Source(path=str(tmp_path / "a.json"), kind="conversations")
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


def test_images_by_url_and_by_path_in_one_sample(site: Any, data: Path, jpeg: bytes) -> None:
    site.answers |= {"/a.jpg": jpeg, "/b.jpg": jpeg}
    a, b, gone = (site.url(f"/{name}.jpg") for name in ("a", "b", "gone"))
    rows = [
        record("Edit <|image|>", "<|image|>", a, b),
        record("Edit <|image|>", "<|image|>", A, b),
        record("Edit <|image|>", "<|image|>", a, A),
        record("Edit <|image|> like <|image|>", "<|image|>", a, gone, b),
    ]
    (data / "mixed.json").write_text(json.dumps(rows))
    source = Source(path=str(data / "mixed.json"))
    pairs, _ = read_sources([source])
    config = Fetch(robots=False, retries=0, allow_hosts=(f"127.0.0.1:{site.port}",))
    found = fetch_shard(pairs, config, shard=0, sources=[source]).to_pylist()
    assert [row["status"] for row in found] == ["ok", "ok", "ok", "failed"]
    assert [row["url"] for row in found] == [b, b, None, b]  # what is answered
    assert [pair["more"] for pair in pairs.to_pylist()] == [[a], [A], [a], [a, gone]]
    assert [row["attempts"] for row in found] == [2, 2, 2, 3]
    failed = found[3]
    assert (failed["error"], failed["http_status"], failed["final_url"]) == ("http_4xx", 404, gone)
    assert failed["detail"].startswith(f"image 2 of 3 ({gone}): ")
