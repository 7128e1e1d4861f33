"""A selection reads files of images and scores side by side, or looks scores up where they do not match."""

import hashlib
import json
from dataclasses import replace

import pyarrow as pa
import pytest

from rasterloom import schema
from rasterloom.pipelines.corpus import shard_work, token_work
from rasterloom.pipelines.step import Shard
from rasterloom.recipe.filtering import Keep
from rasterloom.storage.store import Store

N = 40


def images_of(start, rows):
    keys = [{"key": f"{i:032x}", "shard": start // 10, "status": "ok"} for i in range(start, start + rows)]
    return pa.Table.from_pylist(keys, schema=schema.IMAGES)


def scores_of(numbers):
    rows = [
        {"key": f"{i:032x}", "shard": i // 10, "quality": float(i % 7), "language": "en"} for i in numbers
    ]
    kinds = pa.schema([*schema.SCORES, ("quality", pa.float64()), ("language", pa.string())])
    return pa.Table.from_pylist(rows, schema=kinds)


def written(store, kind, tables):
    names = [f"{kind}/{i:03d}.parquet" for i in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        store.write_parquet(name, table)
    return names


@pytest.mark.parametrize(
    "scores",
    [
        [range(start, start + 10) for start in range(0, N, 10)],
        [range(start, start + 10) for start in range(N - 10, -1, -10)],  # in another order
        [range(N)],  # in one file
        [range(start, start + 8) for start in range(0, N, 8)],  # cut elsewhere
        [range(9, -1, -1), range(10, 20), range(20, 40), range(0)],
    ],
)
@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_scores_find_their_images(tmp_path, monkeypatch, scores, at_once):
    monkeypatch.setattr(shard_work, "FILES_AT_ONCE", at_once)
    store = Store(str(tmp_path))
    spec = shard_work.SelectSpec(
        images=written(store, "images", [images_of(start, 10) for start in range(0, N, 10)]),
        scores=written(store, "scores", [scores_of(part) for part in scores]),
    )
    tables, counts = shard_work.select_images(store, spec, Keep(rule="quality >= 3 and language = 'en'"))
    found = pa.concat_tables(tables)
    assert found["key"].to_pylist() == [f"{i:032x}" for i in range(N)]
    assert found["kept"].to_pylist() == [i % 7 >= 3 for i in range(N)]
    assert counts == {"kept": 22, "rule: quality >= 3": 18}


def test_an_image_without_scores_is_not_kept_by_a_rule_on_them(tmp_path):
    store = Store(str(tmp_path))
    spec = shard_work.SelectSpec(
        images=written(store, "images", [images_of(0, 3)]), scores=written(store, "scores", [scores_of([2])])
    )
    tables, _ = shard_work.select_images(store, spec, Keep(rule="quality >= 0"))
    found = pa.concat_tables(tables)
    assert found["kept"].to_pylist() == [False, False, True]


@pytest.mark.parametrize("keys_at_once", [1, 100])
def test_what_was_kept_before_is_read_in_parts(tmp_path, monkeypatch, keys_at_once):
    monkeypatch.setattr(shard_work, "KEYS_AT_ONCE", keys_at_once)
    store = Store(str(tmp_path))
    same = [
        {"key": f"{i:032x}", "shard": 0, "status": "ok", "sha256": f"{i // 2:064x}", "width": i, "height": 9}
        for i in range(10)
    ]
    kept = [{"key": f"{i:032x}", "shard": 0, "kept": i in (0, 4, 7)} for i in range(10)]
    spec = shard_work.SelectSpec(
        images=written(store, "images", [pa.Table.from_pylist(same, schema=schema.IMAGES)]),
        scores=written(store, "scores", [scores_of(range(10))]),
        earlier=written(
            store, "old", [pa.Table.from_pylist(kept[i : i + 3], schema=schema.SELECTION) for i in (0, 3, 6)]
        ),
    )
    tables, counts = shard_work.select_images(store, spec, Keep())
    found = pa.concat_tables(tables)
    assert [i for i in range(10) if found["kept"][i].as_py()] == [0, 3, 4, 7, 9]  # else the largest
    assert counts == {"kept": 5, "exact duplicate": 5}


SPECS = [
    (shard_work.PairsSpec(), {}),
    (
        shard_work.FetchSpec(shard=3, file="a/0.parquet", start=24, rows=12),
        {"shard": 3, "file": "a/0.parquet", "start": 24, "rows": 12},
    ),
    (
        shard_work.FetchSpec(
            shard=0, file="a/0.parquet", start=0, rows=2, images="b/é.parquet", errors=["dns"]
        ),
        {
            "shard": 0,
            "file": "a/0.parquet",
            "start": 0,
            "rows": 2,
            "images": "b/é.parquet",
            "errors": ["dns"],
        },
    ),
    (shard_work.ScoreSpec("a"), {"images": "a"}),
    (shard_work.SelectSpec(["a"], ["b"]), {"images": ["a"], "scores": ["b"]}),
    (
        token_work.TokenizeSpec("a", ["b"], ["c"], ["d"]),
        {"images": "a", "scores": ["b"], "selection": ["c"], "text": ["d"]},
    ),
    (
        token_work.PackSpec(["a"], "64x64", [0, 9, None]),
        {"files": ["a"], "bucket": "64x64", "edges": [0, 9, None]},
    ),
]


@pytest.mark.parametrize(("spec", "values"), SPECS, ids=[type(spec).__name__ for spec, _ in SPECS])
def test_a_shard_is_published_under_the_digest_of_its_values(spec, values):
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    assert Shard("0", spec).digest == hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def test_what_may_change_is_worked_on_and_is_no_part_of_the_digest():
    spec = shard_work.SelectSpec(["a"], ["b"])
    now = replace(spec, earlier=["c"])
    assert Shard("0", spec, now=now).task == now
    assert Shard("0", spec, now=now).id == Shard("0", spec).id
