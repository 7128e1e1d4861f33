"""HTTP client with limits, politeness and one class of error per outcome."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
from protego import Protego
from yarl import URL

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.addresses import SCHEMES, BlockedAddress, Gate
from rasterloom.sources.fetch.aiohttp_compat import connector
from rasterloom.sources.fetch.backlog import Backlog
from rasterloom.sources.fetch.backoff import wait_before_retry
from rasterloom.sources.fetch.heads import MAX_HEAD_BYTES
from rasterloom.sources.fetch.hosts import DOWN, RULES_S, Host, Hosts
from rasterloom.sources.fetch.http_errors import check_status, network_failure, read_body
from rasterloom.sources.fetch.leases import Exchange, Leases
from rasterloom.sources.fetch.opt_out import OptOuts
from rasterloom.sources.fetch.robots import (
    MAX_ROBOTS_BYTES,
    crawl_delay,
    opt_out,
    parse_robots,
    product_token,
)
from rasterloom.sources.fetch.slots import ASIDE_BYTES, Slot, Slots, most_aside
from rasterloom.sources.fetch.urls import join_url, parse_url
from rasterloom.utils.name_cache import KEPT_S
from rasterloom.utils.private_folders import private_folder

DNS_CACHE_S = 300
DNS_CACHE_NAMES = 10_000
READ_BUFFER_BYTES = 2**20  # aiohttp's own would stop and start an image's transfer many times
REDIRECTS = (301, 302, 303, 307, 308)

NOT_ASKED = (ErrorClass.HOST_DOWN, ErrorClass.HOST_BUSY)
# A robots.txt that was not reached says nothing about what is allowed: these stay the classes they are.
UNREACHED = DOWN - {ErrorClass.HTTP_5XX} | {
    ErrorClass.BAD_URL,
    ErrorClass.BLOCKED_ADDRESS,
    ErrorClass.OPT_OUT,
    *NOT_ASKED,
}

T = TypeVar("T")


@dataclass
class Trace:
    """Attempts and last response of a fetch, however it ends."""

    attempts: int = 0
    status: int | None = None
    final_url: str | None = None
    seconds: float = 0.0  # spent on requests, of the deadline


@dataclass
class Client:
    """Fetches URLs under the limits of a recipe's ``fetch`` section. Use it as a context manager."""

    config: Fetch
    opt_outs: OptOuts = field(default_factory=OptOuts)
    exchange: Exchange | None = None  # with the book of the slots that workers share; None: they share none

    async def __aenter__(self) -> Self:
        # Workers that share the limits of hosts share their names, too, on each machine.
        names = private_folder("names") / "names.sqlite" if self.exchange else None
        self._gate = Gate(self.config.allow_hosts, names)
        self.slots = Slots(self.config.concurrency, most_aside(self.config.concurrency))
        self.backlog = Backlog(self.slots)
        self._leases = Leases(self.config, self.exchange) if self.exchange else None
        self._hosts = Hosts(self.config, self._leases.of if self._leases else None)
        self._session = aiohttp.ClientSession(
            connector=connector(
                limit=0,  # our own semaphores count
                resolver=self._gate,
                socket_factory=self._gate.open_socket,
                ssl=_ssl_context(),
                ttl_dns_cache=DNS_CACHE_S - KEPT_S if names else DNS_CACHE_S,
                dns_cache_max_size=DNS_CACHE_NAMES,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": self.config.user_agent,
                "Accept": "image/*,*/*;q=0.8",
                "Accept-Encoding": "identity",
            },
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,  # `read_body` does it, and knows labels that are not true
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEAD_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `_request` has the clock
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = self._hosts.tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()
        await self._gate.close()
        if self._leases:
            await self._leases.close()

    async def get(self, address: str, use: Callable[[bytes], Awaitable[T]], trace: Trace) -> T:
        """Fetch a URL with retries, and return ``use`` of the body.

        ``use`` runs while the fetch still counts as under way, so no more than ``config.concurrency``
        bodies are in memory, and the beginnings of those whose hosts are slow. ``trace`` is filled in as
        things happen.

        Raises:
            FetchFailure: of the last attempt.
        """
        return await self._try_again(_parse(address), use, trace)

    async def _try_again(
        self, url: URL, use: Callable[[bytes], Awaitable[T]], trace: Trace, *, is_robots: bool = False
    ) -> T:
        earlier: FetchFailure | None = None
        while True:
            trace.attempts += 1
            try:
                return await self._attempt(url, use, trace, is_robots=is_robots)
            except FetchFailure as failure:
                if failure.error in NOT_ASKED:
                    trace.attempts -= 1
                    raise earlier or failure from None
                wait = wait_before_retry(trace.attempts, failure)
                over = trace.attempts > self.config.retries or trace.seconds >= self.config.deadline_s
                if over or not failure.may_pass or wait > self.config.patience_s:
                    raise
                earlier = failure
            await asyncio.sleep(wait)

    async def _attempt(
        self, url: URL, use: Callable[[bytes], Awaitable[T]], trace: Trace, *, is_robots: bool = False
    ) -> T:
        trace.status = None
        for _ in range(self.config.max_redirects + 1):
            trace.final_url = str(url)
            self._check(url)
            with self._hosts.using(url) as host:
                if self.config.robots and not is_robots:
                    await self._obey_robots(url, host)
                slot = await self._enter(host)
                try:
                    try:
                        answer = await self._ask(url, host, trace, slot, is_robots=is_robots)
                    finally:
                        host.slots.release()
                    if isinstance(answer, bytes):
                        await slot.come_back()
                        return await use(answer)
                finally:
                    slot.leave()
            url = answer
        raise FetchFailure(
            ErrorClass.TOO_MANY_REDIRECTS,
            f"redirected more than max_redirects = {self.config.max_redirects} times, last to {url}",
        )

    async def _enter(self, host: Host) -> Slot:
        """Wait for the host's slot, for its turn, and our slot. Both slots are held then.

        Raises:
            FetchFailure: HOST_DOWN or HOST_BUSY, and nothing is held.
        """
        host.check(self.config, ahead=host.waiting)
        host.waiting += 1
        try:
            await host.slots.acquire()
            try:
                while True:
                    host.check(self.config)  # the queue may have been long
                    await asyncio.sleep(host.seconds_to_turn())
                    slot = Slot(self.slots)
                    await slot.take()
                    if not host.seconds_to_turn():
                        host.take_turn(self.config)
                        return slot
                    slot.leave()
            except BaseException:
                host.slots.release()
                raise
        finally:
            host.waiting -= 1

    async def _ask(self, url: URL, host: Host, trace: Trace, slot: Slot, *, is_robots: bool) -> bytes | URL:
        """Make one request within the deadline, noting how the host fared."""
        started = time.monotonic()
        slot.wait()
        try:
            answer = await self._request(url, trace, slot, is_robots=is_robots)
        except FetchFailure as failure:
            host.learn(failure, self.config, started)
            raise
        finally:
            trace.seconds += time.monotonic() - started - slot.waited_s
        host.learn(None, self.config, started)
        return answer

    def _check(self, url: URL) -> None:
        if url.scheme not in SCHEMES:
            what = f"{url.scheme}: is not fetched" if url.scheme else f"{url} names no scheme"
            raise FetchFailure(ErrorClass.BLOCKED_SCHEME, f"{what}, only http and https are fetched")
        if not url.host:
            raise FetchFailure(ErrorClass.BAD_URL, f"{url} names no host")
        if entry := self.opt_outs.of_url(url):
            raise FetchFailure(ErrorClass.OPT_OUT, f"the opt-out list has {entry}")
        try:
            self._gate.check_url(url)
        except BlockedAddress as error:
            raise FetchFailure(ErrorClass.BLOCKED_ADDRESS, str(error)) from None

    async def _obey_robots(self, url: URL, host: Host) -> None:
        """Fetch a URL's robots.txt, once a host, and obey it."""
        await host.slots.meet()
        if host.rules is None or (host.rules.done() and time.monotonic() > host.rules_until):
            host.rules = asyncio.create_task(self._read_robots(url.origin() / "robots.txt", host))
        try:
            rules = await asyncio.shield(host.rules)
        except FetchFailure as failure:  # has been tried again already
            raise FetchFailure(failure.error, f"robots.txt: {failure.detail}") from None
        if not rules.can_fetch(str(url), product_token(self.config.user_agent)):
            raise FetchFailure(ErrorClass.ROBOTS, f"{host.name}/robots.txt disallows {url.raw_path}")

    async def _read_robots(self, url: URL, host: Host) -> Protego:
        """Read a robots.txt; RFC 9309: where there is none all is allowed, where it is ill nothing is."""

        async def parse(body: bytes) -> Protego:
            host.robots = body
            return parse_robots(body)

        host.rules_until = time.monotonic() + self.config.host_down_s
        try:
            rules = await self._try_again(url, parse, Trace(), is_robots=True)
        except FetchFailure as failure:
            if failure.error in NOT_ASKED:
                host.rules_until = time.monotonic()  # it is asked as soon as the host may be
            if failure.error in UNREACHED:
                raise
            if failure.error is not ErrorClass.HTTP_4XX:
                detail = f"cannot be read, so nothing may be: {failure.detail}"
                raise FetchFailure(ErrorClass.ROBOTS, detail) from None
            rules = await parse(b"")
        host.crawl_delay = min(crawl_delay(rules, self.config.user_agent), RULES_S)
        host.rules_until = time.monotonic() + RULES_S
        asyncio.get_running_loop().call_soon(host.slots.changed)  # once the rules count as read
        return rules

    async def _request(self, url: URL, trace: Trace, slot: Slot, *, is_robots: bool) -> bytes | URL:
        """Make one request and return its body, or where it redirects to."""
        left = self.config.deadline_s - trace.seconds
        try:
            async with (
                asyncio.timeout(left) as clock,
                self._session.get(url, allow_redirects=False) as response,
            ):
                trace.status = response.status
                if response.status in REDIRECTS and "Location" in response.headers:
                    return _join(url, response.headers["Location"])
                check_status(response)
                if is_robots:
                    return await read_body(response, MAX_ROBOTS_BYTES, cut=True)
                tags = response.headers.getall("X-Robots-Tag", [])
                if asked := opt_out(tags, self.config.user_agent, self.config.opt_out_tags):
                    raise FetchFailure(ErrorClass.ROBOTS, f"X-Robots-Tag says {asked}")
                more = partial(slot.come_back, clock)
                return await read_body(response, self.config.max_bytes, small=ASIDE_BYTES, more=more)
        except TimeoutError:
            detail = f"no complete answer within deadline_s = {self.config.deadline_s:g}"
            raise FetchFailure(ErrorClass.TIMEOUT, detail) from None
        except (aiohttp.ClientError, OSError) as error:
            raise network_failure(error) from error


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    return ssl.create_default_context()  # reading the root certificates takes 20 ms: once a process


def _parse(address: str) -> URL:
    try:
        return parse_url(address)
    except ValueError as error:
        raise FetchFailure(ErrorClass.BAD_URL, f"not a URL: {error}") from None


def _join(url: URL, location: str) -> URL:
    try:
        return join_url(url, location)
    except ValueError as error:
        raise FetchFailure(ErrorClass.BAD_URL, f"redirects to what is not a URL: {error}") from None
