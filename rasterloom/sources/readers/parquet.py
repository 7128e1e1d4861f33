"""Reader of Parquet files; images in their columns are located, not read."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources import locator
from rasterloom.sources.files import Files
from rasterloom.sources.lists import field_path
from rasterloom.sources.readers.row import BATCH_ROWS, Row, check_columns, each_once, wanted_columns
from rasterloom.sources.readers.tally import FileTally

_BINARY = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
_TEXT = (*_BINARY, *_BINARY.values(), pa.string_view(), pa.binary_view())


def check(files: Files, name: str, source: Source) -> None:
    """Check a file's columns, from its footer."""
    with files.open_arrow(name) as opened, pq.ParquetFile(opened) as file:
        _check(files, name, source, file.schema_arrow)
        check_types(files.shown(name), source, file.schema_arrow)


def _check(files: Files, name: str, source: Source, schema: pa.Schema) -> None:
    check_columns(files.shown(name), source, schema.names)
    _images(files.shown(name), source, schema)


def check_types(shown: str, source: Source, schema: pa.Schema) -> None:
    """Check that the columns of URLs and captions hold text. SourceError where they hold something else."""
    wanted = wanted_columns(source)
    for role in ("url", "caption"):
        column = wanted.get(role)
        if column is None or (top := field_path.column_of(column, schema.names)) is None:
            continue
        kind = schema.field(top).type
        if column != top:
            kind = _type_within(shown, column, kind)
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (kind in _TEXT or pa.types.is_null(kind)):
            way = field_path.ways_into(column, _kind_of(kind), _fields(kind))
            raise SourceError(f"{shown}: column {column!r} for the {role} holds {kind}, not text{way}")


def _type_within(shown: str, path: str, kind: pa.DataType) -> pa.DataType:
    """Return the type that a path leads to. SourceError where a column has no such fields."""
    first, *steps = field_path.steps_of(path)
    at = str(first)
    for step in steps:
        if isinstance(step, str) and pa.types.is_struct(kind) and kind.get_field_index(step) >= 0:
            kind = kind.field(step).type
        elif isinstance(step, int) and _kind_of(kind) == "list":
            kind = kind.value_type
        else:
            way = field_path.ways_into(at, _kind_of(kind), _fields(kind))
            raise SourceError(f"{shown}: there is no {path!r}: {at!r} holds {kind}{way}")
        at += field_path.step_text(step)
    return kind


def _kind_of(kind: pa.DataType) -> str:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_kind(kind) for is_kind in lists):
        return "list"
    return "struct" if pa.types.is_struct(kind) else ""


def _fields(kind: pa.DataType) -> list[str]:
    return [field.name for field in kind] if pa.types.is_struct(kind) else []


def _images(shown: str, source: Source, schema: pa.Schema) -> dict[str, str]:
    """Return the path of the bytes of each column that holds images. SourceError where it holds none."""
    found = {}
    for column in filter(None, (source.image, source.input, source.output)):
        kind = schema.field(column).type
        named = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
        named = named.value_type if pa.types.is_dictionary(named) else named
        if named not in _BINARY:  # text names an image
            found[column] = image_path(shown, column, kind)
    return found


def image_path(shown: str, column: str, kind: pa.DataType) -> str:
    """Return the path of a column's bytes: of itself, or of the struct that Hugging Face writes.

    SourceError if it holds no bytes.
    """
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column, kind = f"{column}.bytes", kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise SourceError(f"{shown}: column {column!r} for the image holds {kind}, not bytes")
    return column


def read(files: Files, name: str, source: Source, counts: FileTally | None = None) -> Iterator[Row]:
    """Yield the rows of a file, without the images in it.

    A row whose image is null has no locator; only row groups that have such a row are looked into for it.
    """
    with files.open_arrow(name) as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
        _check(files, name, source, file.schema_arrow)
        images = _images(files.shown(name), source, file.schema_arrow)
        names = [column for column in file.schema_arrow.names if column not in images]
        if counts is not None:
            counts.records = file.metadata.num_rows
        for group in range(file.num_row_groups):
            absent = {column: _absent(file, group, inner) for column, inner in images.items()}
            row = 0
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
                for values in rows_of(batch):
                    cells = {
                        column: locator.of_cell(name, group, row, inner)
                        for column, inner in images.items()
                        if row not in absent[column]
                    }
                    yield Row(values, cells.pop(source.image, None), cells)
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
    """Return the bytes of a batch of one image column. It may hold structs with them."""
    cells = batch.column(0)
    return cells.field("bytes") if pa.types.is_struct(cells.type) else cells


def rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch by column, text as bytes."""
    names = each_once(batch.schema.names)
    if not names:  # a table of images alone
        yield from ({} for _ in range(batch.num_rows))
        return
    for values in zip(*map(_values, batch.columns), strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: pa.Array) -> list[Any]:
    """Return the values of a column, text as bytes: Arrow would refuse a whole batch for one string."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type == pa.string_view():
        column = column.cast(pa.binary_view())
    if column.type in _BINARY:
        column = column.view(_BINARY[column.type])
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # a date of the year 300000, text in a list
        values = [_value(cell) for cell in column]
    return values


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return f"unreadable {cell.type}"
