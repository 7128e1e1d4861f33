"""Samples out of tables: the columns task, input and output."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import SourceError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Column, Source
from rasterloom.schema import in_order
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.pairs import check_sources, read_sources


@pytest.fixture
def pictures(tmp_path: Path, jpeg_of: Any) -> dict[str, bytes]:
    """Pictures a, b and c of different width, as bytes and as files."""
    found = {}
    for name, width in (("a", 64), ("b", 72), ("c", 80)):
        found[name] = jpeg_of(width)
        (tmp_path / f"{name}.jpg").write_bytes(found[name])
    return found


@pytest.fixture
def jpeg_of() -> Any:
    from io import BytesIO

    from PIL import Image

    def make(width: int) -> bytes:
        buffer = BytesIO()
        Image.new("RGB", (width, 48), (200, 30, width)).save(buffer, "JPEG")
        return buffer.getvalue()

    return make


def through(source: Source) -> list[dict[str, Any]]:
    check_sources([source])
    pairs, _ = read_sources([source])
    return fetch_shard(pairs, Fetch(robots=False, retries=0), shard=0, sources=[source]).to_pylist()


def widths(row: dict[str, Any]) -> list[int]:
    return in_order(row["width"], row["main"], [one["width"] for one in row["more"] or []])


def test_lines_with_paths(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    rows = [
        {"task": "edit", "input": "a.jpg", "output": "b.jpg", "instruction": "Make it blue"},
        {"task": "depth", "input": "a.jpg", "output": "c.jpg"},
        {"task": "vqa", "input": "a.jpg", "question": "How many?", "answer": "Two", "score": 3},
        {"task": "caption", "input": "a.jpg", "caption": "a red field"},
        {"task": "text", "question": "Why?", "answer": "So."},
        {"task": "", "input": "a.jpg", "caption": "a red field"},
        {"task": "t2i", "output": "b.jpg", "caption": "a red field"},
        {"task": "multiview", "output": ["a.jpg", "b.jpg", "c.jpg"], "caption": "a cup"},
        {"task": "edit", "input": ["a.jpg", "b.jpg"], "output": "c.jpg", "instruction": "Join them"},
        {"task": "edit", "input": "a.jpg", "output": "../../x.jpg", "instruction": "Make it blue"},
        {"task": "edit", "input": ["a.jpg", None], "output": "b.jpg", "instruction": "Make it blue"},
        {"task": "edit", "input": "a.jpg", "output": "gone.jpg", "instruction": "Make it blue"},
        {"caption": "a picture that is not there"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = str(tmp_path / "rows.jsonl")
    found = through(Source(path=path, task=Column(column="task"), input="input", output="output"))
    assert [row["status"] for row in found] == ["ok"] * 9 + ["failed"] * 4
    assert [(row["task"], widths(row) if row["image"] else []) for row in found[:9]] == [
        ("edit", [64, 72]), ("depth", [64, 80]), ("vqa", [64]), ("caption", [64]), ("text", []),
        ("t2i", [64]), ("t2i", [72]), ("multiview", [64, 72, 80]), ("edit", [64, 72, 80]),
    ]  # fmt: skip
    assert [row["width"] for row in found[:9]] == [72, 80, 64, 64, None, 64, 72, 64, 80]  # what is answered
    assert json.loads(found[0]["turns"]) == {"instruction": "Make it blue"}
    assert json.loads(found[2]["turns"]) == {"question": "How many?", "answer": "Two", "score": 3}
    assert found[5]["turns"] is found[6]["turns"] is None  # plain pairs
    assert [row["caption"] for row in found[:5]] == ["Make it blue", "", "How many?", "a red field", "Why?"]
    assert [f"{row['error']}: {row['detail']}" for row in found[9:]] == [
        f"bad_row: the image '../../x.jpg' does not lie in {tmp_path}; the source's `root` names its folder",
        "bad_row: image 2 of 2 in column 'input' is missing",
        "missing_file: image 2 of 2 (gone.jpg): gone.jpg is not there",
        "bad_url: no URL, or none that is text",
    ]


def test_parquet_that_holds_its_images(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    names = ["abc"[i % 3] for i in range(40)]
    table = pa.table(
        {
            "image": [{"bytes": pictures[name], "path": name} for name in names],
            "after": [pictures["abc"[(i + 1) % 3]] if i != 7 else None for i in range(40)],
            "words": [f"edit {i}" for i in range(40)],
        }
    )
    path = tmp_path / "edits.parquet"
    pq.write_table(table, path, row_group_size=25)
    source = Source(path=str(path), image="image", output="after", caption="words", task="edit")
    rows = through(source)
    assert {row["status"] for row in rows} == {"ok"}
    by_caption = {row["caption"]: row for row in rows}
    width = {"a": 64, "b": 72, "c": 80}
    for i, name in enumerate(names):
        expected = [width[name], width["abc"[(i + 1) % 3]]][: 1 if i == 7 else 2]
        assert widths(by_caption[f"edit {i}"]) == expected


def test_paths_in_a_folder_of_their_own(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    (tmp_path / "lists").mkdir()
    table = pa.table({"image": [pictures["a"]], "after": ["b.jpg"], "instruction": ["Wider"]})
    pq.write_table(table, tmp_path / "lists" / "x.parquet")
    source = Source(path=f"{tmp_path}/lists/x.parquet", image="image", output="after", task="edit")
    assert [row["error"] for row in through(source)] == ["missing_file"]
    (row,) = through(source.model_copy(update={"root": str(tmp_path)}))
    assert widths(row) == [64, 72]  # the first out of the file, the second from `root`


def test_a_folder_of_captions(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    for name in pictures:
        (tmp_path / f"{name}.txt").write_text(f"picture {name}")
    rows = through(Source(path=str(tmp_path), task="caption"))
    assert [(row["task"], row["caption"], row["turns"]) for row in rows] == [
        ("caption", f"picture {name}", "{}") for name in pictures
    ]
    plain = through(Source(path=str(tmp_path)))
    assert not {row["key"] for row in rows} & {row["key"] for row in plain}


def test_what_a_source_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"url": "http://127.0.0.1/a.jpg"}\n')
    with pytest.raises(SourceError, match="no column 'after' for the output; it has url"):
        check_sources([Source(path=str(tmp_path / "a.jsonl"), output="after", task="edit")])
    with pytest.raises(SourceError, match="no column 'words' for the caption"):
        check_sources([Source(path=str(tmp_path / "a.jsonl"), task="caption", caption="words")])
    (tmp_path / "a.json").write_text('[{"conversations": []}]')
    with pytest.raises(SourceError, match="conversations say their tasks themselves"):
        check_sources([Source(path=str(tmp_path / "a.json"), task="caption")])
    with pytest.raises(SourceError, match="of kind hf, only the row's own image is read"):
        check_sources([Source(path="hf://some/thing", output="after", task="edit")])


def test_a_folder_of_questions(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    for name in pictures:
        (tmp_path / f"{name}.json").write_text(json.dumps({"question": f"Is it {name}?", "answer": "Yes."}))
    rows = through(Source(path=str(tmp_path), task="vqa"))
    assert [(row["status"], row["caption"], json.loads(row["turns"])["answer"]) for row in rows] == [
        ("ok", f"Is it {name}?", "Yes.") for name in pictures
    ]
