"""The book that lends the slots of hosts to workers."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom.pipelines.corpus import host_book
from rasterloom.pipelines.corpus.host_book import HostBook
from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.fetch.hosts import Facts
from rasterloom.sources.fetch.leases import Ask

NO_DELAY = Facts(delay=0.0)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; add to its only item."""
    now = [1000.0]
    monkeypatch.setattr(host_book.time, "monotonic", lambda: now[0])
    return now


def slots(book, worker, held, wanted, facts=NO_DELAY, turn_s=0.0):
    return book.exchange(worker, {"h": Ask(held, wanted, turn_s, facts)}).grants["h"].slots


def test_a_worker_alone_has_all_slots():
    book = HostBook(Fetch(per_host=4))
    assert slots(book, "a", 0, 9) == 4
    assert slots(book, "a", 4, 0) == 4


def test_workers_share_evenly_and_the_first_gives_back():
    book = HostBook(Fetch(per_host=4))
    assert slots(book, "a", 0, 4) == 4
    assert slots(book, "b", 0, 4) == 0
    answer = book.exchange("a", {})  # which has nothing to say, and is told
    assert answer.grants["h"].slots == 2 and answer.grants["h"].shared
    assert slots(book, "a", 2, 2) == 2
    assert slots(book, "b", 0, 4) == 2


def test_a_host_with_a_rate_is_one_workers_at_a_time_and_its_turn_goes_along(clock):
    book = HostBook(Fetch(per_host=4, host_rate=0.5))
    assert slots(book, "a", 0, 4) == 4
    assert slots(book, "b", 0, 4) == 0
    assert slots(book, "a", 4, 0) == 4
    clock[0] += host_book.LEASE_S + 1
    assert slots(book, "a", 4, 0) == 0
    assert slots(book, "b", 0, 4) == 0, "requests of the first are still under way"
    assert slots(book, "a", 0, 4, turn_s=1.5) == 0
    clock[0] += 0.5
    grant = book.exchange("b", {"h": Ask(0, 4, 0.0, NO_DELAY)}).grants["h"]
    assert (grant.slots, grant.turn_s) == (4, 1.0)


def test_a_turn_outlives_the_slots(clock):
    """Else a host whose rows come one by one would be asked without a distance."""
    book = HostBook(Fetch(host_rate=0.1))
    assert slots(book, "a", 0, 1) == 1
    assert slots(book, "a", 0, 0, turn_s=10) == 0
    for number in range(3):
        book.exchange("b", {f"other{number}": Ask(0, 1, 0.0, NO_DELAY)})
    assert book.exchange("b", {"h": Ask(0, 1, 0.0, NO_DELAY)}).grants["h"].turn_s == 10


def test_robots_txt_is_read_by_one_worker():
    book = HostBook(Fetch(per_host=4))
    unread = Facts()
    assert slots(book, "a", 0, 4, unread) == 4
    assert slots(book, "b", 0, 4, unread) == 0
    read = Facts(delay=0.0, robots=b"rules")
    assert slots(book, "a", 4, 0, read) == 2
    book.exchange("a", {"h": Ask(2, 0, 0.0, read)})
    grant = book.exchange("b", {"h": Ask(0, 4, 0.0, unread)}).grants["h"]
    assert grant.slots == 2 and grant.facts.robots == b"rules"


def test_a_crawl_delay_makes_it_one_workers():
    book = HostBook(Fetch(per_host=4))
    slow = Facts(delay=2.0)
    assert slots(book, "a", 0, 2, Facts()) == 2
    assert slots(book, "a", 2, 0, slow) == 2
    assert slots(book, "b", 0, 1, Facts()) == 0


def test_a_crawl_delay_that_is_read_late_takes_slots_from_nobody():
    book = HostBook(Fetch(per_host=4))
    assert slots(book, "a", 0, 4) == 4
    assert slots(book, "b", 0, 2) == 0
    assert slots(book, "a", 2, 0) == 2
    assert slots(book, "b", 0, 2) == 2
    slow = Facts(delay=2.0)
    assert slots(book, "a", 2, 2, slow) == 2, "the other's are still in use"
    assert slots(book, "b", 2, 0, slow) == 0
    assert slots(book, "b", 0, 0, slow) == 0
    assert slots(book, "a", 2, 2, slow) == 4


def test_what_one_worker_found_out_the_others_hear_until_it_takes_it_back(clock):
    book = HostBook(Fetch(per_host=4))
    slots(book, "a", 0, 1)
    resting = Facts(0.0, None, 60.0, True, 20, 300.0, "timeout")
    book.exchange("a", {"h": Ask(1, 0, 0.0, resting)})
    clock[0] += 1
    facts = book.exchange("b", {"h": Ask(0, 1, 0.0, NO_DELAY)}).grants["h"].facts
    assert (facts.rest_s, facts.resting, facts.failures, facts.down_s) == (59.0, True, 20, 299.0)
    own = book.exchange("a", {"h": Ask(1, 0, 0.0, resting)}).grants["h"].facts
    assert own.rest_s == own.down_s == 0.0, "it need not be told what it knows"
    book.exchange("a", {"h": Ask(1, 0, 0.0, NO_DELAY)})
    facts = book.exchange("b", {}).grants["h"].facts
    assert facts.rest_s == facts.down_s == 0.0


def test_a_silent_worker_counts_as_dead(clock):
    book = HostBook(Fetch(per_host=1))
    assert slots(book, "a", 0, 1) == 1
    assert slots(book, "b", 0, 1) == 0
    clock[0] += host_book.SILENT_S + 1
    assert slots(book, "b", 0, 1) == 1


def test_more_workers_than_slots_take_turns(clock):
    book = HostBook(Fetch(per_host=1))
    held, had = Counter(), Counter()
    for _ in range(60):
        for worker in "abc":
            held[worker] = slots(book, worker, held[worker], 1)  # it gives back at once
            had[worker] += held[worker]
        clock[0] += 1
        assert sum(held.values()) <= 1
    assert min(had[worker] for worker in "abc") >= 10


def test_hosts_of_long_ago_are_forgotten(monkeypatch, clock):
    monkeypatch.setattr(host_book, "MOST_IDLE", 3)
    book = HostBook(Fetch())
    for number in range(20):
        name = f"h{number}"
        book.exchange("a", {name: Ask(0, 1, 0.0, NO_DELAY)})
        book.exchange("a", {name: Ask(0, 0, 0.0, NO_DELAY)})
    assert len(book._pages) <= 3 and not book._at["a"]


@settings(deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([None, 5.0]),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.integers(0, 6)), max_size=60),
)
def test_never_more_slots_than_there_are(per_host, rate, moves):
    """Workers that give back what they are asked for, at once or later, and want something else each time."""
    book = HostBook(Fetch(per_host=per_host, host_rate=rate))
    held, allowed = Counter(), Counter()
    for worker, wanted, done in moves:
        held[worker] -= min(done, max(0, held[worker] - allowed[worker]))
        held[worker] = max(0, held[worker])
        allowed[worker] = slots(book, worker, held[worker], min(wanted, per_host - held[worker]))
        held[worker] = max(held[worker], allowed[worker])
        assert sum(held.values()) <= per_host
        if rate:
            assert sum(number > 0 for number in held.values()) <= 1
