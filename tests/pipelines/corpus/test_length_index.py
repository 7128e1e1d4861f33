"""The length index: a stage planned from it is the one planned from the token files."""

from io import StringIO

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rasterloom.pipelines.corpus.length_index import write_index
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.schema import TOKENS
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.parquet_options import TOKEN_PARQUET
from rasterloom.storage.store import Store
from rasterloom.train.data.stage_data import split_heldout
from rasterloom.train.data.token_dataset import open_rows


def rows_of(bucket, first, number):
    width, height = map(int, bucket.split("x"))
    for n in range(first, first + number):
        ids = list(range(n % 9 + 2))
        yield dict.fromkeys(TOKENS.names) | {
            "key": f"{n:032x}",
            "bucket": bucket,
            "width": width,
            "height": height,
            "task": "t2i",
            "input_ids": ids,
            "loss_spans": [1, len(ids)],
            "n_tokens": len(ids),
        }


@pytest.fixture
def indexed(tmp_path):
    """Three token files, a folder with their index, and the counts that came of making it."""
    import pyarrow as pa

    store = Store(str(tmp_path))
    files = []
    for number, (bucket, rows) in enumerate((("64x64", 23), ("96x32", 4), ("64x64", 17))):
        name = f"little/tokens/{number}.parquet"
        table = pa.Table.from_pylist(list(rows_of(bucket, 100 * number, rows)), TOKENS)
        store.write_parquet(name, table, row_group_size=7, **TOKEN_PARQUET)
        files.append(DataFile(name, rows))
    folder = tmp_path / "index"
    folder.mkdir()
    progress = Progress(Console(file=StringIO()))
    progress.step_started("lengths/64", None)
    counts = write_index(store, files, folder / "lengths.parquet", progress)
    return [store.path(file.name) for file in files], str(folder / "lengths.parquet"), counts


def test_rows_are_the_same_by_the_index(indexed):
    files, index, counts = indexed
    by_index, by_files = open_rows(files, index=index), open_rows(files)
    assert counts == {"rows": 44, "tokens": int(by_files.lengths.sum())}
    assert by_index.keys.equals(by_files.keys)
    assert by_index.lengths.tolist() == by_files.lengths.tolist()
    assert by_index.buckets(range(44)) == by_files.buckets(range(44))
    assert by_index.groups.places == by_files.groups.places
    for share in (0.0, 0.3, 1.0):
        one, other = (split_heldout(rows, share) for rows in (by_index, by_files))
        assert [part.tolist() for part in one] == [part.tolist() for part in other]
    assert 0 < len(split_heldout(by_index, 0.3)[1]) < 44
    for one, other in zip(by_index.fetch(range(44)), by_files.fetch(range(44)), strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert one.loss_spans.tolist() == other.loss_spans.tolist()


def test_no_token_file_is_opened_to_plan(indexed, tmp_path):
    files, index, _ = indexed
    for file in files:
        (tmp_path / "away").mkdir(exist_ok=True)
        (tmp_path / file).rename(tmp_path / "away" / file.rpartition("/")[2])
    assert len(open_rows(files, index=index).lengths) == 44
    with pytest.raises(FileNotFoundError):
        open_rows(files)


def test_the_index_of_other_files_is_refused(indexed):
    files, index, _ = indexed
    for wrong in (files[:2], files[::-1]):
        with pytest.raises(ValueError, match="is the length index of other files"):
            open_rows(wrong, index=index)


def test_the_index_can_be_read_by_anyone(indexed):
    files, index, _ = indexed
    rows = pq.read_table(index).to_pylist()
    assert list(rows[0]) == ["file", "key", "bucket", "task", "n_tokens", "heldout"]
    for row in rows:
        token_file = next(file for file in files if file.endswith(row["file"]))
        found = pq.read_table(token_file, filters=[("key", "=", row["key"])]).to_pylist()
        assert [(f["bucket"], f["task"], f["n_tokens"]) for f in found] == [
            (row["bucket"], row["task"], row["n_tokens"])
        ]
