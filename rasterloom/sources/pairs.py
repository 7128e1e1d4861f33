"""From the files of a recipe's sources to the table of pairs."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from rasterloom.recipe import Source
from rasterloom.schema import PAIRS, pair_key
from rasterloom.sources.readers import SourceError, read_rows, source_name


def read_sources(sources: Sequence[Source]) -> tuple[pa.Table, dict[str, int]]:
    """Read the pairs of all sources.

    No row is lost: one whose URL or caption is missing or cannot be read as text stands with a null
    there, and only a pair of URL and caption that has been read already is left out, and counted.

    Returns:
        Rows of ``schema.PAIRS`` with a key each of its own, in the order of the sources; and the counts
        ``read``, ``repeated`` and ``pairs``, of which the first is the sum of the others.

    Raises:
        SourceError: a file cannot be read, or has not the columns that its source names.
    """
    columns: dict[str, list[str | None]] = {name: [] for name in PAIRS.names}
    seen: set[str] = set()
    read = 0
    for source in sources:
        for url, caption, meta in _pairs(source):
            read += 1
            key = pair_key(url, caption)
            if key in seen:
                continue
            seen.add(key)
            for name, value in zip(PAIRS.names, (key, url, caption, source_name(source), meta), strict=True):
                columns[name].append(value)
    counts = {"read": read, "repeated": read - len(seen), "pairs": len(seen)}
    return pa.table(columns, schema=PAIRS), counts


def source_digest(source: Source) -> str:
    """Return a digest of the source's content, as hex digits; SourceError if it cannot be read."""
    try:
        with open(source.path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise SourceError(f"{source.path}: cannot be read: {error.strerror}") from None


def _pairs(source: Source) -> Iterator[tuple[str | None, str | None, str | None]]:
    """Yield (url, caption, meta) of every row; what is no text is null, and goes to ``meta``."""
    for row in read_rows(source):
        rest = {k: v for k, v in row.items() if k not in (source.url, source.caption)}
        parts = []
        for column in (source.url, source.caption):
            value = row.get(column)
            text = _text(value)
            if text is None and value is not None:
                rest[column] = value
            parts.append(text)
        yield parts[0], parts[1], _json(rest) if rest else None


def _text(value: Any) -> str | None:
    """Return a value that is text, else None; bytes count if they are UTF-8."""
    try:
        if isinstance(value, bytes):
            return value.decode("utf-8")
        if isinstance(value, str):
            value.encode("utf-8")  # lone surrogates are no text
            return value
    except UnicodeError:
        pass
    return None


def _json(value: dict[str, Any]) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, dict):
        return {_plain_text(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # false for NaN too
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return _plain_text(str(value))


def _plain_text(value: str) -> str:
    return value.encode("utf-8", "replace").decode("utf-8")
