"""Slots of requests, which those that wait leave to others."""

import asyncio
import random
import resource
import subprocess
import sys
from typing import Any

import pytest
from aiohttp import web

from rasterloom.sources.fetch import slots
from rasterloom.sources.fetch.slots import MOST_ASIDE, OTHER_FILES, Slot, Slots


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "ASIDE_AFTER_S", 0.02)


def test_others_are_fetched_while_hosts_do_not_answer(
    site: Any, fetch: Any, jpeg: bytes, at_once: None
) -> None:
    """The silent ones answer once the others have been asked for; before that, they have all slots."""
    good = [f"/{number}.jpg" for number in range(12)]

    async def silent(request: web.Request) -> web.Response:
        while any(site.asked[path] == 0 for path in good):
            await asyncio.sleep(0.01)
        return web.Response(status=404)

    mute = [f"/mute-{number}" for number in range(6)]
    site.answers |= dict.fromkeys(mute, silent) | dict.fromkeys(good, jpeg)
    rows = fetch(*mute, *good, concurrency=2, per_host=100, deadline_s=10, retries=0, robots=False)
    assert [row["error"] for row in rows] == ["http_4xx"] * 6 + [None] * 12


def test_large_bodies_are_read_by_those_with_a_slot(
    site: Any, fetch: Any, jpeg: bytes, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = jpeg + bytes(3 * slots.ASIDE_BYTES)  # what follows the image is left out
    begun, held, most = 8, 0, 0

    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.1)  # by then all have stepped aside
        return web.Response(body=body)

    def note(change: int) -> None:
        nonlocal held, most
        held += change
        most = max(most, held)

    come_back, leave = Slot.come_back, Slot.leave

    async def noted(self: Slot, clock: asyncio.Timeout | None = None) -> None:
        await come_back(self, clock)
        if clock:
            note(+1)
            self.large = True  # type: ignore[attr-defined]

    def left(self: Slot) -> None:
        note(-getattr(self, "large", False))
        leave(self)

    monkeypatch.setattr(Slot, "come_back", noted)
    monkeypatch.setattr(Slot, "leave", left)
    paths = [f"/{number}.jpg" for number in range(begun)]
    site.answers |= dict.fromkeys(paths, slow)
    rows = fetch(*paths, concurrency=2, per_host=100, retries=0, robots=False)
    assert [row["error"] for row in rows] == [None] * begun
    assert site.most_under_way > 2  # they waited together
    assert 1 <= most <= 2


@pytest.mark.parametrize("seed", range(20))
def test_no_slot_is_lost_or_made(seed: int, at_once: None) -> None:
    """Whatever requests do, and wherever they are cancelled."""
    chance, number, aside = random.Random(seed), 3, 4

    async def request(slots: Slots) -> None:
        slot = Slot(slots)
        await slot.take()
        try:
            slot.wait()
            await asyncio.sleep(chance.choice([0, 0.01, 0.05]))
            if chance.random() < 0.7:
                await slot.come_back()
                await asyncio.sleep(chance.choice([0, 0.01]))
        finally:
            slot.leave()

    async def all_of_them() -> tuple[int, int, bool]:
        slots = Slots(number, aside)
        tasks = [asyncio.create_task(request(slots)) for _ in range(40)]
        for task in chance.sample(tasks, 12):
            await asyncio.sleep(chance.choice([0, 0.005]))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        free = 0
        while not slots.free.locked():
            await slots.free.acquire()
            free += 1
        return free, slots.left_aside, all(task.done() for task in tasks)

    assert asyncio.run(all_of_them()) == (number, aside, True)


def test_the_wait_for_a_slot_is_not_on_the_clock(at_once: None) -> None:
    async def wait() -> tuple[float, bool]:
        slots = Slots(1, 1)
        one, other = Slot(slots), Slot(slots)
        await one.take()
        one.wait()
        await other.take()  # when one has stepped aside
        asyncio.get_running_loop().call_later(0.3, other.leave)
        async with asyncio.timeout(0.2) as clock:
            until = clock.when()
            await one.come_back(clock)
            later = clock.when()
        assert until is not None and later is not None
        one.leave()
        return later - until, clock.expired()

    added, expired = asyncio.run(wait())
    assert added >= 0.25 and not expired


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((300, 300), 0), ((1024, 1024), 1024 - 64 - OTHER_FILES), ((1024, 4096), MOST_ASIDE)],
    ids=str,
)
def test_as_many_wait_as_files_may_be_open(limits: tuple[int, int], expected: int) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < limits[1]:
        pytest.skip("this process may open fewer files")
    program = (
        "import resource; from rasterloom.sources.fetch.slots import most_aside; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits}); "
        "print(most_aside(64), resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 4096)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(expected), "True"]
