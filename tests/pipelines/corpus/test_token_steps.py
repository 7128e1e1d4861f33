"""The text vocabulary learns the texts of the kept rows, read a few files at a time."""

import pyarrow as pa
import pytest

from rasterloom import schema
from rasterloom.pipelines.corpus import token_steps
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store

N = 30


@pytest.mark.parametrize("at_once", [1, 2, 64])
@pytest.mark.parametrize("selection_files", [1, 4])
def test_texts_are_those_of_kept_rows(tmp_path, monkeypatch, at_once, selection_files):
    monkeypatch.setattr(token_steps, "FILES_AT_ONCE", at_once)
    store = Store(str(tmp_path))
    rows = [
        {"key": f"{i:032x}", "shard": i // 10, "caption": f"number {i}", "kept": i % 3 == 0} for i in range(N)
    ]
    rows[6] |= {"caption": None, "turns": '[{"from": "human", "value": "a question"}]'}
    inputs = {"images": [], "selection": []}
    for table, columns, files in (
        ("images", schema.IMAGES, 3),
        ("selection", schema.SELECTION, selection_files),
    ):
        for start in range(0, N, size := -(-N // files)):
            name = f"{table}/{start:03d}.parquet"
            store.write_parquet(name, pa.Table.from_pylist(rows[start : start + size], schema=columns))
            inputs[table].append(DataFile(name, size))
    counts = {"captions": 0}
    texts = list(token_steps._kept_texts(store, inputs, counts))
    kept = [row["caption"] or "a question" for row in rows if row["kept"]]
    assert texts == kept
    assert counts == {"captions": len(kept)}
