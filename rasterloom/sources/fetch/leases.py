"""Slots of hosts, lent to workers by one book.

A slot is the right to one request at a time to a host. A worker asks for those of all its hosts at once and
keeps a slot while it has rows of the host, so that nearly no request waits for the book. What a worker found
out about a host (its turn, robots.txt, Retry-After, that it is down) is told to the others.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.fetch.hosts import Facts, Host

BEAT_S = 1.0  # between two messages to the book, where nothing is missing
HUNGRY_S = 0.2  # the same, where rows wait for slots
LOST_S = 120.0  # without an answer of the book, until a worker goes by its own limits

logger = logging.getLogger(__name__)


class Ask(NamedTuple):
    """Message of a worker on a host."""

    held: int  # slots, in use or at hand
    wanted: int  # more slots that there are rows for
    turn_s: float  # seconds until the next request is due
    facts: Facts


class Grant(NamedTuple):
    """Answer of the book on a host."""

    slots: int  # in all; fewer than held: those beyond are to be given back as requests end
    shared: bool  # with other workers
    turn_s: float
    facts: Facts


class Answer(NamedTuple):
    """Answer of the book to a worker."""

    book: str  # a name of its own: after a restart it knows of no slots
    gap_s: float  # until the worker may write again
    grants: dict[str, Grant]


Exchange = Callable[[str, dict[str, Ask]], Answer]  # it blocks; the first argument names the worker


class LentSlots:
    """Slots of one host in one worker."""

    def __init__(self, most: int, changed: Callable[[], None]) -> None:
        self._most, self._changed = most, changed
        self._free = self._used = self._allowed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._met = asyncio.Event()
        self._meeting = False
        self.shared = False

    @property
    def held(self) -> int:
        return self._free + self._used

    def changed(self) -> None:
        """Have the book told what is new of the host."""
        self._changed()

    @property
    def wanted(self) -> int:
        """Slots that rows wait for, and that there may be."""
        return min(len(self._waiting) or int(self._meeting), self._most - self.held)

    async def meet(self) -> None:
        """Wait for what others know of the host, or for a slot."""
        if not self._met.is_set():
            self._meeting = True
            self._changed()
            await self._met.wait()
            self._meeting = False

    async def acquire(self) -> bool:
        """Wait for a slot; True, as of asyncio's semaphores."""
        if self._free and not self._waiting:
            self._free -= 1
            self._used += 1
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._changed()
        try:
            await future
        except BaseException:
            if future in self._waiting:
                self._waiting.remove(future)
            else:
                self.release()
            raise
        return True

    def release(self) -> None:
        """Give a slot to the next row, or back to the book."""
        self._used -= 1
        if self.held >= self._allowed:
            self._changed()
            return
        self._free += 1
        self._hand_out()

    def grant(self, slots: int, *, known: bool) -> None:
        """Take in how many slots there are now."""
        self._allowed = slots
        self._free = max(0, slots - self._used)
        if slots or known:
            self._met.set()
        self._hand_out()

    def return_all(self) -> None:
        """Give up the slots of a host that nobody uses."""
        self._allowed = self._free = 0

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._used += 1
            self._waiting.popleft().set_result(None)


class Leases:
    """The lent slots of a worker, of all its hosts. It belongs to the running event loop."""

    def __init__(self, config: Fetch, exchange: Exchange) -> None:
        self._config, self._exchange = config, exchange
        self._name = uuid.uuid4().hex
        self._hosts: dict[str, tuple[Host, LentSlots]] = {}
        self._due: set[str] = set()
        self._told: set[str] = set()  # hosts whose robots.txt the book has
        self._wake = asyncio.Event()
        self._book, self._answered, self._looked, self._away = "", time.monotonic(), 0.0, False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="leases")
        self._task = asyncio.create_task(self._run())

    def of(self, host: Host) -> LentSlots:
        """Return the slots of a host."""
        known = self._hosts.get(host.name)
        if known is not None:
            if known[0] is host:
                return known[1]
            host.next_turn = max(host.next_turn, known[0].next_turn)  # it was forgotten in between
        slots = LentSlots(self._config.per_host, lambda: self._change(host.name))
        self._hosts[host.name] = host, slots
        return slots

    async def close(self) -> None:
        """Give all slots back."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        none = {name: Ask(0, 0, host.turn_s(), host.facts(self._config)) for name, host, _ in self._all()}
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._exchange, self._name, none)
        except Exception as error:  # the run is over, and its book with it
            logger.info("slots of hosts were not given back: %s", error)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _all(self) -> list[tuple[str, Host, LentSlots]]:
        return [(name, host, slots) for name, (host, slots) in self._hosts.items()]

    def _change(self, name: str) -> None:
        self._due.add(name)
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._pause()
            asks = self._asks()
            try:
                answer = await loop.run_in_executor(self._thread, self._exchange, self._name, asks)
            except Exception as error:  # of Ray, whatever its class: the book is away, and comes back
                if not self._away:
                    logger.warning("the book of the hosts' slots does not answer: %s", error)
                self._away = True
                self._due |= asks.keys()
                self._told -= asks.keys()
                if time.monotonic() - self._answered > LOST_S:
                    self._go_alone()
                await asyncio.sleep(BEAT_S)
                continue
            self._take(answer)
            await asyncio.sleep(answer.gap_s)

    async def _pause(self) -> None:
        """Wait for what the book is to be told. Where no host is known that is nothing."""
        pause = HUNGRY_S if any(slots.wanted for _, slots in self._hosts.values()) else BEAT_S
        if not self._hosts and not self._due:
            await self._wake.wait()
            self._answered = time.monotonic()  # the book was not asked in between
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _asks(self) -> dict[str, Ask]:
        look = time.monotonic() - self._looked >= BEAT_S
        self._looked = time.monotonic() if look else self._looked
        asks = {}
        for name, host, slots in self._all():
            idle = look and not host.users and not slots.wanted
            if idle:
                slots.return_all()
                del self._hosts[name]
            if idle or slots.wanted or name in self._due or (look and slots.shared):
                facts = host.facts(self._config, whole=name not in self._told)
                if facts.robots is not None:
                    self._told.add(name)
                asks[name] = Ask(slots.held, slots.wanted, host.turn_s(), facts)
            if idle:
                self._told.discard(name)
        for name in self._due - self._hosts.keys() - asks.keys():
            asks[name] = Ask(0, 0, 0.0, Facts())
        self._due.clear()
        return asks

    def _take(self, answer: Answer) -> None:
        self._answered, self._away = time.monotonic(), False
        if self._book != answer.book:
            if self._book:
                self._due |= self._hosts.keys()
                self._told.clear()
            self._book = answer.book
        for name, grant in answer.grants.items():
            if name in self._hosts:
                host, slots = self._hosts[name]
                host.take_in(grant.facts, grant.turn_s, self._config)
                slots.shared = grant.shared
                slots.grant(grant.slots, known=grant.facts.delay is not None)
            elif grant.slots:
                self._change(name)

    def _go_alone(self) -> None:
        """Go by own limits where the book is away for good."""
        self._due &= self._hosts.keys()
        for _, slots in self._hosts.values():
            slots.grant(self._config.per_host, known=True)
