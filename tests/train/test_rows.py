import threading
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from rasterloom.train.rows import open_rows, prefetched


def test_rows_come_by_number_through_all_files(write_tokens, rng):
    files = [write_tokens(20), write_tokens(15, first=20)]
    expected = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
    rows = open_rows(files)
    assert rows.keys.to_pylist() == [row["key"] for row in expected]
    assert rows.lengths.tolist() == [len(row["input_ids"]) for row in expected]
    assert rows.buckets(range(35)) == [row["bucket"] for row in expected]
    wanted = rng.permutation(35)
    for row, sample in zip(wanted, rows.fetch(wanted), strict=True):
        assert sample.input_ids.tolist() == expected[row]["input_ids"]
        assert sample.loss_spans.ravel().tolist() == expected[row]["loss_spans"]


def test_only_the_row_groups_in_use_are_kept(write_tokens):
    rows = open_rows([write_tokens(70)])
    rows.cache_bytes = 3000
    every = rows.fetch(np.arange(70))
    assert 1 <= len(rows._cache) < 10
    again = rows.fetch(np.arange(70)[::-1])[::-1]
    assert [s.input_ids.tolist() for s in every] == [s.input_ids.tolist() for s in again]


def test_another_file_system(write_tokens, tmp_path):
    path = write_tokens(3)
    rows = open_rows([path.removeprefix(f"{tmp_path}/")], SubTreeFileSystem(str(tmp_path), LocalFileSystem()))
    assert len(rows.fetch([2, 0])) == 2


def test_a_table_of_something_else_is_named(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"key": ["a"], "bucket": ["64x64"]}), path)
    with pytest.raises(
        ValueError, match=r"other.parquet is no token table.*input_ids, loss_spans, n_tokens, task"
    ):
        open_rows([str(path)])


def test_prefetching_keeps_order_and_runs_ahead():
    produced = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for i in range(10):
            produced.release()
            yield i

    ahead = prefetched(items(), depth=3)
    assert next(ahead) == 0
    for _ in range(4):  # the first, and three in the queue, with no one asking for them
        assert produced.acquire(timeout=10)
    assert list(ahead) == list(range(1, 10))


def test_prefetching_hands_on_an_error_in_its_turn():
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    ahead = prefetched(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(ahead)


def test_prefetching_ends_its_thread_when_closed():
    before = threading.active_count()
    ahead = prefetched(iter(range(1000)), depth=2)
    next(ahead)
    ahead.close()
    assert threading.active_count() == before
