"""Rows out of every kind of source. One module a kind; this one chooses between them."""

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import pyarrow as pa

from rasterloom.errors import one_line
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import IMAGE_SUFFIXES, Files, SourceError, digest_of, find_files
from rasterloom.sources.readers import (
    conversations,
    folder,
    hub,
    img2dataset,
    parquet,
    tasks,
    text,
    webdataset,
)
from rasterloom.sources.readers.row import UNREADABLE, UNUSABLE, Row

__all__ = [
    "UNREADABLE",
    "UNUSABLE",
    "Row",
    "SourceError",
    "brings_images",
    "check_source",
    "kind_of",
    "read_rows",
    "source_digest",
    "source_name",
]

CHECKED_FILES = 200  # whose columns are looked at before anything runs
LISTED = 10_000  # files of a folder that are looked at to tell what it is

_SUFFIXES = {
    "parquet": (".parquet",),
    "csv": (".csv", ".tsv"),
    "jsonl": (".jsonl", ".ndjson"),
    "conversations": (".json", ".jsonl"),
    "webdataset": (".tar",),
}
_KINDS = {suffix: kind for kind, suffixes in reversed(_SUFFIXES.items()) for suffix in suffixes}
_FILE_READERS: dict[str, Callable[[Files, str, Source], Iterator[Row]]] = {
    "parquet": parquet.read,
    "csv": text.read_csv,
    "jsonl": text.read_jsonl,
    "conversations": conversations.read,
    "webdataset": webdataset.read,
}
_FILE_CHECKS: dict[str, Callable[[Files, str, Source], None]] = {
    "parquet": parquet.check,
    "csv": text.check_csv,
    "jsonl": text.check_jsonl,
    "conversations": conversations.check,
}


def source_name(source: Source) -> str:
    """Return the name of a source in the tables."""
    first = source.paths[0].rstrip("/")
    files = find_files(source) if not source.name and not first.startswith(hub.HUB) else None
    if files and not files.explicit:
        return os.path.basename(files.store.root)
    return source.name or os.path.splitext(os.path.basename(first))[0]


def kind_of(source: Source) -> str:
    """Return what kind of source it is, by the recipe or by what lies there.

    Raises:
        SourceError: it is of no kind that is known.
    """
    if hub.is_streamed(source):
        return "hf"
    if source.kind != "auto":
        return source.kind
    first = source.paths[0]
    files = find_files(source)
    if files.explicit:
        return _kind_of_file(first)
    names = [entry.name for entry in islice(files.entries(), LISTED)]
    suffixes = {_suffix(name) for name in names}
    if img2dataset.is_output(names):
        return "img2dataset"
    for suffix in (".tar", ".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"):
        if suffix in suffixes and not suffixes.intersection(IMAGE_SUFFIXES):
            return _KINDS[suffix]
    if suffixes.intersection(IMAGE_SUFFIXES):
        return "folder"
    if not names:
        raise SourceError(f"{first}: no files there")
    raise SourceError(f"{first}: neither images nor files of a known kind there; known: {_known()}")


def _kind_of_file(name: str) -> str:
    if _suffix(name) not in _KINDS:
        raise SourceError(f"{name}: unknown kind of file {_suffix(name)!r}; known: {_known()}")
    return _KINDS[_suffix(name)]


def _known() -> str:
    return ", ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def brings_images(source: Source) -> bool:
    """Tell whether rows of a source may have their image in the source itself."""
    own = source.image or source.input or source.output
    return bool(own) or kind_of(source) not in ("parquet", "csv", "jsonl")


def read_rows(source: Source) -> Iterator[Row]:
    """Yield every row of a source. A line or record that is no row comes as ``{UNREADABLE: text}``.

    Raises:
        SourceError: a file is missing or broken, of an unknown kind, or without the source's columns.
    """
    kind = kind_of(source)
    if kind == "hf":
        yield from _samples(hub.read(source), source, source.paths[0])
        return
    files = find_files(source)
    if kind in ("folder", "img2dataset"):
        read = folder.read if kind == "folder" else img2dataset.read
        with _named_errors(files.shown("")):
            yield from _samples(read(files, source), source, files.store.root)
        return
    for name in _names(files, source, kind):
        with _named_errors(files.shown(name)):
            rows = _FILE_READERS[kind](files, name, source)
            yield from _samples(rows, source, files.store.root, name.rpartition("/")[0])


def _samples(rows: Iterator[Row], source: Source, root: str, folder: str = "") -> Iterator[Row]:
    """Pass rows on, as samples where a source has other tasks than text-to-image."""
    if not source.has_tasks:
        return rows
    return tasks.samples(rows, source, (source.root or root).rstrip("/"), "" if source.root else folder)


@contextmanager
def _named_errors(shown: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{shown}: no such file") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{shown}: cannot be read: {one_line(error)}") from None


def _names(files: Files, source: Source, kind: str) -> Iterator[str]:
    """Yield the files of a kind; those that the recipe names one by one must be of it."""
    for entry in files.entries():
        suffix = _suffix(entry.name)
        if suffix in _SUFFIXES[kind] or (files.explicit and source.kind != "auto"):
            yield entry.name
        elif files.explicit:
            shown = files.shown(entry.name)
            raise SourceError(
                f"{shown}: not of kind {kind} as {source.paths[0]}; give it a source of its own"
            )


def check_source(source: Source) -> None:
    """Check that a source is there and has the columns it names, as far as can be told without reading it.

    Raises:
        SourceError: it cannot be used.
    """
    kind = kind_of(source)
    if kind == "conversations" and source.has_tasks:
        raise SourceError(
            f"{source.paths[0]}: conversations say their tasks themselves; leave out task, input and output"
        )
    if kind == "hf":
        if source.input or source.output:
            raise SourceError(
                f"{source.paths[0]}: of kind hf, only the row's own picture is read; for input and output, "
                "name the data set's Parquet files"
            )
        hub.check(source)
        return
    files = find_files(source)
    if kind == "img2dataset":
        with _named_errors(files.shown("")):
            img2dataset.check(files, source)
        return
    if kind == "folder":
        next(files.entries(), None)
        return
    names = list(islice(_names(files, source, kind), CHECKED_FILES))
    if not names:
        shown = files.shown(files.targets[0].glob or files.targets[0].name)
        raise SourceError(f"{shown}: no files of kind {kind} there ({', '.join(_SUFFIXES[kind])})")
    check = _FILE_CHECKS.get(kind)
    for name in names:
        with _named_errors(files.shown(name)):
            if check:
                check(files, name, source)
            else:
                files.path(name)


def source_digest(source: Source) -> str:
    """Return a digest of what a source holds, as hex digits; of a data set on the hub, of its address.

    Raises:
        SourceError: it cannot be read.
    """
    if source.paths[0].startswith(hub.HUB):
        return "@".join((source.paths[0], source.revision or "main"))
    return digest_of(find_files(source))
