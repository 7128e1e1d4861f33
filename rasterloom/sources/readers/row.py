"""Rows that readers yield, and checks of their columns."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Column, Source
from rasterloom.sources.files import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES
from rasterloom.sources.lists import field_path
from rasterloom.sources.readers.tally import FileTally
from rasterloom.utils.redact import safe

UNREADABLE = "unreadable_row"  # where `meta` holds a line that is no row
UNUSABLE = "unusable_row"  # where `meta` says why a record gives no pair
BLOCKED = "blocked_row"  # where `meta` says which file of a record leads out of its source
NO_PAIR = frozenset({UNREADABLE, UNUSABLE, BLOCKED})
BATCH_ROWS = 10_000
TEXT_ROLES = ("url", "caption", "weight", "licence")  # of columns whose fields may be named
SHOWN_COLUMNS, SHOWN_CHARACTERS = 50, 100  # in a message
DELIMITERS = ("\t", ";", "|", ",")  # that a message proposes
_IMAGES = frozenset((*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES))


class SourceSample(NamedTuple):
    """Task, turns and images of a row that is no plain pair."""

    task: str
    turns: str  # JSON, as in `schema.PAIRS`
    places: tuple[str, ...] = ()  # URL or locator of each image, in the order of the placeholders
    main: int = 0  # number of the image that stands for the sample
    caption: str | None = None  # where the row has none of its own


class Row(NamedTuple):
    """A row of a source: its columns, and the locator of its image where the source brings that.

    Text may come as bytes, or with lone surrogates for bytes that are not UTF-8, so that these harm their
    own row alone.
    """

    values: dict[str, Any]
    path: str | None = None
    cells: Mapping[str, str] = {}  # locators of images in other columns, by column
    sample: SourceSample | None = None


def is_image(name: str) -> bool:
    """Tell an image of any kind by its name."""
    return os.path.splitext(name)[1].lower() in _IMAGES


def is_decoded(name: str) -> bool:
    """Tell an image of a decoded kind by its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def wanted_columns(source: Source) -> dict[str, str]:
    """Return the columns that a source names, by what they are for."""
    wanted = {"url": source.url}
    if source.has_captions:
        wanted["caption"] = source.caption
    for role in ("image", "input", "output"):
        if column := getattr(source, role):
            wanted[role] = column
    for role in ("weight", "licence", "task"):
        value = getattr(source, role)
        if isinstance(value, Column):
            wanted[role] = value.column
    return wanted


def picked(rows: Iterator[Row], source: Source, counts: FileTally | None = None) -> Iterator[Row]:
    """Pass rows on, with the fields within columns as columns.

    A field of every item of a list makes a row an item.
    """
    wanted = wanted_columns(source)
    paths = [wanted[role] for role in TEXT_ROLES if len(field_path.steps_of(wanted.get(role, ""))) > 1]
    return _picked(rows, paths, counts) if paths else rows


def _picked(rows: Iterator[Row], paths: list[str], counts: FileTally | None) -> Iterator[Row]:
    for row in rows:
        several = [row.values]
        for path in paths:
            if path not in row.values and not row.values.keys() & NO_PAIR:
                found = field_path.found(row.values, path)
                if len(found) > 1:  # else each row would hold all of the list
                    several = [field_path.without(values, path) for values in several]
                several = [{**values, path: value} for values in several for value in found]
        if counts is not None:
            counts.extra += len(several) - 1
        for values in several:
            yield row._replace(values=values)


def each_once(names: Sequence[str]) -> list[str]:
    """Return names of columns without repetition. A second ``n`` becomes ``n_1``."""
    found: dict[str, None] = {}
    for name in names:
        own, number = name, 0
        while own in found or (number and own in names):
            number += 1
            own = f"{name}_{number}"
        found[own] = None
    return list(found)


def check_columns(shown: str, source: Source, columns: list[str]) -> None:
    """Check that a table has a source's columns, each of them once.

    A table that brings its images needs no column of URLs, and one of tasks no captions either, unless the
    source names columns of its own for them.

    Raises:
        SourceError: one is missing; the message names those that there are.
    """
    optional = {"url", "caption"} if source.has_tasks else {"url"} if source.image else set()
    for role, column in wanted_columns(source).items():
        found = field_path.column_of(column, columns)
        if found is not None and columns.count(found) > 1:
            raise SourceError(
                f"{shown}: column {found!r} for the {role} is there {columns.count(found)} times"
            )
        if found is None and (role not in optional or role in source.model_fields_set):
            there = _listed(columns)
            raise SourceError(f"{shown}: no column {column!r} for the {role}; it has {there}{_hint(columns)}")


def _listed(columns: list[str]) -> str:
    """Return names of columns for a message: printable, and not without end."""
    more = [f"and {len(columns) - SHOWN_COLUMNS:,} more"] if len(columns) > SHOWN_COLUMNS else []
    return ", ".join([*map(_printable, columns[:SHOWN_COLUMNS]), *more]) or "none"


def _printable(name: str) -> str:
    return safe(name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "...")


def _is_broken(name: str) -> bool:
    return any(0xD800 <= ord(c) < 0xE000 for c in name)


def _hint(columns: list[str]) -> str:
    """Return a hint at the way out, if the columns give one."""
    if any(not name.isascii() and _is_broken(name) for name in columns):
        return "; that is no UTF-8: give the source its `encoding`, such as latin-1 or cp1252"
    if any("://" in name for name in columns):
        return "; without a header, name the columns by `columns`"
    if any(len(name) > 2 and name[0] == name[-1] == '"' for name in columns):
        return "; they stand in quotes: give the source `quote: '\"'`"
    if len(columns) == 1:
        name = columns[0]
        mark = next((mark for mark in DELIMITERS if mark in name), None)
        if mark is not None:
            return f"; with another delimiter, give the source `delimiter: {json.dumps(mark)}`"
    return ""
