"""Workers that share the limits of a host: several clients, one book, one real server."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pyarrow as pa
import pytest
from aiohttp import web

from rasterloom.pipelines.corpus.host_book import HostBook
from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import PAIRS, pair_key
from rasterloom.sources.fetch import leases
from rasterloom.sources.fetch.shard import fetch_shard

WORKERS = 3


@pytest.fixture
def fetch_together(site):
    """Fetches paths of the site, the same ones in each of three workers, and returns the rows of all."""

    def run(*paths, exchange=None, **settings):
        config = Fetch(
            **{"allow_hosts": (f"127.0.0.1:{site.port}",), "deadline_s": 20.0, "retries": 0, **settings}
        )
        book, lock = HostBook(config), threading.Lock()

        def worker(number):
            def ask(name, asks):
                with lock:
                    return book.exchange(name, asks)

            urls = [f"{site.url(path)}?{number}-{i}" for i, path in enumerate(paths)]
            named = [{"key": pair_key(url, "a"), "url": url, "caption": "a", "source": "s"} for url in urls]
            pairs = pa.Table.from_pylist(named, schema=PAIRS)
            return fetch_shard(pairs, config, shard=number, exchange=exchange or ask).to_pylist()

        with ThreadPoolExecutor(WORKERS) as pool:
            return [row for rows in pool.map(worker, range(WORKERS)) for row in rows]

    return run


@pytest.fixture
def asked_at(site, jpeg):
    times = []

    async def answer(_):
        times.append(time.monotonic())
        return web.Response(body=jpeg)

    site.answers["/a.jpg"] = answer
    return times


def test_a_rate_counts_for_all(fetch_together, asked_at):
    rows = fetch_together(*["/a.jpg"] * 10, host_rate=20, patience_s=0, robots=False)
    assert {row["status"] for row in rows} == {"ok"} and len(asked_at) == 30
    assert max(asked_at) - min(asked_at) > 29 * 0.05 - 0.1
    close = sum(later - earlier < 0.025 for earlier, later in pairwise(sorted(asked_at)))
    assert close <= 3, "requests of two workers fell together"


def test_slots_count_for_all(site, fetch_together, jpeg):
    async def slow(_):
        await asyncio.sleep(0.05)
        return web.Response(body=jpeg)

    site.answers["/a.jpg"] = slow
    rows = fetch_together(*["/a.jpg"] * 12, per_host=4, robots=False)
    assert {row["status"] for row in rows} == {"ok"}
    assert site.most_under_way <= 4


def test_robots_txt_is_read_once_and_obeyed_by_all(site, fetch_together, jpeg):
    site.answers |= {"/robots.txt": b"User-agent: *\nDisallow: /no\n", "/a.jpg": jpeg, "/no.jpg": jpeg}
    rows = fetch_together("/a.jpg", "/no.jpg")
    assert [row["error"] for row in rows] == [None, "robots"] * WORKERS
    assert site.asked["/robots.txt"] == 1 and not site.asked["/no.jpg"]


def test_a_crawl_delay_counts_for_all(site, fetch_together, asked_at):
    site.answers["/robots.txt"] = b"User-agent: *\nCrawl-delay: 0.1\n"
    rows = fetch_together(*["/a.jpg"] * 4)
    assert {row["status"] for row in rows} == {"ok"} and len(asked_at) == 12
    assert max(asked_at) - min(asked_at) > 11 * 0.1 - 0.1


def test_a_book_that_is_away_holds_up_no_row_for_ever(site, fetch_together, jpeg, monkeypatch):
    monkeypatch.setattr(leases, "LOST_S", 0.2)
    monkeypatch.setattr(leases, "BEAT_S", 0.1)
    site.answers["/a.jpg"] = jpeg

    def away(name, asks):
        raise OSError("away")

    rows = fetch_together("/a.jpg", exchange=away, robots=False)
    assert [row["status"] for row in rows] == ["ok"] * WORKERS


def test_a_worker_without_rows_asks_nothing_of_a_book_that_is_gone(
    site, fetch_together, jpeg, monkeypatch, caplog
):
    """Ray's workers outlive the run: they are warm for the next one."""
    monkeypatch.setattr(leases, "LOST_S", 0.2)
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    site.answers["/a.jpg"] = jpeg
    asked = []

    def away(name, asks):
        asked.append(name)
        raise OSError("away")

    fetch_together("/a.jpg", exchange=away, robots=False)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        before = len(asked)
        time.sleep(0.5)
        if len(asked) == before:
            break
    assert len(asked) == before, "it asks on and on"
    assert len([r for r in caplog.records if "does not answer" in r.message]) == 1


def test_a_book_that_begins_anew_hears_of_the_slots(site, fetch_together, jpeg):
    """As after the node that had it is lost."""
    config = Fetch(allow_hosts=(f"127.0.0.1:{site.port}",), per_host=2, robots=False)
    books, lock = [HostBook(config)], threading.Lock()

    def exchange(name, asks):
        with lock:
            if len(books) == 1 and site.asked["/a.jpg"] >= 3:
                books.append(HostBook(config))
            return books[-1].exchange(name, asks)

    async def slow(_):
        await asyncio.sleep(0.02)
        return web.Response(body=jpeg)

    site.answers["/a.jpg"] = slow
    rows = fetch_together(*["/a.jpg"] * 6, exchange=exchange, per_host=2, robots=False)
    assert {row["status"] for row in rows} == {"ok"} and len(books) == 2


def test_slots_that_the_book_asks_for_are_given_back_as_requests_end():
    async def look():
        changes = []
        slots = leases.LentSlots(4, lambda: changes.append(1))
        waiting = [asyncio.ensure_future(slots.acquire()) for _ in range(6)]
        await asyncio.sleep(0)
        assert (slots.held, slots.wanted) == (0, 4), "no more than there may be"
        slots.grant(4, known=True)
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [True] * 4 + [False] * 2
        slots.grant(2, known=True)
        changes.clear()
        slots.release()
        slots.release()
        await asyncio.sleep(0)
        assert slots.held == 2 and len(changes) == 2 and not waiting[4].done()
        waiting[5].cancel()
        slots.release()
        await asyncio.sleep(0)
        assert waiting[4].done() and slots.held == 2 and slots.wanted == 0

    asyncio.run(look())


def test_a_row_that_ends_while_it_gets_a_slot_leaves_it_to_others():
    async def look():
        slots = leases.LentSlots(1, lambda: None)
        row = asyncio.ensure_future(slots.acquire())
        await asyncio.sleep(0)
        slots.grant(1, known=True)
        row.cancel()  # in the same moment
        await asyncio.gather(row, return_exceptions=True)
        assert await asyncio.wait_for(slots.acquire(), 1)

    asyncio.run(look())
