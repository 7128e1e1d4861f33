"""Registry of readers: built-in kinds of sources, and those of plug-ins."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from rasterloom.errors import PluginError, SourceError, one_line
from rasterloom.recipe.sources import KINDS, Source
from rasterloom.sources.files import IMAGE_SUFFIXES, Files, find_files
from rasterloom.sources.lists.opened import plain_name
from rasterloom.sources.local_paths import BlockedPath
from rasterloom.sources.readers import hub, json_records
from rasterloom.sources.readers.base import Listing, Reader
from rasterloom.sources.readers.built_in import (
    BUILT_IN,
    CountingReader,
    FileReader,
    as_samples,
    is_private,
    packed,
    suffix_of,
)
from rasterloom.sources.readers.row import UNREADABLE, UNUSABLE, Row, is_image
from rasterloom.sources.readers.tally import Survey, Tally
from rasterloom.utils import plugins
from rasterloom.utils.plugins import Plugin

__all__ = [
    "UNREADABLE",
    "UNUSABLE",
    "Row",
    "brings_images",
    "check_source",
    "is_captioned",
    "kind_of",
    "read_rows",
    "source_digest",
    "source_name",
    "survey_source",
    "unread_files",
]

LISTED = 10_000  # files of a folder that are looked at to tell what it is
MEMBERS = ("matches", "check", "read", "digest")
FIELDS_OF = {  # fields that only some kinds take
    **dict.fromkeys(("columns", "delimiter", "quote", "escape"), ("csv",)),
    "encoding": ("csv", "jsonl", "json", "txt", "conversations"),
}
JSON = packed(".json")

logger = logging.getLogger(__name__)


class PluginReader:
    """Reader of a plug-in. Its errors name the plug-in, and its rows become samples where tasks ask so."""

    def __init__(self, plugin: Plugin, reader: Reader) -> None:
        self.plugin = plugin
        self._reader = reader

    def matches(self, listing: Listing) -> bool:
        return bool(self._reader.matches(listing))

    def check(self, source: Source) -> None:
        try:
            self._reader.check(source)
        except Exception as error:
            raise self._named(source, error) from error

    def read(self, source: Source) -> Iterator[Row]:
        try:
            yield from as_samples(self._rows(source), source, find_files(source).store.root)
        except Exception as error:
            raise self._named(source, error) from error

    def digest(self, source: Source) -> str:
        try:
            return str(self._reader.digest(source))
        except Exception as error:
            raise self._named(source, error) from error

    def survey(self, source: Source) -> Survey | None:
        """Return which files are read, where the plug-in has a method ``survey``."""
        tell = getattr(self._reader, "survey", None)
        if tell is None:
            return None
        try:
            found = tell(source)
        except Exception as error:
            raise self._named(source, error) from error
        if not isinstance(found, Survey):
            raise self._named(source, TypeError(f"survey gave {type(found).__name__} where a Survey is due"))
        return found

    def _rows(self, source: Source) -> Iterator[Row]:
        for row in self._reader.read(source):
            if not isinstance(row, Row):
                raise TypeError(f"it gave {type(row).__name__} where a Row is due")
            yield row

    def _named(self, source: Source, error: Exception) -> Exception:
        if isinstance(error, SourceError | BlockedPath):
            return error
        told = f"{type(error).__name__}: {one_line(error)}"
        return SourceError(f"{source.paths[0]}: {self.plugin} failed: {told}")


def load_plugin(plugin: Plugin) -> PluginReader:
    """Load the reader of a plug-in. PluginError if it is none."""
    found: Any = plugin.load(MEMBERS, KINDS)
    try:
        return PluginReader(plugin, found())
    except Exception as error:
        raise PluginError(f"{plugin} cannot be made without arguments: {one_line(error)}") from None


@lru_cache(maxsize=16)
def reader_of_kind(kind: str) -> CountingReader | PluginReader:
    """Return the reader of a kind, built in or of a plug-in.

    Raises:
        PluginError: there is none, or it is broken.
    """
    if kind in BUILT_IN:
        return BUILT_IN[kind]
    plugin = plugins.find(plugins.READERS, kind)
    if plugin is None:
        raise PluginError(plugins.missing(plugins.READERS, kind, KINDS))
    return load_plugin(plugin)


def plugin_identity(sources: Sequence[Source]) -> dict[str, Any]:
    """Return what reader plug-ins add to a step's identity."""
    return plugins.identity(plugins.READERS, map(kind_of, sources), KINDS)


def source_name(source: Source) -> str:
    """Return the name of a source in the tables."""
    first = source.paths[0].rstrip("/")
    files = find_files(source) if not source.name and not first.startswith(hub.HUB) else None
    if files and not files.explicit:
        return os.path.basename(files.store.root)
    return source.name or os.path.splitext(os.path.basename(plain_name(first)))[0]


def kind_of(source: Source) -> str:
    """Return a source's kind, by the recipe or its files.

    Raises:
        SourceError: it is of no kind that is known.
    """
    if hub.is_streamed(source):
        return "hf"
    if source.kind != "auto":
        return source.kind
    first = source.paths[0]
    files = find_files(source)
    names = [first] if files.explicit else list(_listed(files))
    listing = Listing(names, files.explicit)
    for kind, reader in BUILT_IN.items():
        if reader.matches(listing):
            return _by_content(files, source, kind) if suffix_of(names[0]) in JSON else kind
    if not names:
        raise SourceError(f"{first}: no files there")
    if kind := _plugin_kind(listing):
        return kind
    if first.rstrip("/").endswith(".lance") or any(".lance" in name for name in names):
        raise SourceError(f"{first}: Lance is not read: write the table as Parquet, with the library lance")
    if files.explicit:
        if not files.store.is_s3 and not os.path.lexists(first):
            raise SourceError(f"{first}: no such file or folder")
        if suffix_of(first) in (".yaml", ".yml"):
            raise SourceError(f"{first}: a recipe is no source: rasterloom plan or run takes it")
        if suffix_of(first) in IMAGE_SUFFIXES:
            raise SourceError(f"{first}: one image is no source: name its folder, or a list of images")
        raise SourceError(f"{first}: unknown kind of file {suffix_of(first)!r}; known: {_known()}")
    raise SourceError(f"{first}: neither images nor files of a known kind there; known: {_known()}")


def _listed(files: Files) -> Iterator[str]:
    """Yield the first names of a folder. Private ones do not tell what it is, unless they are images."""
    names = (entry.name for entry in islice(files.entries(), LISTED))
    return (name for name in names if is_image(name) or not is_private(files, name))


def _by_content(files: Files, source: Source, kind: str) -> str:
    """Tell conversations from other JSON, by the first record."""
    if kind not in ("conversations", "json"):
        return kind
    first = next(files.entries()).name
    try:
        record = next(json_records.records(files, first, source), {})
    except (OSError, SourceError):
        return "json"  # whose check says what is wrong
    return "conversations" if "conversations" in record else "json"


def _plugin_kind(listing: Listing) -> str:
    """Return the first plug-in that takes such files. One that is broken is left out."""
    for plugin in plugins.installed(plugins.READERS):
        reader = _loaded(plugin)
        try:
            if reader is not None and reader.matches(listing):
                return plugin.name
        except Exception as error:
            raise SourceError(f"{listing.names[0]}: {plugin} failed: {one_line(error)}") from error
    return ""


@lru_cache(maxsize=64)  # so that one that is broken is told of once
def _loaded(plugin: Plugin) -> CountingReader | PluginReader | None:
    try:
        return reader_of_kind(plugin.name)
    except PluginError as error:
        logger.warning("%s; it is left out", error)
        return None


def _known() -> str:
    readers = [BUILT_IN[kind] for kind in KINDS]
    suffixes = dict.fromkeys(s for reader in readers if isinstance(reader, FileReader) for s in reader.shown)
    return ", ".join(suffixes)


def brings_images(source: Source) -> bool:
    """Tell whether a source's rows may hold their images."""
    own = source.image or source.input or source.output
    reader = BUILT_IN.get(kind_of(source))
    return bool(own) or not (isinstance(reader, FileReader) and reader.is_list)


def is_captioned(source: Source) -> bool:
    """Tell whether a source's images have captions: not in plain lists of URLs."""
    return source.has_captions and kind_of(source) != "txt"


def files_read(source: Source) -> list[tuple[str, int]]:
    """Return the lists that a source is read from, with their sizes. None of them for other kinds."""
    reader = BUILT_IN.get(kind_of(source))
    if not isinstance(reader, FileReader) or not reader.is_list:
        return []
    sizes = {entry.name: entry.size for entry in find_files(source).entries()}
    return [(name, sizes[name]) for name in reader.names(source)]


def read_rows(
    source: Source, tally: Tally | None = None, names: Sequence[str] | None = None
) -> Iterator[Row]:
    """Yield every row of a source. A line or record that is no row comes as ``{UNREADABLE: text}``.

    Args:
        tally: gets the counts of the source's records, file by file, where its kind is read by files.
        names: some of ``files_read``, where not all are to be read.

    Raises:
        SourceError: a file is missing or broken, of an unknown kind, or without the source's columns.
    """
    kind = kind_of(source)
    reader = reader_of_kind(kind)
    if names is not None and isinstance(reader, FileReader):
        yield from reader.read_files(names, source, tally)
    else:
        yield from BUILT_IN[kind].read(source, tally) if kind in BUILT_IN else reader.read(source)


def survey_source(source: Source) -> Survey | None:
    """Return which files of a source are read. None where its kind cannot tell.

    Raises:
        SourceError: there is no such file or folder, or it cannot be listed.
    """
    reader = reader_of_kind(kind_of(source))
    survey = reader.survey(source)
    if survey is None or source.paths[0].startswith(hub.HUB):
        return survey
    files = find_files(source)
    for name, reason in files.passed_over():
        is_folder = not files.store.is_s3 and os.path.isdir(files.store.path(name))
        survey.skip(reason, "folder" if is_folder else suffix_of(name), name)
    return survey


def unread_files(source: Source) -> dict[str, int]:
    """Return how many files of a source are not read, by reason.

    Those of a folder of images are records, but for what is not even looked at.
    """
    if kind_of(source) == "folder":
        found = Counter(reason for _, reason in find_files(source).passed_over())
    else:
        survey = survey_source(source)
        found = Counter({reason: n.total() for reason, n in survey.not_read.items()} if survey else ())
    return {f"files not read, {reason.partition(':')[0]}": count for reason, count in found.items()}


def check_source(source: Source) -> None:
    """Check that a source exists and has the columns it names. It is not read for that.

    Raises:
        SourceError: it cannot be used.
    """
    kind = kind_of(source)
    _check_fields(source, kind)
    reader_of_kind(kind).check(source)


def _check_fields(source: Source, kind: str) -> None:
    """Check that a source has no fields of another kind. They would be without effect."""
    for field, kinds in FIELDS_OF.items():
        is_set = getattr(source, field) != Source.model_fields[field].default
        if kind in BUILT_IN and kind not in kinds and is_set:
            raise SourceError(
                f"{source.paths[0]}: a source of kind {kind} has no {field}: leave it out, or name the kind"
            )


def source_digest(source: Source) -> str:
    """Return a digest of what a source holds, as hex digits. Of a data set on the hub, of its address.

    Raises:
        SourceError: it cannot be read.
    """
    return reader_of_kind(kind_of(source)).digest(source)
