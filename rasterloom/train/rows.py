"""Reads rows of token tables by number, from Parquet, in the background."""

import contextlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileSystem, LocalFileSystem

CACHE_BYTES = 2**30  # of decoded row groups, a worker
T = TypeVar("T")


class Sample(NamedTuple):
    input_ids: NDArray[np.int32]  # [n]
    loss_spans: NDArray[np.int32]  # [spans, 2], start and end of what is in the loss


class _Group(NamedTuple):
    file: int
    number: int  # of the row group in its file
    start: int  # number of its first row in the stage


@dataclass
class TokenRows:
    """The rows of a stage. Rows are numbered through the files, in the order in which these are given."""

    files: Sequence[str]
    filesystem: FileSystem
    keys: pa.StringArray
    lengths: NDArray[np.int64]  # tokens of each row
    buckets: NDArray[np.str_]  # "<width>x<height>" of each row
    groups: list[_Group]
    metadata: list[pq.FileMetaData]
    cache_bytes: int = CACHE_BYTES
    _cache: "OrderedDict[int, pa.Table]" = field(default_factory=OrderedDict)

    def fetch(self, rows: Sequence[int] | NDArray[np.int64]) -> list[Sample]:
        """Read rows, each row group at most once; the last ones read are kept while they fit in memory."""
        rows = np.asarray(rows, dtype=np.int64)
        of_group = np.searchsorted([group.start for group in self.groups], rows, side="right") - 1
        samples: dict[int, Sample] = {}
        for number in np.unique(of_group):
            table = self._group(int(number))
            for row in rows[of_group == number].tolist():
                at = row - self.groups[number].start
                ids, spans = (table[c][at].values.to_numpy() for c in ("input_ids", "loss_spans"))
                samples[row] = Sample(ids, spans.reshape(-1, 2))
        return [samples[row] for row in rows.tolist()]

    def _group(self, number: int) -> pa.Table:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        group = self.groups[number]
        with self.filesystem.open_input_file(self.files[group.file]) as source:
            reader = pq.ParquetFile(source, metadata=self.metadata[group.file])
            table = reader.read_row_group(group.number, columns=["input_ids", "loss_spans"])
        self._cache[number] = table.combine_chunks()
        while len(self._cache) > 1 and sum(t.nbytes for t in self._cache.values()) > self.cache_bytes:
            self._cache.popitem(last=False)
        return self._cache[number]


def open_rows(files: Sequence[str], filesystem: FileSystem | None = None) -> TokenRows:
    """Read what is needed to plan: keys, lengths and buckets, but no tokens.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file lacks a column of `schema.TOKENS` that training needs.
    """
    filesystem = filesystem or LocalFileSystem()
    groups, metadata, tables, rows = [], [], [], 0
    for number, path in enumerate(files):
        with filesystem.open_input_file(path) as source:
            reader = pq.ParquetFile(source)
            missing = {"key", "bucket", "n_tokens", "input_ids", "loss_spans"} - set(
                reader.schema_arrow.names
            )
            if missing:
                raise ValueError(f"{path} is no token table: it has no column {', '.join(sorted(missing))}")
            tables.append(reader.read(columns=["key", "bucket", "n_tokens"]))
            metadata.append(reader.metadata)
        for group in range(reader.metadata.num_row_groups):
            groups.append(_Group(number, group, rows))
            rows += reader.metadata.row_group(group).num_rows
    table = pa.concat_tables(tables)
    return TokenRows(
        files=files,
        filesystem=filesystem,
        keys=table["key"].combine_chunks(),
        lengths=table["n_tokens"].to_numpy().astype(np.int64),
        buckets=np.asarray(table["bucket"].to_pylist(), dtype=np.str_),
        groups=groups,
        metadata=metadata,
    )


def prefetched(items: Iterator[T], depth: int = 4) -> Iterator[T]:
    """Run an iterator in a background thread, so many items ahead.

    An exception in it is raised here, when its turn comes; the thread ends when this iterator is closed.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: T | None, error: BaseException | None = None) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        closed.set()
        thread.join()
