"""A selection reads files of images and scores side by side, or looks scores up where they do not match."""

import pyarrow as pa
import pytest

from rasterloom import schema
from rasterloom.pipelines.corpus import shard_work
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
    spec = {
        "images": written(store, "images", [images_of(start, 10) for start in range(0, N, 10)]),
        "scores": written(store, "scores", [scores_of(part) for part in scores]),
    }
    found, counts = shard_work.select_images(store, spec, Keep(rule="quality >= 3 and language = 'en'"))
    assert found["key"].to_pylist() == [f"{i:032x}" for i in range(N)]
    assert found["kept"].to_pylist() == [i % 7 >= 3 for i in range(N)]
    assert counts == {"kept": 22, "rule: quality >= 3": 18}


def test_an_image_without_scores_is_not_kept_by_a_rule_on_them(tmp_path):
    store = Store(str(tmp_path))
    spec = {
        "images": written(store, "images", [images_of(0, 3)]),
        "scores": written(store, "scores", [scores_of([2])]),
    }
    found, _ = shard_work.select_images(store, spec, Keep(rule="quality >= 0"))
    assert found["kept"].to_pylist() == [False, False, True]
