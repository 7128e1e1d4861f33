"""Images that a table names by a path or a URL in the column `image`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import SourceError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.schema import pair_key
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers.registry import brings_images

Rows = list[dict[str, Any]]


def rows_of(path: Path, **options: Any) -> Rows:
    source = Source(path=str(path), image="file", **options)
    check_sources([source])
    pairs, _ = read_sources([source])
    images = fetch_shard(pairs, Fetch(robots=False, retries=0), shard=0, sources=[source])
    return [pair | image for pair, image in zip(pairs.to_pylist(), images.to_pylist(), strict=True)]


def outcomes(rows: Rows) -> list[str]:
    return [row["error"] or row["caption"] for row in rows]


def csv(path: Path, rows: Rows) -> None:
    lines = [",".join(rows[0]), *(",".join(str(value or "") for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


FORMS: dict[str, Callable[[Path, Rows], None]] = {
    "csv": csv,
    "jsonl": jsonl,
    "json": lambda path, rows: path.write_text(json.dumps(rows)) and None,
    "parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "arrow": lambda path, rows: feather.write_feather(pa.Table.from_pylist(rows), str(path)),
}


@pytest.fixture
def photos(tmp_path: Path, jpeg: bytes) -> Path:
    for number in range(3):
        (tmp_path / "data" / "photos" / f"{number} #%.jpg").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "photos" / f"{number} #%.jpg").write_bytes(jpeg)
    return tmp_path / "data"


@pytest.mark.parametrize("form", FORMS)
def test_paths_are_relative_to_the_table(photos: Path, form: str, jpeg: bytes) -> None:
    listed: Rows = [{"file": f"photos/{i} #%.jpg", "caption": f"number {i}", "n": i} for i in range(3)]
    listed += [
        {"file": "photos/gone.jpg", "caption": "gone", "n": 3},
        {"file": None, "caption": "none", "n": 4},
    ]
    FORMS[form](photos / f"list.{form}", listed)
    rows = rows_of(photos / f"list.{form}")
    assert outcomes(rows) == ["number 0", "number 1", "number 2", "missing_file", "bad_url"]
    assert rows[0]["path"] == "photos/0 %23%25.jpg" and rows[0]["url"] is None and rows[0]["image"] == jpeg
    assert (
        json.loads(rows[0]["meta"]).keys() == {"n"} and rows[0]["more"] is None and rows[0]["task"] == "t2i"
    )
    assert rows[0]["key"] == pair_key(None, "number 0", ("list", "photos/0 %23%25.jpg"))


def test_paths_are_relative_to_root_where_it_is_given(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    csv(tmp_path / "lists" / "a.csv", [{"file": f"{photos}/photos/0 #%.jpg", "caption": "absolute"},
                                       {"file": "photos/1 #%.jpg", "caption": "relative"},
                                       {"file": "../lists/a.csv", "caption": "out"}])  # fmt: skip
    rows = rows_of(tmp_path / "lists" / "a.csv", root=str(photos))
    assert outcomes(rows) == ["absolute", "relative", "bad_row"]
    assert (
        "does not lie in" in rows[2]["detail"] and "the source's `root` names its folder" in rows[2]["detail"]
    )


def test_tables_of_a_folder_name_images_beside_themselves(photos: Path) -> None:
    for folder in ("a", "b"):
        (photos / folder).mkdir()
        (photos / folder / "1.jpg").write_bytes((photos / "photos" / "1 #%.jpg").read_bytes())
        csv(photos / folder / "list.csv", [{"file": "1.jpg", "caption": folder}])
    rows = rows_of(Path(f"{photos}/*/list.csv"), name="both")
    assert [(row["path"], row["error"]) for row in rows] == [("a/1.jpg", None), ("b/1.jpg", None)]


def test_a_link_out_of_the_folder_is_not_followed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes((photos / "photos" / "0 #%.jpg").read_bytes())
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    csv(photos / "a.csv", [{"file": "link.jpg", "caption": "a"}, {"file": "/etc/passwd", "caption": "b"}])
    rows = rows_of(photos / "a.csv")
    assert outcomes(rows) == ["blocked_path", "bad_row"] and rows[0]["image"] is None


def test_urls_and_paths_in_one_column(photos: Path, site: Any, jpeg: bytes) -> None:
    site.answers["/a.jpg"] = jpeg
    named = {"web": site.url("/a.jpg"), "disk": "photos/0 #%.jpg"}
    listed = [{"file": file, "caption": text, "url": "http://page.example/"} for text, file in named.items()]
    jsonl(photos / "a.jsonl", listed)
    source = Source(path=str(photos / "a.jsonl"), image="file")
    check_sources([source])
    pairs, _ = read_sources([source])
    config = Fetch(robots=False, allow_hosts=(f"127.0.0.1:{site.port}",))
    images = fetch_shard(pairs, config, shard=0, sources=[source]).to_pylist()
    assert [row["error"] for row in images] == [None, None]
    web, disk = pairs.to_pylist()
    assert web["url"] == listed[0]["file"] and web["path"] is None
    assert json.loads(web["meta"]) == {"url_1": "http://page.example/"}
    assert (disk["url"], disk["path"]) == ("http://page.example/", "photos/0 %23%25.jpg")


def test_bytes_and_paths_in_parquet_files_of_one_source(photos: Path, jpeg: bytes) -> None:
    pq.write_table(pa.table({"file": [jpeg], "caption": ["bytes"]}), photos / "a.parquet")
    named = pa.array(["photos/0 #%.jpg"]).dictionary_encode()
    pq.write_table(pa.table({"file": named, "caption": ["path"]}), photos / "b.parquet")
    assert outcomes(rows_of(Path(f"{photos}/*.parquet"), name="both")) == ["bytes", "path"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["photos/0 #%.jpg"], None),
        (["photos/0 #%.jpg", "photos/1 #%.jpg"], "holds neither a path nor a URL"),
        ({"path": "photos/0 #%.jpg"}, "holds neither a path nor a URL"),
        (7, "holds neither a path nor a URL"),
        ("ftp://host/a.jpg", "does not lie in"),
        ("/etc/passwd", "the source's `root` names its folder"),
        ("photos\\0.jpg", "none of the first 1 images of column 'file' is there, such as"),
        ("iVBORw0KGgo=", "the source's `root` names the folder that the paths begin in"),
    ],
)
def test_a_column_that_names_no_image_stops_before_anything_is_fetched(
    photos: Path, value: Any, words: str | None
) -> None:
    jsonl(photos / "a.jsonl", [{"file": value, "caption": "a"}])
    source = Source(path=str(photos / "a.jsonl"), image="file")
    assert brings_images(source)
    if words is None:
        check_sources([source])
        return
    with pytest.raises(SourceError, match=words) as caught:
        check_sources([source])
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{photos}/a.jsonl: ")


def test_one_missing_column_is_named(photos: Path) -> None:
    csv(photos / "a.csv", [{"image": "photos/0 #%.jpg", "caption": "a"}])
    with pytest.raises(SourceError, match="no column 'file' for the image; it has image, caption"):
        check_sources([Source(path=str(photos / "a.csv"), image="file")])


def test_tasks_take_the_image_of_the_row(photos: Path) -> None:
    jsonl(photos / "a.jsonl", [{"file": "photos/0 #%.jpg", "out": "photos/1 #%.jpg", "caption": "edit it"}])
    (row,) = rows_of(photos / "a.jsonl", task="edit", output="out")
    assert row["error"] is None and row["more"] and row["task"] == "edit"


def test_several_captions_of_one_image_fetch_it_once(tmp_path: Path, site: Any, jpeg: bytes) -> None:
    site.answers |= {"/a.jpg": jpeg, "/b.jpg": jpeg}
    urls = [*[site.url("/a.jpg")] * 3, site.url("/b.jpg"), *[site.url("/gone.jpg")] * 2]
    table = pa.table(
        {"url": urls, "caption": [f"caption {i}" for i in range(6)], "md5": ["0" * 32, *["x"] * 5]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = Source(path=str(tmp_path / "a.parquet"))
    pairs, _ = read_sources([source])
    config = Fetch(robots=False, allow_hosts=(f"127.0.0.1:{site.port}",))
    rows = fetch_shard(pairs, config, shard=0, sources=[source]).to_pylist()
    assert site.asked == {"/a.jpg": 1, "/b.jpg": 1, "/gone.jpg": 1}
    assert [row["error"] for row in rows] == [None] * 4 + ["http_4xx"] * 2
    assert [row["image"] for row in rows[:4]] == [jpeg] * 4 and len({row["key"] for row in rows}) == 6
    assert {(row["attempts"], row["http_status"]) for row in rows} == {(1, 200), (1, 404)}
    site.asked.clear()
    rows = fetch_shard(pairs, config.model_copy(update={"md5": "md5"}), shard=0, sources=[source]).to_pylist()
    assert site.asked["/a.jpg"] == 2 and rows[0]["error"] == "hash_mismatch"
