"""The bound of images that a worker holds."""

import asyncio

import pytest

from rasterloom.sources.fetch import backlog
from rasterloom.sources.fetch.backlog import Backlog
from rasterloom.sources.fetch.slots import Slots


@pytest.fixture(autouse=True)
def _ten_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MOST_BYTES", 10)


@pytest.mark.parametrize(
    ("held_bytes", "requests", "begins"), [(9, 1, True), (10, 1, False), (9, 2, False)], ids=str
)
def test_a_shard_begins_when_there_is_room(held_bytes: int, requests: int, begins: bool) -> None:
    async def begun_beside() -> tuple[bool, bool]:
        slots = Slots(2, 0)
        shards, begun = Backlog(slots), asyncio.Event()

        async def another() -> None:
            async with shards.shard():
                begun.set()

        async with shards.shard() as held:
            held.bytes = held_bytes
            for _ in range(requests):
                await slots.free.acquire()
            task = asyncio.create_task(another())
            await asyncio.sleep(0.2)
            beside = begun.is_set()
        await task
        return beside, begun.is_set()

    assert asyncio.run(begun_beside()) == (begins, True)


def test_a_shard_that_fails_lets_others_begin() -> None:
    async def fail() -> None:
        shards = Backlog(Slots(1, 0))
        with pytest.raises(ValueError, match="no"):
            async with shards.shard() as held:
                held.bytes = 100
                raise ValueError("no")
        async with asyncio.timeout(5), shards.shard():
            pass

    asyncio.run(fail())
