"""A polite and careful HTTP client: what a page, a site or a network does, it ends in one class of error."""

import asyncio
import random
import ssl
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
from protego import Protego
from yarl import URL

from rasterloom.recipe import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.address import SCHEMES, BlockedAddress, Gate
from rasterloom.sources.failure import Failure
from rasterloom.sources.responses import check_status, network_failure, read_body
from rasterloom.sources.robots import MAX_ROBOTS_BYTES, opt_out, parse_robots, product_token

FIRST_BACKOFF_S = 0.5
LONGEST_WAIT_S = 60.0  # a server that asks for more is not asked again in this run
DNS_CACHE_S = 300
REDIRECTS = (301, 302, 303, 307, 308)

T = TypeVar("T")


@dataclass
class Trace:
    """What is known of a fetch, however it ends."""

    attempts: int = 0
    status: int | None = None
    final_url: str | None = None


@dataclass
class _Host:
    """One host and port: how many may talk to it at once, and from when (by time.monotonic())."""

    slots: asyncio.Semaphore
    not_before: float = 0.0


@dataclass
class Client:
    """Fetches URLs under the limits of a recipe's ``fetch`` section. Use it as a context manager."""

    config: Fetch
    _robots: dict[URL, asyncio.Task[Protego]] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self._gate = Gate(self.config.allow_hosts)
        self._slots = asyncio.Semaphore(self.config.concurrency)
        self._hosts: defaultdict[tuple[str | None, int | None], _Host] = defaultdict(
            lambda: _Host(asyncio.Semaphore(self.config.per_host))
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # our own semaphores count
                resolver=self._gate,
                socket_factory=self._gate.open_socket,
                ssl=_ssl_context(),
                ttl_dns_cache=DNS_CACHE_S,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": self.config.user_agent,
                "Accept": "image/*,*/*;q=0.8",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `_request` has the clock
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._robots.values():
            task.cancel()
        await asyncio.gather(*self._robots.values(), return_exceptions=True)
        await self._session.close()
        await self._gate.close()

    async def get(self, address: str, use: Callable[[bytes], Awaitable[T]], trace: Trace) -> T:
        """Fetch a URL and return what ``use`` makes of the body, trying again what may pass.

        ``use`` runs while the fetch still counts as under way, so no more than ``config.concurrency``
        bodies are in memory. ``trace`` is filled in as things happen.

        Raises:
            Failure: of the last attempt.
        """
        return await self._try_again(_parse(address), use, trace)

    async def _try_again(
        self, url: URL, use: Callable[[bytes], Awaitable[T]], trace: Trace, *, is_robots: bool = False
    ) -> T:
        while True:
            trace.attempts += 1
            try:
                return await self._attempt(url, use, trace, is_robots=is_robots)
            except Failure as failure:
                wait = _backoff(trace.attempts, failure.retry_after)
                if not failure.may_pass or trace.attempts > self.config.retries or wait > LONGEST_WAIT_S:
                    raise
            await asyncio.sleep(wait)

    async def _attempt(
        self, url: URL, use: Callable[[bytes], Awaitable[T]], trace: Trace, *, is_robots: bool = False
    ) -> T:
        trace.status = None
        left = self.config.deadline_s
        for _ in range(self.config.max_redirects + 1):
            trace.final_url = str(url)
            self._check(url)
            if self.config.robots and not is_robots:
                await self._obey_robots(url)
            host = self._hosts[url.host, url.port]
            async with host.slots:
                await asyncio.sleep(max(0.0, host.not_before - time.monotonic()))
                async with self._slots:
                    started = time.monotonic()
                    try:
                        answer = await self._request(url, left, trace, is_robots=is_robots)
                    except Failure as failure:
                        if failure.retry_after is not None and failure.retry_after <= LONGEST_WAIT_S:
                            host.not_before = time.monotonic() + failure.retry_after
                        raise
                    if isinstance(answer, bytes):
                        return await use(answer)
                    left -= time.monotonic() - started
            url = answer
        raise Failure(
            ErrorClass.TOO_MANY_REDIRECTS,
            f"redirected more than max_redirects = {self.config.max_redirects} times, last to {url}",
        )

    def _check(self, url: URL) -> None:
        if url.scheme not in SCHEMES:
            raise Failure(ErrorClass.BLOCKED_SCHEME, f"{url.scheme}: is not fetched, only http and https are")
        if not url.host:
            raise Failure(ErrorClass.BAD_URL, f"{url} names no host")
        try:
            self._gate.check_url(url)
        except BlockedAddress as error:
            raise Failure(ErrorClass.BLOCKED_ADDRESS, str(error)) from None

    async def _obey_robots(self, url: URL) -> None:
        """Fetch the robots.txt of a URL's host, once for all of its URLs, and do as it says."""
        origin = url.origin()
        task = self._robots.get(origin)
        if task is None:
            task = self._robots[origin] = asyncio.create_task(self._read_robots(origin / "robots.txt"))
        try:
            rules = await asyncio.shield(task)
        except Failure as failure:  # has been tried again already
            raise Failure(failure.error, f"robots.txt: {failure.detail}") from None
        if not rules.can_fetch(str(url), product_token(self.config.user_agent)):
            raise Failure(ErrorClass.ROBOTS, f"{origin}/robots.txt disallows {url.raw_path}")

    async def _read_robots(self, url: URL) -> Protego:
        """Read a robots.txt; RFC 9309: where there is none all is allowed, where it is ill nothing is."""

        async def parse(body: bytes) -> Protego:
            return parse_robots(body)

        try:
            return await self._try_again(url, parse, Trace(), is_robots=True)
        except Failure as failure:
            if failure.error is ErrorClass.HTTP_4XX:
                return parse_robots(b"")
            if failure.error in (
                ErrorClass.DNS,
                ErrorClass.CONNECT,
                ErrorClass.TIMEOUT,
                ErrorClass.BLOCKED_ADDRESS,
            ):
                raise
            raise Failure(ErrorClass.ROBOTS, f"cannot be read, so nothing may be: {failure.detail}") from None

    async def _request(self, url: URL, left: float, trace: Trace, *, is_robots: bool) -> bytes | URL:
        """Make one request and return its body, or where it redirects to, within ``left`` seconds."""
        try:
            async with asyncio.timeout(left), self._session.get(url, allow_redirects=False) as response:
                trace.status = response.status
                if response.status in REDIRECTS and "Location" in response.headers:
                    return _join(url, response.headers["Location"])
                check_status(response)
                if is_robots:
                    return await read_body(response, MAX_ROBOTS_BYTES, cut=True)
                if self.config.robots:
                    headers = response.headers.getall("X-Robots-Tag", [])
                    if asked := opt_out(headers, self.config.user_agent):
                        raise Failure(ErrorClass.ROBOTS, f"X-Robots-Tag says {asked}")
                return await read_body(response, self.config.max_bytes)
        except TimeoutError:
            detail = f"no complete answer within deadline_s = {self.config.deadline_s:g}"
            raise Failure(ErrorClass.TIMEOUT, detail, may_pass=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise network_failure(error) from error


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    return ssl.create_default_context()  # reading the root certificates takes 20 ms: once a process


def _parse(address: str) -> URL:
    try:
        url = URL(address.strip())
        return url.with_user(None) if url.user is not None else url  # a data set's passwords are not used
    except ValueError as error:
        raise Failure(ErrorClass.BAD_URL, f"not a URL: {error}") from None


def _join(url: URL, location: str) -> URL:
    try:
        target = url.join(URL(location))
        return target.with_user(None) if target.user is not None else target
    except ValueError as error:
        raise Failure(ErrorClass.BAD_URL, f"redirects to what is not a URL: {error}") from None


def _backoff(attempt: int, retry_after: float | None) -> float:
    """Return the seconds to wait after a failed attempt: doubled each time, with jitter."""
    wait: float = FIRST_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
    return max(wait, retry_after or 0.0)
