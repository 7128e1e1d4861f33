"""Cache of the row groups of token files.

They are read when they are needed, several at once where that takes time.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem

from rasterloom.errors import one_line

CACHE_BYTES = 2**30  # of decoded row groups, a worker: two windows of `plan.shuffled`
REMOTE_READERS = 8  # groups read at once from elsewhere than this machine, where answers take their time
COLUMNS = ["input_ids", "loss_spans"]


class RowGroupPlace(NamedTuple):
    """Location of a row group."""

    file: int  # number of its file
    number: int  # in its file
    start: int  # number of its first row in the stage


class RowGroups:
    """Least-recently-used cache of row groups; safe for several threads."""

    def __init__(
        self,
        files: Sequence[str],
        filesystem: FileSystem,
        places: Sequence[RowGroupPlace],
        more: Sequence[str] = (),
    ) -> None:
        """Begin empty.

        Args:
            more: columns that are read beside `COLUMNS`, of files that have them.
        """
        self.files, self.filesystem, self.places, self.more = files, filesystem, places, more
        self.cache_bytes = CACHE_BYTES
        self.kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._metadata: dict[int, pq.FileMetaData] = {}  # by number of the file, once read
        self._lock = threading.Lock()

    def read(self, numbers: Iterable[int]) -> dict[int, pa.Table]:
        """Return groups by number, with the columns `COLUMNS`.

        Raises:
            OSError: a file is missing or damaged; the message names it.
        """
        wanted = list(dict.fromkeys(numbers))
        with self._lock:
            found = {number: self.kept[number] for number in wanted if number in self.kept}
            for number in found:
                self.kept.move_to_end(number)
        missing = [number for number in wanted if number not in found]
        if len(missing) < 2 or isinstance(self.filesystem, LocalFileSystem):
            tables = [self._load(number) for number in missing]
        else:
            with ThreadPoolExecutor(min(REMOTE_READERS, len(missing)), "row groups") as pool:
                tables = list(pool.map(self._load, missing))
        new = dict(zip(missing, tables, strict=True))
        self._keep(new)
        return found | new

    def _keep(self, tables: dict[int, pa.Table]) -> None:
        with self._lock:
            self.kept |= tables
            held = sum(table.nbytes for table in self.kept.values())
            while len(self.kept) > 1 and held > self.cache_bytes:
                _, oldest = self.kept.popitem(last=False)
                held -= oldest.nbytes

    def _load(self, number: int) -> pa.Table:
        place = self.places[number]
        path = self.files[place.file]
        try:
            with self.filesystem.open_input_file(path) as source:
                reader = pq.ParquetFile(
                    source, metadata=self._metadata.get(place.file), page_checksum_verification=True
                )
                self._metadata[place.file] = reader.metadata
                there = set(reader.schema_arrow.names) if self.more else set()
                columns = [*COLUMNS, *(name for name in self.more if name in there)]
                table = reader.read_row_group(place.number, columns=columns, use_threads=False)
        except FileNotFoundError:
            raise FileNotFoundError(f"the token file {path} is gone") from None
        except (OSError, pa.ArrowException) as error:
            reason = one_line(error)
            raise OSError(
                f"the token file {path} cannot be read (row group {place.number}): {reason}; "
                "rasterloom versions verify RECIPE says what else is damaged"
            ) from error
        return table.combine_chunks()
