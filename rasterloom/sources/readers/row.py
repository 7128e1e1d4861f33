"""Rows that readers yield, and checks of their columns."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Column, Source
from rasterloom.sources.files import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES

UNREADABLE = "unreadable_row"  # where `meta` holds a line that is no row
UNUSABLE = "unusable_row"  # where `meta` says why a record gives no pair
BLOCKED = "blocked_row"  # where `meta` says which file of a record leads out of its source
NO_PAIR = frozenset({UNREADABLE, UNUSABLE, BLOCKED})
BATCH_ROWS = 10_000
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
    wanted = {"url": source.url, "caption": source.caption}
    for role in ("image", "input", "output"):
        if column := getattr(source, role):
            wanted[role] = column
    for role in ("weight", "licence", "task"):
        value = getattr(source, role)
        if isinstance(value, Column):
            wanted[role] = value.column
    return wanted


def check_columns(shown: str, source: Source, columns: list[str]) -> None:
    """Check that a table has the columns that its source names.

    A table that brings its images needs no column of URLs, and one of tasks no captions either, unless the
    source names columns of its own for them.

    Raises:
        SourceError: one is missing; the message names those that there are.
    """
    optional = {"url", "caption"} if source.has_tasks else {"url"} if source.image else set()
    for role, column in wanted_columns(source).items():
        if column not in columns and (role not in optional or role in source.model_fields_set):
            there = ", ".join(columns) or "none"
            raise SourceError(f"{shown}: no column {column!r} for the {role}; it has {there}")
