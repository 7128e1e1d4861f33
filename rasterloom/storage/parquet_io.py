"""Reading of Parquet rows from a store."""

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from rasterloom.schema import PICTURE
from rasterloom.storage.store import Store


@dataclass(frozen=True)
class DataFile:
    """Parquet file of a table.

    Its name in the store, its rows, its partition values as text.
    """

    name: str
    rows: int
    partition: tuple[str, ...] = ()


# Of a file that a takedown wrote in place of another: see `first_of`.
FIRST, GONE = b"rasterloom.first", b"rasterloom.gone"
REWRITTEN = re.compile(r"-t\d{6}-[0-9a-f]{8}\.parquet$")


def count_of(values: pa.ChunkedArray, prefix: str = "") -> dict[str, int]:
    counted = ((str(row["values"]), row["counts"]) for row in pc.value_counts(values).to_pylist())
    return {f"{prefix}{name}": number for name, number in sorted(counted)}


def read_file(store: Store, name: str) -> pa.Table:
    return pq.read_table(store.path(name), filesystem=store.filesystem)


def read_files(
    store: Store,
    names: list[str],
    where: Any = None,
    columns: list[str] | None = None,
    without: tuple[str, ...] = (),
) -> pa.Table:
    """Read rows of Parquet files, row groups that cannot match left out."""

    data = pads.dataset([store.path(n) for n in names], filesystem=store.filesystem, format="parquet")
    if without:
        columns = [name for name in data.schema.names if name not in without]
    return data.to_table(columns=columns, filter=where)


def read_more(store: Store, names: list[str], key: str) -> list[dict[str, Any]]:
    """Read one row's further images, without their bytes, from the column ``more``."""
    columns = [f"more.list.element.{field.name}" for field in PICTURE if field.name != "image"]
    for name in names:
        with store.filesystem.open_input_file(store.path(name)) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups if "more" in file.schema_arrow.names else 0):
                keys = file.read_row_group(group, columns=["key"])["key"].to_pylist()
                if key in keys:
                    more = file.read_row_group(group, columns=columns)["more"]
                    return more[keys.index(key)].as_py() or []
    return []


def read_rows(store: Store, name: str, start: int, rows: int, columns: list[str]) -> pa.Table:
    """Read a range of rows, from the row groups that hold it."""
    with store.filesystem.open_input_file(store.path(name)) as source:
        file = pq.ParquetFile(source)
        first, groups, before = 0, [], 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first + size > start and first < start + rows:
                groups.append(group)
                before = before if len(groups) > 1 else first
            first += size
        return file.read_row_groups(groups, columns=columns).slice(start - before, rows)


def row_count(store: Store, name: str) -> int:
    with store.filesystem.open_input_file(store.path(name)) as source:
        return int(pq.read_metadata(source).num_rows)


@dataclass(frozen=True)
class First:
    """Data file before takedowns removed rows from it."""

    name: str
    rows: int
    gone: tuple[int, ...] = ()  # numbers of the rows that are out, sorted

    def now(self, start: int, rows: int) -> tuple[int, int]:
        """Return the start and length of a row range after the takedowns."""
        before = bisect_left(self.gone, start)
        return start - before, rows - (bisect_left(self.gone, start + rows) - before)


def first_of(store: Store, file: DataFile) -> First:
    """Return the original of a file that a takedown rewrote, or itself.

    Shards are named after rows of the first file, so that they are the same ones after a takedown.
    """
    if not REWRITTEN.search(file.name):
        return First(file.name, file.rows)
    with store.filesystem.open_input_file(store.path(file.name)) as source:
        metadata = pq.read_schema(source).metadata or {}
    gone = tuple(json.loads(metadata[GONE]))
    return First(metadata[FIRST].decode(), file.rows + len(gone), gone)
