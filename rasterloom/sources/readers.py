"""Rows out of the kinds of files that list pairs: Parquet, CSV and JSON Lines."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from rasterloom.recipe import Source

BATCH_ROWS = 10_000
UNREADABLE = "unreadable_row"  # where `meta` holds a line that is no row

Row = dict[str, Any]


class SourceError(ValueError):
    """A source cannot be used; the message names the file and what is wrong with it."""


def source_name(source: Source) -> str:
    """Return the name of a source in the tables."""
    return source.name or Path(source.path).stem


def read_rows(source: Source) -> Iterator[Row]:
    """Yield every row of a source's file, by the reader that its suffix names.

    Text may come as bytes, or with lone surrogates for bytes that are not UTF-8, so that these harm
    their own row alone. A line of CSV or JSON that is no row comes as ``{UNREADABLE: line}``.

    Raises:
        SourceError: the file is missing or broken, of an unknown kind, or without the source's columns.
    """
    path = Path(source.path)
    suffix = path.suffix.lower()
    if "://" in source.path:
        raise SourceError(f"{source.path}: only local files can be read")
    if suffix not in _READERS:
        raise SourceError(f"{path}: unknown kind of file {suffix!r}; known: {', '.join(_READERS)}")
    try:
        yield from _READERS[suffix](path, source)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _check_columns(path: Path, source: Source, columns: list[str]) -> None:
    for role, column in (("url", source.url), ("caption", source.caption)):
        if column not in columns:
            there = ", ".join(columns) or "none"
            raise SourceError(f"{path}: no column {column!r} for the {role}; it has {there}")


def _read_parquet(path: Path, source: Source) -> Iterator[Row]:
    with pa.parquet.ParquetFile(path) as file:
        _check_columns(path, source, file.schema_arrow.names)
        for batch in file.iter_batches(BATCH_ROWS):
            yield from _as_bytes(batch).to_pylist()


def _as_bytes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Turn columns of text into bytes: Arrow would refuse a whole batch for one string."""
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    columns = []
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        columns.append(column.view(binary[column.type]) if column.type in binary else column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _read_csv(path: Path, source: Source) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file; bytes that are not UTF-8 become lone surrogates."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines: list[str] = []  # of the row that is being read

    def remember(file: Iterable[str]) -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(remember(file), delimiter=delimiter, strict=True)
        names = next(reader, [])
        _check_columns(path, source, names)
        while True:
            lines.clear()
            number = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error) or "field limit" in str(error):
                    raise SourceError(f"{path}: a quote in the row of line {number} does not end") from None
                values = None
            if values is not None and len(values) == len(names):
                yield dict(zip(names, values, strict=True))
            elif values != []:  # an empty line is no row
                yield {UNREADABLE: "".join(lines).rstrip("\r\n")}


def _read_jsonl(path: Path, source: Source) -> Iterator[Row]:
    columns: dict[str, None] = {}
    with open(path, "rb") as file:
        for line in file:
            if not line.strip():
                continue
            row = _json_row(line)
            columns.update(dict.fromkeys(row))
            yield row
    columns.pop(UNREADABLE, None)
    if columns:
        _check_columns(path, source, list(columns))


def _json_row(line: bytes) -> Row:
    """Read a line; bytes that are not UTF-8 become lone surrogates in the value that holds them."""
    try:
        row = json.loads(line.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {UNREADABLE: line.decode("utf-8", "replace").rstrip("\r\n")}


_READERS = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}
