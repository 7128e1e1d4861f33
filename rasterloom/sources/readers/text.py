"""Rows out of CSV, TSV and plain lists of URLs."""

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import Files
from rasterloom.sources.lists.opened import open_list, plain_name
from rasterloom.sources.readers.row import UNREADABLE, Row, check_columns, each_once
from rasterloom.sources.readers.tally import FileTally

HEAD_CHARACTERS = 1_000_000  # of a file's first line, looked at for its columns before anything runs
MAX_FIELD_CHARACTERS = 16_000_000  # of CSV
MAX_LINE_BYTES = 64_000_000  # a longer line is no row of anything; it is not held in memory
EMPTY_LINE = "empty line"
QUOTE = '"'

csv.field_size_limit(MAX_FIELD_CHARACTERS)


def _csv_text(files: Files, name: str, source: Source) -> io.TextIOWrapper:
    opened = open_list(files, name, source.encoding)
    return io.TextIOWrapper(opened, encoding="utf-8", errors="surrogateescape", newline="")


def _is_tsv(name: str) -> bool:
    return plain_name(name).lower().endswith(".tsv")


def _reader(lines: Iterable[str], name: str, source: Source) -> Any:
    """Return Python's reader of a file's dialect. A TSV has no quotes, unless they are named."""
    delimiter = source.delimiter or ("\t" if _is_tsv(name) else ",")
    quote = _quote(name, source)
    escape = source.escape or None
    if not quote:
        return csv.reader(
            lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, quotechar=None, escapechar=escape, strict=True
        )
    return csv.reader(lines, delimiter=delimiter, quotechar=quote, escapechar=escape, strict=True)


def _quote(name: str, source: Source) -> str:
    if source.quote == "auto":
        return "" if _is_tsv(name) else QUOTE
    return "" if source.quote == "none" else source.quote


def _header(reader: Any, source: Source) -> list[str]:
    """Read the names of the columns, or take them from the recipe. Empty lines before them are passed."""
    if source.columns:
        return list(source.columns)
    return next(filter(None, reader), [])


def check_csv(files: Files, name: str, source: Source) -> None:
    """Check a file's header. A file of no bytes has none, and no rows."""
    shown = files.shown(name)
    with _csv_text(files, name, source) as file:
        reader = _reader(iter(partial(file.readline, HEAD_CHARACTERS), ""), name, source)
        names: list[str] = next(filter(None, reader), [])
    if names and source.columns:
        if names == list(source.columns):
            raise SourceError(f"{shown}: its first row is its header: leave out `columns`")
        if len(names) != len(source.columns):
            raise SourceError(
                f"{shown}: its first row has {len(names)} values, but `columns` names {len(source.columns)}"
            )
        names = list(source.columns)
    if names:
        check_columns(shown, source, names)


class _Lines:
    """Lines of a file. It keeps those of the current row."""

    def __init__(self, file: io.TextIOWrapper, shown: str) -> None:
        self._file, self._shown = file, shown
        self.of_row: list[str] = []

    def __iter__(self) -> Iterator[str]:
        keep = self.of_row.append
        for line in iter(partial(self._file.readline, MAX_LINE_BYTES), ""):
            if len(line) == MAX_LINE_BYTES:
                raise SourceError(f"{self._shown}: a line of over {MAX_LINE_BYTES:,} characters")
            keep(line)
            yield line


def read_csv(files: Files, name: str, source: Source, counts: FileTally) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file. Bytes that are not UTF-8 become lone surrogates."""
    shown = files.shown(name)
    with _csv_text(files, name, source) as file:
        lines = _Lines(file, shown)
        reader = _reader(lines, name, source)
        quotes = Quotes() if source.quote == "auto" and not _quote(name, source) else None
        names = _header(reader, source)
        if not names:
            return
        check_columns(shown, source, names)
        keys = each_once(names)
        while True:
            lines.of_row.clear()
            number = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                if "end of data" in str(error):
                    raise SourceError(f"{shown}: a quote in the row of line {number} does not end") from None
                if "field limit" in str(error):
                    raise SourceError(f"{shown}: {_too_long(number, _quote(name, source))}") from None
                values = None
            counts.records += 1
            if values is not None and len(values) == len(keys):
                if quotes is not None:
                    quotes.look(values)
                yield Row(dict(zip(keys, values, strict=True)))
            elif values != []:
                if quotes is not None:
                    quotes.unreadable += 1
                yield Row({UNREADABLE: "".join(lines.of_row).rstrip("\r\n")})
            else:  # an empty line is no row
                counts.left_out[EMPTY_LINE] += 1
        if quotes is not None and (why := quotes.fault()):
            raise SourceError(f"{shown}: {why}")


def _too_long(number: int, quote: str) -> str:
    open_quote = ": does a quote not end?" if quote else ""
    return f"the row of line {number} has a field of over {MAX_FIELD_CHARACTERS:,} characters{open_quote}"


class Quotes:
    """Evidence for and against quotes in a TSV."""

    def __init__(self) -> None:
        self.rows, self.doubled, self.wrapped, self.plain = 0, 0, 0, 0
        self.left_open, self.unreadable = 0, 0
        self.example = ""

    def look(self, values: list[str]) -> None:
        self.rows += 1
        has_wrapped = False
        for value in values:
            if QUOTE not in value:
                continue
            single = value[1:].replace(QUOTE * 2, "")
            if not value.startswith(QUOTE):
                self.plain += 1
            elif QUOTE not in single:
                self.left_open += 1
            elif single.index(QUOTE) < len(single) - 1:
                self.plain += 1
            elif QUOTE in value[1:-1]:
                self.doubled += 1
            else:
                has_wrapped = True
                continue
            self.example = self.example or value
        self.wrapped += has_wrapped

    def fault(self) -> str:
        """Return a sentence where values seem quoted, else an empty text."""
        always = self.wrapped == self.rows > 1
        split = self.left_open and self.unreadable
        if self.plain or not (self.doubled or always or split):
            return ""
        such = f", such as {self.example[:60]!r}" if self.example else ""
        return (
            f"its values read as if quoted{such}: give the source `quote: '\"'`, or `quote: none` where "
            "quotes are part of the text"
        )


def check_urls(files: Files, name: str, source: Source) -> None:
    """Check that a list of URLs can be opened. It has no columns."""
    asked = ("columns", "image", "task", "input", "output")
    field = next((field for field in asked if getattr(source, field)), "")
    if source.has_captions and "caption" in source.model_fields_set:
        field = "caption"
    if field:
        raise SourceError(f"{files.shown(name)}: a list of URLs has no columns; leave out {field}")
    open_list(files, name, source.encoding).close()


def read_urls(files: Files, name: str, source: Source, counts: FileTally) -> Iterator[Row]:
    """Yield a row for every line that is not empty: a URL, without a caption."""
    with open_list(files, name, source.encoding) as file:
        for line in lines_of(file, counts):
            url = line.removeprefix(codecs.BOM_UTF8).strip(b" \t\r\n")  # of lists put together
            yield Row({source.url: url.decode("utf-8", "surrogateescape")})


def lines_of(file: io.BufferedIOBase | Any, counts: FileTally | None = None) -> Iterator[bytes]:
    """Yield the lines that are not empty. Of one beyond ``MAX_LINE_BYTES`` only the start."""
    empty = 0
    read = 0
    try:
        while line := file.readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                line = line[:1000]
            read += 1
            if line.isspace():
                empty += 1
            else:
                yield line
    finally:
        if counts is not None:
            counts.records += read
            if empty:
                counts.left_out[EMPTY_LINE] += empty
