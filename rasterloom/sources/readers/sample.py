"""Check of a list's first rows, before anything runs."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import Files
from rasterloom.sources.lists import field_path
from rasterloom.sources.lists.opened import plain_name
from rasterloom.sources.readers.row import NO_PAIR, UNREADABLE, Row
from rasterloom.sources.readers.tasks import text_of

ROWS = 200
SHOWN = 60  # characters of a value, in a message
_SCHEME = re.compile(r"\s*(?:data:|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)


def check(source: Source, name: str, files: Files, rows: Iterator[Row], is_part: bool) -> None:
    """Check the first rows of a list: whether any can be used.

    Args:
        name: the first file.
        is_part: these are not all of the source's rows.

    Raises:
        SourceError: there are none, or none of them has a URL, or a caption, of a kind that can be used.
    """
    with closing(rows):  # type: ignore[type-var]
        found = [row.values for row in islice(rows, ROWS)]
    shown = files.shown(name if len(files.targets) == 1 and files.explicit else files.targets[0].path)
    if not found and not is_part:
        raise SourceError(f"{shown}: it holds no rows")
    readable = [values for values in found if not values.keys() & NO_PAIR]
    if found and not readable:
        line = next((values[UNREADABLE] for values in found if UNREADABLE in values), "")
        raise SourceError(
            f"{shown}: none of the first {len(found):,} rows can be read, such as {_short(line)}"
        )
    if source.has_tasks or not readable:
        return
    plain_suffix = os.path.splitext(plain_name(name))[1].lower()
    if not source.image:
        _check_urls(shown, source, readable, of_texts=plain_suffix == ".txt" and not files.explicit)
    if source.has_captions and plain_suffix != ".txt":
        _check_captions(shown, source, readable)


def _check_urls(shown: str, source: Source, rows: list[dict[str, Any]], of_texts: bool) -> None:
    held = [value for values in rows if (value := values.get(source.url)) not in (None, "", b"")]
    texts = [text for value in held if (text := text_of(value)) is not None and text.strip()]
    if not texts:
        raise SourceError(f"{shown}: {_none(rows, 'URL', source.url, held)}")
    if not any(map(_SCHEME.match, texts)):
        if of_texts:
            raise SourceError(f"{shown}: no images there, and no URLs in its .txt files: {_short(texts[0])}")
        raise SourceError(
            f"{shown}: the URLs in column {source.url!r} have no scheme such as https://: {_short(texts[0])}"
        )


def _check_captions(shown: str, source: Source, rows: list[dict[str, Any]]) -> None:
    held = [value for values in rows if (value := values.get(source.caption)) not in (None, "", b"")]
    if not any((text_of(value) or "").strip() for value in held):
        way = "" if held else ": name its column, or write `caption: none` for images without captions"
        raise SourceError(f"{shown}: {_none(rows, 'caption', source.caption, held)}{way}")


def _none(rows: list[dict[str, Any]], what: str, column: str, held: list[Any]) -> str:
    text = f"none of the first {len(rows):,} rows has a {what} that is text in column {column!r}"
    if not held:
        return text
    value = held[0]
    kind = "list" if isinstance(value, list | tuple) else "struct" if isinstance(value, Mapping) else ""
    fields = list(map(str, value)) if isinstance(value, Mapping) else []
    return f"{text}, such as {_short(value)}{field_path.ways_into(column, kind, fields)}"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + "..."
