"""Samples of tasks from the columns of a row."""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from rasterloom.recipe.sources import Column, Source
from rasterloom.schema import T2I
from rasterloom.sources import locator
from rasterloom.sources.readers.row import NO_PAIR, UNUSABLE, Row, SourceSample, wanted_columns

URL = ("http://", "https://")
ASKS = ("instruction", "question", "object")  # fields that stand for a caption where a row has none


def samples(rows: Iterable[Row], source: Source, root: str, folder: str) -> Iterator[Row]:
    """Make samples of rows by their columns ``task``, ``input``, ``output``.

    Args:
        root: folder that the paths in these columns must lie in.
        folder: where a relative one starts, relative to ``root``.
    """
    taken = frozenset(wanted_columns(source).values())
    for row in rows:
        if row.values.keys() & NO_PAIR:
            yield row
            continue
        try:
            yield _sample(row, source, taken, root, folder)
        except ValueError as error:
            yield Row({**row.values, UNUSABLE: str(error)})


def _sample(row: Row, source: Source, taken: frozenset[str], root: str, folder: str) -> Row:
    values = row.values
    task = source.task
    if isinstance(task, Column):
        task = text_of(values.get(task.column)) or ""
    own = text_of(values.get(source.url)) or row.path
    asked = _images(row, source.input, root, folder) if source.input else [own] if own else []
    answered = _images(row, source.output, root, folder)
    places = (*asked, *answered)
    if task.strip() in ("", T2I) and len(places) <= 1:
        return _pair(values, source, places)
    fields = {name: _field(value) for name, value in values.items() if name not in taken}
    fields = {name: value for name, value in fields.items() if value is not None}
    caption = next((str(fields[name]) for name in ASKS if name in fields), "")
    turns = json.dumps(fields, ensure_ascii=False, sort_keys=True)
    sample = SourceSample(task.strip() or T2I, turns, places, len(asked) if answered else 0, caption)
    return Row(values, sample=sample)


def _pair(values: dict[str, Any], source: Source, places: tuple[str, ...]) -> Row:
    """Make a plain pair, its image perhaps from another column."""
    if places and is_url(places[0]):
        return Row({**values, source.url: places[0]})
    rest = {name: value for name, value in values.items() if name != source.url}
    return Row(rest, places[0]) if places else Row(values)


def _images(row: Row, column: str, root: str, folder: str) -> list[str]:
    """Return the places of the images that a column names or holds. ValueError where it names none."""
    if column in row.cells:
        return [row.cells[column]]
    value = row.values.get(column) if column else None
    if value is None or value in ("", b"", []):
        return []
    named = value if isinstance(value, list) else [value]
    places = []
    for number, item in enumerate(named, 1):
        text = text_of(item)
        if not text or not text.strip():
            raise ValueError(f"image {number} of {len(named)} in column {column!r} is missing")
        places.append(place_of(text, root, folder))
    return places


def is_url(place: str) -> bool:
    """Tell a URL from a locator. A locator's file names have no two slashes in a row."""
    return place.startswith(URL)


def place_of(image: str, root: str, folder: str) -> str:
    """Return where an image lies that a row names: its URL, or its locator in ``root``.

    ValueError, with a sentence, if it lies elsewhere.
    """
    return image if is_url(image) else locator.of_file(_inside(image, root, folder))


def _inside(image: str, root: str, folder: str) -> str:
    """Return an image's name relative to ``root``. ValueError if it lies elsewhere."""
    shown = image
    if image.startswith(f"{root}/"):
        image, folder = image[len(root) + 1 :], ""
    name = os.path.normpath(os.path.join(folder, image))
    if "://" in image or name.startswith(("/", "../")) or name in ("..", ".") or "\0" in name:
        raise ValueError(f"the image {shown!r} does not lie in {root}; the source's `root` names its folder")
    return name


def text_of(value: Any) -> str | None:
    """Return a value that is text, else None. Bytes count if they are UTF-8."""
    try:
        if isinstance(value, bytes):
            return value.decode("utf-8")
        if isinstance(value, str):
            value.encode("utf-8")  # lone surrogates are no text
            return value
    except UnicodeError:
        pass
    return None


def _field(value: Any) -> str | int | float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if abs(value) < float("inf") else None  # false for NaN too
    return text_of(value)
