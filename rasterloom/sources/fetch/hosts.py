"""State of each host: robots.txt, rate limit and circuit breaker.

The times are those of ``time.monotonic()``. All of it is used by one event loop and needs no lock.
"""

import asyncio
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from protego import Protego
from yarl import URL

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.backoff import wait_before_retry
from rasterloom.sources.fetch.robots import parse_robots

MOST_HOSTS = 10_000  # remembered at once; the one that was longest not asked goes first
TOLD_BYTES = 8192  # of a compressed robots.txt that workers tell each other
RULES_S = 24 * 3600.0  # RFC 9309, 2.4: a robots.txt is not relied on for longer

# After these a host may be down; whatever else it does, it answers.
DOWN = frozenset(
    {ErrorClass.DNS, ErrorClass.CONNECT, ErrorClass.TLS, ErrorClass.TIMEOUT, ErrorClass.HTTP_5XX}
)


class HostSlots(Protocol):
    """Slots of the requests to one host."""

    async def meet(self) -> None:
        """Wait for what others know of the host."""

    async def acquire(self) -> bool:
        """Wait for a slot."""

    def release(self) -> None:
        """Give a slot back."""

    def changed(self) -> None:
        """Have others told what is new of the host."""


class OwnSlots(asyncio.Semaphore):
    """Slots of a worker that shares them with none."""

    async def meet(self) -> None:
        pass

    def changed(self) -> None:
        pass


class Facts(NamedTuple):
    """Findings about a host that workers tell each other."""

    delay: float | None = None  # Crawl-delay; None: nobody has read robots.txt yet
    robots: bytes | None = None  # what it says, compressed; None: not told
    rest_s: float = 0.0  # that the host is to be left alone yet, by Retry-After
    resting: bool = False  # that is longer than ``patience_s``
    failures: int = 0  # in a row, if it is down
    down_s: float = 0.0
    last_failure: str = ""


@dataclass
class Host:
    """One scheme, host and port."""

    name: str
    slots: HostSlots
    interval: float = 0.0  # least seconds between two requests, by the recipe
    crawl_delay: float = 0.0  # the same, by robots.txt
    next_turn: float = 0.0
    not_before: float = 0.0  # asked for by Retry-After
    resting_since: float | None = None  # it asked for more than ``patience_s``
    waiting: int = 0  # rows, for their turn
    failed_in_a_row: int = 0
    last_failure: str = ""
    down_until: float = 0.0
    rules: asyncio.Task[Protego] | None = None
    rules_until: float = 0.0
    robots: bytes | None = None  # the text of the rules
    told_rest: float = 0.0  # what is not beyond these times of rest and of being down was told by others
    told_down: float = 0.0
    users: int = 0

    def check(self, config: Fetch, ahead: int = 0) -> None:
        """Return if a row may wait for its turn after others.

        Raises:
            FetchFailure: HOST_DOWN, or HOST_BUSY if what the host asks for takes longer than ``patience_s``;
                the recipe's own ``host_rate`` may take as long as it takes.
        """
        now = time.monotonic()
        if self._seems_down(config) and now < self.down_until:
            detail = f"not asked: the last {self.failed_in_a_row} requests to {self.name} failed"
            raise FetchFailure(ErrorClass.HOST_DOWN, f"{detail}, the last one so: {self.last_failure}")
        wait, asked = self.not_before - now, "Retry-After"
        if self.crawl_delay > self.interval:
            in_line = self.next_turn - now + ahead * self.crawl_delay
            wait, asked = max((wait, asked), (in_line, f"Crawl-delay: {self.crawl_delay:g}"))
        if wait > config.patience_s:
            detail = f"{self.name} asks for patience ({asked}), the turn would come in {wait:.0f} s"
            raise FetchFailure(
                ErrorClass.HOST_BUSY, f"not asked: {detail}, patience_s is {config.patience_s:g}"
            )

    def _seems_down(self, config: Fetch) -> bool:
        return 0 < config.host_down_after <= self.failed_in_a_row

    def seconds_to_turn(self) -> float:
        """Return how long the host is to be left alone yet: 0 when it may be asked now."""
        return max(0.0, max(self.not_before, self.next_turn) - time.monotonic())

    def turn_s(self) -> float:
        """Return the seconds until rate and Crawl-delay allow a request."""
        return max(0.0, self.next_turn - time.monotonic())

    def facts(self, config: Fetch, whole: bool = False) -> Facts:
        """Return what this worker found out, if ``whole`` with a short robots.txt."""
        now = time.monotonic()
        known = not config.robots or (self.rules is not None and self.rules.done())
        is_down = self._seems_down(config) and self.down_until > self.told_down
        down_s = max(0.0, self.down_until - now) if is_down else 0.0
        robots = zlib.compress(self.robots) if whole and self.robots is not None else None
        return Facts(
            self.crawl_delay if known else None,
            robots if robots is not None and len(robots) <= TOLD_BYTES else None,
            max(0.0, self.not_before - now) if self.not_before > self.told_rest else 0.0,
            self.resting_since is not None,
            self.failed_in_a_row if down_s else 0,
            down_s,
            self.last_failure if down_s else "",
        )

    def take_in(self, facts: Facts, turn_s: float, config: Fetch) -> None:
        """Take note of what other workers found out."""
        now = time.monotonic()
        self.next_turn = max(self.next_turn, now + turn_s)
        if facts.robots is not None and self.rules is None:
            self.robots = zlib.decompress(facts.robots)
            self.rules = asyncio.ensure_future(_read(self.robots))
            self.rules_until = now + RULES_S
        self.crawl_delay = max(self.crawl_delay, facts.delay or 0.0)
        if now + facts.rest_s > self.not_before and facts.rest_s:
            self.not_before = self.told_rest = now + facts.rest_s
            if facts.resting and self.resting_since is None:
                self.resting_since = now
        elif not facts.rest_s and now < self.not_before <= self.told_rest:
            self.resting_since, self.not_before = None, now  # another worker was answered
        if facts.down_s and not self._seems_down(config):
            self.failed_in_a_row, self.last_failure = facts.failures, facts.last_failure
            self.down_until = self.told_down = now + facts.down_s
        elif not facts.down_s and now < self.down_until <= self.told_down:
            self.failed_in_a_row = 0

    def take_turn(self, config: Fetch) -> None:
        """Say that a request is made now."""
        now = time.monotonic()
        self.next_turn = now + max(self.interval, self.crawl_delay)
        if self._seems_down(config):
            self.down_until = now + config.host_down_s  # this request finds out, for all
        if self.resting_since is not None:
            self.not_before = now + _longest_pause(config)  # the same

    def learn(self, failure: FetchFailure | None, config: Fetch, started: float) -> None:
        """Take note of how a request ended; None is well."""
        now = time.monotonic()
        if failure is None or failure.error not in DOWN:
            self.failed_in_a_row = 0
        else:
            self.failed_in_a_row += 1
            self.last_failure = f"{failure.error}, {failure.detail}"
            self.down_until = now + config.host_down_s
        pause = _pause_of(failure, config)
        if pause > config.patience_s:
            self.resting_since = now
            self.not_before = max(self.not_before, now + min(pause, _longest_pause(config)))
        elif pause:
            self.not_before = max(self.not_before, now + pause)
        elif not self.failed_in_a_row and self.resting_since is not None and started > self.resting_since:
            self.resting_since, self.not_before = None, now  # the row that asked again was answered


async def _read(robots: bytes) -> Protego:
    return parse_robots(robots)


def _pause_of(failure: FetchFailure | None, config: Fetch) -> float:
    """Seconds that a host's requests pause after one that ended so."""
    if failure is None:
        return 0.0
    if failure.error is ErrorClass.HTTP_429:
        return wait_before_retry(1, failure) if failure.retry_after is None else failure.retry_after
    pause = failure.retry_after or 0.0  # of a 503, which may be that of one URL
    return pause if pause <= config.patience_s else 0.0


def _longest_pause(config: Fetch) -> float:
    """Seconds until one row asks a host again that asked for more."""
    return max(config.host_down_s, config.patience_s)


class Hosts:
    """The hosts that a worker has to do with, by origin.

    Args:
        lent: gives the slots of a host where workers share them.
    """

    def __init__(self, config: Fetch, lent: Callable[[Host], HostSlots] | None = None) -> None:
        self._config, self._lent = config, lent
        self._known: OrderedDict[URL, Host] = OrderedDict()

    @contextmanager
    def using(self, url: URL) -> Iterator[Host]:
        """Give the host of a URL. It is not forgotten while in use."""
        origin = url.origin()
        host = self._known.get(origin)
        if host is None:
            rate = self._config.host_rate
            slots = OwnSlots(self._config.per_host)
            host = self._known[origin] = Host(str(origin), slots, interval=1 / rate if rate else 0.0)
            self._forget()
        if self._lent and not host.users:
            host.slots = self._lent(host)
        self._known.move_to_end(origin)
        host.users += 1
        try:
            yield host
        finally:
            host.users -= 1

    def tasks(self) -> list[asyncio.Task[Protego]]:
        """The robots.txt files that are being read, or have been."""
        return [host.rules for host in self._known.values() if host.rules is not None]

    def _forget(self) -> None:
        while len(self._known) > MOST_HOSTS:
            idle = next((origin for origin, host in self._known.items() if not host.users), None)
            if idle is None:
                return
            del self._known[idle]
