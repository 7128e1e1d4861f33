"""Book of the slots that hosts have for workers.

One process has it, a Ray actor; workers write to it through ``sources.fetch.leases``. Times are those of
``time.monotonic()`` there.
"""

import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field

from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.fetch.hosts import Facts
from rasterloom.sources.fetch.leases import Answer, Ask, Grant

LEASE_S = 5.0  # that a worker has a host, or the last slot it needs, to itself where others wait
SILENT_S = 30.0  # after which a worker counts as dead, and its slots are free
MOST_IDLE = 100_000  # hosts that nobody is at, and of which something is known
WORKERS_A_SECOND = 500  # messages that the book takes in
LEAST_GAP_S = 0.02
LOOK_EVERY_S = 1.0  # for workers that are silent


@dataclass
class HostPage:
    """Slots of one host, and what is known of it."""

    held: dict[str, int] = field(default_factory=dict)  # by worker
    since: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)  # slots wanted, by worker; the first is the next
    delay: float | None = None
    robots: bytes | None = None
    turn: float = 0.0
    rest_until: float = 0.0
    rest_by: str = ""  # the worker that found it out, and may take it back
    resting: bool = False
    down_until: float = 0.0
    down_by: str = ""
    failures: int = 0
    last_failure: str = ""

    @property
    def claims(self) -> int:
        """Workers that have slots or wait for some."""
        return len(self.held.keys() | self.waiting.keys())

    def idle(self, now: float) -> bool:
        """True if the host can be forgotten: no turn is still to come."""
        return not self.claims and now >= max(self.turn, self.rest_until, self.down_until)

    def update(self, worker: str, ask: Ask, now: float) -> None:
        """Take in a worker's message."""
        if worker in self.held:  # a turn is moved by whoever may ask the host
            self.turn = max(self.turn, now + ask.turn_s)
        if ask.held:
            self.held[worker] = ask.held
            self.since.setdefault(worker, now)
        else:
            self.held.pop(worker, None)
            self.since.pop(worker, None)
        if ask.wanted:
            self.waiting[worker] = ask.wanted
        else:
            self.waiting.pop(worker, None)
        self._learn(worker, ask.facts, now)

    def _learn(self, worker: str, facts: Facts, now: float) -> None:
        if facts.delay is not None:
            self.delay = max(self.delay or 0.0, facts.delay)
        if facts.robots is not None:
            self.robots = facts.robots
        if worker == self.rest_by or now + facts.rest_s > self.rest_until:
            self.rest_until, self.resting, self.rest_by = now + facts.rest_s, facts.resting, worker
        if worker == self.down_by or now + facts.down_s > self.down_until:
            self.down_until, self.down_by = now + facts.down_s, worker
            self.failures, self.last_failure = facts.failures, facts.last_failure

    def facts(self, worker: str, now: float) -> Facts:
        """Return what a worker has not found out itself."""
        rest_s = max(0.0, self.rest_until - now) if worker != self.rest_by else 0.0
        down_s = max(0.0, self.down_until - now) if worker != self.down_by else 0.0
        return Facts(
            self.delay,
            self.robots,
            rest_s,
            self.resting and rest_s > 0,
            self.failures if down_s else 0,
            down_s,
            self.last_failure if down_s else "",
        )


class HostBook:
    """Slots of all hosts, lent to workers.

    A host has ``per_host`` slots. Where its requests are to keep a distance (``host_rate``, Crawl-delay, or a
    robots.txt that nobody has read yet), one worker has them all for a while, and passes its turn on with
    them; else workers share them evenly.
    """

    def __init__(self, config: Fetch) -> None:
        self._config = config
        self._name = uuid.uuid4().hex
        self._pages: OrderedDict[str, HostPage] = OrderedDict()
        self._at: dict[str, set[str]] = {}  # hosts of a worker
        self._news: dict[str, set[str]] = {}  # hosts that a worker is to hear of
        self._seen: dict[str, float] = {}
        self._buried = 0.0

    def exchange(self, worker: str, asks: dict[str, Ask]) -> Answer:
        """Take in what a worker says of hosts, and answer.

        The answer is on these, and on others that it should know of.
        """
        now = time.monotonic()
        self._seen[worker] = now
        self._bury(now)
        at = self._at.setdefault(worker, set())
        for name, ask in asks.items():
            page = self._pages.setdefault(name, HostPage())
            self._pages.move_to_end(name)
            page.update(worker, ask, now)
            at.add(name)
            if page.claims > 1 or (page.waiting and worker not in page.waiting):
                self._tell_others(name, page, worker)
        grants = {}
        for name in [*asks, *(self._news.pop(worker, set()) - asks.keys())]:
            page = self._pages.get(name, HostPage())
            slots = self._lend(page, worker, now)
            facts = page.facts(worker, now)
            shared = page.claims > 1
            if name not in asks or asks[name].facts.delay is not None:  # it has read them
                facts = facts._replace(robots=None)
            had = name in asks and asks[name].held
            grants[name] = Grant(slots, shared, 0.0 if had else max(0.0, page.turn - now), facts)
            if worker not in page.held and worker not in page.waiting:
                at.discard(name)
        self._forget(now)
        return Answer(self._name, max(LEAST_GAP_S, len(self._seen) / WORKERS_A_SECOND), grants)

    def _tell_others(self, name: str, page: HostPage, worker: str) -> None:
        for other in page.held.keys() | page.waiting.keys():
            if other != worker:
                self._news.setdefault(other, set()).add(name)

    def _lend(self, page: HostPage, worker: str, now: float) -> int:
        """Return how many slots a worker may have, and note them."""
        mine, wanted = page.held.get(worker, 0), page.waiting.get(worker, 0)
        apart = self._config.host_rate or page.delay or (self._config.robots and page.delay is None)
        slots = (self._whole if apart else self._share)(page, worker, mine + wanted, now)
        if slots > mine:
            page.held[worker] = slots
            page.since.setdefault(worker, now)
        if wanted and slots >= mine + wanted:
            del page.waiting[worker]
        elif wanted and slots < mine:  # who gives a slot up is the last in the line
            page.waiting[worker] = page.waiting.pop(worker)
        return slots

    def _whole(self, page: HostPage, worker: str, demand: int, now: float) -> int:
        """Slots of a host that one worker has at a time."""
        mine = page.held.get(worker, 0)
        owner = min(page.since, key=page.since.__getitem__, default=None)
        if owner is None:
            owner = next(iter(page.waiting), worker)
        elif owner == worker and page.waiting.keys() - {worker} and now - page.since[worker] > LEASE_S:
            return 0
        if owner != worker:
            return 0
        others = sum(page.held.values()) - mine
        return min(demand, self._config.per_host - others)

    def _share(self, page: HostPage, worker: str, demand: int, now: float) -> int:
        """Slots of a host that workers have at once."""
        mine, most = page.held.get(worker, 0), self._config.per_host
        free = most - sum(page.held.values())
        hungry = [other for other in page.waiting if other not in page.held and other != worker]
        if not page.waiting.keys() - {worker}:
            return max(0, min(demand, mine + free))
        fair = max(1, most // page.claims)
        if mine:
            left_out = page.claims > most and hungry and now - page.since[worker] > LEASE_S
            return 0 if left_out else min(demand, fair, max(mine, mine + free - len(hungry)))
        before = next((n for n, name in enumerate(page.waiting) if name == worker), 0)
        ahead = sum(name in hungry for name in list(page.waiting)[:before])
        return max(0, min(demand, fair, free - ahead))

    def _bury(self, now: float) -> None:
        """Take the slots of workers that are silent."""
        if now - self._buried < LOOK_EVERY_S:
            return
        self._buried = now
        for name in [name for name, seen in self._seen.items() if now - seen > SILENT_S]:
            del self._seen[name]
            self._news.pop(name, None)
            for host in self._at.pop(name, set()):
                if page := self._pages.get(host):
                    page.update(name, Ask(0, 0, 0.0, Facts()), now)
                    self._tell_others(host, page, name)

    def _forget(self, now: float) -> None:
        """Forget the hosts that were longest not asked for."""
        for _ in range(min(16, len(self._pages) - MOST_IDLE)):
            name, page = next(iter(self._pages.items()))
            if page.idle(now):
                del self._pages[name]
            else:
                self._pages.move_to_end(name)
