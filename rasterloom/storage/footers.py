"""Statistics of a Parquet file's footer, in short."""

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

LONGEST = 64  # characters or bytes of a least or greatest value; tables keep 16


@dataclass
class Column:
    """Statistics of one column, of all row groups together."""

    path: str
    physical: str  # type
    bytes: int = 0  # compressed
    values: int = 0
    nulls: int | None = None
    least: Any = None
    greatest: Any = None
    whole: bool = True  # every row group has statistics


@dataclass
class Footer:
    """Statistics of a file."""

    size: int
    rows: int
    offsets: list[int]  # where row groups begin
    columns: list[Column]

    def to_text(self) -> str | None:
        """Return it as short text. None if a value is of a kind that JSON has not."""
        values = [
            [c.path, c.physical, c.bytes, c.values, c.nulls, _plain(c.least), _plain(c.greatest), c.whole]
            for c in self.columns
        ]
        try:
            text = json.dumps([self.size, self.rows, self.offsets, values])
        except TypeError:
            return None
        return base64.b64encode(zlib.compress(text.encode())).decode()

    @classmethod
    def of_text(cls, text: str) -> "Footer":
        size, rows, offsets, values = json.loads(zlib.decompress(base64.b64decode(text)))
        columns = []
        for path, physical, compressed, count, nulls, least, greatest, whole in values:
            bounds = _value(least), _value(greatest)
            columns.append(Column(path, physical, compressed, count, nulls, *bounds, whole))
        return cls(size, rows, offsets, columns)


def footer_of(metadata: pq.FileMetaData, size: int) -> Footer:
    """Return what a footer says, in short.

    Args:
        metadata: that of the file's footer.
        size: bytes of the file.
    """
    columns: list[Column] = []
    offsets = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(place) for place in range(metadata.num_columns)]
        columns = columns or [Column(chunk.path_in_schema, chunk.physical_type) for chunk in chunks]
        offsets.append(_offset(chunks[0]))
        for column, chunk in zip(columns, chunks, strict=True):
            _add(column, chunk)
    return Footer(size, metadata.num_rows, sorted(offsets), columns)


def _offset(chunk: pq.ColumnChunkMetaData) -> int:
    """Return the first byte of a row group, as Iceberg reckons."""
    data, dictionary = chunk.data_page_offset, chunk.dictionary_page_offset
    return int(dictionary if chunk.has_dictionary_page and dictionary < data else data)


def _add(column: Column, chunk: pq.ColumnChunkMetaData) -> None:
    column.bytes += chunk.total_compressed_size
    column.values += chunk.num_values
    if not chunk.is_stats_set:
        column.whole = False
        return
    found = chunk.statistics
    if found.has_null_count:
        column.nulls = (column.nulls or 0) + found.null_count
    least, greatest = found.min, found.max
    if least is not None:
        column.least = least if column.least is None else min(least, column.least)
    if greatest is not None:
        column.greatest = greatest if column.greatest is None else max(greatest, column.greatest)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return [base64.b64encode(value[:LONGEST]).decode()]
    return value[:LONGEST] if isinstance(value, str) else value


def _value(plain: Any) -> Any:
    return base64.b64decode(plain[0]) if isinstance(plain, list) else plain
