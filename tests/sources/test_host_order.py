"""Order of a long list by host."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.recipe.sources import Source
from rasterloom.sources import host_order, pairs
from rasterloom.sources.pairs import read_sources, stream_pairs

SMALL, LARGE = 120, 3  # hosts
ROWS_SMALL, ROWS_LARGE = 10, 700


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A list of hosts in turn, some of them large, with repeated pairs and rows that are none."""
    monkeypatch.setattr(host_order, "MANY_ROWS", 1000)
    monkeypatch.setattr(host_order, "PART_ROWS", 500)
    monkeypatch.setattr(host_order, "PIECE_ROWS", 50)
    monkeypatch.setattr(pairs, "FILE_ROWS", 400)
    urls = [f"https://Small{i % SMALL}.test/{i}.jpg" for i in range(SMALL * ROWS_SMALL)]
    urls += [f"http://large{i % LARGE}.test:8080/{i}.jpg" for i in range(LARGE * ROWS_LARGE)]
    urls = [urls[i * 7 % len(urls)] for i in range(len(urls))]  # 7 does not divide their number
    table = {"url": [*urls, *urls[:90], None, "", "nonsense"], "caption": ["one"] * (len(urls) + 93)}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    return Source(path=f"{tmp_path}/list.parquet")


def host(url: str | None) -> str:
    return (url or "").partition("//")[2].partition("/")[0].partition(":")[0].lower()


def ordered(source: Source) -> tuple[list[pa.Table], dict[str, int]]:
    counts: dict[str, int] = {}
    return list(stream_pairs([source], counts, by_host=True)), counts


def test_no_row_is_lost_or_changed(source: Source) -> None:
    tables, counts = ordered(source)
    plain, counts_of_plain = read_sources([source])
    assert counts == counts_of_plain
    key = [("key", "ascending")]
    assert pa.concat_tables(tables).sort_by(key).equals(plain.sort_by(key))
    assert max(table.num_rows for table in tables) <= 400


def test_small_hosts_lie_side_by_side_and_large_ones_in_pieces(source: Source) -> None:
    hosts = [host(url) for url in pa.concat_tables(ordered(source)[0])["url"].to_pylist()]
    places = defaultdict(list)
    for place, name in enumerate(hosts):
        places[name].append(place)
    few = [found for name, found in places.items() if name.startswith("small")]
    # Between the first and the last row of a small host lie pieces of the large ones at most.
    assert sum(found[-1] - found[0] < 4 * ROWS_SMALL for found in few) > 0.9 * SMALL
    for number in range(LARGE):
        each = Counter(place * 10 // len(hosts) for place in places[f"large{number}.test"])
        assert len(each) >= 9 and max(each.values()) < ROWS_LARGE / 3, "it is spread over the list"


def test_rows_without_a_host_come_first_in_their_order(source: Source) -> None:
    hosts = [host(url) for url in pa.concat_tables(ordered(source)[0])["url"].to_pylist()]
    assert hosts[:3] == ["", "", ""] and "" not in hosts[3:]


def test_the_order_is_that_of_the_rows_alone(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    once = pa.concat_tables(ordered(source)[0])
    monkeypatch.setattr(pairs, "FILE_ROWS", 150)
    monkeypatch.setattr(host_order, "PART_ROWS", 10_000)
    again = pa.concat_tables(ordered(source)[0])
    hosts = [[host(url) for url in table["url"].to_pylist()] for table in (once, again)]
    assert hosts[0] == hosts[1]
    assert once.equals(again)


def test_a_short_list_stays_in_its_order(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_order, "MANY_ROWS", 10_000)
    assert pa.concat_tables(ordered(source)[0]).equals(read_sources([source])[0])


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://a.test/1.jpg", "HTTP://A.TEST:80/2.jpg"),
        ("https://user:word@a.test/1.jpg", "https://a.test?x"),
        (" https://a.test", "https:\\\\a.test\\b"),
    ],
)
def test_urls_of_one_host(url: str, same: str) -> None:
    hosts, of_row, has_host = host_order._hosts(pa.chunked_array([[url, "a.test/1.jpg", same]]))
    assert has_host.tolist() == [True, False, True]
    assert len({int(hosts[row]) for row in of_row}) == 1, json.dumps([url, same])
