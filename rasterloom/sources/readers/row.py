"""What every reader gives: rows."""

import os
from typing import Any, NamedTuple

from rasterloom.recipe import Column, Source
from rasterloom.sources.files import IMAGE_SUFFIXES, SourceError

UNREADABLE = "unreadable_row"  # where `meta` holds a line that is no row
UNUSABLE = "unusable_row"  # where `meta` says why a record gives no pair
BATCH_ROWS = 10_000


class Row(NamedTuple):
    """A row of a source: its columns, and the locator of its image where the source brings that.

    Text may come as bytes, or with lone surrogates for bytes that are not UTF-8, so that these harm their
    own row alone.
    """

    values: dict[str, Any]
    path: str | None = None


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def wanted_columns(source: Source, *, lists_urls: bool = True) -> dict[str, str]:
    """Return the columns that a source names, by what they are for."""
    wanted = {"caption": source.caption}
    if lists_urls:
        wanted = {"url": source.url, **wanted}
    if source.image:
        wanted["image"] = source.image
    for role in ("weight", "licence"):
        value = getattr(source, role)
        if isinstance(value, Column):
            wanted[role] = value.column
    return wanted


def check_columns(shown: str, source: Source, columns: list[str]) -> None:
    """Check that a table has the columns that its source names.

    A table that brings its images needs no column of URLs, unless the source names one of its own.

    Raises:
        SourceError: one is missing; the message names those that there are.
    """
    lists_urls = not source.image or "url" in source.model_fields_set
    for role, column in wanted_columns(source, lists_urls=lists_urls).items():
        if column not in columns:
            there = ", ".join(columns) or "none"
            raise SourceError(f"{shown}: no column {column!r} for the {role}; it has {there}")
