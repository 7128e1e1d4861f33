"""Rows out of CSV, TSV and JSON Lines."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import Files
from rasterloom.sources.readers.row import UNREADABLE, Row, check_columns

HEAD_BYTES = 1_000_000  # of a JSON Lines file, looked at for its columns before anything runs
MAX_LINE_BYTES = 64_000_000  # a longer line is no row of anything; it is not held in memory


def _csv_text(files: Files, name: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(files.open(name), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _delimiter(name: str) -> str:
    return "\t" if name.lower().endswith(".tsv") else ","


def check_csv(files: Files, name: str, source: Source) -> None:
    """Check a file's header."""
    with _csv_text(files, name) as file:
        head = csv.reader(
            iter(lambda: file.readline(HEAD_BYTES), ""), delimiter=_delimiter(name), strict=True
        )
        check_columns(files.shown(name), source, next(head, []))


def read_csv(files: Files, name: str, source: Source) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file. Bytes that are not UTF-8 become lone surrogates."""
    lines: list[str] = []  # of the row that is being read

    def remember(file: Iterable[str]) -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    with _csv_text(files, name) as file:
        reader = csv.reader(remember(file), delimiter=_delimiter(name), strict=True)
        names = next(reader, [])
        check_columns(files.shown(name), source, names)
        while True:
            lines.clear()
            number = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error) or "field limit" in str(error):
                    shown = files.shown(name)
                    raise SourceError(f"{shown}: a quote in the row of line {number} does not end") from None
                values = None
            if values is not None and len(values) == len(names):
                yield Row(dict(zip(names, values, strict=True)))
            elif values != []:  # an empty line is no row
                yield Row({UNREADABLE: "".join(lines).rstrip("\r\n")})


def check_jsonl(files: Files, name: str, source: Source) -> None:
    """Check the columns of a file's first ``HEAD_BYTES``."""
    with files.open(name) as file:
        head = file.read(HEAD_BYTES)
    lines = head.split(b"\n")
    whole = lines if len(head) < HEAD_BYTES else lines[:-1]
    _check_jsonl(files, name, source, [json_row(line) for line in whole if line.strip()])


def _check_jsonl(files: Files, name: str, source: Source, rows: list[dict[str, Any]]) -> None:
    columns = dict.fromkeys(column for row in rows for column in row if column != UNREADABLE)
    if columns:
        check_columns(files.shown(name), source, list(columns))


def read_jsonl(files: Files, name: str, source: Source) -> Iterator[Row]:
    columns: dict[str, None] = {}
    with files.open(name) as file:
        for line in lines_of(file):
            row = json_row(line)
            columns.update(dict.fromkeys(row))
            yield Row(row)
    _check_jsonl(files, name, source, [dict(columns)])


def lines_of(file: io.BufferedIOBase | Any) -> Iterator[bytes]:
    """Yield the lines that are not empty. Of one beyond ``MAX_LINE_BYTES`` only the start."""
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            line = line[:1000]
        if line.strip():
            yield line


def json_row(line: bytes) -> dict[str, Any]:
    """Read a line. Bytes that are not UTF-8 become lone surrogates in the value that holds them."""
    try:
        row = json.loads(line.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {UNREADABLE: line.decode("utf-8", "replace").rstrip("\r\n")}
