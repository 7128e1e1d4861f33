"""First records of a source whose columns are still unknown."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.recipe.sources import Source
from rasterloom.schema import T2I
from rasterloom.sources.files import find_files
from rasterloom.sources.images.formats import extra_format
from rasterloom.sources.readers import hub
from rasterloom.sources.readers.built_in import BUILT_IN, FileReader, named_errors
from rasterloom.sources.readers.parquet import bytes_of, image_path, rows_of
from rasterloom.sources.readers.registry import kind_of, read_rows
from rasterloom.sources.readers.row import NO_PAIR, Row

ROWS = 100
STREAMED_ROWS = 20  # where they come over the network
LOOKED_AT = 16  # cells of a column of bytes, until one is not null
LONGEST = 10_000  # bytes of a cell that may be text
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")  # and RIFF....WEBP, ....ftypavif


@dataclass(frozen=True)
class Records:
    """First records of a source."""

    kind: str
    columns: list[str]
    rows: list[dict[str, Any]]  # without the images in them
    images: list[str] = field(default_factory=list)  # columns that hold the images themselves


def first_records(source: Source) -> Records:
    """Read the first records of a source. It need not name its columns.

    Raises:
        SourceError: it cannot be read, or is of no known kind.
    """
    kind = kind_of(source)
    if kind == "hf":
        return _streamed(source)
    if kind == "parquet":
        return _parquet(source)
    reader = BUILT_IN.get(kind)
    if isinstance(reader, FileReader) and reader.is_list:
        loose = source.model_copy(update={"task": T2I})  # a table of tasks may lack any column
        return _of_rows(kind, reader.records(loose))
    return _of_rows(kind, read_rows(source))


def _of_rows(kind: str, found: Iterator[Row]) -> Records:
    with closing(found):  # type: ignore[type-var]
        rows = [row.values for row in islice(found, ROWS)]
    rows = [values for values in rows if not values.keys() & NO_PAIR]
    return Records(kind, list(dict.fromkeys(name for values in rows for name in values)), rows)


def _streamed(source: Source) -> Records:
    data, images = hub.load(source), hub.image_columns(source)
    rest = data.remove_columns(images) if images else data
    with named_errors(source.paths[0]):
        rows = list(islice(rest, STREAMED_ROWS))
    columns = list(data.features or (rows[0] if rows else ()))
    return Records("hf", columns, rows, images)


def _parquet(source: Source) -> Records:
    reader, files = BUILT_IN["parquet"], find_files(source)
    assert isinstance(reader, FileReader)
    name = reader.first_file(source)
    with (
        named_errors(files.shown(name)),
        files.open_arrow(name) as opened,
        pq.ParquetFile(opened, pre_buffer=False) as file,
    ):
        schema = file.schema_arrow
        cells = {one.name: _first_cell(file, one) for one in schema if _is_bytes(one.type)}
        images = [column for column, cell in cells.items() if is_image(cell)]
        large = [column for column, cell in cells.items() if len(cell) > LONGEST]
        columns = [column for column in schema.names if column not in (*images, *large)]
        batch = next(file.iter_batches(ROWS, columns=columns), None)
        rows = list(rows_of(batch)) if batch is not None else []
        return Records("parquet", schema.names, rows, images)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0) and _is_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _first_cell(file: pq.ParquetFile, column: pa.Field) -> bytes:
    """Return the first bytes of a column that are not null."""
    batches = file.iter_batches(1, columns=[image_path("", column.name, column.type)])
    for batch in islice(batches, LOOKED_AT):
        if cell := bytes_of(batch)[0].as_py():
            return bytes(cell)
    return b""


def is_image(data: bytes) -> bool:
    """Tell an image by its first bytes."""
    if data.startswith(MAGIC) or extra_format(data):
        return True
    return data[8:12] == b"WEBP" or data[4:12] in (b"ftypavif", b"ftypavis")
