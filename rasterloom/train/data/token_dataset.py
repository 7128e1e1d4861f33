"""Reads rows of token tables by number, from Parquet, in the background."""

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileSystem, LocalFileSystem

from rasterloom.storage.layout import LENGTHS_FILES
from rasterloom.train.data.row_group_cache import COLUMNS, RowGroupPlace, RowGroups

CAPTIONS, LONGEST = "captions", "longest"  # columns of `schema.CAPTIONED_TOKENS`
WEIGHT = "weight"  # column of an index whose rows have sampling weights
NEEDED = {"key", "bucket", "task", "n_tokens", "input_ids", "loss_spans"}  # of `schema.TOKENS`
T = TypeVar("T")


class TokenSample(NamedTuple):
    input_ids: NDArray[np.int32]  # [n]
    loss_spans: NDArray[np.int32]  # [spans, 2], start and end of what is in the loss
    # Names of its captions and ids of their prompts; no ids of that in `input_ids`. Empty: it has no other.
    captions: tuple[tuple[str, NDArray[np.int32]], ...] = ()


@dataclass
class TokenRows:
    """The rows of a stage. Rows are numbered through the files, in the order in which these are given."""

    groups: RowGroups
    lengths: NDArray[np.int32]  # tokens of each row
    bucket_names: list[str]  # "<width>x<height>"
    bucket_numbers: NDArray[np.int32]  # of each row, in `bucket_names`
    task_names: list[str]
    task_numbers: NDArray[np.int32]  # of each row, in `task_names`
    heldout: NDArray[np.float64] | None  # `samples.heldout_draw` of each row, where an index has it
    read_keys: Callable[[], pa.ChunkedArray]  # of all rows
    weights: NDArray[np.float64] | None = None  # sampling weight of each row; None: all have the same
    captions: Mapping[str, float] | None = (
        None  # weights of captions; None: each row has the one it was made with
    )

    @cached_property
    def keys(self) -> pa.LargeStringArray:
        """The keys of all rows, read when first asked for: 32 bytes a row."""
        return self.read_keys().cast(pa.large_string()).combine_chunks()

    def buckets(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Return the bucket of each of some rows."""
        return [self.bucket_names[number] for number in self.bucket_numbers[np.asarray(rows, np.int64)]]

    def group_of(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the row group of each of some rows."""
        return np.searchsorted(self._starts, np.asarray(rows, np.int64), side="right") - 1

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.array([place.start for place in self.groups.places], np.int64)

    def fetch(self, rows: Sequence[int] | NDArray[np.int64]) -> list[TokenSample]:
        """Read rows, each row group at most once (`RowGroups.read`)."""
        rows = np.asarray(rows, dtype=np.int64)
        of_group = self.group_of(rows)
        tables = self.groups.read(np.unique(of_group).tolist())
        samples = []
        for row, number in zip(rows.tolist(), of_group.tolist(), strict=True):
            at = row - self.groups.places[number].start
            ids, spans = (tables[number][c][at].values.to_numpy() for c in COLUMNS)
            samples.append(TokenSample(ids, spans.reshape(-1, 2), _captions(tables[number], at)))
        return samples


def _captions(group: pa.Table, at: int) -> tuple[tuple[str, NDArray[np.int32]], ...]:
    """The captions of a row of a group, where they were read."""
    if CAPTIONS not in group.column_names:
        return ()
    found = group[CAPTIONS][at].as_py() or ()
    return tuple((one["name"], np.array(one["ids"], np.int32)) for one in found)


def open_rows(
    files: Sequence[str],
    filesystem: FileSystem | None = None,
    index: str | None = None,
    captions: Mapping[str, float] | None = None,
) -> TokenRows:
    """Read what is needed to plan: lengths, buckets and tasks, but no tokens.

    Args:
        index: the length index of just these files (pipelines/corpus/length_index.py), where there is one:
            then no token file is opened before a row of it is fetched.
        captions: weights of captions; None: the further ones are not read.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file lacks a column of `schema.TOKENS` that training needs, or the index is of others.
    """
    filesystem = filesystem or LocalFileSystem()
    table, sizes = _indexed(files, filesystem, index) if index else _listed(files, filesystem)
    flat = [(number, group, rows) for number, of_file in enumerate(sizes) for group, rows in of_file]
    starts = np.cumsum([0, *(rows for _, _, rows in flat)])[:-1].tolist()
    buckets, tasks = (table[name].unify_dictionaries().combine_chunks() for name in ("bucket", "task"))

    def read_keys() -> pa.ChunkedArray:
        if index is None:
            return table["key"]
        with filesystem.open_input_file(index) as source:
            return pq.ParquetFile(source).read(columns=["key"])["key"]

    return TokenRows(
        groups=RowGroups(
            files,
            filesystem,
            [RowGroupPlace(*where[:2], start) for where, start in zip(flat, starts, strict=True)],
            [CAPTIONS] if captions is not None else [],
        ),
        lengths=table["n_tokens"].to_numpy(),
        bucket_names=buckets.dictionary.to_pylist(),
        bucket_numbers=buckets.indices.to_numpy(),
        task_names=tasks.dictionary.to_pylist(),
        task_numbers=tasks.indices.to_numpy(),
        heldout=table["heldout"].to_numpy() if index else None,
        read_keys=read_keys,
        weights=table[WEIGHT].to_numpy() if WEIGHT in table.column_names else None,
        captions=captions,
    )


def joined(parts: Sequence[TokenRows]) -> TokenRows:
    """Return the rows of several tables as one, in their order."""
    if len(parts) == 1:
        return parts[0]
    first = [0, *np.cumsum([len(part.lengths) for part in parts]).tolist()]
    files = [0, *np.cumsum([len(part.groups.files) for part in parts]).tolist()]
    places = [
        RowGroupPlace(file + place.file, place.number, row + place.start)
        for part, file, row in zip(parts, files[:-1], first[:-1], strict=True)
        for place in part.groups.places
    ]
    names = [file for part in parts for file in part.groups.files]
    buckets, tasks = (
        pa.chunked_array([pa.DictionaryArray.from_arrays(numbers, known) for known, numbers in of_parts])
        .unify_dictionaries()
        .combine_chunks()
        for of_parts in (
            [(part.bucket_names, part.bucket_numbers) for part in parts],
            [(part.task_names, part.task_numbers) for part in parts],
        )
    )
    draws = [part.heldout for part in parts if part.heldout is not None]
    return TokenRows(
        groups=RowGroups(names, parts[0].groups.filesystem, places, parts[0].groups.more),
        lengths=np.concatenate([part.lengths for part in parts]),
        bucket_names=buckets.dictionary.to_pylist(),
        bucket_numbers=buckets.indices.to_numpy(),
        task_names=tasks.dictionary.to_pylist(),
        task_numbers=tasks.indices.to_numpy(),
        heldout=np.concatenate(draws) if len(draws) == len(parts) else None,
        read_keys=lambda: pa.chunked_array([part.keys for part in parts]),
        weights=_joined_weights(parts),
        captions=parts[0].captions,
    )


def _joined_weights(parts: Sequence[TokenRows]) -> NDArray[np.float64] | None:
    if all(part.weights is None for part in parts):
        return None
    return np.concatenate(
        [np.ones(len(part.lengths)) if part.weights is None else part.weights for part in parts]
    )


_Sizes = list[list[tuple[int, int]]]  # of each file: number and rows of its row groups


def _indexed(files: Sequence[str], filesystem: FileSystem, index: str) -> tuple[pa.Table, _Sizes]:
    with filesystem.open_input_file(index) as source:
        reader = pq.ParquetFile(source, read_dictionary=["bucket", "task"])
        found = json.loads(reader.metadata.metadata.get(LENGTHS_FILES, b"[]"))
        names = [file["name"] for file in found]
        if len(names) != len(files) or not all(map(str.endswith, files, names)):
            raise ValueError(f"{index} is the length index of other files: {len(names)} for {len(files)}")
        columns = ["bucket", "task", "n_tokens", "heldout"]
        if WEIGHT in reader.schema_arrow.names:
            columns.append(WEIGHT)
        return reader.read(columns=columns), [list(enumerate(file["groups"])) for file in found]


def _listed(files: Sequence[str], filesystem: FileSystem) -> tuple[pa.Table, _Sizes]:
    tables, sizes = [], []
    for path in files:
        with filesystem.open_input_file(path) as source:
            metadata = pq.read_metadata(source)
            missing = NEEDED - set(metadata.schema.to_arrow_schema().names)
            if missing:
                raise ValueError(f"{path} is no token table: it has no column {', '.join(sorted(missing))}")
            reader = pq.ParquetFile(source, metadata=metadata, read_dictionary=["bucket", "task"])
            columns = ["key", "bucket", "task", "n_tokens", *longest_of(reader.schema_arrow)]
            tables.append(as_planned(reader.read(columns=columns)))
            groups = range(metadata.num_row_groups)
            sizes.append([(group, metadata.row_group(group).num_rows) for group in groups])
    return pa.concat_tables(tables), sizes


def longest_of(schema: pa.Schema) -> list[str]:
    """Name of the column of longest lengths, of files with it."""
    return [LONGEST] if LONGEST in schema.names else []


def as_planned(rows: pa.Table) -> pa.Table:
    """Rows whose ``n_tokens`` are those with the longest caption: what a batch must have room for."""
    if LONGEST not in rows.column_names:
        return rows
    at = rows.column_names.index("n_tokens")
    longest = pc.coalesce(rows[LONGEST], rows["n_tokens"])
    return rows.set_column(at, "n_tokens", longest).drop_columns(LONGEST)


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
