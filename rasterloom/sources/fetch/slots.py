"""Limit of a worker's requests; those that wait give way.

A request that waits has nothing in memory yet. Where hosts accept connections and never answer, such
requests would otherwise take all slots, each until its deadline, while the core does nothing.
"""

import asyncio
import resource
import time

ASIDE_AFTER_S = 1.0  # of a request, until another takes its slot
MOST_ASIDE = 1000  # requests without a slot: each has a socket, and aiohttp's buffer
ASIDE_BYTES = 64 * 2**10  # of a body that are read without a slot
OTHER_FILES = 256  # open files of a worker beside its sockets


class Slots:
    """Slots of the requests of one event loop.

    Args:
        number: requests at once that may hold a body.
        most_aside: requests at once that wait without a slot.
    """

    def __init__(self, number: int, most_aside: int) -> None:
        self.free = asyncio.Semaphore(number)
        self.left_aside = most_aside


class Slot:
    """Slot of one request: taken, left for a while where its host is slow, taken again."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._timer: asyncio.TimerHandle | None = None
        self._aside = False
        self.waited_s = 0.0  # for the slot, after it was left

    async def take(self) -> None:
        await self._slots.free.acquire()

    def leave(self) -> None:
        """Let go of the slot, wherever it is."""
        self.stay()
        if self._aside:
            self._aside = False
            self._slots.left_aside += 1
        else:
            self._slots.free.release()

    def wait(self) -> None:
        """Say that an answer is waited for: after a second, another may have the slot."""
        self._timer = asyncio.get_running_loop().call_later(ASIDE_AFTER_S, self._step_aside)

    def stay(self) -> None:
        """Say that the slot is needed from now on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _step_aside(self) -> None:
        if self._slots.left_aside:
            self._slots.left_aside -= 1
            self._aside = True
            self._slots.free.release()

    async def come_back(self, clock: asyncio.Timeout | None = None) -> None:
        """Have the slot again, and keep it. The wait for it is not on the ``clock``."""
        self.stay()
        if not self._aside:
            return
        started = time.monotonic()
        until = clock.when() if clock else None
        if clock:
            clock.reschedule(None)
        await self._slots.free.acquire()
        self._aside = False
        self._slots.left_aside += 1
        waited = time.monotonic() - started
        self.waited_s += waited
        if clock and until is not None:
            clock.reschedule(until + waited)


def most_aside(concurrency: int) -> int:
    """Return how many requests may wait without a slot.

    Each has an open file. This process's soft limit, often 1,024, is raised as far as the hard one allows.
    """
    wanted = MOST_ASIDE + concurrency + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return MOST_ASIDE
    return max(0, min(MOST_ASIDE, soft - concurrency - OTHER_FILES))
