"""Statistics that come with files, against those that pyiceberg reads off their footers."""

import datetime
import json

import pyarrow as pa
import pytest
from pyiceberg.io.pyarrow import parquet_file_to_data_file

from rasterloom.schema import IMAGES, SCORES, TOKENS
from rasterloom.storage.footers import Footer, footer_of
from rasterloom.storage.parquet_options import IMAGE_PARQUET, TEXT_PARQUET, TOKEN_PARQUET
from rasterloom.storage.store import Store
from rasterloom.versions import data_files as module
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.create_table import open_or_create
from rasterloom.versions.data_files import data_files
from rasterloom.versions.record import Record

LONG = "längere Wörter " * 40
FIELDS = (
    "content", "file_path", "file_format", "partition", "record_count", "file_size_in_bytes", "column_sizes",
    "value_counts", "null_value_counts", "nan_value_counts", "lower_bounds", "upper_bounds", "key_metadata",
    "split_offsets", "equality_ids", "sort_order_id",
)  # fmt: skip


def image(number):
    row = {"key": f"{number:032x}", "shard": number % 3, "status": "ok", "url": f"https://a.test/{number}"}
    row |= {
        "caption": f"{number} {LONG}" if number % 7 else None,
        "image": b"\xff\xd8" + bytes([number]) * 90,
    }
    return row | {
        "width": number if number % 5 else None,
        "detail": "\U0010ffff" * 70 if number == 3 else None,
    }


def score(number):
    return {
        "key": f"{number:032x}",
        "shard": 1,
        "quality": [0.5, float("nan"), float("-inf"), None][number % 4],
    }


def token(number):
    ids = [number, 2, 3]
    return {"target": 64, "bucket": "64x64", "key": f"{number:032x}", "input_ids": ids, "n_tokens": 3}


WITH_SCORE = pa.schema([*SCORES, pa.field("quality", pa.float32())])
TABLES = {
    "images": (IMAGES, image, {**IMAGE_PARQUET, "row_group_size": 8}, ()),
    "scores": (WITH_SCORE, score, {**TEXT_PARQUET, "row_group_size": 10}, ()),
    "tokens": (TOKENS, token, TOKEN_PARQUET, ("target", "bucket")),
}


def written(store, name, table, options):
    metadata = []
    size = store.write_parquet(name, table, metadata_collector=metadata, **options)
    return footer_of(metadata[0], size)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("rows", [1, 50])
def test_they_are_what_pyiceberg_reads(tmp_path, name, rows):
    schema, row, options, split = TABLES[name]
    corpus = Corpus("demo", Store(str(tmp_path)))
    table = pa.Table.from_pylist([row(number) for number in range(rows)], schema=schema)
    text = written(corpus.store, "demo/a.parquet", table, options).to_text()
    opened = open_or_create(corpus, name, schema, split)
    uri = corpus.store.uri("demo/a.parquet")
    (known,) = data_files(opened.io, opened.metadata, [uri], {uri: text})
    read = parquet_file_to_data_file(opened.io, opened.metadata, uri)
    for field in FIELDS:
        assert getattr(known, field) == getattr(read, field), field


def test_a_commit_reads_no_footer_that_it_has(tmp_path, monkeypatch):
    schema, row, options, _ = TABLES["scores"]
    corpus, texts, read = Corpus("demo", Store(str(tmp_path))), {}, []
    for number in range(4):
        name = f"demo/{number}.parquet"
        table = pa.Table.from_pylist([row(number)], schema=schema)
        texts[name] = written(corpus.store, name, table, options).to_text()
    texts["demo/2.parquet"] = ""  # of an earlier version of Rasterloom

    def noted(io, table, uri):
        read.append(uri)
        return parquet_file_to_data_file(io, table, uri)

    monkeypatch.setattr(module, "parquet_file_to_data_file", noted)
    commit(corpus, "scores", schema, texts, Record("scores", "f", "1", {}, {}))
    assert [uri.rpartition("/")[2] for uri in read] == ["2.parquet"]
    assert corpus.read("scores")["key"].to_pylist() == [f"{number:032x}" for number in range(4)]


def test_values_that_json_has_not_are_read_off_the_file(tmp_path):
    table = pa.table({"day": pa.array([datetime.date(2020, 1, 1)])})
    assert written(Store(str(tmp_path)), "a.parquet", table, {}).to_text() is None


def test_a_text_is_short_and_whole(tmp_path):
    table = pa.Table.from_pylist([image(number) for number in range(64)], schema=IMAGES)
    footer = written(Store(str(tmp_path)), "a.parquet", table, {"row_group_size": 8})
    text = footer.to_text()
    assert Footer.of_text(text).to_text() == text
    assert len(text) < 2500 and json.dumps(text)
