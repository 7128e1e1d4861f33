"""Reader of Arrow IPC and Feather files, and of Arrow IPC streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import Files
from rasterloom.sources.readers.parquet import check_types, rows_of
from rasterloom.sources.readers.row import BATCH_ROWS, Row, check_columns
from rasterloom.sources.readers.tally import FileTally

FILE_MAGIC = b"ARROW1"
OLD_FEATHER = b"FEA1"


@contextmanager
def _opened(files: Files, name: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Open a file of either form. Yield its schema and its batches."""
    shown = files.shown(name)
    with files.open_arrow(name) as file:
        head = bytes(file.read(len(FILE_MAGIC)))
        file.seek(0)
        if head.startswith(OLD_FEATHER):
            raise SourceError(f"{shown}: is Feather of version 1: write it again with pyarrow, or as Parquet")
        if head == FILE_MAGIC:
            whole: Any = pa.ipc.open_file(file)
            yield whole.schema, map(whole.get_batch, range(whole.num_record_batches))
        else:
            stream: Any = pa.ipc.open_stream(file)
            yield stream.schema, iter(stream)


def check(files: Files, name: str, source: Source) -> None:
    """Check a file's columns, from its schema."""
    with _opened(files, name) as (schema, _):
        _check(files.shown(name), source, schema)
        check_types(files.shown(name), source, schema)


def _check(shown: str, source: Source, schema: pa.Schema) -> None:
    check_columns(shown, source, schema.names)
    for column in filter(None, (source.image, source.input, source.output)):
        kind = schema.field(column).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind):
            raise SourceError(
                f"{shown}: column {column!r} holds images, which are read from Parquet alone: "
                "write the table as Parquet"
            )


def read(files: Files, name: str, source: Source, counts: FileTally) -> Iterator[Row]:
    """Yield the rows of a file."""
    with _opened(files, name) as (schema, batches):
        _check(files.shown(name), source, schema)
        for batch in batches:
            counts.records += batch.num_rows
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield from map(Row, rows_of(batch.slice(start, BATCH_ROWS)))
