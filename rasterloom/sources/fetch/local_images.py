"""Images in the sources themselves, read by their locators."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.errors import SourceError, one_line
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.schema import ErrorClass
from rasterloom.sources import locator
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.slots import Slots
from rasterloom.sources.files import Files, Target, find_files
from rasterloom.sources.local_paths import BlockedPath
from rasterloom.sources.locator import Place
from rasterloom.sources.readers import hub
from rasterloom.sources.readers.parquet import bytes_of
from rasterloom.sources.readers.registry import source_name
from rasterloom.storage.store import Store

READS_AT_ONCE = 8
CELLS_AT_ONCE = 16  # of a column of images that are in memory
OPEN_COLUMNS = 3  # a row's own image, its input and its output
OPEN_FILES = 16  # of S3, whose opening costs a request

T = TypeVar("T")


@dataclass
class LocalImages:
    """Reads images out of sources, under the limits of ``fetch``. A context manager."""

    sources: Sequence[Source]
    config: Fetch
    slots: Slots
    _roots: dict[str, "_Root"] = field(default_factory=dict)

    def __enter__(self) -> "LocalImages":
        self._threads = ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="files")
        # Cells come in the order of the rows, so that a column is read once: one thread keeps that order.
        self._in_order = ThreadPoolExecutor(1, thread_name_prefix="cells")
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._in_order.shutdown(cancel_futures=True)

    async def get(self, source: str, path: str, use: Callable[[bytes], Awaitable[T]]) -> T:
        """Read the image of a source's locator. Return what ``use`` makes of it.

        ``use`` runs while the image counts as being read, so no more than ``config.concurrency`` are in
        memory.

        Raises:
            FetchFailure: MISSING_FILE, UNREADABLE_FILE, BLOCKED_PATH, INCOMPLETE or TOO_MANY_BYTES.
        """
        try:
            place = locator.parse(path)
        except ValueError as error:
            raise FetchFailure(ErrorClass.BLOCKED_PATH, str(error)) from None
        is_cell = bool(place.column) or not place.file
        loop = asyncio.get_running_loop()
        async with self.slots.free:
            pool = self._in_order if is_cell else self._threads
            return await use(await loop.run_in_executor(pool, self._read, source, place))

    def _read(self, name: str, place: Place) -> bytes:
        try:
            root = self._root(name)
            if place.column:
                data = root.cell(place)
            elif place.file:
                data = root.read(place)
            else:
                data = root.streamed(place)
        except BlockedPath as error:
            raise FetchFailure(ErrorClass.BLOCKED_PATH, str(error)) from None
        except FileNotFoundError:
            raise FetchFailure(ErrorClass.MISSING_FILE, f"{place.file} is not there") from None
        except (OSError, pa.ArrowException, SourceError) as error:
            raise FetchFailure(ErrorClass.UNREADABLE_FILE, f"{place.file}: {one_line(error)}") from None
        if len(data) > self.config.max_bytes:
            raise _too_many(len(data), self.config.max_bytes)
        return data

    def _root(self, name: str) -> "_Root":
        if name not in self._roots:
            found = [source for source in self.sources if source_name(source) == name]
            if len(found) != 1:
                raise FetchFailure(ErrorClass.MISSING_FILE, f"the recipe has no source called {name!r}")
            (source,) = found
            own = None if hub.is_streamed(source) else find_files(source)
            files = _all_of(source.root) if source.root and own else own
            self._roots[name] = _Root(source, files, own, self.config.max_bytes)
        return self._roots[name]


def _all_of(folder: str) -> Files:
    """The files of a folder that a recipe names."""
    return Files(Store(folder), (Target("", is_file=False),))


def _too_many(size: int, most: int) -> FetchFailure:
    return FetchFailure(ErrorClass.TOO_MANY_BYTES, f"{size:,} bytes, more than max_bytes = {most:,}")


@dataclass
class _Root:
    """The folder of one source, and what is open in it."""

    source: Source
    files: Files | None  # None: streamed by `datasets`
    cells_files: Files | None  # that have cells: the source's `root` is not theirs
    max_bytes: int
    _open: dict[str, Any] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _columns: dict[tuple[Any, ...], tuple[int, Iterator[Any]]] = field(default_factory=dict)
    """Columns that are being read, by which: the next row, and the values from there on."""

    def read(self, place: Place) -> bytes:
        """Read a file or a range of one."""
        assert self.files is not None
        most = self.max_bytes
        if place.is_range and place.second > most:
            raise _too_many(place.second, most)
        if not self.files.is_local:
            data, size = self._read_s3(place, most)
        else:
            data, size = _read_disk(self.files, place, most)
        if not place.is_range and size > most:
            raise _too_many(size, most)
        expected = place.second if place.is_range else size
        if len(data) < expected:
            raise FetchFailure(
                ErrorClass.INCOMPLETE, f"{place.file} ends after {len(data):,} of {expected:,} bytes"
            )
        return data

    def _read_s3(self, place: Place, most: int) -> tuple[bytes, int]:
        assert self.files is not None
        file = self._open.get(place.file)
        if file is None:
            file = self.files.open_arrow(place.file)
            if place.is_range:
                with self._lock:
                    while len(self._open) >= OPEN_FILES:
                        self._open.pop(next(iter(self._open)))
                    self._open[place.file] = file
        size = file.size()
        length = place.second if place.is_range else min(size, most + 1)
        return file.read_at(max(0, min(length, size - place.first)), place.first), size

    def cell(self, place: Place) -> bytes:
        """Read a cell of a Parquet file, continuing from the last one."""
        value = self._next((place.file, place.first, place.column), place.second, self._cells)
        if value is None:
            raise FetchFailure(ErrorClass.MISSING_FILE, "the row has no image")
        return bytes(value)

    def _cells(self, start: int, file: str, group: int, column: str) -> Iterator[Any]:
        assert self.cells_files is not None
        with (
            self.cells_files.open_arrow(file) as opened,
            pq.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20) as parquet,
        ):
            if group >= parquet.num_row_groups:
                raise FileNotFoundError(file)
            row = 0
            for batch in parquet.iter_batches(CELLS_AT_ONCE, row_groups=[group], columns=[column]):
                if not batch.num_columns:
                    raise FileNotFoundError(file)
                for value in bytes_of(batch).slice(max(0, start - row)):
                    yield value.as_py()
                row += batch.num_rows

    def streamed(self, place: Place) -> bytes:
        """Read an image of a streamed data set."""
        data, path = self._next((place.first,), place.second, self._stream)
        if data is not None:
            return bytes(data)
        if path is None:
            raise FetchFailure(ErrorClass.MISSING_FILE, "the row has no image")
        folder = self.source.paths[0]
        if folder.startswith(hub.HUB):
            raise FetchFailure(ErrorClass.BLOCKED_PATH, "names a file instead of holding the image")
        place = Place(os.path.relpath(path, folder))
        data, _ = _read_disk(_all_of(folder), place, self.max_bytes)
        return data

    def _stream(self, start: int, shard: int) -> Iterator[Any]:
        return hub.images(self.source, shard, start)

    def _next(self, which: tuple[Any, ...], row: int, read: Callable[..., Iterator[Any]]) -> Any:
        """Return an ordered column's value, continuing from the last one."""
        at, values = self._columns.pop(which, (row + 1, iter(())))  # an error shall end the reading
        if at > row:
            at, values = row, read(row, *which)
        for value in values:
            if at == row:
                while len(self._columns) >= OPEN_COLUMNS:
                    self._columns.pop(next(iter(self._columns)))
                self._columns[which] = (row + 1, values)
                return value
            at += 1
        raise FileNotFoundError(which[0])


def _read_disk(files: Files, place: Place, most: int) -> tuple[bytes, int]:
    """Read a file or a range of one from a disk: (bytes, size of the file)."""
    with files.open(place.file) as file:
        size = os.fstat(file.fileno()).st_size
        length = place.second if place.is_range else min(size, most + 1)
        file.seek(place.first)
        return file.read(length), size
