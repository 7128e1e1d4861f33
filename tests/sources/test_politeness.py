"""What a host asks for and what it can bear: rate, Crawl-delay, Retry-After, and rest when it is down."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch import hosts as hosts_module
from rasterloom.sources.fetch.backoff import wait_before_retry
from rasterloom.sources.fetch.hosts import Host, Hosts

Rows = list[dict[str, Any]]
Fetcher = Callable[..., Rows]


@pytest.fixture
def asked_at(site: Any, jpeg: bytes) -> list[float]:
    """When the site was asked for /a.jpg, which it gives."""
    times: list[float] = []

    async def answer(_: web.Request) -> web.Response:
        times.append(time.monotonic())
        return web.Response(body=jpeg)

    site.answers["/a.jpg"] = answer
    return times


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the client made its requests for /a.jpg: they arrive late where the machine is busy."""
    times: list[float] = []
    take_turn = Host.take_turn

    def noted(host: Host, config: Fetch) -> None:
        take_turn(host, config)
        times.append(host.next_turn - max(host.interval, host.crawl_delay))

    monkeypatch.setattr(Host, "take_turn", noted)
    return times


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def test_no_more_requests_a_second_than_the_recipe_allows(
    fetch: Fetcher, asked_at: list[float], turns: list[float]
) -> None:
    rows = fetch(*["/a.jpg"] * 6, host_rate=20, patience_s=0)  # our own rate needs no patience
    assert {row["status"] for row in rows} == {"ok"} and len(asked_at) == 6
    assert min(gaps(turns)) > 0.049


@pytest.mark.parametrize("rule", [b"Crawl-delay: 0.06", b"Request-rate: 100/6"])
def test_crawl_delay_is_obeyed(
    site: Any, fetch: Fetcher, asked_at: list[float], turns: list[float], rule: bytes
) -> None:
    site.answers["/robots.txt"] = b"User-agent: rasterloom\n" + rule + b"\n"
    rows = fetch(*["/a.jpg"] * 5, host_rate=1000)
    assert {row["status"] for row in rows} == {"ok"} and len(asked_at) == 5
    _, *images = turns  # the first is that of robots.txt
    assert len(images) == 5 and min(gaps(images)) > 0.059


def test_rows_too_far_back_in_a_slow_line_are_busy_at_once(
    site: Any, fetch: Fetcher, asked_at: list[float], turns: list[float]
) -> None:
    site.answers["/robots.txt"] = b"User-agent: *\nCrawl-delay: 0.3\n"
    rows = fetch(*["/a.jpg"] * 30, patience_s=1, per_host=2)
    errors = [row["error"] for row in rows]
    assert 2 <= errors.count(None) <= 5 and errors.count("host_busy") == 30 - errors.count(None)
    busy = rows[-1]
    assert busy["attempts"] == 0 and "Crawl-delay: 0.3" in busy["detail"]
    assert len(asked_at) == errors.count(None)
    assert min(gaps(turns[1:])) > 0.299  # the first is that of robots.txt


def test_crawl_delay_of_a_day_costs_one_request(site: Any, fetch: Fetcher, asked_at: list[float]) -> None:
    site.answers["/robots.txt"] = b"User-agent: *\nCrawl-delay: 86400\n"
    errors = [row["error"] for row in fetch(*["/a.jpg"] * 20)]
    assert sorted(errors, key=str) == [None] + ["host_busy"] * 19


def too_many(retry_after: str | None) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": retry_after} if retry_after else {})

    return answer


def test_retry_after_as_a_date(site: Any, fetch: Fetcher) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    site.answers["/a.jpg"] = too_many(later)
    (row,) = fetch("/a.jpg")
    assert (row["error"], row["attempts"]) == ("http_429", 1)
    assert "asked to wait 3" in row["detail"]  # 3600 s, or a few less


@pytest.mark.parametrize("value", ["soon", "-5", "Mon, 99 Foo 2020 00:00:00 GMT", "", "1e999", "nan"])
def test_retry_after_that_means_nothing(site: Any, fetch: Fetcher, value: str) -> None:
    site.answers["/a.jpg"] = too_many(value)
    (row,) = fetch("/a.jpg", retries=1)
    assert row["error"] == "http_429"


def test_nobody_asks_a_host_that_wants_an_hour_of_rest(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    site.answers |= {"/a.jpg": too_many("3600"), "/b.jpg": jpeg}
    rows = fetch("/a.jpg", *["/b.jpg"] * 9, per_host=1)
    assert [row["error"] for row in rows] == ["http_429"] + ["host_busy"] * 9
    assert "Retry-After" in rows[1]["detail"]
    assert site.asked["/b.jpg"] == 0


@pytest.mark.parametrize("asked", ["3600", "Fri, 31 Dec 9999 23:59:59 -1200", "9" * 400])
def test_a_host_that_asked_for_long_rest_is_asked_again_by_one_row(
    site: Any, fetch: Fetcher, jpeg: bytes, asked: str
) -> None:
    site.answers["/a.jpg"] = too_many(asked)
    settings: dict[str, Any] = {"robots": False, "per_host": 1, "patience_s": 0.1, "host_down_s": 0.2}
    for _ in range(2):
        errors = [row["error"] for row in fetch(*["/a.jpg"] * 6, **settings)]
        assert errors == ["http_429"] + ["host_busy"] * 5
        time.sleep(0.25)
    site.answers["/a.jpg"] = jpeg
    assert {row["error"] for row in fetch(*["/a.jpg"] * 6, **settings)} == {None}


def test_an_answer_that_was_under_way_ends_no_rest() -> None:
    config = Fetch(patience_s=1, host_down_s=50)
    host = Host("h", asyncio.Semaphore(2))
    before = time.monotonic()
    host.learn(FetchFailure(ErrorClass.HTTP_429, "", retry_after=3600), config, before)
    host.learn(None, config, before)
    assert 40 < host.seconds_to_turn() <= 50
    host.learn(None, config, time.monotonic())
    assert host.seconds_to_turn() == 0


def test_a_503_of_one_url_does_not_stop_the_others(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "3600"})

    site.answers |= {"/bad.jpg": answer, "/b.jpg": jpeg}
    errors = [row["error"] for row in fetch("/bad.jpg", *["/b.jpg"] * 9, per_host=1)]
    assert errors == ["http_5xx"] + [None] * 9
    assert site.asked["/bad.jpg"] == 1


def test_a_robots_txt_that_was_asked_to_wait_is_read_after_the_pause(
    site: Any, fetch: Fetcher, jpeg: bytes
) -> None:
    site.answers |= {"/robots.txt": too_many("3600"), "/a.jpg": jpeg}
    settings: dict[str, Any] = {"per_host": 1, "patience_s": 0.1, "host_down_s": 0.2}
    assert fetch("/a.jpg", **settings)[0]["error"] == "robots"
    site.answers["/robots.txt"] = b""
    time.sleep(0.25)
    assert [row["error"] for row in fetch("/a.jpg", "/a.jpg", **settings)] == [None, None]


def test_a_host_that_keeps_failing_is_left_alone(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    async def stall(_: web.Request) -> web.Response:
        await asyncio.sleep(600)
        return web.Response()

    site.answers |= {"/stall": stall, "/a.jpg": jpeg}
    settings: dict[str, Any] = {"robots": False, "per_host": 2, "deadline_s": 0.3, "host_down_after": 4}
    rows = fetch(*["/stall"] * 200, **settings)
    errors = [row["error"] for row in rows]
    assert errors.count("timeout") <= 5 and errors.count("host_down") == 200 - errors.count("timeout")
    assert site.asked["/stall"] <= 5
    down = rows[-1]
    assert down["attempts"] == 0 and "timeout" in down["detail"]
    # The next shard of this worker knows; a worker with another recipe finds out for itself.
    assert [row["error"] for row in fetch("/a.jpg", **settings)] == ["host_down"]
    assert [row["error"] for row in fetch("/a.jpg", **settings, retries=1)] == [None]


def test_a_host_that_is_up_again_is_found_out_by_one_row(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=500)

    site.answers["/a.jpg"] = broken
    settings: dict[str, Any] = {"robots": False, "per_host": 1, "host_down_after": 2, "host_down_s": 0.2}
    errors = [row["error"] for row in fetch(*["/a.jpg"] * 6, retries=0, **settings)]
    assert errors == ["http_5xx"] * 2 + ["host_down"] * 4
    time.sleep(0.25)
    errors = [row["error"] for row in fetch(*["/a.jpg"] * 6, retries=0, **settings)]
    assert errors == ["http_5xx"] + ["host_down"] * 5
    site.answers["/a.jpg"] = jpeg
    time.sleep(0.25)
    assert {row["error"] for row in fetch(*["/a.jpg"] * 6, retries=0, **settings)} == {None}


@pytest.mark.parametrize("answer", ["missing", "slow down"])
def test_a_host_that_answers_is_not_down(site: Any, fetch: Fetcher, answer: str) -> None:
    if answer == "slow down":
        site.answers["/a.jpg"] = too_many("0")
    rows = fetch(*["/a.jpg"] * 12, robots=False, retries=0, host_down_after=3)
    assert {row["error"] for row in rows} == {"http_4xx" if answer == "missing" else "http_429"}


def test_a_row_on_its_way_keeps_its_own_class(fetch: Fetcher) -> None:
    rows = fetch(
        *["http://127.0.0.1:1/a.jpg"] * 4,
        allow=("127.0.0.1:1",),
        robots=False,
        retries=5,
        host_down_after=2,
        per_host=4,
    )
    assert {row["error"] for row in rows} == {"connect"}


def test_robots_txt_is_kept_from_shard_to_shard(site: Any, fetch: Fetcher, jpeg: bytes) -> None:
    site.answers["/a.jpg"] = jpeg
    for _ in range(3):
        fetch("/a.jpg")
    assert site.asked == {"/robots.txt": 1, "/a.jpg": 3}


def test_waits_grow_differ_by_class_and_are_never_less_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the short waits of these tests
    waits = {
        error: [wait_before_retry(n, FetchFailure(error, "")) for n in (1, 2, 3, 4)]
        for error in (ErrorClass.CONNECT, ErrorClass.HTTP_5XX, ErrorClass.HTTP_429)
    }
    for error, first in ((ErrorClass.CONNECT, 0.5), (ErrorClass.HTTP_5XX, 1), (ErrorClass.HTTP_429, 4)):
        for attempt, wait in enumerate(waits[error]):
            assert 0.5 <= wait / (first * 2**attempt) <= 1.5
    failure = FetchFailure(ErrorClass.HTTP_429, "", retry_after=100)
    assert 100 <= wait_before_retry(1, failure) <= 105
    assert len({wait_before_retry(1, failure) for _ in range(20)}) > 1


def test_hosts_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "MOST_HOSTS", 10)
    known = Hosts(Fetch())
    with known.using(URL("http://busy.test/")) as busy:
        busy.failed_in_a_row = 7
        for number in range(50):
            with known.using(URL(f"http://h{number}.test/a")) as host:
                assert isinstance(host, Host)
        with known.using(URL("http://busy.test/other")) as same:
            assert same is busy
    assert len(known._known) == 10
