"""Data sets as Hugging Face's `datasets` streams them, from folders: nothing here needs the hub."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import SourceError, StepFailed
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers import hub
from rasterloom.sources.readers.registry import read_rows, survey_source
from rasterloom.sources.readers.tally import Tally

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", tmp_path / "cache")


def through(source: Source) -> list[dict[str, Any]]:
    check_sources([source])
    pairs, _ = read_sources([source])
    return fetch_shard(pairs, Fetch(), shard=0, sources=[source]).to_pylist()


@pytest.fixture
def image_set(tmp_path: Path, jpeg: bytes) -> Path:
    """A data set of two Parquet files with a column of images, as `push_to_hub` writes them."""
    for part in range(2):
        rows = {
            "text": [f"picture {part}.{i}" for i in range(4)],
            "image": [{"bytes": jpeg + bytes([i]), "path": f"{i}.jpg"} for i in range(3)] + [None],
        }
        features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
        table = pa.table(rows, schema=features.arrow_schema)
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "set" / "data" / f"train-{part:05d}-of-00002.parquet")
    return tmp_path / "set"


def test_images_in_the_rows(image_set: Path, jpeg: bytes) -> None:
    rows = through(Source(path=str(image_set), kind="hf", caption="text"))
    assert [row["error"] or row["caption"] for row in rows] == [
        *(f"picture 0.{i}" for i in range(3)), "missing_file",
        *(f"picture 1.{i}" for i in range(3)), "missing_file",
    ]  # fmt: skip
    assert len({row["sha256"] for row in rows}) == 4  # three pictures and null
    assert [row["original_bytes"] for row in rows[:3]] == [len(jpeg) + 1] * 3


def test_rows_out_of_order_and_from_the_middle(image_set: Path) -> None:
    source = Source(path=str(image_set), kind="hf", caption="text", name="set")
    pairs, _ = read_sources([source])
    assert pairs["path"].to_pylist()[3:5] == ["#0/3", "#1/0"]
    rows = fetch_shard(pairs.take([6, 5, 1]), Fetch(), shard=0, sources=[source]).to_pylist()
    assert [row["caption"] for row in rows if row["status"] == "ok"] == [
        "picture 1.2",
        "picture 1.1",
        "picture 0.1",
    ]
    assert len({row["sha256"] for row in rows}) == 2


def test_the_parquet_files_of_a_set_can_be_read_themselves(image_set: Path) -> None:
    rows = through(Source(path=f"{image_set}/data/*.parquet", caption="text", image="image"))
    assert [row["error"] for row in rows] == [None, None, None, "bad_url"] * 2


def test_a_list_of_urls(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = [{"link": f"http://a/{i}", "alt": f"text {i}", "size": i} for i in range(3)]
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = Source(
        path=str(tmp_path / "set"), kind="hf", url="link", caption="alt", weight={"column": "size"}
    )
    pairs, _ = read_sources([source])
    assert pairs["url"].to_pylist() == [line["link"] for line in lines]
    assert pairs["weight"].to_pylist() == [None, 1.0, 2.0] and pairs["path"].null_count == 3
    with pytest.raises(SourceError, match="no column 'nope' for the caption; it has link, alt, size"):
        check_sources([source.model_copy(update={"caption": "nope"})])


def test_an_image_folder_and_a_path_that_leads_out_of_it(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg)
    (tmp_path / "set" / "a.jpg").write_bytes(jpeg)
    (tmp_path / "set" / "b.jpg").symlink_to(tmp_path / "secret.jpg")
    lines = [{"file_name": name, "text": name} for name in ("a.jpg", "b.jpg")]
    (tmp_path / "set" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = through(Source(path=str(tmp_path / "set"), kind="hf", caption="text"))
    assert [row["error"] for row in rows] == [None, "blocked_path"]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in (
        (str(tmp_path / "empty"), "cannot be read by datasets"),
        ("hf://owner/set", "cannot be read"),
    ):
        with pytest.raises(SourceError, match=words) as caught:
            check_sources([Source(path=path, kind="hf")])
        assert "\n" not in str(caught.value)


def test_files_of_a_set_are_known_by_split(image_set: Path) -> None:
    (image_set / "data" / "train-00001-of-00002.parquet").rename(image_set / "data" / "test-00000.parquet")
    (image_set / "data" / "train-00000-of-00002.parquet").rename(image_set / "data" / "train-00000.parquet")
    (image_set / "notes.pdf").touch()
    survey = survey_source(Source(path=str(image_set), kind="hf", caption="text"))
    assert survey is not None and survey.lines() == [
        "1 .parquet read",
        "1 .parquet not read (of another split than train: name it as split)",
        "1 .pdf not read (datasets does not take it for data of the set)",
    ]


def test_rows_are_as_many_as_the_footers_say(image_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(path=str(image_set), kind="hf", caption="text", name="set")
    tally = Tally()
    assert len(list(read_rows(source, tally))) == 8 and not tally.faults()
    assert {name: counts.records for name, counts in tally.files.items()} == {"shard 0": 4, "shard 1": 4}

    whole = hub.load(source)
    monkeypatch.setattr(hub, "load", lambda _: whole.filter(lambda row: row["text"] != "picture 1.2"))
    words = r"source 'set': shard 1: 4 records, of which 3 became rows and 0 were left out; please report it"
    with pytest.raises(StepFailed, match=words):
        read_sources([source])


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_several_captions_of_a_row_are_a_row_each(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "set").mkdir()
    file = tmp_path / "set" / f"train-00000.{suffix}"
    rows = {"url": ["http://a/0", "http://a/1"], "captions": [["one", "two", "three"], ["four"]]}
    if suffix == "parquet":
        pq.write_table(pa.table(rows), file)
    else:
        lines = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs, _ = read_sources([Source(path=str(tmp_path / "set"), kind="hf", caption="captions[*]")])
    assert pairs["caption"].to_pylist() == ["one", "two", "three", "four"]


def test_the_library_that_is_missing_is_named_once(image_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError) as told:
        check_sources([Source(path=str(image_set), kind="hf", caption="text")])
    assert str(told.value) == f"{image_set}: needs the library datasets: pip install 'rasterloom[hf]'"
