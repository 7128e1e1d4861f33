"""Built-in readers: files, folders, img2dataset, Hugging Face data sets."""

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from rasterloom.errors import SourceError, one_line
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import IMAGE_SUFFIXES, Files, digest_of, find_files
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
from rasterloom.sources.readers.base import Listing, Reader
from rasterloom.sources.readers.row import Row, is_image

CHECKED_FILES = 200  # whose columns are looked at before anything runs


def suffix_of(name: str) -> str:
    """Return the lower-case suffix of a file's name, with its dot."""
    return os.path.splitext(name)[1].lower()


def as_samples(rows: Iterator[Row], source: Source, root: str, folder: str = "") -> Iterator[Row]:
    """Pass rows on, as samples for tasks other than text-to-image."""
    if not source.has_tasks:
        return rows
    return tasks.samples(rows, source, (source.root or root).rstrip("/"), "" if source.root else folder)


@contextmanager
def named_errors(shown: str) -> Iterator[None]:
    """Turn errors of files and formats into SourceErrors naming the file."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{shown}: no such file") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{shown}: cannot be read: {one_line(error)}") from None


def _has_images(listing: Listing) -> bool:
    return any(suffix_of(name) in IMAGE_SUFFIXES for name in listing.names)


@dataclass(frozen=True)
class FileReader:
    """Reads a source file by file."""

    kind: str
    suffixes: tuple[str, ...]
    read_file: Callable[[Files, str, Source], Iterator[Row]]
    check_file: Callable[[Files, str, Source], None] | None = None
    in_folders: bool = True  # a folder of such files is of this kind too

    def matches(self, listing: Listing) -> bool:
        if listing.explicit:
            return suffix_of(listing.names[0]) in self.suffixes
        found = any(suffix_of(name) in self.suffixes for name in listing.names)
        return self.in_folders and found and not _has_images(listing)

    def check(self, source: Source) -> None:
        files = find_files(source)
        names = list(islice(self._names(files, source), CHECKED_FILES))
        if not names:
            shown = files.shown(files.targets[0].path)
            raise SourceError(f"{shown}: no files of kind {self.kind} there ({', '.join(self.suffixes)})")
        for name in names:
            with named_errors(files.shown(name)):
                if self.check_file:
                    self.check_file(files, name, source)
                else:
                    files.path(name)

    def read(self, source: Source) -> Iterator[Row]:
        files = find_files(source)
        for name in self._names(files, source):
            with named_errors(files.shown(name)):
                rows = self.read_file(files, name, source)
                yield from as_samples(rows, source, files.store.root, name.rpartition("/")[0])

    def digest(self, source: Source) -> str:
        return digest_of(find_files(source))

    def _names(self, files: Files, source: Source) -> Iterator[str]:
        """Yield the files of this kind. Those that the recipe names one by one must be of it."""
        for entry in files.entries():
            if suffix_of(entry.name) in self.suffixes or (files.explicit and source.kind != "auto"):
                yield entry.name
            elif files.explicit:
                shown = files.shown(entry.name)
                raise SourceError(
                    f"{shown}: not of kind {self.kind} as {source.paths[0]}; give it a source of its own"
                )


class TarReader(FileReader):
    """Reads webdataset tars."""

    def digest(self, source: Source) -> str:
        return f"{super().digest(source)}-2"  # 2: beyond broken headers and end marks; names with dots


class ConversationReader(FileReader):
    """Reads conversations, which say their tasks themselves."""

    def check(self, source: Source) -> None:
        if source.has_tasks:
            raise SourceError(
                f"{source.paths[0]}: conversations say their tasks themselves; leave out task, input and "
                "output"
            )
        super().check(source)


class FolderReader:
    """Reads a folder of images with sidecars."""

    def matches(self, listing: Listing) -> bool:
        return not listing.explicit and any(is_image(name) for name in listing.names)

    def check(self, source: Source) -> None:
        next(find_files(source).entries(), None)

    def read(self, source: Source) -> Iterator[Row]:
        files = find_files(source)
        with named_errors(files.shown("")):
            yield from as_samples(folder.read(files, source), source, files.store.root)

    def digest(self, source: Source) -> str:
        anew: list[str] = []
        digest = digest_of(find_files(source), lambda name: folder.note_read_anew(name, anew))
        return f"{digest}-2" if anew else digest


class Img2datasetReader:
    """Reads the output folder of img2dataset."""

    def matches(self, listing: Listing) -> bool:
        return not listing.explicit and img2dataset.is_output(listing.names)

    def check(self, source: Source) -> None:
        files = find_files(source)
        with named_errors(files.shown("")):
            img2dataset.check(files, source)

    def read(self, source: Source) -> Iterator[Row]:
        files = find_files(source)
        with named_errors(files.shown("")):
            yield from as_samples(img2dataset.read(files, source), source, files.store.root)

    def digest(self, source: Source) -> str:
        return digest_of(find_files(source))


class HubReader:
    """Reads a Hugging Face data set. One on the hub is known by its address and revision."""

    def matches(self, listing: Listing) -> bool:
        return False  # by its path: `hub.is_streamed`

    def check(self, source: Source) -> None:
        if source.input or source.output:
            raise SourceError(
                f"{source.paths[0]}: of kind hf, only the row's own image is read; for input and output, "
                "name the data set's Parquet files"
            )
        hub.check(source)

    def read(self, source: Source) -> Iterator[Row]:
        yield from as_samples(hub.read(source), source, source.paths[0])

    def digest(self, source: Source) -> str:
        if source.paths[0].startswith(hub.HUB):
            return "@".join((source.paths[0], source.revision or "main"))
        return digest_of(find_files(source))


# In the order in which a source of kind auto is held against them.
BUILT_IN: dict[str, Reader] = {
    "img2dataset": Img2datasetReader(),
    "webdataset": TarReader("webdataset", (".tar",), webdataset.read),
    "parquet": FileReader("parquet", (".parquet",), parquet.read, parquet.check),
    "csv": FileReader("csv", (".csv", ".tsv"), text.read_csv, text.check_csv),
    "jsonl": FileReader("jsonl", (".jsonl", ".ndjson"), text.read_jsonl, text.check_jsonl),
    "folder": FolderReader(),
    "conversations": ConversationReader(
        "conversations", (".json", ".jsonl"), conversations.read, conversations.check, in_folders=False
    ),
    "hf": HubReader(),
}
