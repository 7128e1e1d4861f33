"""Bound of the images that a worker holds for unfinished shards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rasterloom.sources.fetch.slots import Slots

MOST_BYTES = 512 * 2**20  # of images, from which on no further shard is begun
LOOK_EVERY_S = 0.02


class Held:
    """Bytes of the images of one shard."""

    def __init__(self) -> None:
        self.bytes = 0


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

    def _has_room(self) -> bool:
        if not self._shards:
            return True
        return not self._slots.free.locked() and sum(held.bytes for held in self._shards) < MOST_BYTES
