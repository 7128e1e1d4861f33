"""Bound of the images that a worker holds for unfinished shards."""

import asyncio
import pickle
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, BinaryIO

from rasterloom.sources.fetch.slots import Slots
from rasterloom.storage.local_disk import full_disk_errors
from rasterloom.utils.private_folders import private_folder

MOST_BYTES = 512 * 2**20  # of images, from which on no further shard is begun
MEMORY_BYTES = 32 * 2**20  # of images of all shards that are held in memory; the rows of others are in files
PIECE_BYTES = 16 * 2**20  # of images that are read back at once
LOOK_EVERY_S = 0.02

Row = dict[str, Any]


class Held:
    """Bytes of the images of one shard: in all, and in memory."""

    def __init__(self) -> None:
        self.bytes = 0
        self.in_memory = 0


class RowFile:
    """Finished rows that are not held in memory."""

    def __init__(self, file: BinaryIO, folder: str) -> None:
        self.folder = folder
        self.is_empty = True
        self._file = file
        self._lock = threading.Lock()

    def put(self, row: Row) -> int:
        """Write a row; return its place."""
        self.is_empty = False
        with self._lock, full_disk_errors(self.folder):
            place = self._file.seek(0, 2)
            pickle.dump(row, self._file)
        return place

    def pieces(self, rows: list[Row | int]) -> Iterator[list[Row]]:
        """Yield rows in their order, some at a time. Integers are places of rows in the file."""
        piece, size = [], 0
        for row in rows:
            if isinstance(row, int):
                self._file.seek(row)
                row = pickle.load(self._file)
            piece.append(row)
            size += image_bytes(row)
            if size >= PIECE_BYTES:
                yield piece
                piece, size = [], 0
        yield piece


@contextmanager
def row_file() -> Iterator[RowFile]:
    """Make a file that ends with the block or the process."""
    folder = private_folder("fetch")
    with tempfile.TemporaryFile(dir=folder) as file:
        yield RowFile(file, str(folder))


def image_bytes(row: Row) -> int:
    """Return the size of a row's images."""
    return sum(len(one.get("image") or b"") for one in (row, *(row.get("more") or ())))


class Backlog:
    """Shards at work in one event loop.

    The first is held as a whole, however large it is. Another begins beside it when all rows that may have
    a slot have one, and there is memory for more.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._shards: list[Held] = []
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def shard(self) -> AsyncIterator[Held]:
        """Wait until a shard may begin. It ends with the context."""
        await self._turn.acquire()
        try:
            while not self._has_room():
                await asyncio.sleep(LOOK_EVERY_S)
        finally:  # its rows ask for slots before another shard looks
            asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._turn.release)
        self._shards.append(held := Held())
        try:
            yield held
        finally:
            self._shards.remove(held)

    def fits(self, size: int) -> bool:
        """Tell whether so many bytes more may be held in memory."""
        return sum(held.in_memory for held in self._shards) + size <= MEMORY_BYTES

    def _has_room(self) -> bool:
        if not self._shards:
            return True
        return not self._slots.free.locked() and sum(held.bytes for held in self._shards) < MOST_BYTES
