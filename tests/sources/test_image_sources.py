"""Sources that bring their images: every image is a row, and every row is found again."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasterloom.errors import SourceError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.schema import pair_key
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers.registry import kind_of, survey_source

IMG2DATASET = Path(__file__).parent / "img2dataset"  # written by img2dataset 1.47.0: five URLs, one a 404


def through(*sources: Source, **config: Any) -> list[dict[str, Any]]:
    """Read and fetch sources as a run does; rows of pairs and of images in one."""
    check_sources(sources)
    pairs, counts = read_sources(sources)
    assert counts["read"] == counts["pairs"] + counts["repeated"]
    images = fetch_shard(pairs, Fetch(robots=False, **config), shard=0, sources=sources)
    assert images["key"].to_pylist() == pairs["key"].to_pylist()
    return [pair | image for pair, image in zip(pairs.to_pylist(), images.to_pylist(), strict=True)]


def outcomes(rows: list[dict[str, Any]]) -> list[str]:
    return [row["error"] or row["caption"] for row in rows]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def folder(tmp_path: Path, jpeg: bytes) -> Path:
    root = tmp_path / "photos"
    files: dict[str, bytes] = {
        "1.jpg": jpeg,
        "1.txt": "\ufeffein Bär \n".encode(),
        "deep/2 #%.jpg": jpeg,
        "deep/2 #%.json": json.dumps({"caption": "two", "by": "Ann", "licence": "CC0"}).encode(),
        "deep/3.JPG": jpeg,
        "deep/4.jpg": jpeg,
        "deep/4.txt": b"caf\xe9",
        "deep/5.jpg": b"no picture",
        "deep/5.txt": b"five",
        "deep/6.jpg": jpeg,
        "deep/6.json": b"not json",
        "deep/7.jpg": jpeg,
        "deep/7.txt": b"x" * 1_000_001,
        ".trash/8.jpg": jpeg,
        "README.md": b"hello",
        "orphan.txt": b"nothing beside it",
    }
    write_folder(root, files)
    return root


def test_folder(folder: Path, jpeg: bytes) -> None:
    source = Source(path=str(folder), licence={"column": "licence"}, weight=2.0)
    assert kind_of(source) == "folder"
    rows = through(source)
    assert [(row["path"], row["error"] or row["caption"]) for row in rows] == [
        ("1.jpg", "ein Bär"),
        ("deep/2 %23%25.jpg", "two"),
        ("deep/3.JPG", "bad_caption"),
        ("deep/4.jpg", "bad_caption"),
        ("deep/5.jpg", "not_an_image"),
        ("deep/6.jpg", "bad_caption"),
        ("deep/7.jpg", "bad_row"),
    ]
    assert "1000000 bytes" in rows[6]["detail"]
    assert rows[0]["original_bytes"] == len(jpeg) and rows[0]["attempts"] == 1 and rows[0]["url"] is None
    assert rows[1]["meta"] == '{"by": "Ann"}' and rows[1]["licence"] == "CC0" and rows[0]["licence"] is None
    assert {row["weight"] for row in rows} == {2.0}
    assert rows[0]["key"] == pair_key(None, "ein Bär", ("photos", "1.jpg"))


def test_a_glob_of_images_brings_their_captions(folder: Path) -> None:
    rows = through(Source(path=f"{folder}/**/[12]*.jpg"))
    assert outcomes(rows) == ["ein Bär", "two"]


def test_a_moved_folder_keeps_its_keys(folder: Path, tmp_path: Path) -> None:
    before = [row["key"] for row in through(Source(path=str(folder)))]
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / folder.name
    folder.rename(moved)
    assert [row["key"] for row in through(Source(path=str(moved)))] == before


def test_equal_names_in_two_folders_are_two_images(tmp_path: Path, jpeg: bytes) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(jpeg)
        (tmp_path / name / "1.txt").write_bytes(b"a cat")
    sources = [Source(path=str(tmp_path / name)) for name in ("a", "b")]
    assert outcomes(through(*sources)) == ["a cat", "a cat"]
    same = [source.model_copy(update={"name": "cats"}) for source in sources]
    with pytest.raises(SourceError, match=r"sources\[0\]: another source is called 'cats' too"):
        check_sources(same)


def test_what_changes_between_listing_and_reading(folder: Path, tmp_path: Path, jpeg: bytes) -> None:
    for number in range(10, 15):
        (folder / f"{number}.jpg").write_bytes(jpeg)
        (folder / f"{number}.txt").write_text(f"number {number}")
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg)
    source = Source(path=f"{folder}/1?.jpg", name="photos", kind="folder")
    pairs, _ = read_sources([Source(path=str(folder), name="photos")])
    pairs = pairs.filter(pa.array([path[:2].isdigit() for path in pairs["path"].to_pylist()]))
    (folder / "10.jpg").unlink()
    (folder / "11.jpg").unlink()
    (folder / "11.jpg").symlink_to(secret)
    (folder / "12.jpg").unlink()
    os.mkfifo(folder / "12.jpg")
    (folder / "13.jpg").unlink()
    (folder / "13.jpg").mkdir()
    images = fetch_shard(pairs, Fetch(), shard=0, sources=[source]).to_pylist()
    assert [row["error"] for row in images] == [
        "missing_file", "blocked_path", "unreadable_file", "unreadable_file", None,
    ]  # fmt: skip
    assert "10.jpg is not there" in images[0]["detail"]
    assert "leads out of the source's folder" in images[1]["detail"]
    (row,) = fetch_shard(pairs.slice(4), Fetch(max_bytes=100), shard=0, sources=[source]).to_pylist()
    assert row["error"] == "too_many_bytes" and "max_bytes = 100" in row["detail"]
    (row,) = fetch_shard(pairs.slice(4), Fetch(), shard=0).to_pylist()
    assert row["error"] == "missing_file" and "no source called 'photos'" in row["detail"]


def test_a_table_that_becomes_a_link_out_of_its_source_is_not_read(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": [jpeg], "caption": ["a"]}), tmp_path / "in" / "a.parquet")
    source = Source(path=str(tmp_path / "in"), name="tables", kind="parquet", image="image")
    pairs, _ = read_sources([source])
    (tmp_path / "in" / "a.parquet").rename(tmp_path / "out.parquet")
    (tmp_path / "in" / "a.parquet").symlink_to(tmp_path / "out.parquet")
    (row,) = fetch_shard(pairs, Fetch(), shard=0, sources=[source]).to_pylist()
    assert row["error"] == "blocked_path" and "leads out of the source's folder" in row["detail"]


def test_a_url_cannot_name_a_file(folder: Path, tmp_path: Path) -> None:
    picture = folder / "1.jpg"
    urls = [f"file://{picture}", str(picture), "1.jpg", "1.jpg#0+10", "../photos/1.jpg"]
    pq.write_table(
        pa.table({"url": urls, "caption": ["x"] * 5, "path": ["1.jpg"] * 5}), tmp_path / "list.parquet"
    )
    rows = through(Source(path=str(tmp_path / "list.parquet")), Source(path=str(folder)))[:5]
    assert {row["error"] for row in rows} <= {"blocked_scheme", "bad_url"}
    assert all(row["path"] is None for row in rows)


def test_webdataset(tmp_path: Path, jpeg: bytes) -> None:
    path = write_tar(
        tmp_path / "000.tar",
        [
            ("./a/1.jpg", jpeg),
            ("./a/1.txt", b"one"),
            ("2.json", b'{"url": "http://h/2", "caption": "two", "n": 2}'),
            ("2.seg.png", b"no picture"),
            ("2.jpg", jpeg),
            ("2.jpeg", jpeg + b"!"),
            ("3.jpg", jpeg),
            ("../../4.jpg", jpeg),
            ("../../4.txt", b"four"),
            ("5.txt", b"no image"),
            ("6.jpg", jpeg),
            ("6.txt", b"six"),
            ("6.jpg", jpeg[:-100]),  # again, with another image
            ("6.txt", b"six"),
            ("\udce9\n.jpg", jpeg),
            ("\udce9\n.txt", b"odd"),
            ("._6.jpg", b"resource fork"),
            ("7.cls", b"7"),
        ],
    )
    rows = through(Source(path=str(path)))
    assert outcomes(rows) == [
        *("one", "two", "two", "bad_caption", "four", "bad_row", "six", "broken_image", "odd", "bad_row"),
    ]
    assert rows[1]["url"] == "http://h/2" and rows[1]["key"] == pair_key("http://h/2", "two")
    assert rows[2]["url"] is None and rows[2]["original_bytes"] == len(jpeg) + 1
    assert json.loads(rows[1]["meta"]) == {"__key__": "2", "n": 2}
    assert rows[5]["detail"] == "a sample without an image"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60) | st.sampled_from([b"[" * 700 + b"]" * 700, b'{"caption": ' + b"9" * 5000 + b"}"]),
    st.binary(max_size=60),
)
def test_any_sidecars_give_a_row(tmp_path: Path, jpeg: bytes, as_json: bytes, as_text: bytes) -> None:
    (tmp_path / "fuzz").mkdir(exist_ok=True)
    for suffix, data in (("jpg", jpeg), ("json", as_json), ("txt", as_text)):
        (tmp_path / "fuzz" / f"a.{suffix}").write_bytes(data)
    write_folder(tmp_path / "fuzz", {"b.jpg": jpeg, "b.txt": b"a caption"})
    row, _ = through(Source(path=str(tmp_path / "fuzz")))
    assert row["error"] in (None, "bad_caption", "bad_row")


def test_the_same_url_twice_in_a_tar_is_one_pair(tmp_path: Path, jpeg: bytes) -> None:
    meta = b'{"url": "http://h/2", "caption": "two"}'
    names = [("1.jpg", jpeg), ("1.json", meta), ("2.jpg", jpeg), ("2.json", meta)]
    assert read_sources([Source(path=str(write_tar(tmp_path / "a.tar", names)))])[1]["repeated"] == 1


def test_cut_and_broken_tars_do_not_end_a_shard(tmp_path: Path, jpeg: bytes) -> None:
    members = [(f"{i}.{kind}", data) for i in range(4) for kind, data in (("txt", b"text"), ("jpg", jpeg))]
    whole = write_tar(tmp_path / "0.tar", members).read_bytes()
    start = whole.index(jpeg, whole.index(b"2.jpg"))
    (tmp_path / "1.tar").write_bytes(whole[: start + 100])
    (tmp_path / "2.tar").write_bytes(whole[: start - 512] + b"garbage " * 100)
    (tmp_path / "3.tar").write_bytes(b"")
    (tmp_path / "4.tar").write_bytes(whole)
    rows = through(Source(path=f"{tmp_path}/*.tar", name="tars"))
    by_tar = {
        number: [row["error"] or "ok" for row in rows if f"{number}.tar" in (row["path"] or row["meta"])]
        for number in range(5)
    }
    assert by_tar == {
        0: ["ok"] * 4,
        1: ["ok", "ok", "incomplete", "bad_row"],
        2: ["ok", "ok", "bad_row", "bad_row"],  # a caption whose image is lost, and the tar
        3: ["bad_row"],
        4: ["ok"] * 4,
    }
    assert any("1.tar: the archive is cut short at byte" in (row["detail"] or "") for row in rows)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=3000), st.lists(st.tuples(st.integers(0, 6000), st.binary(max_size=20)), max_size=5)
)
def test_any_tar_gives_rows(
    tmp_path: Path, jpeg: bytes, data: bytes, changes: list[tuple[int, bytes]]
) -> None:
    names = [("1.jpg", jpeg), ("1.txt", b"one"), ("2.json", b'{"caption": "two"}'), ("2.jpg", data)]
    whole = bytearray(write_tar(tmp_path / "fuzz.tar", names).read_bytes())
    for position, change in changes:
        whole[position : position + len(change)] = change
    (tmp_path / "fuzz.tar").write_bytes(whole)
    (tmp_path / "noise.tar").write_bytes(data)
    write_tar(tmp_path / "whole.tar", names[:2])
    for row in through(Source(path=f"{tmp_path}/*.tar", name="fuzz")):
        assert row["error"] != "internal", row["detail"]


@pytest.mark.parametrize("form", ["parquet", "files", "webdataset"])
def test_img2dataset(form: str) -> None:
    source = Source(path=str(IMG2DATASET / form), licence={"column": "licence"})
    assert kind_of(source) == "img2dataset"
    rows = sorted(through(source, retries=0), key=lambda row: row["caption"])
    # What img2dataset failed to download is tried again, here at an address that no URL may name.
    assert outcomes(rows) == ["cap 0", "cap 1", "cap 2", "cap 3", "blocked_address"]
    assert {row["licence"] for row in rows} == {"CC0"}
    for row in rows:
        assert row["key"] == pair_key(row["url"], row["caption"])
        assert row["url"].endswith(f"/{row['caption'][-1]}.jpg")
    assert [json.loads(row["meta"])["status"] for row in rows[3:]] == ["success", "failed_to_download"]
    assert [row["sha256"] for row in rows[:4]] != [None] * 4 and (rows[0]["width"], rows[0]["height"]) == (
        16,
        16,
    )


@pytest.mark.parametrize(
    ("form", "read", "reason"),
    [
        ("parquet", "2 .parquet, 2 .json read", "no image"),
        ("webdataset", "2 .parquet, 2 .tar, 2 .json read", "img2dataset writes no such file"),
        ("files", "2 .parquet, 6 .json, 4 .jpg, 4 .txt read", "no image"),
    ],
)
def test_files_of_img2dataset_are_reported(tmp_path: Path, form: str, read: str, reason: str) -> None:
    shutil.copytree(IMG2DATASET / form, tmp_path / "out")
    (tmp_path / "out" / "notes.csv").touch()
    survey = survey_source(Source(path=str(tmp_path / "out")))
    assert survey is not None and survey.lines() == [read, f"1 .csv not read ({reason})"]
    on_disk = sum(path.is_file() for path in (tmp_path / "out").rglob("*"))
    assert on_disk == survey.read.total() + sum(counts.total() for counts in survey.not_read.values())


def test_img2dataset_without_its_tables(tmp_path: Path) -> None:
    shutil.copytree(IMG2DATASET / "files" / "00000", tmp_path / "out")
    with pytest.raises(SourceError, match=r"no output of img2dataset, it has no \.parquet files"):
        check_sources([Source(path=str(tmp_path / "out"), kind="img2dataset")])


@pytest.fixture
def image_table(jpeg: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        images = [{"bytes": jpeg, "path": "1.jpg"}, None, {"bytes": None, "path": "/etc/passwd"}]
        images += [{"bytes": jpeg + bytes([i]), "path": None} for i in range(5)]
        table = pa.table({"text": [f"row {i}" for i in range(8)], "picture": images})
        pq.write_table(table, path, row_group_size=3)
        return path

    return write


def test_parquet_with_images(tmp_path: Path, image_table: Callable[[Path], Path], jpeg: bytes) -> None:
    source = Source(path=str(image_table(tmp_path / "a.parquet")), caption="text", image="picture")
    rows = through(source)
    assert outcomes(rows) == ["row 0", "bad_url", "bad_url", *(f"row {i}" for i in range(3, 8))]
    assert rows[4]["path"] == "a.parquet#1/1/picture.bytes"
    assert len({row["sha256"] for row in rows if row["sha256"]}) == 6
    pairs, _ = read_sources([source])
    backwards = fetch_shard(pairs.take(list(range(7, -1, -1))), Fetch(), shard=0, sources=[source])
    assert backwards["sha256"].to_pylist() == [row["sha256"] for row in reversed(rows)]
    plain = pa.table({"text": ["a", "b"], "picture": [jpeg, b"x" * 5000]})
    pq.write_table(plain, tmp_path / "b.parquet")
    rows = through(source.model_copy(update={"path": str(tmp_path / "b.parquet")}), max_bytes=4000)
    assert outcomes(rows) == ["a", "too_many_bytes"]


def test_a_column_that_holds_no_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet: column 'n' for the image holds int64, not bytes"):
        check_sources([Source(path=str(tmp_path / "a.parquet"), caption="text", image="n")])
    with pytest.raises(SourceError, match=r"no column 'image' for the image; it has text, n$"):
        check_sources([Source(path=str(tmp_path / "a.parquet"), caption="text", image="image")])


def test_a_parquet_file_that_changed_since(tmp_path: Path, image_table: Callable[[Path], Path]) -> None:
    source = Source(path=str(image_table(tmp_path / "a.parquet")), caption="text", image="picture")
    pairs, _ = read_sources([source])
    pq.write_table(pa.table({"text": ["a"], "picture": [b"x"]}), tmp_path / "a.parquet")
    errors = fetch_shard(pairs, Fetch(), shard=0, sources=[source])["error"].to_pylist()
    assert set(errors) <= {"missing_file", "bad_url", "unreadable_file"}
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    errors = fetch_shard(pairs, Fetch(), shard=0, sources=[source])["error"].to_pylist()
    assert set(errors) == {"unreadable_file", "bad_url"}
