"""Reader of a folder of images with .txt or .json sidecars."""

import os
from collections.abc import Iterator
from itertools import groupby

from rasterloom.recipe.sources import Source
from rasterloom.sources import locator
from rasterloom.sources.files import SIDECARS, Files
from rasterloom.sources.local_paths import BlockedPath
from rasterloom.sources.readers.row import BLOCKED, Row, is_image
from rasterloom.sources.readers.sidecars import MAX_SIDECAR_BYTES, columns_of
from rasterloom.storage.store import Entry


def read(files: Files, source: Source) -> Iterator[Row]:
    """Yield a row an image, folder by folder. An image without a caption is a row without one.

    Other files, and sidecars of no image, are left out.
    """
    for _, entries in groupby(files.entries(), key=lambda entry: os.path.dirname(entry.name)):
        yield from _folder(files, source, list(entries))


def _folder(files: Files, source: Source, entries: list[Entry]) -> Iterator[Row]:
    sizes = {entry.name: entry.size for entry in entries}
    for entry in entries:
        if not is_image(entry.name):
            continue
        stem = os.path.splitext(entry.name)[0]
        try:
            sidecars = {
                suffix: _read(files, name, sizes[name])
                for suffix in SIDECARS
                if (name := f"{stem}.{suffix}") in sizes
            }
            values = columns_of(sidecars, source)
        except BlockedPath as error:
            values = {BLOCKED: str(error)}
        yield Row(values, locator.of_file(entry.name))


def _read(files: Files, name: str, size: int) -> bytes | None:
    """Read a sidecar; None if it cannot be read. BlockedPath if it lies elsewhere."""
    if size > MAX_SIDECAR_BYTES:
        return None
    try:
        with files.open(name) as file:
            data = file.read(MAX_SIDECAR_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= MAX_SIDECAR_BYTES else None
