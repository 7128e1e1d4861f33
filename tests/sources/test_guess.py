"""Columns that are recognised in lists of many makers, by name and content."""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Column
from rasterloom.sources.guess import guess_source
from rasterloom.sources.pairs import check_sources, read_sources

IMG2DATASET = Path(__file__).parent / "img2dataset"
URL = "https://x.org/{}.jpg?w=3"
TEXT = "a cat sits on mat {}"


def fields(path, **given):
    """Fields guessed of a source, by which it can be read."""
    guess = guess_source(str(path), **given)
    check_sources([guess.source])
    return {name: value for name, value in guess.fields.items() if name != "path"}


def write_csv(path, names, rows, **options):
    with path.open("w", newline="") as file:
        csv.writer(file, **options).writerows([*([names] if names else []), *rows])
    return path


@pytest.mark.parametrize(
    ("names", "row", "found"),
    [
        (["URL", "TEXT", "WIDTH"], [URL, TEXT, 3], {"url": "URL", "caption": "TEXT"}),  # LAION
        (["id", "page_url", "url", "alt_text"], [1, "https://x.org/{}.html", URL, TEXT], ("url", "alt_text")),
        (["url", "image_url", "title"], ["https://x.org/page{}", URL, TEXT], ("image_url", "title")),
        (["where", "what"], [URL, TEXT], ("where", "what")),  # by content alone
        (["page", "file", "what"], ["https://x.org/{}", URL, TEXT], ("file", "what")),  # the one that ends so
        (["image", "prompt"], [URL, TEXT], ("image", "prompt")),  # named image, holds URLs
        (["src", "width", "error"], [URL, 3, "none of {} was found"], ("src", "none")),
        (["Image Link", "Caption"], [URL, "cats"], ("Image Link", "Caption")),
    ],
)
def test_columns_of_a_table(tmp_path, names, row, found):
    rows = [[str(value).format(number) for value in row] for number in range(5)]
    expected = found if isinstance(found, dict) else dict(zip(("url", "caption"), found, strict=True))
    assert fields(write_csv(tmp_path / "a.csv", names, rows)) == expected
    table = pa.Table.from_pylist([dict(zip(names, one, strict=True)) for one in rows])
    pq.write_table(table, tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == expected
    pyarrow.feather.write_feather(table, tmp_path / "a.feather")
    assert fields(tmp_path / "a.feather") == expected
    lines = [json.dumps(one) for one in table.to_pylist()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert fields(tmp_path / "a.jsonl") == expected


def test_further_columns_are_reported(tmp_path):
    rows = [[URL.format(n), f"https://x.org/{n}/", TEXT, "other words of it", "CC0"] for n in range(3)]
    names = ["url", "page", "caption", "title", "License"]
    guess = guess_source(str(write_csv(tmp_path / "a.csv", names, rows)))
    assert guess.others == {"url": ["page"], "caption": ["title"]}
    assert guess.source.licence == Column(column="License") and guess.columns == names


def test_columns_that_are_given_are_taken(tmp_path):
    rows = [[URL.format(n), f"https://x.org/{n}/", TEXT] for n in range(3)]
    path = write_csv(tmp_path / "a.csv", ["url", "page", "caption"], rows)
    assert fields(path, url="page", caption="none") == {"url": "page", "caption": "none"}


def test_fields_within_columns(tmp_path):
    rows = [{"image": {"src": URL.format(n), "w": 3}, "captions": [TEXT, "two"]} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == {"url": "image.src", "caption": "captions[0]"}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.tsv", "|{t}\t{u}\n", {"url": "url", "caption": "caption", "columns": ("caption", "url")}),
        ("a.csv", "|{u},{t},7\n", {"url": "url", "columns": ("url", "caption", "column3")}),
        ("a.csv", "url;caption\n|{u};{t}\n", {"delimiter": ";"}),
        ("a.tsv", '"url"\t"caption"\n|"{u}"\t"{t}"\n', {"quote": '"'}),
        ("a.csv", "url,caption\n|{u},caf\xe9 du coin {t}\n", {"encoding": "latin-1"}),
        (
            "a.csv",
            "url,l\xe9gende\n|{u},caf\xe9 du coin {t}\n",
            {"encoding": "latin-1", "caption": "l\xe9gende"},
        ),
    ],
)
def test_dialects_of_text(tmp_path, name, text, found):
    header, row = text.split("|")
    rows = [row.replace("{u}", URL.format(n)).replace("{t}", TEXT.format(n)) for n in range(2)]
    (tmp_path / name).write_bytes("".join([header, *rows]).encode("latin-1"))
    assert found.items() <= fields(tmp_path / name).items()
    pairs, _ = read_sources([guess_source(str(tmp_path / name)).source])
    assert pairs["url"].to_pylist() == [URL.format(0), URL.format(1)]
    assert all(text.endswith(TEXT.format(n)) for n, text in enumerate(pairs["caption"].to_pylist()))


def test_a_list_of_urls_has_no_captions(tmp_path):
    (tmp_path / "a.txt").write_text(f"{URL.format(1)}\n")
    assert fields(tmp_path / "a.txt") == {"caption": "none"}


def test_a_folder_of_images(tmp_path, jpeg):
    for name in ("1", "2"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg)
    assert fields(tmp_path) == {"caption": "none"}
    for name in ("1", "2"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"prompt": TEXT, "n": 1}))
    assert fields(tmp_path) == {"caption": "prompt"}
    (tmp_path / "1.txt").write_text(TEXT)
    (tmp_path / "2.txt").write_text(TEXT)
    guess = guess_source(str(tmp_path))
    assert guess.source.caption == "caption" and guess.others == {"caption": ["prompt"]}


def test_a_table_among_images_tells_of_them(tmp_path, jpeg):
    (tmp_path / "1.jpg").write_bytes(jpeg)
    write_csv(tmp_path / "notes.csv", ["a"], [[1]])
    assert fields(tmp_path) == {"caption": "none"}
    write_csv(tmp_path / "metadata.csv", ["file_name", "text"], [["1.jpg", TEXT]])
    guess = guess_source(str(tmp_path))
    assert guess.source.path == str(tmp_path / "metadata.csv")
    assert (guess.source.image, guess.source.caption) == ("file_name", "text")


@pytest.mark.parametrize("folder", ["", "photos", "..", "absolute"])
def test_paths_of_images(tmp_path, jpeg, folder):
    (tmp_path / "lists" / "photos").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    place = tmp_path / "far" if folder == "absolute" else (tmp_path / "lists" / folder).resolve()
    (place / "1.jpg").write_bytes(jpeg)
    named = str(place / "1.jpg") if folder == "absolute" else "1.jpg"
    path = write_csv(tmp_path / "lists" / "a.csv", ["photo", "text"], [[named, TEXT]])
    root = {"root": str(place)} if folder else {}
    assert fields(path) == {"caption": "text", "image": "photo", **root}


def test_images_that_are_not_there_are_named(tmp_path):
    path = write_csv(tmp_path / "a.csv", ["photo", "text"], [["1.jpg", TEXT]])
    with pytest.raises(SourceError, match=r"no column holds .*photo, such as 1\.jpg, are not"):
        guess_source(str(path))


def test_images_in_parquet(tmp_path, jpeg):
    rows = [{"URL": URL.format(n), "jpg": jpeg, "hash": b"0" * 20, "caption": TEXT} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == {"url": "URL", "caption": "caption", "image": "jpg"}
    rows = [{"n": n, "image": {"bytes": jpeg if n else None, "path": "a.jpg"}} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == {"caption": "none", "image": "image"}
    pq.write_table(pa.Table.from_pylist([{"image": jpeg}]), tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == {"caption": "none", "image": "image"}
    pairs, _ = read_sources([guess_source(str(tmp_path / "a.parquet")).source])
    assert pairs["path"].to_pylist() == ["a.parquet#0/0/image"]


def test_tars_and_what_img2dataset_wrote(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (tmp_path / "a.json").write_text(json.dumps({"alt": TEXT}))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "a.jpg")
        tar.add(tmp_path / "a.json", "a.json")
    assert fields(tmp_path / "a.tar") == {"caption": "alt"}
    for form in ("files", "parquet", "webdataset"):
        shutil.copytree(IMG2DATASET / form, tmp_path / form)
        guess = guess_source(str(tmp_path / form))
        assert guess.kind == "img2dataset" and "error" not in guess.source.caption
        check_sources([guess.source])


def test_conversations(tmp_path):
    record = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    assert fields(tmp_path / "a.json") == {}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert fields(tmp_path / "a.jsonl") == {"kind": "conversations"}


def test_data_sets_of_hugging_face(tmp_path, jpeg, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", tmp_path / "cache")
    features = datasets.Features({"text": datasets.Value("string"), "pixels": datasets.Image()})
    rows = {"text": [TEXT] * 3, "pixels": [{"bytes": jpeg, "path": "1.jpg"}] * 3}
    (tmp_path / "set" / "data").mkdir(parents=True)
    table = pa.table(rows, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    guess = guess_source(str(tmp_path / "set"), kind="hf")
    assert (guess.source.image, guess.source.caption, guess.source.split) == ("pixels", "text", "test")
    check_sources([guess.source])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "it holds no rows"),
        ("a.csv", "a,b\n1,2\n", "no column holds URLs or images; its columns: a, b"),
        ("a.doc", "words", "unknown kind of file '.doc'; known: "),
        ("a.parquet", "words", "cannot be read"),
    ],
)
def test_what_cannot_be_said(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError) as found:
        guess_source(str(tmp_path / name))
    assert words in str(found.value) and str(tmp_path / name) in str(found.value)
