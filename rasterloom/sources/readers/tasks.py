"""Samples of tasks from the columns of a row."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Column, Source
from rasterloom.schema import T2I
from rasterloom.sources import locator
from rasterloom.sources.files import Files
from rasterloom.sources.readers.row import NO_PAIR, UNUSABLE, Row, SourceSample, wanted_columns
from rasterloom.storage.store import Store

URL = ("http://", "https://")
CHECKED_IMAGES = 20  # of a table that names images
EMPTY: tuple[Any, ...] = (None, "", b"", [])
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


def with_images(rows: Iterable[Row], source: Source, root: str, folder: str) -> Iterator[Row]:
    """Give rows the image that their column ``image`` names.

    Args:
        root, folder: as for :func:`samples`.
    """
    for row in rows:
        if row.path is not None or row.values.keys() & NO_PAIR or row.values.get(source.image) in EMPTY:
            yield row
            continue
        try:
            yield _with_image(row, source, root, folder)
        except ValueError as error:
            yield row._replace(values={**row.values, UNUSABLE: str(error)})


def _with_image(row: Row, source: Source, root: str, folder: str) -> Row:
    named = row.values[source.image]
    if isinstance(named, list | tuple) and len(named) == 1:
        named = named[0]
    text = text_of(named)
    if text is None or not text.strip():
        raise ValueError(f"column {source.image!r} for the image holds neither a path nor a URL")
    values = {name: value for name, value in row.values.items() if name != source.image}
    if not text.lower().startswith(URL):
        return row._replace(values=values, path=place_of(text, root, folder))
    if values.get(source.url) not in (*EMPTY, named):
        values[f"{source.url}_1"] = values[source.url]  # the image lies elsewhere
    return row._replace(values={**values, source.url: text})


def check_images(rows: Iterable[Row], source: Source, files: Files) -> None:
    """Check that one of the first images of a table exists.

    Args:
        rows: of a source with ``image``, as `with_images` gives them.

    Raises:
        SourceError: none is, or none lies in the source's folder.
    """
    store = Store(source.root) if source.root else files.store
    missing: list[str] = []
    refused: list[str] = []
    for row in islice(rows, CHECKED_IMAGES):
        if UNUSABLE in row.values:
            refused.append(row.values[UNUSABLE])
        elif row.path is not None:
            place = locator.parse(row.path)
            if place.column or not place.file or _is_there(store, place.file):
                return
            missing.append(place.file)
        elif not row.values.keys() & NO_PAIR:
            return
    shown = files.shown(files.targets[0].path)
    if missing:
        first = files.shown(missing[0]) if store is files.store else f"{store.root.rstrip('/')}/{missing[0]}"
        raise SourceError(
            f"{shown}: none of the first {len(missing)} images of column {source.image!r} is there, such as "
            f"{first}; the source's `root` names the folder that the paths begin in"
        )
    if refused:
        raise SourceError(f"{shown}: {refused[0]}")


def _is_there(store: Store, name: str) -> bool:
    try:
        return store.exists(name) if store.is_s3 else os.path.lexists(store.path(name))
    except OSError:
        return True  # whatever keeps us from asking will say so when the image is read


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
    if value in EMPTY:
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
