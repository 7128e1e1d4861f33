"""Sources on S3, on a real server."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from yarl import URL

from rasterloom.errors import OptOutError, SourceError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.sources.fetch.opt_out import load_opt_outs, opt_outs_digest
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.files import digest_of, find_files
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers.registry import kind_of
from rasterloom.storage.store import Store

IMG2DATASET = Path(__file__).parent / "img2dataset"


@pytest.fixture(scope="module")
def put(s3: str) -> Any:
    client = boto3.session.Session().client("s3")

    def run(key: str, data: bytes) -> str:
        client.put_object(Bucket="lake", Key=key, Body=data)
        return f"s3://lake/{key}"

    return run


def through(source: Source, **config: Any) -> list[tuple[str | None, str | None]]:
    check_sources([source])
    pairs, _ = read_sources([source])
    rows = fetch_shard(pairs, Fetch(robots=False, retries=0, **config), shard=0, sources=[source])
    return list(zip(rows["caption"].to_pylist(), rows["error"].to_pylist(), strict=True))


def test_lists_of_urls(put: Any) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"url": ["http://a/1"], "caption": ["one"]}), buffer)
    put("lists/a.parquet", buffer.getvalue())
    put("lists/b.csv", "url,caption\nhttp://a/2,zwölf\n".encode())
    put("lists/c.jsonl", b'{"url": "http://a/3", "caption": "three"}\n')
    captions = []
    for name in ("a.parquet", "b.csv", "c.jsonl"):
        source = Source(path=f"s3://lake/lists/{name}")
        check_sources([source])
        captions += read_sources([source])[0]["caption"].to_pylist()
    assert captions == ["one", "zwölf", "three"]
    files = find_files(Source(path="s3://lake/lists/*.[cj]s*"))
    assert [entry.name for entry in files.entries()] == ["b.csv", "c.jsonl"]
    with pytest.raises(
        SourceError, match=r"s3://lake/lists/b\.csv: no column 'text' for the caption; it has url"
    ):
        check_sources([Source(path="s3://lake/lists/b.csv", caption="text")])


def test_a_folder_a_tar_and_a_parquet_file_of_images(put: Any, jpeg: bytes) -> None:
    for name in ("x/1", "x/deep/2 #ü"):
        put(f"photos/{name}.jpg", jpeg)
        put(f"photos/{name}.txt", name.encode())
    put("photos/x/3.jpg", jpeg)
    folder = Source(path="s3://lake/photos/x")
    assert kind_of(folder) == "folder"
    assert through(folder) == [("x/1", None), (None, "bad_caption"), ("x/deep/2 #ü", None)]
    assert {error for _, error in through(folder, max_bytes=10)} == {"too_many_bytes", "bad_caption"}

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(5):
            for suffix, data in (("jpg", jpeg), ("json", json.dumps({"caption": f"cap {number}"}).encode())):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    put("tars/0.tar", buffer.getvalue())
    put("tars/1.tar", buffer.getvalue()[:3000])
    found = through(Source(path="s3://lake/tars/"))
    assert found[:5] == [(f"cap {number}", None) for number in range(5)]
    assert found[5:] and {error for _, error in found[5:]} <= {None, "bad_row", "bad_caption", "incomplete"}

    buffer = io.BytesIO()
    pq.write_table(pa.table({"caption": ["a", "b"], "image": [jpeg, jpeg + b"1"]}), buffer)
    table = put("images.parquet", buffer.getvalue())
    assert through(Source(path=table, image="image")) == [("a", None), ("b", None)]


def test_an_output_of_img2dataset(put: Any) -> None:
    for path in (IMG2DATASET / "webdataset").iterdir():
        put(f"i2d/{path.name}", path.read_bytes())
    source = Source(path="s3://lake/i2d")
    assert kind_of(source) == "img2dataset"
    assert sorted(through(source), key=str) == [
        *((f"cap {number}", None) for number in range(4)), ("cap 4", "blocked_address")
    ]  # fmt: skip


def test_a_file_that_is_gone(put: Any, jpeg: bytes) -> None:
    put("going/1.jpg", jpeg)
    put("going/1.txt", b"one")
    source = Source(path="s3://lake/going")
    pairs, _ = read_sources([source])
    before = digest_of(find_files(source))
    put("going/1.txt", b"two")
    assert digest_of(find_files(source)) != before
    boto3.session.Session().client("s3").delete_object(Bucket="lake", Key="going/1.jpg")
    (row,) = fetch_shard(pairs, Fetch(), shard=0, sources=[source]).to_pylist()
    assert row["error"] == "missing_file", row["detail"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3://lake/nothing.csv", "no such file"),
        ("s3://lake/nothing", "no files there"),
        ("s3://nobucket/a.csv", "no such file|cannot be read"),
        ("s3://nobucket/", "cannot be read"),
    ],
)
def test_what_is_not_there(s3: str, path: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        check_sources([Source(path=path)])
    assert "\n" not in str(caught.value) and "s3://" in str(caught.value)


def test_the_digest_follows_content_not_place(put: Any) -> None:
    one, two = put("one/a.csv", b"url,caption\n"), put("two/b.csv", b"url,caption\n")
    assert digest_of(find_files(Source(path=one))) == digest_of(find_files(Source(path=two)))


def test_a_listing_of_more_than_a_page(put: Any) -> None:
    for number in range(1005):
        put(f"many/{number:04d}.txt", b"")
    assert len(list(Store("s3://lake").entries("many"))) == 1005


def test_an_opt_out_list_is_read_again_when_it_changes(put: Any) -> None:
    path = put("optout.txt", b"example.org\n")
    assert load_opt_outs(path).of_url(URL("http://a.example.org/b.jpg")) == "example.org"
    digest = opt_outs_digest(path)
    put("optout.txt", b"example.com\n")
    assert load_opt_outs(path).of_url(URL("http://a.example.org/b.jpg")) is None
    assert load_opt_outs(path).of_url(URL("http://example.com/b.jpg")) == "example.com"
    assert opt_outs_digest(path) != digest
    with pytest.raises(OptOutError, match=r"s3://lake/none.txt cannot be read"):
        load_opt_outs("s3://lake/none.txt")


def test_a_part_of_a_key_that_exists_is_no_pattern(put: Any) -> None:
    for name in ("shoot [2020]/a.csv", "shoot 2/b.csv", "p[1].csv", "p1.csv"):
        put(f"odd/{name}", b"url,caption\nhttp://a/1,one\n")

    def names(path: str) -> list[str]:
        return [entry.name for entry in find_files(Source(path=f"s3://lake/odd/{path}")).entries()]

    assert names("p[1].csv") == ["p[1].csv"]
    assert names("shoot [2020]/*.csv") == names("shoot [2020]/a.csv") == ["a.csv"]
    assert names("shoot [12]/*.csv") == ["shoot 2/b.csv"]
    assert names("p[12].csv") == ["p1.csv"]
