"""Rows out of Parquet files; images in a column of theirs are located, not read."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.recipe import Source
from rasterloom.sources import locator
from rasterloom.sources.files import Files, SourceError
from rasterloom.sources.readers.row import BATCH_ROWS, Row, check_columns


def check(files: Files, name: str, source: Source) -> None:
    """Check a file's columns, from its footer."""
    with files.open_arrow(name) as opened, pq.ParquetFile(opened) as file:
        _check(files, name, source, file.schema_arrow)


def _check(files: Files, name: str, source: Source, schema: pa.Schema) -> None:
    check_columns(files.shown(name), source, schema.names)
    if source.image:
        image_path(files.shown(name), source.image, schema.field(source.image).type)


def image_path(shown: str, column: str, kind: pa.DataType) -> str:
    """Return the path of a column's bytes: of itself, or of the struct that Hugging Face writes.

    SourceError if it holds no bytes.
    """
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column, kind = f"{column}.bytes", kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise SourceError(f"{shown}: column {column!r} for the image holds {kind}, not bytes")
    return column


def read(files: Files, name: str, source: Source) -> Iterator[Row]:
    """Yield the rows of a file, without the images in it.

    A row whose image is null has no locator; only row groups that have such a row are looked into for it.
    """
    with files.open_arrow(name) as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
        _check(files, name, source, file.schema_arrow)
        names = [column for column in file.schema_arrow.names if column != source.image]
        column = (
            image_path(files.shown(name), source.image, file.schema_arrow.field(source.image).type)
            if source.image
            else ""
        )
        for group in range(file.num_row_groups):
            absent = _absent(file, group, column) if column else frozenset()
            row = 0
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
                for values in _as_bytes(batch).to_pylist():
                    path = locator.of_cell(name, group, row, column) if column and row not in absent else None
                    yield Row(values, path)
                    row += 1


def _absent(file: pq.ParquetFile, group: int, column: str) -> frozenset[int]:
    """Return the rows of a row group whose image is null."""
    chunks = file.metadata.row_group(group)
    for number in range(chunks.num_columns):
        chunk = chunks.column(number)
        if chunk.path_in_schema == column and chunk.is_stats_set and chunk.statistics.has_null_count:
            if chunk.statistics.null_count == 0:
                return frozenset()
            break
    found, row = set(), 0
    for batch in file.iter_batches(16, row_groups=[group], columns=[column]):
        cells = bytes_of(batch)
        found |= {row + i for i, valid in enumerate(cells.is_valid().to_pylist()) if not valid}
        row += batch.num_rows
    return frozenset(found)


def bytes_of(batch: pa.RecordBatch) -> pa.Array:
    """Return the bytes of a batch that holds one column of images, or one struct with them."""
    cells = batch.column(0)
    return cells.field("bytes") if pa.types.is_struct(cells.type) else cells


def _as_bytes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Turn columns of text into bytes: Arrow would refuse a whole batch for one string."""
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    columns = []
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        columns.append(column.view(binary[column.type]) if column.type in binary else column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
