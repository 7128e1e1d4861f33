"""Rows out of JSON: Lines, a list of objects, or objects one after another."""

import json
from collections.abc import Iterator
from typing import Any

from rasterloom.recipe.sources import Source
from rasterloom.sources.files import Files
from rasterloom.sources.lists.json_values import LINES, Objects, form_of, values_of
from rasterloom.sources.lists.opened import open_list, plain_name
from rasterloom.sources.readers.row import UNREADABLE, UNUSABLE, Row, check_columns, wanted_columns
from rasterloom.sources.readers.tally import FileTally
from rasterloom.sources.readers.text import lines_of

HEAD_BYTES = 1_000_000  # of a file, looked at for its form and columns before anything runs
BY_LINES = (".jsonl", ".ndjson")


def check(files: Files, name: str, source: Source) -> None:
    """Check the columns of a file's first lines, or first item."""
    with open_list(files, name, source.encoding) as file:
        head = file.read(HEAD_BYTES)
    if _form(name, head) == LINES:
        lines = head.split(b"\n")
        whole = lines if len(head) < HEAD_BYTES else lines[:-1]
        rows = [json_row(line) for line in whole if line.strip()]
    else:
        rows = [next(records(files, name, source), {})]
    _check_columns(files, name, source, rows)


def _check_columns(files: Files, name: str, source: Source, rows: list[dict[str, Any]]) -> None:
    columns = dict.fromkeys(column for row in rows for column in row if column != UNREADABLE)
    if columns:
        check_columns(files.shown(name), source, list(columns))


def read(files: Files, name: str, source: Source, counts: FileTally) -> Iterator[Row]:
    """Yield a row for every record."""
    columns: dict[str, None] = {}
    for record in records(files, name, source, counts):
        columns.update(dict.fromkeys(record))
        yield Row(record)
    _check_columns(files, name, source, [dict(columns)])


def records(
    files: Files, name: str, source: Source, counts: FileTally | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the records of a file, one at a time. One that is no object comes as ``{UNREADABLE: text}``.

    Raises:
        SourceError: a list stops being JSON: what follows cannot be found.
    """
    with open_list(files, name, source.encoding) as file:
        form = _form(name, file.read(HEAD_BYTES))
    with open_list(files, name, source.encoding) as file:
        if form == LINES:
            names = [json.dumps(column).encode() for column in wanted_columns(source).values()]
            for line in lines_of(file, counts):
                row = json_row(line)
                if any(line.count(name) > 1 for name in names):
                    row = _checked(row, _twice(line))
                yield row
            return
        for value, twice in values_of(file, files.shown(name), form):
            if counts is not None:
                counts.records += 1
            yield _checked(value, twice) if isinstance(value, dict) else {UNREADABLE: json.dumps(value)}


def _checked(row: dict[str, Any], twice: str | None) -> dict[str, Any]:
    """Return a row, which gives no pair with a name twice: readers differ on which one counts."""
    return row if twice is None else {**row, UNUSABLE: f"the name {twice!r} is there twice"}


def _twice(line: bytes) -> str | None:
    objects = Objects()
    try:
        json.loads(line.decode("utf-8-sig", "surrogateescape"), object_pairs_hook=objects)
    except (ValueError, RecursionError):
        return None
    return objects.twice


def _form(name: str, head: bytes) -> str:
    return form_of(head, plain_name(name).lower().endswith(BY_LINES))


def json_row(line: bytes) -> dict[str, Any]:
    """Read a line. Bytes that are not UTF-8 become lone surrogates in the value that holds them."""
    try:
        row = json.loads(line.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {UNREADABLE: line.decode("utf-8", "replace").rstrip("\r\n")}
