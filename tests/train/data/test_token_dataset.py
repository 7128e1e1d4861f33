import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from rasterloom.schema import TOKENS
from rasterloom.train.data.token_dataset import joined, open_rows, prefetched


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
    rows.groups.cache_bytes = 3000
    every = rows.fetch(np.arange(70))
    assert 1 <= len(rows.groups.kept) < 10
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
        assert produced.acquire(timeout=300)
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
    before = set(threading.enumerate())
    ahead = prefetched(iter(range(1000)), depth=2)
    next(ahead)
    ahead.close()
    assert not set(threading.enumerate()) - before


def remote(tmp_path):
    return SubTreeFileSystem(str(tmp_path), LocalFileSystem())


def test_row_groups_from_elsewhere_are_read_at_once_and_none_twice(write_tokens, tmp_path, monkeypatch):
    path = write_tokens(70)
    rows = open_rows([path.removeprefix(f"{tmp_path}/")], remote(tmp_path))
    threads, loads, load = set(), [], rows.groups._load
    turns, both = itertools.count(), threading.Barrier(2, timeout=300)

    def spied(number):
        loads.append(number)
        if next(turns) < 2:
            both.wait()  # breaks if the second does not begin before the first is done
        threads.add(threading.current_thread().name)
        return load(number)

    monkeypatch.setattr(rows.groups, "_load", spied)
    samples = rows.fetch(np.arange(70))
    assert sorted(loads) == list(range(10)) and len(threads) > 1
    rows.fetch(np.arange(70))
    assert len(loads) == 10
    here = open_rows([path]).fetch(np.arange(70))
    assert [s.input_ids.tolist() for s in samples] == [s.input_ids.tolist() for s in here]
    assert not [t for t in threading.enumerate() if t.name.startswith("row groups")]


def test_several_threads_may_fetch(write_tokens):
    rows = open_rows([write_tokens(70)])
    rows.groups.cache_bytes = 2000  # so that they turn each other's groups out
    expected = [s.input_ids.tolist() for s in rows.fetch(np.arange(70))]

    def fetch(seed):
        order = np.random.default_rng(seed).permutation(70)
        return [s.input_ids.tolist() for s in rows.fetch(order)] == [expected[i] for i in order]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fetch, range(40)))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_file_that_is_gone_or_damaged_is_named(write_tokens, tmp_path, elsewhere):
    path = write_tokens(40)
    name = path.removeprefix(f"{tmp_path}/") if elsewhere else path
    rows = open_rows([name], remote(tmp_path) if elsewhere else None)
    data = bytearray(Path(path).read_bytes())
    column = pq.read_metadata(path).row_group(3).column(TOKENS.names.index("input_ids"))
    assert column.path_in_schema.startswith("input_ids")
    start = column.data_page_offset + 40  # beyond the page's header
    data[start : start + 30] = bytes(30)
    Path(path).write_bytes(data)
    assert len(rows.fetch([0, 20, 28])) == 3  # other groups can be read
    with pytest.raises(OSError, match=rf"the token file {name} cannot be read \(row group 3\): .*verify"):
        rows.fetch([0, 22])
    Path(path).unlink()
    with pytest.raises(FileNotFoundError, match=rf"the token file {name} is gone"):
        rows.fetch([30, 37])


def test_an_error_of_reading_comes_through_prefetching_and_no_thread_stays(write_tokens):
    path = write_tokens(40)
    rows = open_rows([path])
    Path(path).unlink()
    before = set(threading.enumerate())
    with pytest.raises(FileNotFoundError, match="is gone"):
        list(prefetched(rows.fetch([n]) for n in range(40)))
    assert not set(threading.enumerate()) - before


def test_tables_are_joined_in_their_order(write_tokens, profile):
    one, other = open_rows([write_tokens(9)]), open_rows([write_tokens(12, first=20, sizes=[(32, 32)])])
    both = joined([one, other])
    assert both.lengths.tolist() == [*one.lengths, *other.lengths]
    assert both.keys.to_pylist() == [*one.keys.to_pylist(), *other.keys.to_pylist()]
    assert both.buckets(range(21)) == [*one.buckets(range(9)), *other.buckets(range(12))]
    assert [both.task_names[n] for n in both.task_numbers] == ["t2i"] * 21
    wanted = [20, 0, 8, 9, 15]
    expected = [other.fetch([11]), one.fetch([0]), one.fetch([8]), other.fetch([0]), other.fetch([6])]
    for sample, (alone,) in zip(both.fetch(wanted), expected, strict=True):
        assert sample.input_ids.tolist() == alone.input_ids.tolist()
    assert both.group_of([0, 8, 9, 20]).tolist() == [0, 1, 2, 3]
