"""Built-in readers: files, folders, img2dataset, Hugging Face data sets."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import pyarrow as pa

from rasterloom.errors import SourceError, one_line
from rasterloom.recipe.sources import Source
from rasterloom.sources.files import IMAGE_SUFFIXES, Files, digest_of, find_files
from rasterloom.sources.lists.opened import PACKED, is_of_new_form, plain_name
from rasterloom.sources.readers import (
    arrow,
    conversations,
    folder,
    hub,
    img2dataset,
    json_records,
    parquet,
    sample,
    tasks,
    text,
    webdataset,
)
from rasterloom.sources.readers.base import Listing, Reader
from rasterloom.sources.readers.row import Row, is_image, picked
from rasterloom.sources.readers.tally import FileTally, Survey, Tally

CHECKED_FILES = 200  # whose columns are looked at before anything runs
PRIVATE = "names with _ in front are private: name the files or the folder if they are meant"
OTHER_KIND = "of another kind: give them a source of their own"

FIRST_LISTS = (".parquet", ".csv", ".jsonl", ".ndjson")  # that are read as ever
TEXT_KINDS = ("csv", "jsonl")

ReadFile = Callable[[Files, str, Source, FileTally], Iterator[Row]]


def suffix_of(name: str) -> str:
    """Return a file's suffix in lower case. A compressed list has two: ``.csv.gz``."""
    plain = plain_name(name)
    return os.path.splitext(plain)[1].lower() + name[len(plain) :].lower()


def packed(*suffixes: str) -> tuple[str, ...]:
    """Return suffixes as they are, and with that of each compression."""
    return tuple(suffix + more for more in ("", *PACKED) for suffix in suffixes)


def as_samples(rows: Iterator[Row], source: Source, root: str, folder: str = "") -> Iterator[Row]:
    """Pass rows on, with their named images, or as samples."""
    root, folder = (source.root or root).rstrip("/"), "" if source.root else folder
    if source.image:
        rows = tasks.with_images(rows, source, root, folder)
    return tasks.samples(rows, source, root, folder) if source.has_tasks else rows


@contextmanager
def named_errors(shown: str) -> Iterator[None]:
    """Turn errors of files and formats into SourceErrors naming the file."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{shown}: no such file") from None
    except (OSError, EOFError, pa.ArrowException, UnicodeError, csv.Error) as error:
        raise SourceError(f"{shown}: cannot be read: {one_line(error)}") from None


def _has_images(listing: Listing) -> bool:
    return any(suffix_of(name) in IMAGE_SUFFIXES for name in listing.names)


@dataclass(frozen=True)
class FileReader:
    """Reads a source file by file."""

    kind: str
    suffixes: tuple[str, ...]
    read_file: ReadFile
    check_file: Callable[[Files, str, Source], None] | None = None
    in_folders: bool = True  # a folder of such files is of this kind too
    is_list: bool = True  # of rows, whose first ones are looked at before anything runs

    @property
    def shown(self) -> list[str]:
        """Its suffixes without those of compressions."""
        return [suffix for suffix in self.suffixes if plain_name(suffix) == suffix]

    def matches(self, listing: Listing) -> bool:
        if listing.explicit:
            return suffix_of(listing.names[0]) in self.suffixes
        found = any(suffix_of(name) in self.suffixes for name in listing.names)
        return self.in_folders and found and not _has_images(listing)

    def check(self, source: Source) -> None:
        files = find_files(source)
        self.first_file(source)
        names = list(islice(self._names(files, source), CHECKED_FILES + 1))
        for name in names[:CHECKED_FILES]:
            with named_errors(files.shown(name)):
                if self.check_file:
                    self.check_file(files, name, source)
                else:
                    files.path(name)
        if source.image:
            tasks.check_images(self._rows(files, names, source), source, files)
        if self.is_list:
            sample.check(
                source, names[0], files, self._rows(files, names, source), len(names) > CHECKED_FILES
            )

    def first_file(self, source: Source) -> str:
        """Return the name of the first file that is read. SourceError if there is none."""
        files = find_files(source)
        name = next(self._names(files, source), None)
        if name is None:
            shown = files.shown(files.targets[0].path)
            raise SourceError(f"{shown}: no files of kind {self.kind} there ({', '.join(self.shown)})")
        return name

    def records(self, source: Source) -> Iterator[Row]:
        """Yield the records of the first file as they are."""
        files, name = find_files(source), self.first_file(source)
        with named_errors(files.shown(name)):
            yield from self.read_file(files, name, source, FileTally())

    def read(self, source: Source, tally: Tally | None = None) -> Iterator[Row]:
        files = find_files(source)
        return self._rows(files, self._names(files, source), source, tally)

    def names(self, source: Source) -> list[str]:
        """Return the names of the files that are read."""
        return list(self._names(find_files(source), source))

    def read_files(self, names: Iterable[str], source: Source, tally: Tally | None = None) -> Iterator[Row]:
        """Yield the rows of some of the files."""
        return self._rows(find_files(source), names, source, tally)

    def _rows(
        self, files: Files, names: Iterable[str], source: Source, tally: Tally | None = None
    ) -> Iterator[Row]:
        tally = Tally() if tally is None else tally
        for name in names:
            counts = tally.file(name)
            with named_errors(files.shown(name)):
                rows = picked(self.read_file(files, name, source, counts), source, counts)
                number = 0
                try:
                    for row in as_samples(rows, source, files.store.root, name.rpartition("/")[0]):
                        number += 1
                        yield row
                finally:
                    counts.rows += number

    def digest(self, source: Source) -> str:
        """Return a digest of the files. It differs from earlier ones where they are read in another way."""
        files = find_files(source)
        return digest_of(files) + ("/2" if self._reads_anew(files, source) else "")

    def _reads_anew(self, files: Files, source: Source) -> bool:
        """Tell if lists are read otherwise than in the first version."""
        if not self.is_list:
            return False
        looked_into = self.kind in TEXT_KINDS and files.is_local
        for name, reason in self._judged(files, source):
            anew = reason == PRIVATE or (not reason and suffix_of(name) not in FIRST_LISTS)
            if anew or (not reason and looked_into and is_of_new_form(files, name)):
                return True
        return False

    def survey(self, source: Source) -> Survey:
        """Return which files of a source are read, by their names alone."""
        survey, files = Survey(self.kind), find_files(source)
        for name, reason in self._judged(files, source):
            if reason:
                survey.skip(reason, suffix_of(name), name)
            else:
                survey.read[suffix_of(name) or "without a suffix"] += 1
        return survey

    def _names(self, files: Files, source: Source) -> Iterator[str]:
        """Yield the files of this kind. Those that the recipe names one by one must be of it."""
        return (name for name, reason in self._judged(files, source) if not reason)

    def _judged(self, files: Files, source: Source) -> Iterator[tuple[str, str]]:
        """Yield each file, with the reason if it is not read."""
        for entry in files.entries():
            if suffix_of(entry.name) in self.suffixes or (files.explicit and source.kind != "auto"):
                hidden = self.is_list and not files.explicit and is_private(files, entry.name)
                yield entry.name, PRIVATE if hidden else ""
            elif files.explicit:
                shown = files.shown(entry.name)
                raise SourceError(
                    f"{shown}: not of kind {self.kind} as {source.paths[0]}; give it a source of its own"
                )
            else:
                yield entry.name, OTHER_KIND


def is_private(files: Files, name: str) -> bool:
    """Tell whether Spark, Hive and Delta hold a name for private: ``_temporary``, but not ``_day=1``."""
    for target in files.targets:
        below = name.removeprefix(target.name).lstrip("/")
        own = [part for part in below.split("/") if part.startswith("_") and "=" not in part]
        if target.is_file and target.name == name:
            return False
        if f"{name}/".startswith(f"{target.name}/") or not target.name:
            return bool(own) and not any(part.startswith("_") for part in target.glob.split("/"))
    return False


class CountingReader(Reader, Protocol):
    """Reader that counts records, and tells which files it reads."""

    def read(self, source: Source, tally: Tally | None = None) -> Iterator[Row]: ...

    def survey(self, source: Source) -> Survey: ...


class TarReader(FileReader):
    """Reads webdataset tars."""

    def check(self, source: Source) -> None:
        super().check(source)
        files = find_files(source)
        webdataset.check(self.read(source), files.shown(files.targets[0].path), source)

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
        if not source.has_captions:
            raise SourceError(f"{source.paths[0]}: conversations have their texts; leave out caption")
        super().check(source)


class FolderReader:
    """Reads a folder of images with sidecars."""

    def matches(self, listing: Listing) -> bool:
        return not listing.explicit and any(is_image(name) for name in listing.names)

    def check(self, source: Source) -> None:
        files = find_files(source)
        next(files.entries(), None)
        with named_errors(files.shown("")):
            folder.check(files, source)

    def read(self, source: Source, tally: Tally | None = None) -> Iterator[Row]:
        files = find_files(source)
        with named_errors(files.shown("")):
            yield from as_samples(folder.read(files, source, tally), source, files.store.root)

    def digest(self, source: Source) -> str:
        anew: list[str] = []
        digest = digest_of(find_files(source), lambda name: folder.note_read_anew(name, anew))
        return f"{digest}-2" if anew else digest

    def survey(self, source: Source) -> Survey:
        """Return the files of a folder that are read, by name alone."""
        return folder.survey(find_files(source))


class Img2datasetReader:
    """Reads the output folder of img2dataset."""

    def matches(self, listing: Listing) -> bool:
        return not listing.explicit and img2dataset.is_output(listing.names)

    def check(self, source: Source) -> None:
        files = find_files(source)
        with named_errors(files.shown("")):
            img2dataset.check(files, source)

    def read(self, source: Source, tally: Tally | None = None) -> Iterator[Row]:
        files = find_files(source)
        with named_errors(files.shown("")):
            yield from as_samples(img2dataset.read(files, source, tally), source, files.store.root)

    def digest(self, source: Source) -> str:
        return digest_of(find_files(source))

    def survey(self, source: Source) -> Survey:
        """Return the shards that are read, by their names alone."""
        return img2dataset.survey(find_files(source))


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

    def read(self, source: Source, tally: Tally | None = None) -> Iterator[Row]:
        tally = Tally() if tally is None else tally
        yield from as_samples(hub.read(source, tally), source, source.paths[0])

    def digest(self, source: Source) -> str:
        if source.paths[0].startswith(hub.HUB):
            return "@".join((source.paths[0], source.revision or "main"))
        return digest_of(find_files(source))

    def survey(self, source: Source) -> Survey:
        """Return the files of the split, and what else lies there."""
        if source.paths[0].startswith(hub.HUB):
            return hub.survey(source, iter(()))
        files = find_files(source)
        return hub.survey(source, (files.store.path(entry.name) for entry in files.entries()))


# In the order in which a source of kind auto is held against them.
BUILT_IN: dict[str, CountingReader] = {
    "img2dataset": Img2datasetReader(),
    "webdataset": TarReader("webdataset", (".tar",), webdataset.read, is_list=False),
    "parquet": FileReader("parquet", (".parquet",), parquet.read, parquet.check),
    "arrow": FileReader("arrow", (".arrow", ".feather", ".ipc"), arrow.read, arrow.check),
    "csv": FileReader("csv", packed(".csv", ".tsv"), text.read_csv, text.check_csv),
    "jsonl": FileReader("jsonl", packed(".jsonl", ".ndjson"), json_records.read, json_records.check),
    "folder": FolderReader(),
    "conversations": ConversationReader(
        "conversations",
        packed(".json", ".jsonl"),
        conversations.read,
        conversations.check,
        in_folders=False,
        is_list=False,
    ),
    "json": FileReader("json", packed(".json"), json_records.read, json_records.check),
    "txt": FileReader("txt", packed(".txt"), text.read_urls, text.check_urls),
    "hf": HubReader(),
}
